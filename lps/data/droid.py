"""Reader of the HDF5 trajectories that LPS's authors recorded with their fork of DROID (jellyho/LPS,
envs/droid_utils.py).

A file is one trajectory.  It is a success or a failure by the nearest folder above it called `success` or `failure`.
Files are in the order of their paths, failures first.  As in the release:

* actions are not normalised: 6 numbers of action/cartesian_velocity and one of action/gripper_position;
* the state is 6 numbers of observation/robot_state/cartesian_position and one of .../gripper_position;
* cameras are the keys of observation/image that end in `_left`, in the order of their serial numbers; a file that has
  not exactly two is left out.  Pixels are BGR with an alpha channel, and become RGB;
* the last row of a trajectory has the last observation, and its action is dropped;
* failures are left out unless `failures` says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lps.data.frames import resized
from lps.data.hdf5 import opened, spaces
from lps.data.recordings import Recording, Recordings, Roles
from lps.errors import UserError
from lps.spaces import Space

OPTIONS = ("failures", "only_h5", "success_anywhere", "skip_damaged")
"""failures: true to read failures too.  Three defects of the release, off by default:

only_h5: files that end in .hdf5, as the release's README names them, are passed over.
success_anywhere: a file is a success if its whole path has the letters `success`, even as part of a name.
skip_damaged: a damaged file is left out; else it is an error.
"""

IMAGES = "observation/image"
_ACTION = ("action/cartesian_velocity", "action/gripper_position")
_STATE = ("observation/robot_state/cartesian_position", "observation/robot_state/gripper_position")


def recognises(path: Path) -> bool:
    """Whether the path is a folder with such trajectories."""
    return any(map(_is_trajectory, _files(path, only_h5=False)))


def open_recordings(path: Path, options: Mapping[str, Any]) -> Recordings:
    """Open a folder of trajectories.  UserError: a damaged file, unless it is to be skipped."""
    only_h5, skip = bool(options.get("only_h5")), bool(options.get("skip_damaged"))
    anywhere = bool(options.get("success_anywhere"))
    named = [(_is_success(file, anywhere), file) for file in _files(path, only_h5)]
    if not options.get("failures"):
        skipped = [f"{file} is a failure" for success, file in named if not success]
        named = [(success, file) for success, file in named if success]
    else:
        skipped = []
    files: list[tuple[bool, Path]] = []
    lengths: list[int] = []
    columns: dict[str, Space] = {}
    for success, file in sorted(named):
        try:
            found, rows, problem = _columns(file)
        except UserError as error:
            if not skip:
                raise
            found, rows, problem = {}, 0, str(error)
        if problem or rows < 2:
            skipped.append(problem or f"{file} has only {rows} rows")
            continue
        columns = columns or found
        files.append((success, file))
        lengths.append(rows - 1)
    return Droid(
        format="DROID (LPS)",
        path=path,
        columns=columns,
        lengths=lengths,
        roles=Roles(
            state=tuple(name for name in _STATE if name in columns),
            cameras=tuple(name for name in columns if name.startswith(IMAGES)),
            action=tuple(name for name in _ACTION if name in columns),
        ),
        last_observation=True,
        skipped=skipped,
        files=files,
    )


@dataclass
class Droid(Recordings):
    """An opened folder of trajectories."""

    files: Sequence[tuple[bool, Path]] = ()

    def read(self, episodes: Sequence[int], columns: Mapping[str, Space]) -> Iterator[Recording]:
        for number in episodes:
            success, path = self.files[number]
            with opened(path) as file:
                cameras = dict(zip(self.roles.cameras, _cameras(file), strict=True))
                found = {name: _array(file, cameras.get(name, name), space) for name, space in columns.items()}
            steps = self.lengths[number]
            yield Recording(
                {name: rows[: steps + name.startswith("observation/")] for name, rows in found.items()}, success
            )


def _files(path: Path, only_h5: bool) -> list[Path]:
    endings = (".h5",) if only_h5 else (".h5", ".hdf5")
    return sorted(file for file in path.rglob("*") if file.suffix in endings) if path.is_dir() else []


def _is_trajectory(path: Path) -> bool:
    try:
        with opened(path) as file:
            return "observation" in file and "action" in file
    except UserError:  # a damaged file
        return False


def _is_success(file: Path, anywhere: bool) -> bool:
    if anywhere:
        return "success" in str(file)
    return next((part for part in reversed(file.parts[:-1]) if part in ("success", "failure")), "") == "success"


def _cameras(file: Any) -> list[str]:
    return sorted(f"{IMAGES}/{name}" for name in file.get(IMAGES, ()) if name.endswith("_left"))


def _columns(path: Path) -> tuple[dict[str, Space], int, str]:
    """Columns and number of rows of one file, and why it is left out, if it is."""
    with opened(path) as file:
        found, cameras = spaces(file), _cameras(file)
        rows = len(file[_ACTION[0]])
    low = {name: space._replace(shape=space.shape or (1,)) for name, space in found.items() if IMAGES not in name}
    images = {name: found[name]._replace(shape=(*found[name].shape[:2], 3)) for name in cameras}
    problem = "" if len(cameras) == 2 else f"{path} has {len(cameras)} cameras that end in _left, not two"
    return low | images, rows, problem


def _array(file: Any, name: str, space: Space) -> np.ndarray:
    rows = file[name][()]
    if space.is_image:
        return resized(np.ascontiguousarray(rows[..., :3][..., ::-1]), space.shape[:2])
    return rows.reshape(len(rows), *space.shape)
