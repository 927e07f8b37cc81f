"""Reader of robomimic's HDF5 files (ARISE-Initiative/robomimic), low-dimensional and with images.

Columns are the paths inside a demo, such as obs/robot0_eef_pos, actions and rewards.  Demos are in the order of their
numbers.  Where a file has next_obs, an episode has the observation after its last action.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lps.data.frames import resized
from lps.data.hdf5 import opened, spaces
from lps.data.recordings import Recording, Recordings, Roles
from lps.errors import UserError, suggest
from lps.spaces import Space

OPTIONS = ("filter",)
"""filter: name of a list of demos in the file's group `mask`, such as "train"; default: all demos."""

STATE = ("obs/robot0_eef_pos", "obs/robot0_eef_quat", "obs/robot0_gripper_qpos", "obs/object")
"""Columns of a low-dimensional state, in the order of robomimic's own settings."""


def recognises(path: Path) -> bool:
    """Whether the path is an HDF5 file with the group `data`."""
    if path.suffix not in (".hdf5", ".h5") or not path.is_file():
        return False
    with opened(path) as file:
        return "data" in file


def open_recordings(path: Path, options: Mapping[str, Any]) -> Recordings:
    """Open a robomimic file.  UserError: an unknown filter, a damaged file, demos without actions."""
    with opened(path) as file:
        demos = sorted((name for name in file["data"] if re.fullmatch(r"demo_\d+", name)), key=_number)
        skipped = [f"{name} in {path} is no demo" for name in file["data"] if name not in demos]
        if wanted := options.get("filter"):
            known = list(file.get("mask", ()))
            if wanted not in known:
                raise UserError(suggest(str(wanted), known, f"filter of {path}"))
            listed = {name.decode() for name in file["mask"][wanted][()]}
            skipped += [f"{name} is not in the filter {wanted}" for name in demos if name not in listed]
            demos = [name for name in demos if name in listed]
        if empty := [name for name in demos if "actions" not in file["data"][name]]:
            raise UserError(f"{path}: {empty[0]} has no actions. Remove the demo, or convert the file again")
        first = spaces(file["data"][demos[0]]) if demos else {}
        lengths = [len(file["data"][name]["actions"]) for name in demos]
    columns = {name: space for name, space in first.items() if not name.startswith("next_obs/")}
    return Robomimic(
        format="robomimic",
        path=path,
        columns=columns,
        lengths=lengths,
        roles=Roles(
            state=tuple(name for name in STATE if name in columns),
            cameras=tuple(name for name, space in columns.items() if space.is_image),
            action=("actions",),
            reward="rewards" if "rewards" in columns else "",
            done="dones" if "dones" in columns else "",
        ),
        last_observation=any(name.startswith("next_obs/") for name in first),
        skipped=skipped,
        demos=demos,
    )


@dataclass
class Robomimic(Recordings):
    """An opened robomimic file."""

    demos: Sequence[str] = ()

    def read(self, episodes: Sequence[int], columns: Mapping[str, Space]) -> Iterator[Recording]:
        with opened(self.path) as file:
            for number in episodes:
                demo = file["data"][self.demos[number]]
                yield Recording({name: self._array(demo, name, space) for name, space in columns.items()})

    def _array(self, demo: Any, name: str, space: Space) -> np.ndarray:
        rows = demo[name][()]
        if self.last_observation and name.startswith("obs/"):
            rows = np.concatenate([rows, demo[f"next_{name}"][-1:]])
        return resized(rows, space.shape[:2]) if space.is_image else rows


def _number(demo: str) -> int:
    return int(demo[5:])
