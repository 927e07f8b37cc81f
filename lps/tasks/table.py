"""The tasks: OGBench's manipulation groups over states, five tasks each, and the ring bandit, as one table.

What a task needs to be run and compared stands here and nowhere else: its dataset, its sizes, its step limit, the
chunk length and the reward transform. Numbers: OGBench (Park et al. 2025, arXiv 2410.20092); rewards and chunk length:
LPS (Im et al. 2026, arXiv 2603.05296), which trains on sparse rewards in scene and puzzle-3x3.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from lps.errors import UserError, suggest

Reward = Literal["none", "sparse"]
SuccessTiming = Literal["post", "pre"]
"""Which state of a transition s -> s' decides its success and reward: 'post' is s', 'pre' is s."""


@dataclass(frozen=True)
class Task:
    """One task of one group."""

    name: str
    """OGBench's name of dataset and task together, e.g. 'cube-single-play-singletask-task1-v0'."""
    group: str
    """The tasks of a group share dataset, observations and actions, e.g. 'cube-single'."""
    dataset: str
    """e.g. 'cube-single-play-v0'."""
    index: int
    """1 to 5."""
    env: str
    """The gymnasium id, e.g. 'cube-single-singletask-task1-v0'; '' where no simulator is behind the task."""
    observation_dim: int
    action_dim: int
    horizon: int
    """Actions in a chunk."""
    max_episode_steps: int
    reward: Reward
    """'none': the environment's own, in OGBench minus the number of subgoals not reached; 'sparse': -1 until all are
    reached, then 0."""
    title: str = ""
    suite: str = "ogbench"
    metric: str = "success"
    return_range: tuple[float, float] | None = None


# group: observation size, step limit, reward transform
_GROUPS: dict[str, tuple[int, int, Reward]] = {
    "cube-single": (28, 200, "none"),
    "cube-double": (37, 500, "none"),
    "cube-triple": (46, 1000, "none"),
    "cube-quadruple": (55, 1000, "none"),
    "scene": (40, 750, "sparse"),
    "puzzle-3x3": (55, 500, "sparse"),
    "puzzle-4x4": (83, 500, "none"),
    "puzzle-4x5": (99, 1000, "none"),
    "puzzle-4x6": (115, 1000, "none"),
}

GROUPS: Mapping[str, tuple[Task, ...]] = MappingProxyType(
    {
        group: tuple(
            Task(
                name=f"{group}-play-singletask-task{index}-v0",
                group=group,
                dataset=f"{group}-play-v0",
                index=index,
                env=f"{group}-singletask-task{index}-v0",
                observation_dim=observation_dim,
                action_dim=5,
                horizon=5,
                max_episode_steps=max_episode_steps,
                reward=reward,
                title=f"{group} task {index}",
            )
            for index in range(1, 6)
        )
        for group, (observation_dim, max_episode_steps, reward) in _GROUPS.items()
    }
)
"""OGBench's groups: name -> its five tasks."""

RING = Task(
    name="ring-bandit-v0",
    group="ring",
    dataset="ring-bandit-v0",
    index=1,
    env="",
    observation_dim=1,
    action_dim=2,
    horizon=1,
    max_episode_steps=1,
    reward="none",
    title="ring bandit",
    suite="ring",
)
"""The ring bandit; all about it is in lps.tasks.ring."""

TASKS: Mapping[str, Task] = MappingProxyType(
    {task.name: task for tasks in (*GROUPS.values(), (RING,)) for task in tasks}
)
"""Every task by its name."""


def get_task(name: str) -> Task:
    """The task called `name`. UserError with the nearest names if there is none."""
    if name not in TASKS:
        (first, *_, last), *others = GROUPS.values()
        groups = ", ".join(tasks[0].group for tasks in others)
        instead = (
            f"known: {first.name} ... task{last.index}, the same of {groups}, and {RING.name} (see python -m lps tasks)"
        )
        raise UserError(suggest(name, TASKS, "task", instead))
    return TASKS[name]
