"""Files, local and remote: open, read, lock and write them atomically."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lps.errors import UserError

if TYPE_CHECKING:
    import pyarrow.fs as pafs


@contextmanager
def replacing(path: Path, *, shared: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, for a file or a directory. If the block ends without an error, the content
    is on the disk and replaces `path`; otherwise it is removed. So `path` is always complete.

    Several processes may replace `path` at the same time only if `shared`. Otherwise hold a lock; the next call then
    removes the remains of a killed process.
    """
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part" if shared else f".{path.name}.part")
    _remove(part)
    try:
        yield part
        if part.is_dir():
            _remove(path)
        else:  # without this, a crash of the machine can leave an empty file after the rename
            with open(part, "rb+") as file:
                os.fsync(file.fileno())
        part.replace(path)
    finally:
        _remove(part)


def _remove(path: Path) -> None:
    """Remove a file or a directory, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_durably(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a local file atomically. Several processes may write the same file; the last one wins."""
    with replacing(Path(path), shared=True) as part:
        part.write_bytes(data)


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`. Print `what` another process is doing if this process has to wait."""
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
    """Make a directory and its parents. UserError if that is not allowed."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        writable = os.access(path, os.W_OK)
    except OSError as error:
        raise UserError(f"cannot make the directory {path}: {error.strerror}. Set another $LPS_DATA_DIR") from None
    if not writable:
        raise UserError(f"no permission to write to {path}. Set another $LPS_DATA_DIR")


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class FileError(UserError):
    """A file or folder cannot be read or written. The message names the path, the reason and the remedy."""


def csv_cell(value: Any) -> Any:
    """A cell of a CSV file. A text that spreadsheets would run as a formula gets an apostrophe in front."""
    if not isinstance(value, str) or not value.startswith(("=", "+", "-", "@", "\t", "\r")):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def local_path(path: str | os.PathLike[str]) -> Path:
    """A local path with ~ expanded, which shells do not do in --out=~/x."""
    return Path(os.path.expanduser(path))


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Read a file at a local path or at a URI of a filesystem that pyarrow supports. FileError if that fails."""
    if "://" not in os.fspath(path):
        local = local_path(path).absolute()
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
    try:
        text.encode()
    except UnicodeEncodeError:
        raise FileError(f"cannot open {text!a}: the name is not UTF-8. Rename the folder") from None
    if "://" not in text:
        text = os.path.abspath(os.path.expanduser(text))
        return text, pafs.LocalFileSystem(), text
    try:
        fs, root = pafs.FileSystem.from_uri(text)
    except (OSError, pa.ArrowException) as error:
        raise FileError(f"cannot open {text}: {reason(error)}") from error
    return (root if isinstance(fs, pafs.LocalFileSystem) else text), fs, root


def reason(error: BaseException) -> str:
    """Return an error's message in a few words, on one line."""
    code = getattr(error, "errno", None)
    text = os.strerror(code) if code else str(error).strip().partition("\n")[0]
    return text.rstrip(". ") or type(error).__name__
