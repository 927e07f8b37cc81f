"""From an npz file to memory-mapped arrays with the rewards of all five tasks: done once per node and dataset.

Rewards and masks are stored per state, as OGBench's own relabelling gives them: which state counts for a transition
is the loader's business.
"""

import json
import math
import sys
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lps.data.integrity import (
    Damaged,
    arrays_intact,
    arrays_unchanged,
    known,
    note_arrays,
    recorded,
    set_aside,
    unchanged,
)
from lps.data.names import command, published
from lps.errors import UserError
from lps.files import locked, replacing
from lps.tasks.ogbench_env import import_ogbench, make_env, set_task
from lps.tasks.suites import groups
from lps.tasks.task import Task

# Actions of exactly +-1 would have no density under squashed policies; FQL and LPS clip them so.
ACTION_LIMIT = 1.0 - 1e-5

BLOCK = 1 << 16
"""Rows converted at a time, so that memory use does not grow with the dataset."""


def converted(path: Path, group: str) -> tuple[str, Path]:
    """The SHA-256 of the npz file and the directory with its arrays, made if they are not there yet.

    The directory holds .npy files: observations (N, obs) float32, actions (N, act) float32, terminals (N,) bool, and
    for the group's tasks in the state of each row, rewards and masks (5, N) float32. Arrays that are no longer as they
    were written (lps.data.integrity says how that is seen) are made again.

    Damaged if the npz file is, and was moved aside to be downloaded again. UserError if it was collected and is damaged
    (it is moved aside, too), cannot be read, or is not a dataset of this group.
    """
    home = path.parent / ".converted"
    note = home / f"{path.stem}.json"
    if (fingerprint := _noted(path, note)) and arrays_unchanged(directory := _directory(path, fingerprint, group)):
        return fingerprint, directory  # without the lock: works in a directory that is shared read-only, too
    with locked(home / f"{path.stem}.lock", f"it is converting {path}"):
        if (fingerprint := _noted(path, note)) and arrays_intact(directory := _directory(path, fingerprint, group)):
            return fingerprint, directory
        fingerprint = _checked(path, note)  # also where it is noted: nothing is made from bytes that were not checked
        directory = _directory(path, fingerprint, group)
        if not arrays_intact(directory):
            if directory.exists():
                tqdm.write(f"the converted arrays of {path} are damaged: converting it again", file=sys.stderr)
            try:
                with replacing(directory) as part:
                    part.mkdir(parents=True)
                    _convert(path, groups("ogbench")[group], part)
                    note_arrays(part)
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise _damaged(path, f"truncated or damaged ({error})") from None
            except (ValueError, KeyError) as error:
                raise UserError(f"{path} is not a dataset ({error}); remove it, then download or collect it") from None
            except OSError as error:
                raise UserError(f"cannot convert {path} into {home}: {error.strerror or error}") from None
    return fingerprint, directory


def _directory(path: Path, fingerprint: str, group: str) -> Path:
    # By group as well: the rewards are those of its tasks, and a file of another group with as many numbers in an
    # observation must come to the checks.
    return path.parent / ".converted" / f"{path.stem}-{fingerprint[:16]}" / group


def _noted(path: Path, note: Path) -> str | None:
    """The file's SHA-256 as computed earlier, if size and time of the file are still the same."""
    try:
        noted = json.loads(note.read_text())
        return noted["sha256"] if unchanged(path, noted) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not noted yet, or noted badly


def _checked(path: Path, note: Path) -> str:
    """The SHA-256 of all the file's bytes, noted for the next time. Damaged or UserError if it was another one."""
    if not path.exists():
        raise Damaged(f"another process found {path} damaged")
    now, before = known(path), recorded(path)
    if before and now["sha256"] != before:
        raise _damaged(path, f"not as it was: its SHA-256 is {now['sha256'][:16]}..., and was {before[:16]}...")
    with replacing(note) as file:
        file.write_text(json.dumps(now))
    return now["sha256"]


def _damaged(path: Path, how: str) -> UserError:
    """What to raise for a damaged file, after having moved it aside where it can be had again."""
    if again := command(path):
        aside = set_aside(path, keep=True)
        return UserError(
            f"{path} is {how}. It was collected here and is now {aside.name}; if you have changed it yourself, move it "
            f"back and remove {path.name}.sha256; to make it once more: {again}"
        )
    if published(path.stem):
        aside = set_aside(path, keep=False)
        return Damaged(f"{path} is {how}; it is now {aside.name}")
    return UserError(f"{path} is {how}; bring it again from where you have it")


