"""The units of actions: agents see numbers in [-1, 1], environments and robots their own."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class ActionScale(NamedTuple):
    """action = offset + scale * normalised, elementwise; normalised actions are in [-1, 1]."""

    offset: np.ndarray
    """(act,) float32."""
    scale: np.ndarray
    """(act,) float32, positive."""

    @staticmethod
    def identity(size: int) -> ActionScale:
        """The scale of actions that are in [-1, 1] already."""
        return ActionScale(np.zeros(size, np.float32), np.ones(size, np.float32))

    @staticmethod
    def of_bounds(low: np.ndarray, high: np.ndarray) -> ActionScale:
        """The scale that maps [-1, 1] to [low, high], (act,) each."""
        low, high = np.asarray(low, np.float32), np.asarray(high, np.float32)
        return ActionScale((high + low) / 2, (high - low) / 2)

    @property
    def is_identity(self) -> bool:
        """Whether normalised actions are the environment's."""
        return not self.offset.any() and bool((self.scale == 1).all())

    def normalise(self, actions: np.ndarray) -> np.ndarray:
        """Actions (..., act) in the environment's units as normalised ones, not clipped."""
        return actions if self.is_identity else ((actions - self.offset) / self.scale).astype(np.float32)

    def to_env(self, actions: np.ndarray) -> np.ndarray:
        """Normalised actions (..., act), clipped to [-1, 1], in the environment's units.  The only place that clips
        what a policy does."""
        clipped = np.clip(actions, -1.0, 1.0)
        return clipped if self.is_identity else self.offset + self.scale * clipped
