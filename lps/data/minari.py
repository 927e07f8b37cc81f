"""Reader of Minari's dataset folders (https://minari.farama.org), in HDF5, Arrow and Parquet form.

Minari itself is not needed.  HDF5 needs h5py (`pip install 'lps[minari]'`).  Images are as Minari stores them: JPEG
unless the dataset was made with `jpeg_encoding=False`.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lps.data.episodes import Dataset
from lps.data.frames import resized
from lps.data.hdf5 import opened
from lps.data.readers import Episode, Needs, load
from lps.data.recordings import Recording, Recordings, Roles
from lps.errors import UserError
from lps.spaces import Space

VERSIONS = ("0.4.", "0.5.")
"""Beginnings of the Minari versions whose folders can be read."""

FORMATS = ("hdf5", "arrow", "parquet")

JPEG = b"\xff\xd8"
"""The first bytes of a JPEG file."""


def read(path: str | os.PathLike[str], needs: Needs) -> Dataset:
    """Read a Minari dataset, such as ~/.minari/datasets/D4RL/pointmaze/umaze-v2, as the dataset of some tasks.  Each
    task gets its rewards.  UserError where it does not fit them (lps.data.readers)."""
    return load(Path(path), needs, episodes)


def recognises(path: Path) -> bool:
    """Whether a folder is a Minari dataset."""
    return (path / "data" / "metadata.json").exists() or (path / "metadata.json").exists()


def open_recordings(path: Path, options: Mapping[str, Any]) -> Recordings:
    """Open a Minari dataset as recordings, with the columns observations (or observations/NAME for each of several),
    actions, rewards, terminations and truncations.  UserError where it cannot be read."""
    first: dict[str, np.ndarray] = {}
    lengths = []
    for group in _stored(path)[1]:
        first = first or _columns(group)
        lengths.append(_rows(group["observations"]) - 1)
    columns = {name: Space(rows.shape[1:] or (1,), str(rows.dtype)) for name, rows in first.items()}
    cameras = tuple(name for name, space in columns.items() if space.is_image)
    state = tuple(name for name in columns if name.startswith("observations") and name not in cameras)
    roles = Roles(state, cameras, ("actions",), "rewards", "terminations")
    return MinariRecordings("Minari", path, columns, lengths, roles, last_observation=True)


@dataclass
class MinariRecordings(Recordings):
    """An opened Minari dataset."""

    def read(self, episodes: Sequence[int], columns: Mapping[str, Space]) -> Iterator[Recording]:
        for number in episodes:
            (found,) = [_columns(group) for group in _stored(self.path, number)[1]]
            arrays = {name: found[name].reshape(len(found[name]), *self.columns[name].shape) for name in columns}
            yield Recording(
                {
                    name: resized(rows, columns[name].shape[:2]) if columns[name].is_image else rows
                    for name, rows in arrays.items()
                }
            )


def _rows(stored: Any) -> int:
    return _rows(next(iter(stored.values()))) if hasattr(stored, "keys") else len(stored)


def _columns(group: Any) -> dict[str, np.ndarray]:
    """The arrays of an episode by column."""
    seen = _arrays(group["observations"])
    named = (
        {f"observations/{name}": rows for name, rows in seen.items()}
        if isinstance(seen, dict)
        else {"observations": seen}
    )
    steps = len(next(iter(named.values()))) - 1  # the Arrow form pads the other columns by a row
    rest = {name: _arrays(group[name])[:steps] for name in ("actions", "rewards", "terminations", "truncations")}
    return {name: _decoded(rows) for name, rows in named.items()} | rest


def episodes(path: Path, needs: Needs) -> tuple[int, Iterator[Episode]]:
    """Return the number of observations in all episodes, and the episodes."""
    rows, stored = _stored(path)
    return rows, (_episode(path, group, needs) for group in stored)


def _stored(path: Path, only: int | None = None) -> tuple[int, Iterator[Any]]:
    """Return the number of observations, and the stored episodes, all of them or one."""
    folder = path / "data" if (path / "data").is_dir() else path
    try:
        about = json.loads((folder / "metadata.json").read_text())
        version, form = str(about["minari_version"]), about["data_format"]
        count, steps = int(about["total_episodes"]), int(about["total_steps"])
    except (ValueError, KeyError, TypeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{folder / 'metadata.json'} is not Minari's: {what}. Make the dataset again") from error
    if not version.startswith(VERSIONS) or form not in FORMATS:
        raise UserError(
            f"{path} was made by Minari {version} in the form {form!r}, which is not supported. "
            "Load it with that Minari and save it with Minari 0.5"
        )
    if not count:
        raise UserError(f"{path} has no episodes. Collect some with Minari's DataCollector")
    numbers = range(count) if only is None else [only]
    return steps + count, _hdf5(folder, numbers) if form == "hdf5" else _arrow(folder, numbers, form)


def _hdf5(folder: Path, numbers: Sequence[int]) -> Iterator[Any]:
    with opened(folder / "main_data.hdf5") as file:
        for number in numbers:
            yield file[f"episode_{number}"]


def _arrow(folder: Path, numbers: Sequence[int], form: str) -> Iterator[Any]:
    import pyarrow.dataset

    for number in numbers:
        ignored = ["_", ".", "metadata.json"]
        table = pyarrow.dataset.dataset(folder / str(number), format=form, ignore_prefixes=ignored).to_table()
        yield {name: table[name].combine_chunks() for name in table.column_names if name != "infos"}


def _episode(path: Path, group: Any, needs: Needs) -> Episode:
    seen = _arrays(group["observations"])
    if not isinstance(seen, dict):
        if len(needs.observations) > 1:
            raise UserError(f"{path} has one array of observations, but the task has several. Change the task's space")
        seen = dict.fromkeys(needs.observations, seen)
    if missing := needs.observations.keys() - seen.keys():
        raise UserError(
            f"{path} has no observation {min(missing)!r}, only {', '.join(seen)}. Change the task's observation space"
        )
    observations = {name: _shaped(seen[name], space) for name, space in needs.observations.items()}
    steps = len(next(iter(observations.values()))) - 1  # the Arrow form pads the other columns by a row
    return Episode(
        observations=observations,
        actions=_shaped(_arrays(group["actions"]), Space(needs.low.shape))[:steps],
        rewards={"": _arrays(group["rewards"])[:steps]},
        masks={"": 1.0 - _arrays(group["terminations"])[:steps]},
    )


def _arrays(stored: Any) -> Any:
    """The numbers of a group of HDF5 or a column of Arrow: an array, or a dictionary of arrays."""
    if hasattr(stored, "keys"):
        return {name: _arrays(values) for name, values in stored.items()}
    if hasattr(stored, "field"):
        return {field.name: _arrays(stored.field(field.name)) for field in stored.type}
    if not hasattr(stored, "to_numpy"):
        return stored[()]
    if hasattr(stored.type, "list_size"):
        return stored.flatten().to_numpy(zero_copy_only=False).reshape(len(stored), -1)
    return stored.to_numpy(zero_copy_only=False)


def _shaped(values: np.ndarray, space: Space) -> np.ndarray:
    """(n, *shape), from flat rows or from encoded images."""
    flat = (math.prod(space.shape),)
    picture = space.dtype == "uint8" and len(space.shape) > 1
    if values.dtype.hasobject or (picture and values.shape[1:] not in (space.shape, flat)):
        return _pictures(values)
    return values.reshape(len(values), *space.shape) if values.shape[1:] == flat else values


def _decoded(values: np.ndarray) -> np.ndarray:
    """Rows as they are, or the pictures that they encode."""
    return _pictures(values) if values.dtype.hasobject or bytes(values.flat[:2]) == JPEG else values


def _pictures(values: np.ndarray) -> np.ndarray:
    from PIL import Image

    return np.stack([np.asarray(Image.open(io.BytesIO(bytes(frame)))) for frame in values])
