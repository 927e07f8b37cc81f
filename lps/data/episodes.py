"""A dataset as agents train on it: transitions of whole episodes, with rewards and masks for each task."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lps.data.scale import ActionScale
from lps.errors import UserError
from lps.spaces import Space


@dataclass(frozen=True, eq=False)
class Dataset:
    """N rows of episodes, one after the other.  Row i is the observation and action of step i; with row i + 1 of the
    same episode it makes transition i.  The last row of an episode starts no transition."""

    name: str
    fingerprint: str
    """SHA-256 of the content, hex."""
    observations: Mapping[str, np.ndarray]
    """Arrays (N, *shape) of any dtype by name, perhaps memory-mapped; uint8 stays uint8 until the device."""
    actions: np.ndarray
    """(N, act) float32 in [-1, 1]; `scale` says what they are in the environment."""
    terminals: np.ndarray
    """(N,) bool: true at the last row of an episode."""
    rewards: np.ndarray
    """(T, N) float32, of transition i for each task; meaningless where none starts."""
    masks: np.ndarray
    """(T, N) float32: 0 where nothing comes after transition i for the task, else 1."""
    tasks: tuple[str, ...]
    """Names of the T tasks."""
    action_scale: ActionScale | None = None
    """None: the environment's actions are in [-1, 1]."""
    held_out: Dataset | None = None
    """Episodes that training does not see; None where an environment evaluates the policy."""

    @functools.cached_property
    def scale(self) -> ActionScale:
        """The units of actions."""
        return self.action_scale or ActionScale.identity(self.actions.shape[1])

    @property
    def images(self) -> tuple[str, ...]:
        """Names of the observation arrays that are images."""
        return tuple(n for n, a in self.observations.items() if Space(a.shape[1:], str(a.dtype)).is_image)

    @property
    def image_bytes(self) -> int:
        """Size of all images."""
        return sum(self.observations[name].nbytes for name in self.images)

    def first_rows(self) -> np.ndarray:
        """Return the first row of the episode of each row, (N,) int64."""
        begins = np.concatenate([[True], self.terminals[:-1]])
        return np.maximum.accumulate(np.where(begins, np.arange(len(begins)), 0))

    def starts(self, horizon: int) -> np.ndarray:
        """Return all rows i, in order, for which rows i to i + horizon are of one episode, (n,) int64: the starts of
        the chunks that never cross an episode's end.  UserError if there are none."""
        if horizon < 1:
            raise ValueError(f"a horizon of {horizon}")
        ends = np.concatenate([[0], np.cumsum(self.terminals, dtype=np.int64)])  # before row i
        starts = np.flatnonzero(ends[horizon:-1] == ends[: -1 - horizon])
        if not len(starts):
            raise UserError(
                f"no episode of the dataset {self.name} has the {horizon + 1} rows of a chunk. "
                "Use longer episodes or a smaller horizon"
            )
        return starts
