"""From a data file to memory-mapped arrays: once per machine, known by the file's SHA-256.

A dataset at FOLDER/NAME.npz, or in the folder FOLDER/NAME, is converted to .npy files in
FOLDER/.converted/NAME-<SHA-256>/<key>.  Such a folder appears by renaming, so it is always complete.

A file that was downloaded or collected here has its checksum beside it, in NAME.npz.sha256, which `sha256sum --check`
reads too.  The file is tested against it before each conversion.  FOLDER/.converted/NAME.json keeps the SHA-256 with
the file's size and time, so that not every process reads gigabytes.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import math
import re
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from lps.errors import UserError
from lps.files import locked, reason, replacing, sha256

BROKEN = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, NotImplementedError, RuntimeError)
"""Errors of zipfile for damaged, encrypted or unknown archives."""


class Damaged(UserError):
    """A data file that is truncated, or whose content is not the recorded one."""

    def __init__(self, path: Path, how: str):
        super().__init__(f"{path} is {how}. Copy it again from its source")
        self.path, self.how = path, how


def cached(path: Path, key: str, write: Callable[[Path], None]) -> tuple[str, Path]:
    """Return the SHA-256 of a data file or folder (hex), and the folder of its arrays, made by `write(folder)` if new.

    `key` tells several conversions of one file apart.  Damaged if the file is; UserError if it is no dataset, or if the
    disk is full or read-only.
    """
    name = path.name.removesuffix(".npz")
    home = path.parent / ".converted"
    note = home / f"{name}.json"

    def folder(fingerprint: str) -> Path:
        return home / f"{name}-{fingerprint[:16]}" / key

    if (known := _cached_sha256(path, note)) and folder(known).is_dir():
        return known, folder(known)  # without the lock: the data folder may be read-only
    try:
        with locked(home / f"{name}.lock", f"it is converting {path}"):
            if (known := _cached_sha256(path, note)) and folder(known).is_dir():
                return known, folder(known)
            fingerprint = _verified_sha256(path, note)  # reads all bytes, even where size and time are the same
            if not (target := folder(fingerprint)).is_dir():
                with replacing(target) as part:
                    part.mkdir(parents=True)
                    write(part)
            return fingerprint, target
    except BROKEN as error:
        raise Damaged(path, f"truncated or damaged ({error})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a dataset: {error}. Remove it, then download or collect it") from error
    except OSError as error:
        raise UserError(
            f"cannot convert {path} into {home}: {reason(error)}. Free the disk, or use another --data-dir"
        ) from error


def mapped(folder: Path, name: str) -> np.ndarray:
    """Return one array of a converted dataset; writing to it changes memory, not the file."""
    try:
        return np.load(folder / f"{name}.npy", mmap_mode="c")
    except (OSError, ValueError) as error:
        raise UserError(
            f"the array {name} in {folder} is damaged: {reason(error)}. Remove the folder, then repeat the command"
        ) from error


def check_room(path: Path, folder: Path, arrays: Iterable[tuple[tuple[int, ...], Any]]) -> None:
    """UserError if arrays of these shapes and dtypes, which `path` is converted to, do not fit the disk of `folder`."""
    needed = sum(math.prod(shape) * np.dtype(dtype).itemsize for shape, dtype in arrays)
    if needed > (free := shutil.disk_usage(folder).free):
        raise UserError(
            f"converting {path} needs {needed:,} bytes ({needed / 1e9:.1f} GB) in {folder.parent}, which has {free:,} "
            f"({free / 1e9:.1f} GB) free. Free the disk, or move the file and use --data-dir"
        )


def create(folder: Path, name: str, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """Create one array of a converted dataset."""
    return np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, shape)


def record(path: Path, content: Path) -> None:
    """Record the checksum that `path` is to have; its content is still at another path."""
    with replacing(_record(path)) as file:
        file.write_text(f"{sha256(content)}  {path.name}\n")


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _recorded(path: Path) -> str | None:
    try:
        found = re.match(r"[0-9a-f]{64}\b", _record(path).read_text(errors="replace"))
    except OSError:
        return None
    return found[0] if found else None


def _files(path: Path) -> list[Path]:
    return sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else [path]


def _state(path: Path) -> list[list[Any]]:
    return [[str(file.relative_to(path)), (stat := file.stat()).st_size, stat.st_mtime_ns] for file in _files(path)]


def _cached_sha256(path: Path, note: Path) -> str | None:
    """The SHA-256 as computed earlier, if sizes and times are still the same."""
    try:
        noted = json.loads(note.read_text())
        return noted["sha256"] if noted["state"] == _state(path) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _verified_sha256(path: Path, note: Path) -> str:
    """The SHA-256 from all bytes, noted for the next process."""
    if not path.exists():
        raise Damaged(path, "gone: another process found it damaged")
    state = _state(path)
    if path.is_dir():
        listing = "".join(f"{sha256(file)}  {file.relative_to(path)}\n" for file in _files(path))
        now = hashlib.sha256(listing.encode()).hexdigest()
    else:
        now, before = sha256(path), _recorded(path)
        if before and now != before:
            raise Damaged(path, f"not as recorded: its SHA-256 is {now[:16]}..., not {before[:16]}...")
    with replacing(note) as file:
        file.write_text(json.dumps({"state": state, "sha256": now}))
    return now
