"""Files, local and remote: opened, read, locked, and written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lps.errors import UserError

if TYPE_CHECKING:
    import pyarrow.fs as pafs


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
    import filelock
    from tqdm import tqdm

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


class FileError(UserError):
    """A file or folder that cannot be read or written. The message names it, the reason and the remedy."""


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a file at a local path or at a URI of a filesystem that pyarrow supports. FileError if that fails."""
    if "://" not in os.fspath(path):
        local = Path(path).expanduser().absolute()
        try:
            return local.read_bytes()
        except OSError as error:
            raise FileError(f"cannot read {local}: {reason(error)}") from error
    shown, fs, full = open_filesystem(path)
    try:
        with fs.open_input_file(full) as file:
            return file.read()
    except OSError as error:
        raise FileError(f"cannot read {shown}: {reason(error)}") from error


def open_filesystem(path: str | os.PathLike[str]) -> tuple[str, pafs.FileSystem, str]:
    """Return the name to show for a path or URI, its filesystem, and the path inside it. FileError if that fails."""
    import pyarrow as pa  # a policy that reads local files does without it
    import pyarrow.fs as pafs

    text = os.fspath(path)
    if "://" not in text:
        text = os.path.abspath(os.path.expanduser(text))
        return text, pafs.LocalFileSystem(), text
    try:
        fs, root = pafs.FileSystem.from_uri(text)
    except (OSError, pa.ArrowException) as error:
        raise FileError(f"cannot open {text}: {reason(error)}") from error
    return (root if isinstance(fs, pafs.LocalFileSystem) else text), fs, root


def write_durably(path: str, data: bytes) -> None:
    """Writes a local file so that it is on the disk when this returns: else a crash of the machine could leave its
    name, after the rename, with nothing behind it."""
    with open(path, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def reason(error: BaseException) -> str:
    """An error in a few words, on one line."""
    code = getattr(error, "errno", None)
    text = os.strerror(code) if code else str(error).strip().partition("\n")[0]
    return text.rstrip(". ") or type(error).__name__
