"""Reader of LeRobot's datasets (huggingface/lerobot), versions v2.0, v2.1 and v3.0, without LeRobot itself.

Both forms are read in place: tables by pyarrow, videos by PyAV, files by the templates of meta/info.json.
Columns are LeRobot's features; a scalar has the shape (1,).
"""

from __future__ import annotations

import json
import os
import string
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lps.data.frames import decoded_images, decoded_video, import_av
from lps.data.recordings import Recording, Recordings, Roles
from lps.errors import UserError
from lps.files import reason
from lps.spaces import Space

VERSIONS = ("v2.0", "v2.1", "v3.0")

INDEX = ("timestamp", "frame_index", "episode_index", "index", "task_index")
"""Columns that number rows and say nothing about the robot."""

INFO = "meta/info.json"


class _Episode(NamedTuple):
    """Where one episode is."""

    number: int
    table: Path
    videos: Mapping[str, tuple[Path, float]]
    """File and first second by camera."""


def recognises(path: Path) -> bool:
    """Whether the folder is a LeRobot dataset."""
    return (path / INFO).is_file()


def open_recordings(path: Path, options: Mapping[str, Any]) -> Recordings:
    """Open a LeRobot dataset.  UserError: an unknown version, a damaged index, wrong templates."""
    info = _info(path)
    columns: dict[str, Space] = {}
    files: dict[str, str] = {}
    skipped: list[str] = []
    try:
        version, rate = str(info["codebase_version"]), float(info["fps"])
        for name, feature in info["features"].items():
            kind, shape = str(feature["dtype"]), tuple(map(int, feature["shape"]))
            about = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
            if about.get("is_depth_map") or about.get("video.is_depth_map"):
                skipped.append(f"the camera {name} is a depth map")
            elif kind in ("video", "image"):
                files[name] = kind
                first = list(feature.get("names") or [""])[0]
                columns[name] = Space((*shape[1:], shape[0]) if first in ("channel", "channels") else shape, "uint8")
            elif kind != "string" and not kind.startswith("language"):
                columns[name] = Space(shape or (1,), kind)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path / INFO} is not LeRobot's: {what}. Export the dataset again") from error
    if version not in VERSIONS:
        raise UserError(
            f"{path} has the codebase version {version!r}, which is not supported. Convert it with LeRobot's own "
            f"converters to one of {', '.join(VERSIONS)}"
        )
    if not 0 < rate < 10_000:
        raise UserError(f"{path / INFO}: fps is {rate:g}. Write the control rate of the robot in Hz")
    videos = [name for name, kind in files.items() if kind == "video"]
    episodes, lengths = (_episodes_v3 if version == "v3.0" else _episodes_v2)(path, info, videos)
    low = [name for name in columns if name not in INDEX and name not in files]

    def present(name: str) -> str:
        return name if name in columns else ""

    return LeRobot(
        format=f"LeRobot {version}",
        path=path,
        columns=columns,
        lengths=lengths,
        roles=Roles(
            state=tuple(name for name in low if name in ("observation.state", "observation.environment_state")),
            cameras=tuple(files),
            action=("action",) if "action" in columns else (),
            reward=present("next.reward"),
            done=present("next.done"),
            success=present("next.success"),
        ),
        rate=rate,
        skipped=skipped,
        episodes=episodes,
        kinds=files,
    )


@dataclass
class LeRobot(Recordings):
    """An opened LeRobot dataset."""

    episodes: Sequence[_Episode] = ()
    kinds: Mapping[str, str] = field(default_factory=dict)
    """"video" or "image" by camera."""

    def read(self, episodes: Sequence[int], columns: Mapping[str, Space]) -> Iterator[Recording]:
        videos = {name: space for name, space in columns.items() if self.kinds.get(name) == "video"}
        if videos:
            import_av(f"reading the videos of {self.path}")
        workers = os.cpu_count() or 1
        tables = _Tables([name for name in columns if name not in videos])
        waiting: deque[tuple[int, dict[str, np.ndarray], dict[str, Future[np.ndarray]]]] = deque()
        with ThreadPoolExecutor(workers) as pool:  # FFmpeg and Pillow work outside Python's lock
            for number in episodes:
                rows = tables.rows(self.episodes[number], self.lengths[number])
                decoding = {
                    name: pool.submit(self._frames, number, name, space.shape[:2]) for name, space in videos.items()
                }
                found = {
                    name: self._array(rows[name], name, columns[name], number) for name in columns if name not in videos
                }
                waiting.append((number, found, decoding))
                if len(waiting) > 2 * workers:
                    yield self._joined(*waiting.popleft())
            while waiting:
                yield self._joined(*waiting.popleft())

    def _joined(
        self, number: int, found: dict[str, np.ndarray], decoding: Mapping[str, Future[np.ndarray]]
    ) -> Recording:
        found |= {name: future.result() for name, future in decoding.items()}
        success = self.roles.success
        return Recording(found, bool(found[success].any()) if success in found else None)

    def _frames(self, number: int, camera: str, size: Sequence[int]) -> np.ndarray:
        path, start = self.episodes[number].videos[camera]
        return decoded_video(path, start, self.lengths[number], self.rate or 1.0, size)

    def _array(self, column: pa.ChunkedArray, name: str, space: Space, number: int) -> np.ndarray:
        where = f"{self.path}, episode {number}, {name}"
        if self.kinds.get(name) == "image":
            return decoded_images((row["bytes"] if row else b"" for row in column.to_pylist()), space.shape[:2], where)
        stated = self.columns[name]
        try:
            values = np.asarray(column.to_pylist(), dtype=np.dtype(stated.dtype))
            return values.reshape(len(column), *stated.shape)
        except (TypeError, ValueError) as error:
            raise UserError(
                f"{where} holds {column.type} and not {stated}, which {INFO} states: {reason(error)}. Correct the "
                "feature's dtype and shape in meta/info.json"
            ) from error


