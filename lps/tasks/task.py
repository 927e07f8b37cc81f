"""Tasks as plain values, without a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from lps.spaces import Space

if TYPE_CHECKING:
    import numpy as np

Metric = Literal["success", "return", "both", "none"]
"""none: there is no environment, and a run is checked on held-out episodes."""


@dataclass(frozen=True)
class Task:
    """One task of one suite.  The tasks of a group share dataset, observations and actions."""

    name: str
    """Unique name.  Tasks of built-in suites have plain names ('cube-single-play-singletask-task1-v0'); others carry
    their suite ('my_package.my_suite:lift')."""
    suite: str
    """Name or import path of the suite (lps.tasks)."""
    group: str
    """For example 'cube-single'."""
    title: str
    """Name in figures and tables."""
    dataset: str
    """Name of the default dataset."""
    observation: Mapping[str, Space]
    """Spaces of the arrays of an observation, by name, such as {"state": Space((28,))}."""
    action: Space
    """Space of one action, in the environment's own units."""
    horizon: int
    """Actions in a chunk."""
    max_episode_steps: int
    metric: Metric = "success"
    """The metric that scores an evaluation."""
    return_range: tuple[float, float] | None = None
    """Returns that count as 0 % and 100 %, for a normalised return."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings that only the suite reads."""

    @property
    def has_images(self) -> bool:
        """Whether an array of the observation is an image."""
        return any(space.is_image for space in self.observation.values())

    @property
    def key(self) -> str:
        """The task's name inside its suite."""
        return self.name.partition(":")[2] or self.name


class Maze(NamedTuple):
    """Floor plan of a task in a maze, in the units of the positions (x, y)."""

    walls: np.ndarray
    """(rows, columns) bool: the cell is a wall.  Rows go with y, columns with x."""
    cell: float
    """Side of a cell."""
    origin: tuple[float, float]
    """Centre of the cell in row 0 and column 0."""
    goal: tuple[float, float]
    goal_radius: float
    """The goal is reached at this distance."""
