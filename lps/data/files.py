"""Where data lies on disk, under which names, and how files come to be there whole: written aside, renamed when
complete."""

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
from tqdm import tqdm

from lps.errors import UserError
from lps.tasks import GROUPS


def data_dir(path: str | os.PathLike[str] | None = None) -> Path:
    """The data directory: `path`, else $LPS_DATA_DIR, else OGBench's own ~/.ogbench/data. Not created."""
    return Path(path or os.environ.get("LPS_DATA_DIR") or "~/.ogbench/data").expanduser()


def plain_name(text: str, option: str) -> str:
    """The name of a dataset, without .npz. UserError for a path: `option` takes a name in the data directory."""
    name = text.removesuffix(".npz")
    folder, file = os.path.split(name)
    if folder or file in ("", ".", ".."):
        raise UserError(
            f"{option} takes the name of a dataset, not a path such as {text!r}: say --data-dir {folder or 'FOLDER'} "
            f"{option} {file.strip('.') or 'NAME'}"
        )
    return name


def default_name(dataset: str, episodes: int) -> str:
    """What a collected dataset of a kind ('cube-single-play', with or without '-v0') is called unless it is named."""
    return f"{dataset.removesuffix('-v0')}-{episodes}"


def published(name: str) -> bool:
    """Whether a dataset of this name is among OGBench's."""
    return name.removesuffix("-val") in {f"{group}-play-v0" for group in GROUPS}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to. It takes `path`'s place when the block ends without an error, and is
    removed otherwise: under its own name a file is always complete. One process at a time: hold a lock."""
    part = path.with_name(f".{path.name}.part")
    try:
        yield part
        with open(part, "rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Holds the lock file `path`; says that it waits for another process to finish `what` when it has to."""
    make_dir(path.parent)
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        tqdm.write(f"waiting for another process: {what}", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def make_dir(path: Path) -> None:
    """Makes a directory with its parents. UserError if that is not allowed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError as error:
        raise UserError(f"cannot make the directory {path}: {error.strerror}; give another data directory") from None
    if not writable:
        raise UserError(f"no permission to write to {path}; give another data directory ($LPS_DATA_DIR)")


def sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