class _Tables:
    """Reads episodes from tables, the last table kept in memory."""

    def __init__(self, columns: Sequence[str]):
        self.columns = list(dict.fromkeys([*columns, "episode_index"]))
        self._path: Path | None = None
        self._table = pa.table({})
        self._numbers = np.empty(0)

    def rows(self, episode: _Episode, length: int) -> pa.Table:
        """The rows of an episode.  UserError if they are missing."""
        path = episode.table
        try:
            if path != self._path:
                self._table = pq.ParquetFile(path).read(columns=self.columns)
                self._path, self._numbers = path, self._table["episode_index"].to_numpy()
        except (OSError, KeyError, pa.ArrowException) as error:
            missing = isinstance(error, FileNotFoundError)
            raise UserError(
                f"the table {path} {'is missing' if missing else f'is damaged ({reason(error)})'}. Copy it again from "
                "its source"
            ) from error
        if absent := sorted(set(self.columns) - set(self._table.column_names)):
            raise UserError(
                f"the table {path} has no column {absent[0]!r}, which {INFO} states. Correct the features in {INFO}"
            )
        here = np.flatnonzero(self._numbers == episode.number)
        if len(here) != length or not length or here[-1] - here[0] + 1 != length:
            raise UserError(
                f"the table {path} has {len(here)} rows of episode {episode.number}, but meta/episodes states "
                f"{length}. Copy the dataset again from its source"
            )
        return self._table.slice(here[0], length)


def _info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads((path / INFO).read_text())
        if not isinstance(info, dict):
            raise ValueError("no JSON object")
        return info
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {path / INFO}: {reason(error)}. Copy the dataset again") from error


def _episodes_v2(path: Path, info: Mapping[str, Any], videos: Sequence[str]) -> tuple[list[_Episode], list[int]]:
    file = path / "meta/episodes.jsonl"
    found, lengths = [], []
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()]
        numbers = [(int(row["episode_index"]), int(row["length"])) for row in rows]
        chunk = int(info.get("chunks_size", 1000))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"cannot read {file}: {reason(error)}. Copy the dataset again from its source") from error
    for number, length in numbers:
        place = {"episode_chunk": number // max(1, chunk), "episode_index": number}
        table = _file(path, info, "data_path", place)
        cameras = {name: (_file(path, info, "video_path", place | {"video_key": name}), 0.0) for name in videos}
        found.append(_Episode(number, table, cameras))
        lengths.append(length)
    return found, lengths


def _episodes_v3(path: Path, info: Mapping[str, Any], videos: Sequence[str]) -> tuple[list[_Episode], list[int]]:
    folder = path / "meta/episodes"
    found, lengths = [], []
    try:
        files = sorted(folder.glob("*/*.parquet"))
        stats = [pq.ParquetFile(file).schema_arrow.names for file in files]
        tables = [
            pq.ParquetFile(file).read(columns=[name for name in names if not name.startswith("stats/")])
            for file, names in zip(files, stats, strict=True)
        ]
        for row in (row for table in tables for row in table.to_pylist()):
            place = {"chunk_index": int(row["data/chunk_index"]), "file_index": int(row["data/file_index"])}
            cameras = {}
            for name in videos:
                own = {key: int(row[f"videos/{name}/{key}"]) for key in ("chunk_index", "file_index")}
                file = _file(path, info, "video_path", own | {"video_key": name})
                cameras[name] = (file, float(row[f"videos/{name}/from_timestamp"]))
            table = _file(path, info, "data_path", place)
            found.append(_Episode(int(row["episode_index"]), table, cameras))
            lengths.append(int(row["length"]))
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        what = f"it has no column {error}" if isinstance(error, KeyError) else reason(error)
        raise UserError(f"cannot read {folder}: {what}. Copy the dataset again from its source") from error
    return found, lengths


def _file(path: Path, info: Mapping[str, Any], name: str, values: Mapping[str, Any]) -> Path:
    """The file of a template.  UserError for a template with other fields, or one that leads out of the dataset."""
    template = info.get(name)
    try:
        fields = {text for _, text, _, _ in string.Formatter().parse(template or "") if text is not None}
        if not isinstance(template, str) or not fields <= values.keys():
            raise ValueError(f"its fields are {', '.join(sorted(fields)) or 'missing'}")
        file = path / template.format(**values)
        if ".." in file.relative_to(path).parts:
            raise ValueError("it leads out of the dataset")
        return file
    except (ValueError, TypeError, IndexError) as error:
        raise UserError(
            f"{path / INFO}: the template {name} is {template!r:.100}, which is not usable: {error}. Use the fields "
            f"{', '.join(values)}"
        ) from error
