"""OGBench's datasets, downloaded when they are first needed: once per node, resumed when the connection breaks."""

import http.client
import os
import shutil
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

from tqdm import tqdm

from lps.data.integrity import record
from lps.data.names import command, default_name, plain_name, published
from lps.data.names import data_dir as find_data_dir
from lps.errors import UserError, suggest
from lps.files import locked, make_dir, replacing
from lps.tasks.suites import groups

# As in ogbench.utils, without importing MuJoCo for a constant.
URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"

TIMEOUT = 30.0
"""Seconds without an answer from the server."""

BLOCK = 1 << 20


def dataset_path(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """The npz file of a dataset: the one in the data directory, else OGBench's, downloaded into it, with its checksum.

    $LPS_DATA_MIRROR, a URL or a directory that holds `name`.npz, takes the place of OGBench's server. UserError: no
    such dataset, no network (it says what to do instead), no permission to write, a damaged file at the source, or a
    dataset that was collected here and is gone: OGBench's of the same name is another one.
    """
    name = plain_name(name, "--dataset")
    directory = find_data_dir(data_dir)
    path = directory / f"{name}.npz"
    if path.exists():
        return path
    if again := command(path):
        raise UserError(
            f"{path} was collected here and is gone. To make it once more: {again}"
            + (f". To have OGBench's in its place, remove {path.with_suffix('.json')}" if published(name) else "")
        )
    if not published(name):
        known = [tasks[0].dataset for tasks in groups("ogbench").values()]
        here = [file.stem for file in directory.glob("*.npz") if not file.stem.endswith("-val")]
        group = next(
            (group for group in sorted(groups("ogbench"), key=len, reverse=True) if name.startswith(group)), "GROUP"
        )
        raise UserError(
            f"no {name}.npz in {directory}, nor among OGBench's: {suggest(name, [*here, *known], 'dataset')}. "
            f"To make one of that name: python -m lps collect {group}-play --episodes 100 --name {name}"
        )
    make_dir(directory)
    partial = directory / ".downloading" / path.name
    with locked(partial.with_suffix(".lock"), f"it is downloading {path}"):
        if not path.exists():  # else another process was faster
            _fetch(path.name, partial)
            if not zipfile.is_zipfile(partial):
                partial.unlink()
                raise UserError(f"{path.name} from {_source()} is damaged: not an npz file. {remedies(name)}")
            record(path, partial)
            partial.replace(path)
    return path


def _source() -> str:
    return os.environ.get("LPS_DATA_MIRROR") or URL


def remedies(name: str) -> str:
    """What to do where a dataset cannot be had from where it is looked for."""
    dataset = name.removesuffix("-val").removesuffix("-v0")
    return (
        "Set LPS_DATA_MIRROR to another URL or to a directory that has the file, "
        f"or make a dataset of your own: python -m lps collect {dataset} --episodes 1000, and train on it with "
        f"--dataset {default_name(dataset, 1000)}"
    )


def _fetch(file_name: str, partial: Path) -> None:
    """Brings the whole file to `partial`."""
    source = _source()
    name = file_name.removesuffix(".npz")
    if "://" not in source:
        original = Path(source).expanduser() / file_name
        if not original.is_file():
            raise UserError(f"{original} does not exist (LPS_DATA_MIRROR is {source!r}). {remedies(name)}")
        with replacing(partial) as part:
            shutil.copyfile(original, part)
        return
    url = f"{source.rstrip('/')}/{file_name}"
    while True:
        before = _size(partial)
        try:
            if _download(url, partial):
                return
            reason = "the connection broke off"
        except urllib.error.HTTPError as error:
            if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and partial.exists():
                partial.unlink()  # it was all there, or is of another file: once more from the start
                continue
            raise UserError(f"cannot download {url}: {error.code} {error.reason}. {remedies(name)}") from None
        except (OSError, http.client.HTTPException) as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        # A connection that breaks is taken up again for as long as it brings something.
        if _size(partial) <= before:
            raise UserError(f"cannot download {url}: {reason}. {remedies(name)}")


def _download(url: str, partial: Path) -> bool:
    """Downloads, or goes on where an earlier download of the same file stopped. Returns whether it is complete."""
    tag = partial.with_suffix(".etag")
    request = urllib.request.Request(url)
    if _size(partial) and tag.exists():
        request.add_header("Range", f"bytes={_size(partial)}-")
        request.add_header("If-Range", tag.read_text())  # the server sends all of it if the file has changed
    with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
        resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT
        done = _size(partial) if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else None
        with open(partial, "ab" if resumed else "wb") as file:
            if etag := response.headers.get("ETag") or response.headers.get("Last-Modified"):
                tag.write_text(etag)
            else:
                tag.unlink(missing_ok=True)
            with tqdm(
                desc=f"downloading {partial.name}", total=total, initial=done, unit="B", unit_scale=True
            ) as progress:
                while block := response.read(BLOCK):
                    file.write(block)
                    progress.update(len(block))
    complete = total is None or _size(partial) == total
    if complete:
        tag.unlink(missing_ok=True)
    return complete


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