def _convert(path: Path, tasks: Sequence[Task], directory: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        arrays = {name.removesuffix(".npy"): _Array(archive, name) for name in archive.namelist()}
        relabel = _Relabel(tasks)
        _check(path, arrays, tasks[0], relabel.sizes)
        rows = arrays["observations"].shape[0]

        def create(name: str, shape: tuple[int, ...], dtype: Any) -> np.memmap:
            return np.lib.format.open_memmap(directory / f"{name}.npy", "w+", dtype, shape)

        observations = create("observations", arrays["observations"].shape, np.float32)
        actions = create("actions", arrays["actions"].shape, np.float32)
        terminals = create("terminals", (rows,), np.bool_)
        rewards = create("rewards", (len(tasks), rows), np.float32)
        masks = create("masks", (len(tasks), rows), np.float32)
        keys = ["observations", "actions", "terminals", *relabel.sizes]
        with tqdm(total=rows, desc=f"converting {path.name}", unit="row", unit_scale=True, leave=False) as progress:
            start = 0
            for blocks in zip(*(arrays[key].blocks() for key in keys), strict=True):
                block = dict(zip(keys, blocks, strict=True))
                here = slice(start, start + len(block["observations"]))
                observations[here] = block["observations"]
                actions[here] = np.clip(block["actions"], -ACTION_LIMIT, ACTION_LIMIT)
                terminals[here] = block["terminals"]
                rewards[:, here], masks[:, here] = relabel(block)
                for name, array in (("observations", observations), ("actions", actions)):
                    if not np.isfinite(array[here]).all():
                        raise ValueError(f"{name} that are not finite in rows {here.start} to {here.stop}")
                progress.update(here.stop - start)
                start = here.stop
        for array in (observations, actions, terminals, rewards, masks):
            array.flush()


def _check(path: Path, arrays: dict[str, "_Array"], task: Task, state_sizes: dict[str, int]) -> None:
    """UserError if the arrays are not those of a dataset for the task's group."""
    sizes = {
        "observations": task.observation["state"].shape[0],
        "actions": task.action.shape[0],
        "terminals": None,
        **state_sizes,
    }
    if missing := [key for key in sizes if key not in arrays]:
        raise UserError(f"{path} has no {', '.join(missing)}, which a dataset of {task.group} has")
    rows = arrays["observations"].shape[0] if arrays["observations"].shape else 0
    if not rows:
        raise UserError(f"{path} is empty")
    for key, size in sizes.items():
        expected = (rows,) if size is None else (rows, size)
        if arrays[key].shape != expected:
            raise UserError(f"{path}: {key} of shape {arrays[key].shape}, but {task.group} needs {expected}")


class _Array:
    """One array of an npz file, read in blocks of rows."""

    def __init__(self, archive: zipfile.ZipFile, name: str):
        self.archive, self.name = archive, name
        with archive.open(name) as file:
            self.shape, self.dtype = self._header(file)

    @staticmethod
    def _header(file: Any) -> tuple[tuple[int, ...], np.dtype]:
        major, _ = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
        shape, fortran_order, dtype = read(file)
        if fortran_order and len(shape) > 1 or dtype.hasobject:
            raise ValueError("an array of objects or in Fortran order")
        return shape, dtype

    def blocks(self) -> Iterator[np.ndarray]:
        row_bytes = self.dtype.itemsize * math.prod(self.shape[1:])
        with self.archive.open(self.name) as file:
            self._header(file)
            for start in range(0, self.shape[0], BLOCK):
                rows = min(BLOCK, self.shape[0] - start)
                data = file.read(rows * row_bytes)
                if len(data) < rows * row_bytes:
                    raise EOFError(f"{self.name} ends early")
                yield np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:])
            file.read(1)  # the end, where the checksum is verified


class _Relabel:
    """OGBench's rewards and masks of states, for each of the tasks."""

    def __init__(self, tasks: Sequence[Task]):
        import_ogbench()
        self.tasks = tasks
        env: Any = make_env(tasks[0]).unwrapped
        env.reset()
        self.env = env
        self.sizes = {"qpos": int(env.model.nq)}
        """What a state consists of beside the observation, and its size."""
        if hasattr(env, "_num_buttons"):
            self.sizes["button_states"] = env._num_buttons

    def __call__(self, states: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        from ogbench.relabel_utils import relabel_dataset

        rewards, masks = [], []
        for task in self.tasks:
            set_task(self.env, task)  # OGBench's relabelling resets it
            columns = dict(states)
            relabel_dataset(task.options["env"], self.env, columns)
            rewards.append(columns["rewards"])
            masks.append(columns["masks"])
        return rewards, masks
