"""OGBench's single-task groups (Park et al. 2025, arXiv 2410.20092): a row per group, five tasks each.  Visual groups
observe frames of the same scenes.

One group is not OGBench's: `visual-pointmaze-medium`, its point maze seen from above in 32x32 frames, small enough to
learn on a CPU.

Rewards and chunk length are those of LPS (Im et al. 2026, arXiv 2603.05296), which trains on sparse rewards in scene
and puzzle-3x3, visual or not.  The environments are in lps.tasks.ogbench_env, the datasets in lps.tasks.ogbench_data.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from lps.errors import UserError
from lps.spaces import Space
from lps.tasks.task import Maze, Task

if TYPE_CHECKING:
    import os
    from pathlib import Path

    import gymnasium

    from lps.data.episodes import Dataset

OPTIONS: Mapping[str, tuple[str, ...]] = {"success_timing": ("post", "pre"), "reward_timing": ("pre", "post")}
"""The state of a transition s -> s' that decides success in evaluation, and the reward and mask in the dataset: 'pre'
is s, 'post' is s'.  OGBench's loader has 'pre' rewards in every version, and the papers trained on them.  The papers
counted success 'post'; since 1.2.0 OGBench counts 'pre'."""


class Group(NamedTuple):
    """The values that the tasks of a group share."""

    data: str
    """Kind of its default dataset: play, navigate."""
    observation_dim: int
    action_dim: int
    max_episode_steps: int
    default: int
    """Number of the task that OGBench uses by default."""
    sparse: bool = False
    """Whether rewards are made sparse: -1 until all subgoals are reached, then 0.  Else they are OGBench's own."""
    frame: int = 0
    """Side of the frames of a visual group, in pixels.  0: the group observes states."""


_STATE_GROUPS: Mapping[str, Group] = {
    "cube-single": Group("play", 28, 5, 200, 2),
    "cube-double": Group("play", 37, 5, 500, 2),
    "cube-triple": Group("play", 46, 5, 1000, 2),
    "cube-quadruple": Group("play", 55, 5, 1000, 2),
    "cube-octuple": Group("play", 91, 5, 1500, 2),
    "scene": Group("play", 40, 5, 750, 2, sparse=True),
    "puzzle-3x3": Group("play", 55, 5, 500, 4, sparse=True),
    "puzzle-4x4": Group("play", 83, 5, 500, 4),
    "puzzle-4x5": Group("play", 99, 5, 1000, 2),
    "puzzle-4x6": Group("play", 115, 5, 1000, 2),
    "pointmaze-medium": Group("navigate", 2, 2, 1000, 1),
    "pointmaze-large": Group("navigate", 2, 2, 1000, 1),
    "pointmaze-giant": Group("navigate", 2, 2, 1000, 1),
    "pointmaze-teleport": Group("navigate", 2, 2, 1000, 1),
    "antmaze-medium": Group("navigate", 29, 8, 1000, 1),
    "antmaze-large": Group("navigate", 29, 8, 1000, 1),
    "antmaze-giant": Group("navigate", 29, 8, 1000, 1),
    "antmaze-teleport": Group("navigate", 29, 8, 1000, 1),
    "humanoidmaze-medium": Group("navigate", 69, 21, 2000, 1),
    "humanoidmaze-large": Group("navigate", 69, 21, 2000, 1),
    "humanoidmaze-giant": Group("navigate", 69, 21, 4000, 1),
    # No humanoidmaze-teleport: its model lacks the material of the teleports, so MuJoCo does not load it.
    "antsoccer-arena": Group("navigate", 42, 8, 1000, 4),
    "antsoccer-medium": Group("navigate", 42, 8, 1000, 4),
}

_GROUPS: Mapping[str, Group] = {
    **_STATE_GROUPS,
    **{
        f"visual-{name}": group._replace(frame=64)
        for name, group in _STATE_GROUPS.items()
        if name.startswith(("cube", "scene", "puzzle", "antmaze", "humanoidmaze")) and name != "cube-octuple"
    },
    "visual-pointmaze-medium": _STATE_GROUPS["pointmaze-medium"]._replace(frame=32),
}


def _task(name: str, group: Group, number: int) -> Task:
    frame = Space((group.frame, group.frame, 3), "uint8")
    return Task(
        name=f"{name}-{group.data}-singletask-task{number}-v0",
        suite="ogbench",
        group=name,
        title=f"{name} task {number}",
        dataset=f"{name}-{group.data}-v0",
        observation={"pixels": frame} if group.frame else {"state": Space((group.observation_dim,))},
        action=Space((group.action_dim,)),
        horizon=5,
        max_episode_steps=group.max_episode_steps,
        options={
            "number": number,
            "env": f"{name}-singletask-task{number}-v0",
            "reward": "sparse" if group.sparse else "none",
            **{option: choices[0] for option, choices in OPTIONS.items()},
        },
    )


TASKS: Mapping[str, Task] = {
    task.name: task
    for name, group in _GROUPS.items()
    for task in (_task(name, group, number) for number in range(1, 6))
}


def make_env(task: Task, *, render: bool = False) -> gymnasium.Env:
    """Make the environment of a task; see lps.tasks.ogbench_env."""
    from lps.tasks import ogbench_env

    return ogbench_env.make_env(task, render=render)


def set_task(env: gymnasium.Env, task: Task) -> None:
    """Turn an environment of `make_env` to another task of its group, from its next reset on."""
    from lps.tasks import ogbench_env

    ogbench_env.set_task(env, task)


def maze(task: Task) -> Maze | None:
    """Return the floor plan of a task in a maze; see lps.tasks.ogbench_env."""
    from lps.tasks import ogbench_env

    return ogbench_env.maze(task)


def position(env: gymnasium.Env) -> Sequence[float]:
    """Return the position (x, y) of the agent in an environment of a maze."""
    core: Any = env.unwrapped
    return core.get_xy()


def load(tasks: Sequence[Task], name: str, data_dir: str | os.PathLike[str] | None) -> Dataset:
    """Load a dataset of the tasks' group with the rewards of each task; see lps.tasks.ogbench_data."""
    from lps.tasks import ogbench_data

    return ogbench_data.load(tasks, name, data_dir)


def collect(dataset: str, *, episodes: int, name: str | None = None, **settings: Any) -> Path:
    """Collect a dataset with OGBench's oracles; see lps.tasks.ogbench_collect.  UserError for the name of one of
    OGBench's own datasets: results on one could not be told from results on the other."""
    from lps.tasks import ogbench_collect, ogbench_data

    if name is not None and ogbench_data.published(name.removesuffix(".npz")):
        raise UserError(
            f"--name {name} is one of OGBench's own datasets. Use another name, "
            f"such as {ogbench_data.default_name(dataset, episodes)}"
        )
    return ogbench_collect.collect(dataset, episodes=episodes, name=name, **settings)
