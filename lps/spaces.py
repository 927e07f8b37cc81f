"""Shapes and dtypes of arrays, and observations that are checked against them."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from lps.errors import UserError


class Space(NamedTuple):
    """Shape and dtype of one array of an observation or of an action."""

    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def is_image(self) -> bool:
        """Whether the array is an image: uint8 (H, W, C)."""
        return self.dtype == "uint8" and len(self.shape) == 3

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


def stacked(observation: Mapping[str, Space], frames: int) -> dict[str, Space]:
    """The spaces of an observation whose images are stacks of so many frames along the channels."""
    return {
        name: Space((*space.shape[:2], frames * space.shape[2]), space.dtype) if space.is_image else space
        for name, space in observation.items()
    }


def describe(observation: Mapping[str, Space]) -> str:
    """The spaces of an observation as people read them: 'state float32 (28,)'."""
    return ", ".join(f"{name} {space}" for name, space in observation.items())


def as_observation(
    value: Any, spaces: Mapping[str, Space], source: str, rows: int | None = None
) -> dict[str, np.ndarray]:
    """Return an observation as arrays by name, in the dtypes of its spaces.

    Args:
        value: a mapping of arrays, or one array where there is one space.  Further entries are dropped.  Numbers are
            converted to the floating dtype of their space; integer arrays such as frames must have their dtype.
        source: where it comes from, for the message.
        rows: length of a leading axis of every array, or None where there is none.
    Raises:
        UserError: for a missing array, or another shape or dtype.
    """
    arrays = value if isinstance(value, Mapping) else {next(iter(spaces)): value}
    if len(spaces) > 1 and not isinstance(value, Mapping):
        raise UserError(f"{source} is one array. Give a mapping with {', '.join(spaces)}")
    found = {}
    for name, space in spaces.items():
        if name not in arrays:
            raise UserError(f"{source} has no {name!r}. It needs {name!r} of {space}")
        array = np.asarray(arrays[name])
        shape = space.shape if rows is None else (rows, *space.shape)
        dtype = np.dtype(space.dtype)
        converts = dtype.kind == "f" and array.dtype.kind in "fiub"
        if array.shape != shape or not (converts or array.dtype == dtype):
            given = Space(array.shape if rows is None else array.shape[1:], str(array.dtype))
            raise UserError(f"{source} has {name!r} of {given}. It needs {space}")
        found[name] = array.astype(dtype, copy=False)
    return found


class FrameStack:
    """Stacks the images of the last `frames` observations of an episode along their channels, the oldest first.  Before
    the start of the episode, its first observation counts."""

    def __init__(self, observation: Mapping[str, Space], frames: int):
        self._images = {name for name, space in observation.items() if space.is_image}
        self._last: deque[Mapping[str, np.ndarray]] = deque(maxlen=frames)

    def reset(self) -> None:
        """Begin an episode."""
        self._last.clear()

    def __call__(self, observation: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the arrays of an observation, with images (H, W, frames * C)."""
        self._last.extend([observation] * (1 if self._last else self._last.maxlen or 1))
        return {
            name: np.concatenate([seen[name] for seen in self._last], -1) if name in self._images else array
            for name, array in observation.items()
        }
