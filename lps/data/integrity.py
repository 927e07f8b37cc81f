"""Checksums: a dataset that was downloaded, collected or converted is known by its SHA-256, and damage is found by it.

Beside NAME.npz lies NAME.npz.sha256, written before the file takes its name; `sha256sum --check` reads it, too. A file
that somebody else has put there has none, and is taken as it is. With converted arrays lies checksums.json.

Reading gigabytes takes every process of a sweep seconds, so a file is trusted while its size and modification time are
those of its last full check. The whole checksum is computed where these differ, and always before an npz file is
converted. Damage that shows in neither, such as a failing disk's, is found only then: after `rm -r .converted` in the
data directory everything is checked.
"""

import json
import re
from pathlib import Path
from typing import Any

from lps.errors import UserError
from lps.files import replacing, sha256

ARRAYS = "checksums.json"


class Damaged(UserError):
    """A file that was moved aside because its content is not what it was, and that may be downloaded again."""


# --- one file: {"bytes": ..., "modified_ns": ..., "sha256": ...} is what is known of it ---


def known(path: Path) -> dict[str, Any]:
    """What there is to know of a file, from all of its bytes."""
    return {**_state(path), "sha256": sha256(path)}


def unchanged(path: Path, known: Any) -> bool:
    """Whether size and modification time are as known; False for a file that is gone, or where nothing is known."""
    try:
        return {**known, **_state(path)} == known
    except (OSError, TypeError):
        return False


def _state(path: Path) -> dict[str, int]:
    stat = path.stat()
    return {"bytes": stat.st_size, "modified_ns": stat.st_mtime_ns}


# --- npz files ---


def record(path: Path, content: Path) -> None:
    """Records that `path`, whose content is still under another name, is to have this checksum."""
    with replacing(_record(path)) as file:
        file.write_text(f"{sha256(content)}  {path.name}\n")


def recorded(path: Path) -> str | None:
    """The SHA-256, in hex, that a file was given when it was downloaded or collected; None for any other file."""
    try:
        found = re.match(r"[0-9a-f]{64}\b", _record(path).read_text(errors="replace"))
    except OSError:
        return None
    return found[0] if found else None


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def set_aside(path: Path, keep: bool) -> Path:
    """Moves a damaged file out of the way, to NAME.npz.damaged, and returns that path. With `keep` nothing takes the
    place of an earlier one."""
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while keep and aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged{number}")
    return path.replace(aside)


# --- the converted arrays of a directory ---


def note_arrays(directory: Path) -> None:
    """Notes what is known of every array in a directory."""
    arrays = {file.name: known(file) for file in sorted(directory.glob("*.npy"))}
    with replacing(directory / ARRAYS) as file:
        file.write_text(json.dumps(arrays, indent=1) + "\n")


def arrays_unchanged(directory: Path) -> bool:
    """Whether all arrays of a directory have the size and time they had when they were last checked."""
    arrays = _arrays(directory)
    return bool(arrays) and all(unchanged(directory / name, array) for name, array in arrays.items())


def arrays_intact(directory: Path) -> bool:
    """Whether all arrays of a directory are as they were written: those that have changed in size or time are read."""
    arrays = _arrays(directory)
    try:
        intact = bool(arrays) and all(
            unchanged(directory / name, array) or sha256(directory / name) == array["sha256"]
            for name, array in arrays.items()
        )
    except (OSError, KeyError, TypeError):
        return False
    if intact and not arrays_unchanged(directory):  # copied or touched
        note_arrays(directory)
    return intact


def _arrays(directory: Path) -> dict[str, Any]:
    try:
        return dict(json.loads((directory / ARRAYS).read_text()))
    except (OSError, ValueError, TypeError):
        return {}
