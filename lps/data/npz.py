"""Reader of npz files that bring their own rewards, in the keys of D4RL or of OGBench.

| key | shape, type |
| --- | --- |
| observations, or observations/NAME for each of several (observations.NAME also works) | (N, *shape), as the task's |
| actions | (N, act), in the environment's units |
| rewards, or rewards/TASK for each task of the group | (N,) |
| terminals, timeouts | (N,) bool |
| next_observations, next_observations/NAME | like observations; may be absent |
| masks, or masks/TASK | (N,): 0 where nothing comes after the transition, else 1; may be absent |

D4RL's keys are those with `timeouts` or `next_observations`: each row is a transition, `terminals` are true ends, which
set the mask to 0, and `timeouts` are other ends of episodes.  An episode that ends by a timeout loses its last
transition where the file has no next_observations.

Else the keys are OGBench's: `terminals` is true in the last row of an episode, which has the last observation and
starts no transition.
"""

from __future__ import annotations

import math
import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lps.data.episodes import Dataset
from lps.data.frames import resized
from lps.data.readers import Episode, Needs, check_ends, check_finite, load
from lps.data.recordings import Recording, Recordings, Roles
from lps.errors import UserError
from lps.spaces import Space


def read(path: str | os.PathLike[str], needs: Needs) -> Dataset:
    """Read an npz file as the dataset of some tasks.  UserError where it does not fit them (lps.data.readers)."""
    return load(Path(path), needs, episodes)


class Column:
    """One array of an npz file, read from its first row on.

    Attributes:
        shape, dtype: those of the array.
    """

    def __init__(self, archive: zipfile.ZipFile, name: str):
        self.name = name
        self._file = archive.open(f"{name}.npy")
        major, _ = np.lib.format.read_magic(self._file)
        read_header = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        self.shape, fortran_order, self.dtype = read_header(self._file)
        self._readable = not self.dtype.hasobject and (not fortran_order or len(self.shape) < 2)
        self._left = self.shape[0] if self.shape else 0

    def take(self, rows: int | None = None) -> np.ndarray:
        """Return the next `rows` rows, or all that are left.  ValueError for objects or Fortran order."""
        if not self._readable:
            raise ValueError(f"{self.name} is an array of objects or in Fortran order")
        rows = self._left if rows is None else rows
        size = rows * self.dtype.itemsize * math.prod(self.shape[1:])
        if len(data := self._file.read(size)) < size:
            raise EOFError(f"{self.name} ends early")
        self._left -= rows
        if not self._left:
            self._file.read(1)  # the end, where zipfile verifies its checksum
        return np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])


def columns(archive: zipfile.ZipFile) -> dict[str, Column]:
    """Return the arrays of an open npz file by name."""
    names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    return {name: Column(archive, name) for name in names}


def episodes(path: Path, needs: Needs) -> tuple[int, Iterator[Episode]]:
    """Return the number of rows of the dataset, and its episodes one after the other."""
    with zipfile.ZipFile(path) as archive:
        arrays = columns(archive)
        keys = _keys(path, arrays, needs)
        _check_rows(path, arrays, keys)
        flags = {name: arrays[name].take() for name in ("terminals", "timeouts") if name in arrays}
    for name, array in flags.items():
        check_finite(path, name, array, 0)
    terminals = flags["terminals"].astype(bool)
    ends = np.any([array.astype(bool) for array in flags.values()], axis=0)
    check_ends(path, ends)
    ends[-1] = True
    stops = np.flatnonzero(ends) + 1
    d4rl = "timeouts" in arrays or bool(keys["next_observations"])
    # With D4RL's keys, the observation after the last row is in next_observations, or does not matter (mask 0), or it
    # is missing.
    extra = (terminals[stops - 1] | bool(keys["next_observations"])) & d4rl
    going_on = 1.0 - terminals if d4rl else np.ones(len(ends))
    return len(ends) + int(extra.sum()), _episodes(path, keys, going_on, stops, extra)


def _episodes(
    path: Path, keys: Mapping[str, Mapping[str, str]], going_on: np.ndarray, stops: np.ndarray, extra: np.ndarray
) -> Iterator[Episode]:
    with zipfile.ZipFile(path) as archive:
        arrays = columns(archive)
        used = {"actions", *(key for kind in keys.values() for key in kind.values())}
        start = 0
        for stop, one_more in zip(stops.tolist(), extra.tolist(), strict=True):
            rows = {key: arrays[key].take(stop - start) for key in used}
            steps = stop - start - (not one_more)
            observations = {name: rows[key] for name, key in keys["observations"].items()}
            if one_more:
                after = keys["next_observations"] or keys["observations"]
                observations = {name: np.concatenate([o, rows[after[name]][-1:]]) for name, o in observations.items()}
            rewards, masks = ({task: rows[key] for task, key in keys[kind].items()} for kind in ("rewards", "masks"))
            masks.setdefault("", going_on[start:stop])
            if "" in rewards:
                rewards = {task: rewards.get(task, rewards[""]) for task in {**rewards, **masks}}
            yield Episode(
                observations=observations,
                actions=rows["actions"][:steps],
                rewards={task: values[:steps] for task, values in rewards.items()},
                masks={task: masks.get(task, masks[""])[:steps] for task in rewards},
            )
            start = stop


