"""Robots as tasks: recordings without a simulator, described by a TOML file.

    name = "pick-cube"
    dataset = "pick-cube"                 # file or folder in the data folder, in any format of lps.data.recordings
    rate = 10                             # control rate in Hz
    horizon = 5                           # actions in a chunk

    [observation.state]
    columns = ["observation.state"]
    size = 7

    [observation.wrist]
    columns = ["observation.images.wrist"]
    size = [64, 64]                       # height and width; frames are resized when they are read

    [action]
    columns = ["action"]
    size = 7
    scale = "quantiles"                   # none, min_max, quantiles (1 to 99 %), or mean_std (3 standard deviations)

    [reward]
    rule = "dense"                        # file, dense or sparse (lps.data.recipe.RewardRule)

The content of the file is a part of each run (its option `robot`), so a run resumes where the file is not.  There is no
environment: a run is checked on held-out episodes (lps.evaluation.heldout).  The key `simulator` names a task whose
environment stands in for the robot: then a run is evaluated there, too.
"""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium

from lps.data.episodes import Dataset
from lps.data.names import data_dir as find_data_dir
from lps.data.recipe import Recipe, RewardRule, load_recipe
from lps.errors import UserError
from lps.files import read_file
from lps.spaces import Space
from lps.tasks import suites
from lps.tasks.task import Task

TASKS: Mapping[str, Task] = {}
"""Tasks come from files."""

OPTION = "robot"
"""The option of a run that has the content of its TOML file, as JSON."""

STORED = (OPTION,)


def task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Return the task of a TOML file, or the task of a run with its options.

    UserError, which names the file and the key: a file that cannot be read, an unknown or missing key, a bad value.
    """
    if name.endswith(".toml"):
        return _task(_parsed(name))
    try:
        content = (options or {})[OPTION]
        return _task(json.loads(content))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"the task {name} is not known without its file. Give the path of its .toml file") from error


def make_env(task: Task, *, render: bool = False) -> gymnasium.Env:
    """Make the environment of the file's `simulator`, with the file's observations.  UserError without a simulator."""
    simulator = _simulator(json.loads(task.options[OPTION]))
    if simulator is None:
        raise UserError(
            f"{task.name} has recordings and no environment. Read its held-out checks in the results, or run the "
            "policy on the robot with lps serve"
        )
    seen = replace(simulator, observation=task.observation, max_episode_steps=task.max_episode_steps)
    return suites.make_env(seen, render=render)


def load(tasks: Sequence[Task], name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load the file or folder `name` of the data folder, with its held-out episodes; see lps.data.recipe."""
    (first,) = tasks
    content = json.loads(first.options[OPTION])
    return load_recipe(find_data_dir(data_dir) / name, _recipe(content), first.name, first.horizon)


def _parsed(path: str) -> dict[str, Any]:
    """The content of a TOML file, checked and with all defaults, as plain values."""
    from lps.tasks.robot_file import parsed  # pydantic: a policy does without it

    try:
        return parsed(tomllib.loads(read_file(path).decode()), path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not TOML: {error}. Correct that line") from error


def _simulator(content: Mapping[str, Any]) -> Task | None:
    """The task whose environment stands in for the robot.  UserError if there is no such task, or if its actions are of
    another size."""
    if not (name := content.get("simulator")):
        return None
    if name.endswith(".toml") or name.startswith("robot:"):
        raise UserError(f"the key simulator is {name!r}, which is a robot itself. Name a task with an environment")
    try:
        task, size = suites.get_task(name), content["action"]["size"]
    except UserError as error:
        raise UserError(f"the key simulator: {error}") from error
    if task.action.shape != (size,):
        raise UserError(
            f"the key simulator is {name!r}, whose actions have {task.action.shape[0]} numbers, but action.size is "
            f"{size}. Name another task, or remove the key"
        )
    return task


def _task(content: Mapping[str, Any]) -> Task:
    simulator = _simulator(content)
    return Task(
        name=f"robot:{content['name']}",
        suite="robot",
        group=content["name"],
        title=content["name"],
        dataset=content["dataset"],
        observation={name: space for name, (_, space) in _observations(content).items()},
        action=Space((content["action"]["size"],)),
        horizon=content["horizon"],
        max_episode_steps=simulator.max_episode_steps if simulator else content["max_episode_steps"],
        metric=simulator.metric if simulator else "none",
        return_range=simulator.return_range if simulator else None,
        options={OPTION: json.dumps(content, sort_keys=True), "rate": float(content["rate"])},
    )


def _recipe(content: Mapping[str, Any]) -> Recipe:
    action = content["action"]
    return Recipe(
        observations=_observations(content),
        action=(tuple(action["columns"]), action["size"]),
        scale=action["scale"],
        reward=RewardRule(**content["reward"]),
        held_out=content["held_out"],
        options=content["format"],
    )


def _observations(content: Mapping[str, Any]) -> dict[str, tuple[tuple[str, ...], Space]]:
    return {name: (tuple(array["columns"]), _space(array["size"])) for name, array in content["observation"].items()}


def _space(size: int | Sequence[int]) -> Space:
    return Space((size,)) if isinstance(size, int) else Space((*size, 3), "uint8")
