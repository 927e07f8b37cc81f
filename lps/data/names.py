"""Folder and names of datasets."""

import os
from pathlib import Path

from lps.errors import UserError
from lps.files import local_path

LONGEST = 200
"""Most bytes of a dataset's name: file systems allow 255, and its files have further letters."""


def data_dir(path: str | os.PathLike[str] | None = None) -> Path:
    """Return the data folder: `path`, else $LPS_DATA_DIR, else OGBench's own ~/.ogbench/data.  Does not create it."""
    return local_path(path or os.environ.get("LPS_DATA_DIR") or "~/.ogbench/data")


def plain_name(text: str, option: str) -> str:
    """Return the name of a dataset without .npz.  UserError for a path: `option` takes a name in the data folder."""
    name = text.removesuffix(".npz")
    folder, file = os.path.split(name)
    if folder or file in ("", ".", ".."):
        raise UserError(
            f"{option} takes the name of a dataset, not the path {text!r}. Use --data-dir {folder or 'FOLDER'} "
            f"{option} {file.strip('.') or 'NAME'}"
        )
    if not name.isprintable() or len(os.fsencode(name)) > LONGEST:
        raise UserError(f"{option} takes at most {LONGEST} bytes of printable text, not {name[:40]!r}. Rename the file")
    return name
