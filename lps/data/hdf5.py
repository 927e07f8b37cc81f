"""HDF5 files, opened with errors for people.  Needs h5py (`pip install 'lps[robot]'`)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lps.errors import UserError
from lps.files import reason
from lps.spaces import Space


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Yield an open h5py.File.  UserError if h5py is not installed, or if the file is damaged or lacks something."""
    try:
        import h5py
    except ImportError as error:
        raise UserError(f"reading {path} needs h5py. Install it: pip install 'lps[robot]'") from error
    try:
        with h5py.File(path) as file:
            yield file
    except (OSError, KeyError, RuntimeError) as error:
        raise UserError(f"the HDF5 file {path} is damaged: {reason(error)}. Copy it again from its source") from error


def spaces(group: Any, prefix: str = "") -> dict[str, Space]:
    """Return the space of one row of each array of numbers below a group, by path."""
    found: dict[str, Space] = {}
    for name, value in group.items():
        if hasattr(value, "items"):
            found |= spaces(value, f"{prefix}{name}/")
        elif value.dtype.kind in "fiub" and value.shape:
            found[f"{prefix}{name}"] = Space(value.shape[1:], str(value.dtype))
    return found
