"""Write recordings as a Minari dataset in HDF5 form, which opens with Minari itself.

Frames are stored as they are, without JPEG.  Minari needs an observation after the last action: where it is not known,
the last one stands there twice.  Needs h5py (`pip install 'lps[robot]'`).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from lps.data.export_lerobot import column_names
from lps.data.recordings import Recordings
from lps.errors import UserError
from lps.files import replacing
from lps.spaces import Space

VERSION = "0.5.4"
"""The version of Minari whose form is written."""


def export(recordings: Recordings, folder: Path) -> None:
    """Write a Minari dataset; its id is the folder's name, which ends in -vN.  UserError: the folder exists, its name
    has no version, or h5py is not installed."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"writing {folder} needs h5py. Install it: pip install 'lps[robot]'") from error
    if folder.exists():
        raise UserError(f"{folder} exists. Give another folder, or remove it")
    if not folder.name.rpartition("-v")[2].isdigit():
        raise UserError(f"the Minari folder {folder.name!r} has no version. Give a name such as {folder.name}-v0")
    roles, names = recordings.roles, column_names(recordings)
    observed = (*roles.state, *roles.cameras)
    seen = {name: names[name].removeprefix("observation.").removeprefix("images.") for name in observed}
    columns = {name: recordings.columns[name] for name in (*seen, *roles.action, roles.reward, roles.done) if name}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as part:
        (part / "data").mkdir(parents=True)
        steps = 0
        with h5py.File(part / "data" / "main_data.hdf5", "w", track_order=True) as file:
            for number, recording in enumerate(recordings.read(range(len(recordings.lengths)), columns)):
                length = recordings.lengths[number]
                group = file.create_group(f"episode_{number}")
                group.attrs.update({"id": number, "total_steps": length})
                for own, name in seen.items():
                    rows = recording.columns[own]
                    rows = rows if len(rows) > length else np.concatenate([rows, rows[-1:]])
                    group[f"observations/{name}"] = rows.astype(_dtype(columns[own]))
                actions = [recording.columns[own].reshape(length, -1) for own in roles.action]
                group["actions"] = np.concatenate(actions, axis=1).astype(np.float32)
                zeros = np.zeros(length)
                done = recording.columns.get(roles.done, zeros).reshape(length).astype(bool)
                reward = recording.columns.get(roles.reward, zeros).reshape(length)
                group["rewards"], group["terminations"] = reward.astype(np.float64), done
                group["truncations"] = (np.arange(length) == length - 1) & ~done
                group.create_group("infos")
                steps += length
        size = sum(int(np.prod(columns[name].shape)) for name in roles.action)
        about = {
            "dataset_id": folder.name,
            "total_episodes": len(recordings.lengths),
            "total_steps": steps,
            "data_format": "hdf5",
            "jpeg_encoding": False,
            "minari_version": VERSION,
            "action_space": json.dumps(_box(Space((size,)))),
            "observation_space": json.dumps(
                {"type": "Dict", "subspaces": {name: _box(columns[own]) for own, name in seen.items()}}
            ),
        }
        (part / "data" / "metadata.json").write_text(json.dumps(about, indent=1))


def _dtype(space: Space) -> str:
    return "uint8" if space.is_image else "float32"


def _box(space: Space) -> dict[str, Any]:
    """A gymnasium Box as Minari stores it."""
    low, high = (0, 255) if space.is_image else (-np.inf, np.inf)
    bound = {key: np.full(space.shape, value).tolist() for key, value in (("low", low), ("high", high))}
    return {"type": "Box", "dtype": _dtype(space), "shape": list(space.shape), **bound}