def _keys(path: Path, arrays: Mapping[str, Column], needs: Needs) -> dict[str, dict[str, str]]:
    """The names of the arrays: {"observations": {"state": "observations/state"}, "rewards": {"lift": ...}, ...}."""
    found: dict[str, dict[str, str]] = {}
    for kind in ("observations", "next_observations", "rewards", "masks"):
        of_kind = {key[len(kind) + 1 :]: key for key in arrays if re.match(rf"{kind}($|[/.])", key)}
        if kind.endswith("observations"):
            only = of_kind.get("") if len(needs.observations) == 1 else None
            of_kind = {name: key for name in needs.observations if (key := of_kind.get(name, only))}
        found[kind] = of_kind
    for kind in ("actions", "terminals"):
        if kind not in arrays:
            raise UserError(f"{path} has no array {kind!r}. Add it (docs/adding-data.md)")
    if not found["rewards"]:
        raise UserError(f"{path} has no rewards, and the suite does not compute them. Add the array 'rewards'")
    for kind in ("observations", "next_observations"):
        missing = [name for name in needs.observations if name not in found[kind]]
        if missing and (kind == "observations" or found[kind]):
            raise UserError(f"{path} has no {kind} for {missing[0]!r}. Add the array '{kind}/{missing[0]}'")
    return found


def _check_rows(path: Path, arrays: Mapping[str, Column], keys: Mapping[str, Mapping[str, str]]) -> None:
    used = {"actions", "terminals", "timeouts", *(key for kind in keys.values() for key in kind.values())}
    rows = {name: arrays[name].shape[0] if arrays[name].shape else 0 for name in sorted(used & set(arrays))}
    if len(set(rows.values())) > 1 or 0 in rows.values():
        shown = ", ".join(f"{name} {count}" for name, count in rows.items())
        raise UserError(f"{path}: the arrays have these numbers of rows: {shown}. Write one row per step in each")


def recognises(path: Path) -> bool:
    """Whether the path is an npz file, or a folder of npz files such as a policy server records."""
    return _is_npz(path) or (path.is_dir() and any(map(_is_npz, path.iterdir())))


def open_recordings(path: Path, options: Mapping[str, Any]) -> Recordings:
    """Open npz files as recordings: every array with one row per step is a column.  The last row of an episode is a
    step where the keys are D4RL's, and the last observation where they are OGBench's.  UserError where a file has no
    actions or no ends of episodes."""
    places: list[tuple[Path, int, int]] = []
    spaces: dict[str, Space] = {}
    timeouts = False
    for file in sorted(filter(_is_npz, path.iterdir())) if path.is_dir() else [path]:
        with zipfile.ZipFile(file) as archive:
            arrays = columns(archive)
            if missing := {"actions", "terminals"} - arrays.keys():
                raise UserError(f"{file} has no array {min(missing)!r}. Add it (docs/adding-data.md)")
            rows = arrays["actions"].shape[0]
            stepwise = {name: array for name, array in arrays.items() if array.shape[:1] == (rows,)}
            spaces = spaces or {name: Space(a.shape[1:] or (1,), str(a.dtype)) for name, a in stepwise.items()}
            ends = np.any([arrays[name].take() for name in ("terminals", "timeouts") if name in arrays], axis=0)
        check_ends(file, ends)
        timeouts |= "timeouts" in arrays
        stops = np.flatnonzero(ends) + 1
        places += [(file, start, stop) for start, stop in zip([0, *stops[:-1].tolist()], stops.tolist(), strict=True)]
    observations = [name for name in spaces if re.match(r"observations($|[/.])", name)]
    cameras = tuple(name for name in observations if spaces[name].is_image)
    state = tuple(name for name in observations if name not in cameras)
    if cameras and not state and "qpos" in spaces:  # OGBench's visual files
        state = ("qpos",)
    rewards = [name for name in spaces if re.match(r"rewards($|[/.])", name)]
    return NpzRecordings(
        format="npz",
        path=path,
        columns=spaces,
        lengths=[stop - start - (not timeouts) for _, start, stop in places],
        roles=Roles(
            state,
            cameras,
            ("actions",),
            reward=rewards[0] if len(rewards) == 1 else "",
            done="terminals" if timeouts else "",
            success="success" if "success" in spaces else "",
        ),
        last_observation=not timeouts,
        places=places,
    )


@dataclass
class NpzRecordings(Recordings):
    """Opened npz files."""

    places: Sequence[tuple[Path, int, int]] = ()
    """File, first row and end of each episode."""

    def read(self, episodes: Sequence[int], columns: Mapping[str, Space]) -> Iterator[Recording]:
        path: Path | None = None
        arrays: dict[str, np.ndarray] = {}
        for number in episodes:
            file, start, stop = self.places[number]
            if file != path:
                arrays, path = _taken(file, columns), file
            found = {}
            for name, space in columns.items():
                seen = name in (*self.roles.state, *self.roles.cameras)
                rows = arrays[name][start : stop if seen else start + self.lengths[number]]
                rows = rows.reshape(len(rows), *self.columns[name].shape)
                found[name] = resized(rows, space.shape[:2]) if space.is_image else rows
            success = self.roles.success
            yield Recording(found, bool(found[success].any()) if success in found else None)


def _taken(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        stored = columns(archive)
        return {name: stored[name].take() for name in names}


def _is_npz(path: Path) -> bool:
    return path.suffix == ".npz" and path.is_file() and zipfile.is_zipfile(path)
