"""Any gymnasium environment as a task, with a dataset that brings its own rewards.

A suite of one's own is a module of a few lines (docs/adding-a-task.md):

    from lps.tasks import gym
    TASKS = {"reach": gym.task("Reach-v0", name="reach", dataset="reach-random")}
    make_env, load = gym.make_env, gym.load
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from lps.data import minari, npz
from lps.data.episodes import Dataset
from lps.data.names import data_dir as find_data_dir
from lps.data.readers import Needs
from lps.errors import UserError, suggest
from lps.spaces import Space
from lps.tasks.task import Metric, Task


def task(
    env_id: str,
    *,
    name: str,
    dataset: str,
    group: str | None = None,
    title: str | None = None,
    horizon: int = 1,
    metric: Metric = "return",
    max_episode_steps: int | None = None,
    return_range: tuple[float, float] | None = None,
    **settings: Any,
) -> Task:
    """Return the task of a registered gymnasium environment, with the spaces of that environment.

    Args:
        env_id: id for gymnasium.make, such as "Reach-v0" or "my_package:Reach-v0".
        name: name of the task inside its suite.
        dataset: name of its data: NAME.npz, or a Minari folder NAME, in the data folder.
        group: tasks of a group share dataset, observations and actions; by default the environment's id.
        horizon: actions in a chunk.
        metric: "return"; or "success" or "both", for which the environment sets info["success"].
        max_episode_steps: by default the environment's own.
        settings: keyword arguments of gymnasium.make, plain values.

    Observations are one Box, or a Dict of Boxes.  The array of a single Box is called "pixels" if it is uint8 with at
    least two axes, else "state".  UserError: actions that are not a Box (act,) with finite bounds; an environment
    without a step limit.
    """
    observations, actions, limit = _spaces(env_id, json.dumps(settings, sort_keys=True))
    steps = max_episode_steps or limit
    if steps is None:
        raise UserError(f"the environment {env_id} has no step limit. Give gym.task(..., max_episode_steps=N)")
    return Task(
        name=name,
        suite="",  # lps.tasks.suites fills it in
        group=group or env_id,
        title=title or name,
        dataset=dataset,
        observation=dict(observations),
        action=Space((len(actions[0]),)),
        horizon=horizon,
        max_episode_steps=steps,
        metric=metric,
        return_range=return_range,
        options={"env": env_id, "settings": settings, "low": actions[0], "high": actions[1]},
    )


def make_env(task: Task, *, render: bool = False) -> gymnasium.Env:
    """Make the environment of a task.  With `render`, `env.render()` returns frames (height, width, 3) uint8."""
    settings = {**task.options["settings"], **({"render_mode": "rgb_array"} if render else {})}
    return _make(task.options["env"], max_episode_steps=task.max_episode_steps, **settings)


def load(tasks: Sequence[Task], name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load NAME.npz (lps.data.npz) or the Minari folder NAME (lps.data.minari) of the data folder.

    UserError: no such dataset, or one that does not fit the tasks (lps.data.readers).
    """
    directory, first = find_data_dir(data_dir), tasks[0]
    low, high = (np.array(first.options[bound], np.float32) for bound in ("low", "high"))
    needs = Needs(first.observation, low, high, tuple(task.name for task in tasks))
    if (path := directory / f"{name.removesuffix('.npz')}.npz").exists():
        return npz.read(path, needs)
    if minari.recognises(path := directory / name):
        return minari.read(path, needs)
    known = [file.stem for file in directory.glob("*.npz")]
    known += [str(file.parent.relative_to(directory).parent) for file in directory.glob("**/data/metadata.json")]
    raise UserError(
        f"no {name}.npz and no Minari folder {name} in {directory}: {suggest(name, known, 'dataset')}. "
        "Put the data there, or use --data-dir"
    )


@functools.cache
def _spaces(env_id: str, settings: str) -> tuple[dict[str, Space], tuple[tuple[float, ...], ...], int | None]:
    """Spaces of the observation by name; lowest and highest actions; step limit."""
    env = _make(env_id, **json.loads(settings))
    try:
        observation, action, spec = env.observation_space, env.action_space, env.spec
    finally:
        env.close()
    if not isinstance(action, gymnasium.spaces.Box) or len(action.shape) != 1:
        raise UserError(f"the actions of {env_id} are {action}, but agents need a Box (act,). Wrap the environment")
    if not np.isfinite([action.low, action.high]).all():
        raise UserError(f"the actions of {env_id} have no finite bounds. Wrap the environment in RescaleAction")
    named = observation.spaces if isinstance(observation, gymnasium.spaces.Dict) else {"": observation}
    found = {}
    for name, space in named.items():
        if not isinstance(space, gymnasium.spaces.Box):
            raise UserError(
                f"the observation {name!r} of {env_id} is {space}, but agents need a Box or a Dict of Boxes. "
                "Wrap the environment, for example in FlattenObservation"
            )
        pixels = space.dtype == np.uint8
        default = "pixels" if pixels and len(space.shape) > 1 else "state"
        found[name or default] = Space(space.shape, "uint8" if pixels else "float32")
    bounds = tuple(tuple(map(float, bound)) for bound in (action.low, action.high))
    return found, bounds, spec.max_episode_steps if spec else None


def _make(env_id: str, **settings: Any) -> gymnasium.Env:
    try:
        return gymnasium.make(env_id, disable_env_checker=True, **settings)
    except (gymnasium.error.Error, TypeError) as error:
        shown = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        raise UserError(
            f"gymnasium cannot make {env_id} with {shown or 'no arguments'}: {error}. Register the environment in the "
            "suite's module, and check the arguments"
        ) from error
