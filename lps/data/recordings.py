"""Recordings: the episodes of a dataset as its files have them, before a task says what is learned from them.

A format is a module of FORMATS with two functions:

    recognises(path) -> bool                       whether the file or folder has this format; reads little
    open_recordings(path, options) -> Recordings   options: the format's own, by name, from its OPTIONS

A folder with the folders `success` and `failure` holds the successes and the failures of one task, each a dataset of
any format.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lps.data import FORMATS
from lps.data.episodes import Dataset
from lps.errors import UserError, check_known
from lps.spaces import Space

REWARD, DONE = "next.reward", "next.done"
"""LeRobot's names of a reward and of a true end."""


class Roles(NamedTuple):
    """Columns by their meaning, as the format names them by convention; empty where there is none."""

    state: tuple[str, ...] = ()
    cameras: tuple[str, ...] = ()
    action: tuple[str, ...] = ()
    reward: str = ""
    """Reward of each step."""
    done: str = ""
    """Whether nothing comes after the step."""
    success: str = ""
    """Whether the task is solved at the step."""


class Recording(NamedTuple):
    """One episode of n actions."""

    columns: Mapping[str, np.ndarray]
    """Arrays by column: (n, *shape), and (n + 1, *shape) for an observation whose last row is known."""
    success: bool | None = None
    """None: the files do not say."""


@dataclass
class Recordings(ABC):
    """The episodes of one dataset; nothing but its index is in memory."""

    format: str
    path: Path
    columns: Mapping[str, Space]
    """Space of one row of each column.  Images are uint8 (height, width, channels)."""
    lengths: Sequence[int]
    """Number of actions of each episode."""
    roles: Roles
    rate: float | None = None
    """Control rate in Hz; None: the files do not say."""
    last_observation: bool = False
    """Whether observations have a row after the last action."""
    skipped: Sequence[str] = field(default_factory=list)
    """A sentence for each episode or file that is left out, and why."""

    @abstractmethod
    def read(self, episodes: Sequence[int], columns: Mapping[str, Space]) -> Iterator[Recording]:
        """Yield the given episodes in their order, with these columns.  An image comes in the size of its space.
        UserError for damaged files."""

    def check(self, columns: Mapping[str, Space], where: str) -> None:
        """UserError, which names `where`, for a column that does not exist or has another shape; images may have
        another height and width."""
        check_known(columns, self.columns, f"column of {self.path} ({where})")
        for name, space in columns.items():
            found = self.columns[name]
            image = found.is_image and space.is_image and found.shape[2] == space.shape[2]
            if found.shape != space.shape and not image:
                raise UserError(
                    f"{where}: the column {name!r} of {self.path} has shape {found.shape}, not {space.shape}. "
                    "Write the shape of the column"
                )


def open_recordings(path: Path, options: Mapping[str, Any] | None = None) -> Recordings:
    """Open a dataset of any format.  UserError: no such file, an unknown format or option, a damaged index."""
    if not path.exists():
        raise UserError(f"{path} does not exist. Check the path of the dataset")
    name = next((name for name in FORMATS if FORMATS[name].recognises(path)), None)
    if name:
        known = getattr(FORMATS[name], "OPTIONS", ())
        check_known(options or {}, known, f"option of the format {name}")
        found = FORMATS[name].open_recordings(path, dict(options or {}))
    elif parts := [path / part for part in ("failure", "success") if (path / part).is_dir()]:
        found = _Sorted.of(path, [open_recordings(part, options) for part in parts])
    else:
        raise UserError(
            f"{path} has none of the formats {', '.join(FORMATS)}. Give the folder of a LeRobot or Minari dataset, or "
            "an .hdf5 or .npz file (docs/robots.md)"
        )
    if not found.lengths:
        why = f" ({found.skipped[0]})" if found.skipped else ""
        raise UserError(f"{path} has no episodes{why}. Check the path of the dataset")
    return found


@dataclass
class _Sorted(Recordings):
    """Failures and successes in folders of their own."""

    parts: Sequence[Recordings] = ()

    @staticmethod
    def of(path: Path, parts: Sequence[Recordings]) -> _Sorted:
        last = parts[-1]
        for part in parts:
            if part.columns.keys() != last.columns.keys() or part.last_observation != last.last_observation:
                raise UserError(
                    f"{part.path} and {last.path} have different columns. Record both in the same form, or give one "
                    "of the folders"
                )
        lengths = [length for part in parts for length in part.lengths]
        skipped = [sentence for part in parts for sentence in part.skipped]
        return _Sorted(
            last.format, path, last.columns, lengths, last.roles, last.rate, last.last_observation, skipped, parts
        )

    def read(self, episodes: Sequence[int], columns: Mapping[str, Space]) -> Iterator[Recording]:
        places = [(part, number) for part, own in enumerate(self.parts) for number in range(len(own.lengths))]
        chosen = [places[episode] for episode in episodes]
        for part, group in itertools.groupby(chosen, key=lambda place: place[0]):
            own = self.parts[part]
            for recording in own.read([number for _, number in group], columns):
                yield recording._replace(success=own.path.name == "success")


@dataclass
class InMemory(Recordings):
    """Episodes that are in memory already."""

    episodes: Sequence[Recording] = ()

    def read(self, episodes: Sequence[int], columns: Mapping[str, Space]) -> Iterator[Recording]:
        from lps.data.frames import resized

        for number in episodes:
            recording = self.episodes[number]
            chosen = {
                name: resized(recording.columns[name], space.shape[:2]) if space.is_image else recording.columns[name]
                for name, space in columns.items()
            }
            yield recording._replace(columns=chosen)


@dataclass
class Rewarded(Recordings):
    """Other recordings with the rewards of a task, and true ends where nothing comes after a step."""

    source: Recordings = field(kw_only=True)
    dataset: Dataset = field(kw_only=True)

    @staticmethod
    def of(source: Recordings, dataset: Dataset) -> Rewarded:
        """Return `source` with the rewards of the dataset's first task, which has the same episodes.  UserError if the
        dataset has other episodes."""
        lengths = np.diff(np.flatnonzero(np.concatenate([[True], dataset.terminals]))) - 1
        if lengths.tolist() != list(source.lengths):
            raise UserError(
                f"{source.path} and the dataset of {dataset.tasks[0]} have episodes of different lengths. Remove --task"
            )
        columns = {**source.columns, REWARD: Space((1,)), DONE: Space((1,), "bool")}
        roles = source.roles._replace(reward=REWARD, done=DONE)
        known = source.format, source.path, columns, source.lengths, roles, source.rate, source.last_observation
        return Rewarded(*known, source.skipped, source=source, dataset=dataset)

    def read(self, episodes: Sequence[int], columns: Mapping[str, Space]) -> Iterator[Recording]:
        starts = np.cumsum([0, *(length + 1 for length in self.lengths)])
        theirs = {name: space for name, space in columns.items() if name not in (REWARD, DONE)}
        for number, recording in zip(episodes, self.source.read(episodes, theirs), strict=True):
            steps = slice(starts[number], starts[number] + self.lengths[number])
            own = {REWARD: self.dataset.rewards[0, steps, None], DONE: self.dataset.masks[0, steps, None] == 0}
            yield recording._replace(columns={**recording.columns, **own})


def last_part(column: str) -> str:
    """Return the last part of a column's name: "wrist" of "observation.images.wrist"."""
    return column.replace("/", ".").rpartition(".")[2]


def camera_name(column: str) -> str:
    """Return the short name of a camera's column; "pixels" for the frames of OGBench's visual files."""
    return "pixels" if column == "observations" else last_part(column)
