"""Download a data file: once per machine, with its checksum."""

import logging
import os
import shutil
import zipfile
from pathlib import Path

from lps.data.cache import record
from lps.errors import UserError
from lps.files import local_path, locked, make_dir, reason, replacing

TIMEOUT = 30.0
"""Seconds without an answer from the server."""


def download(path: Path, url: str, remedies: str) -> Path:
    """Download the npz file `path.name` from the base URL `url` to `path`.  Does nothing where the file exists.

    $LPS_DATA_MIRROR, a base URL or a folder, replaces `url`.  UserError, with the `remedies`: no such file, no network,
    a damaged file at the source.
    """
    source = os.environ.get("LPS_DATA_MIRROR") or url
    make_dir(path.parent)
    partial = path.parent / ".downloading" / path.name
    with locked(partial.with_suffix(".lock"), f"it is downloading {path}"):
        if not path.exists():  # else another process was faster
            (_fetch if "://" in source else _copy)(source, partial, remedies)
            if not zipfile.is_zipfile(partial):
                partial.unlink()
                raise UserError(f"{path.name} from {source} is damaged: not an npz file. {remedies}")
            record(path, partial)
            partial.replace(path)
    return path


def _copy(source: str, partial: Path, remedies: str) -> None:
    original = local_path(source) / partial.name
    if not original.is_file():
        raise UserError(f"{original} does not exist (LPS_DATA_MIRROR is {source!r}). {remedies}")
    with replacing(partial) as part:
        shutil.copyfile(original, part)


def _fetch(source: str, partial: Path, remedies: str) -> None:
    import pooch  # slow to import, as requests is

    pooch.get_logger().setLevel(logging.WARNING)
    base = f"{source.rstrip('/')}/"
    files = pooch.create(partial.parent, base, registry={partial.name: None}, retry_if_failed=2)
    partial.unlink(missing_ok=True)  # pooch would take it for the file
    try:
        files.fetch(
            partial.name, downloader=pooch.HTTPDownloader(progressbar=True, timeout=TIMEOUT, chunk_size=1 << 20)
        )
    except OSError as error:
        raise UserError(f"cannot download {base}{partial.name}: {reason(error)}. {remedies}") from None
