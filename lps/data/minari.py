"""Reader of Minari's dataset folders (https://minari.farama.org), in HDF5, Arrow and Parquet form.

Minari itself is not needed.  HDF5 needs h5py (`pip install 'lps[minari]'`).  Images are as Minari stores them: JPEG
unless the dataset was made with `jpeg_encoding=False`.
"""

from __future__ import annotations

import io
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lps.data.episodes import Dataset
from lps.data.readers import Episode, Needs, load
from lps.errors import UserError
from lps.spaces import Space

VERSIONS = ("0.4.", "0.5.")
"""Beginnings of the Minari versions whose folders can be read."""

FORMATS = ("hdf5", "arrow", "parquet")


def read(path: str | os.PathLike[str], needs: Needs) -> Dataset:
    """Read a Minari dataset, such as ~/.minari/datasets/D4RL/pointmaze/umaze-v2, as the dataset of some tasks.  Each
    task gets its rewards.  UserError where it does not fit them (lps.data.readers)."""
    return load(Path(path), needs, episodes)


def is_minari(path: Path) -> bool:
    """Whether a folder is a Minari dataset."""
    return (path / "data" / "metadata.json").exists() or (path / "metadata.json").exists()


def episodes(path: Path, needs: Needs) -> tuple[int, Iterator[Episode]]:
    """Return the number of observations in all episodes, and the episodes."""
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
    stored = _hdf5(folder, count) if form == "hdf5" else _arrow(folder, count, form)
    return steps + count, (_episode(path, group, needs) for group in stored)


def _hdf5(folder: Path, count: int) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"reading {folder} needs h5py. Install it: pip install 'lps[minari]'") from error
    with h5py.File(folder / "main_data.hdf5") as file:
        for number in range(count):
            yield file[f"episode_{number}"]


def _arrow(folder: Path, count: int, form: str) -> Iterator[Any]:
    import pyarrow.dataset

    for number in range(count):
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
        from PIL import Image

        return np.stack([np.asarray(Image.open(io.BytesIO(bytes(frame)))) for frame in values])
    return values.reshape(len(values), *space.shape) if values.shape[1:] == flat else values
