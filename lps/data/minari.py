"""Reader of Minari's dataset folders (https://minari.farama.org), in HDF5, Arrow and Parquet form.

Minari itself is not needed.  HDF5 needs h5py (`pip install 'lps[minari]'`).  Images are as Minari stores them: JPEG
unless the dataset was made with `jpeg_encoding=False`.
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from lps.data.episodes import Dataset
from lps.data.readers import Episode, Needs, load
from lps.errors import UserError

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
        raise UserError(f"{folder / 'metadata.json'} is not Minari's: {error!r}. Make the dataset again") from error
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
        table = pyarrow.dataset.dataset(
            folder / str(number), format=form, ignore_prefixes=["_", ".", "metadata.json"]
        ).to_table()
        yield {name: table[name].combine_chunks() for name in table.column_names if name != "infos"}


def _episode(path: Path, group: Any, needs: Needs) -> Episode:
    rewards = _numbers(group["rewards"])
    observations = {name: _observation(path, group["observations"], name, needs) for name in needs.observations}
    actions, terminations = _array(group["actions"], needs.low.shape), _numbers(group["terminations"])
    steps = len(next(iter(observations.values()))) - 1  # the Arrow form pads the other columns by a row
    going_on = 1.0 - terminations[:steps]
    return Episode(
        observations=observations,
        actions=actions[:steps],
        rewards={"": rewards[:steps]},
        masks={"": going_on},
    )


def _observation(path: Path, stored: Any, name: str, needs: Needs) -> np.ndarray:
    shape, dtype = needs.observations[name]
    if (names := _names(stored)) is not None:
        if name not in names:
            raise UserError(
                f"{path} has no observation {name!r}, only {', '.join(names)}. Change the task's observation space"
            )
        stored = stored.field(name) if hasattr(stored, "field") else stored[name]
    elif len(needs.observations) > 1:
        raise UserError(f"{path} has one array of observations, but the task has several. Change the task's space")
    return _array(stored, shape, image=dtype == "uint8" and len(shape) > 1)


def _names(stored: Any) -> list[str] | None:
    """The names of a dictionary of arrays; None for an array."""
    if hasattr(stored, "keys"):  # a group of HDF5
        return list(stored.keys())
    kind = getattr(stored, "type", None)  # Arrow
    return [field.name for field in kind] if kind is not None and hasattr(stored, "field") else None


def _numbers(stored: Any) -> np.ndarray:
    """Rewards or flags, (n,) float32."""
    return np.asarray(stored[()] if hasattr(stored, "file") else stored.to_numpy(zero_copy_only=False), np.float32)


def _array(stored: Any, shape: tuple[int, ...], image: bool = False) -> np.ndarray:
    """(n, *shape) of what is stored for n steps: numbers, or encoded images."""
    if hasattr(stored, "file"):  # HDF5
        values = stored[()]
        encoded = values.dtype.hasobject or (image and values.shape[1:] != shape)
    else:
        encoded = not hasattr(stored, "flatten") or not hasattr(stored.type, "list_size")
        if not encoded and stored.type.list_size == int(np.prod(shape)):
            return stored.flatten().to_numpy(zero_copy_only=False).reshape(-1, *shape)
        values = stored.to_numpy(zero_copy_only=False) if encoded else np.stack(stored.to_numpy(zero_copy_only=False))
        encoded = encoded and image
    return np.stack([_image(frame) for frame in values]) if encoded else values


def _image(data: Any) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(bytes(data))), np.uint8)
