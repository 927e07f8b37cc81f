"""Write recordings as a LeRobot dataset of version v3.0, which opens with LeRobot itself.

    meta/info.json, meta/stats.json, meta/tasks.parquet, meta/episodes/chunk-000/file-000.parquet
    data/chunk-000/file-000.parquet                       one row per step, many episodes in a file
    videos/<camera>/chunk-000/file-000.mp4                the frames of these episodes

LeRobot has no observation without an action: an observation after the last action is left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lps.data.frames import CODECS, VideoWriter, check_codec
from lps.data.recordings import Recording, Recordings, camera_name, last_part
from lps.errors import UserError
from lps.files import replacing
from lps.spaces import Space

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
INDEX = {"timestamp": "float32"} | dict.fromkeys(("frame_index", "episode_index", "index", "task_index"), "int64")

FRAMES = 20_000
"""Frames after which new files begin, at the end of an episode."""
FILES = 1000
"""Files of a chunk."""
SAMPLES = 100
"""Frames of a camera from which its statistics are computed."""


def export(
    recordings: Recordings, folder: Path, *, rate: float | None = None, codec: str = "h264", instruction: str = "task"
) -> None:
    """Write a LeRobot dataset.

    Args:
        folder: of the dataset; must not exist.
        rate: control rate in Hz; default: the recordings'.
        codec: of the videos (lps.data.frames.CODECS).
        instruction: the task in words, for all episodes.
    Raises:
        UserError: the folder exists; no rate; a size that the codec cannot encode.
    """
    hertz = rate or recordings.rate
    if hertz is None:
        raise UserError(f"{recordings.path} does not say its control rate. Give --rate HZ")
    if folder.exists():
        raise UserError(f"{folder} exists. Give another folder, or remove it")
    names = column_names(recordings)
    for name in recordings.roles.cameras:
        check_codec(codec, recordings.columns[name].shape[:2])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replacing(folder) as part:
        part.mkdir()
        _Writer(part, recordings, names, hertz, codec, instruction).write()


def column_names(recordings: Recordings) -> dict[str, str]:
    """Return LeRobot's name of each column by its own; columns without a name there keep their own.  Several columns of
    actions or rewards have one name."""
    roles = recordings.roles
    names = {name: name.replace("/", ".") for name in recordings.columns}
    names |= {name: f"observation.images.{camera_name(name)}" for name in roles.cameras}
    names |= {name: f"observation.{last_part(name)}" for name in roles.state}
    if len(roles.state) == 1:
        names[roles.state[0]] = "observation.state"
    names |= dict.fromkeys(roles.action, "action")
    own = {"reward": roles.reward, "done": roles.done, "success": roles.success}
    names |= {name: f"next.{role}" for role, name in own.items() if name}
    return {name: new for name, new in names.items() if new not in INDEX}


class _Writer:
    def __init__(
        self, folder: Path, recordings: Recordings, names: Mapping[str, str], rate: float, codec: str, instruction: str
    ):
        self.folder, self.recordings, self.names = folder, recordings, names
        self.rate, self.codec, self.instruction = rate, codec, instruction
        self.cameras = {names[own]: recordings.columns[own] for own in recordings.roles.cameras if own in names}
        self.low = self._low()
        self.file = self.frames = 0
        self.table: pq.ParquetWriter | None = None
        self.videos: dict[str, VideoWriter] = {}
        self.values: dict[str, list[np.ndarray]] = {name: [] for name in (*self.low, *self.cameras)}

    def write(self) -> None:
        rows: list[dict[str, Any]] = []
        index, every = 0, range(len(self.recordings.lengths))
        columns = {own: self.recordings.columns[own] for own in self.names}
        for number, recording in enumerate(self.recordings.read(every, columns)):
            length = self.recordings.lengths[number]
            arrays = self._arrays(recording, length)
            if self.table is None or self.frames + length > FRAMES:
                self._next_file()
            place = {"chunk_index": self.file // FILES, "file_index": self.file % FILES}
            row: dict[str, Any] = {
                "episode_index": number,
                "tasks": [self.instruction],
                "length": length,
                "dataset_from_index": index,
                "dataset_to_index": index + length,
                **{f"data/{key}": value for key, value in place.items()},
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
            for name in self.cameras:
                row |= {f"videos/{name}/{key}": value for key, value in place.items()}
                row[f"videos/{name}/from_timestamp"] = self.frames / self.rate
                row[f"videos/{name}/to_timestamp"] = (self.frames + length) / self.rate
                self.videos[name].add(arrays[name])
                picked = np.linspace(0, length - 1, max(1, min(length, SAMPLES // len(every) + 1))).astype(int)
                arrays[name] = arrays[name][picked]
            self._write_rows(arrays, number, index, length)
            for name in self.values:
                row |= {f"stats/{name}/{key}": value for key, value in self._stats(arrays[name], name).items()}
                self.values[name].append(arrays[name])
            rows.append(row)
            index, self.frames = index + length, self.frames + length
        self._close()
        self._write_meta(rows, index)

    def _low(self) -> dict[str, Space]:
        """Space of each column of the tables; columns of one name are joined."""
        found: dict[str, Space] = {}
        for own, name in self.names.items():
            space = self.recordings.columns[own]
            if name not in self.cameras:
                size = int(np.prod(space.shape)) + (found[name].shape[0] if name in found else 0)
                found[name] = Space((size,), {"float64": "float32"}.get(space.dtype, space.dtype))
        return found

    def _arrays(self, recording: Recording, length: int) -> dict[str, np.ndarray]:
        """The rows of an episode by LeRobot's names."""
        found: dict[str, np.ndarray] = {}
        for own, name in self.names.items():
            array = recording.columns[own][:length]
            if name in self.low:
                array = array.reshape(length, -1).astype(self.low[name].dtype)
                array = np.concatenate([found[name], array], axis=1) if name in found else array
            found[name] = array
        return found

    def _write_rows(self, arrays: Mapping[str, np.ndarray], number: int, index: int, length: int) -> None:
        steps = np.arange(length)
        table = {name: _column(arrays[name]) for name in self.low}
        table |= {
            "timestamp": pa.array((steps / self.rate).astype(np.float32)),
            "frame_index": pa.array(steps),
            "episode_index": pa.array(np.full(length, number)),
            "index": pa.array(index + steps),
            "task_index": pa.array(np.zeros(length, np.int64)),
        }
        batch = pa.table(table)
        if self.table is None:
            self.table = pq.ParquetWriter(self._path(DATA_PATH), batch.schema)
        self.table.write_table(batch)

    def _next_file(self) -> None:
        if self.table is not None:
            self._close()
            self.file += 1
        self.frames = 0
        self.videos = {
            name: VideoWriter(self._path(VIDEO_PATH, name), self.rate, space.shape[:2], self.codec)
            for name, space in self.cameras.items()
        }

    def _close(self) -> None:
        if self.table is not None:
            self.table.close()
        for video in self.videos.values():
            video.close()
        self.table, self.videos = None, {}

    def _path(self, template: str, camera: str = "") -> Path:
        place = {"chunk_index": self.file // FILES, "file_index": self.file % FILES, "video_key": camera}
        path = self.folder / template.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _write_meta(self, rows: list[dict[str, Any]], frames: int) -> None:
        meta = self.folder / "meta"
        (self.folder / EPISODES_PATH).parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows), self.folder / EPISODES_PATH)
        stats = {name: self._stats(np.concatenate(values), name) for name, values in self.values.items()}
        (meta / "stats.json").write_text(json.dumps(stats, indent=1))
        pq.write_table(_tasks(self.instruction), meta / "tasks.parquet")
        features: dict[str, Any] = {
            name: {"dtype": space.dtype, "shape": list(space.shape), "names": None} for name, space in self.low.items()
        }
        for name, space in self.cameras.items():
            height, width, channels = space.shape
            features[name] = {
                "dtype": "video",
                "shape": list(space.shape),
                "names": ["height", "width", "channels"],
                "info": {
                    "video.height": height,
                    "video.width": width,
                    "video.channels": channels,
                    "video.fps": self.rate,
                    "video.codec": "av1" if self.codec == "av1" else "h264",
                    "video.pix_fmt": CODECS[self.codec][1],
                    "video.is_depth_map": False,
                    "has_audio": False,
                },
            }
        features |= {name: {"dtype": dtype, "shape": [1], "names": None} for name, dtype in INDEX.items()}
        info = {
            "codebase_version": "v3.0",
            "robot_type": "unknown",
            "total_episodes": len(rows),
            "total_frames": frames,
            "total_tasks": 1,
            "chunks_size": FILES,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(self.rate) if self.rate == int(self.rate) else self.rate,
            "splits": {"train": f"0:{len(rows)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self.cameras else None,
            "features": features,
        }
        (meta / "info.json").write_text(json.dumps(info, indent=1))

    def _stats(self, array: np.ndarray, name: str) -> dict[str, Any]:
        """Statistics by element, or by channel of a camera with pixels in [0, 1]; nested as LeRobot nests them."""
        camera = name in self.cameras
        flat = array.reshape(-1, array.shape[-1]).astype(np.float64) / (255 if camera else 1)
        shape = (-1, 1, 1) if camera else (-1,)
        found = {"min": flat.min(0), "max": flat.max(0), "mean": flat.mean(0), "std": flat.std(0)}
        found |= {f"q{share:02d}": np.quantile(flat, share / 100, axis=0) for share in (1, 10, 50, 90, 99)}
        return {key: value.reshape(shape).tolist() for key, value in found.items()} | {"count": [len(array)]}


def _column(array: np.ndarray) -> pa.Array:
    """A column of scalars, or of lists of a fixed length."""
    flat = pa.array(np.ascontiguousarray(array).reshape(-1))
    return flat if array.shape[1] == 1 else pa.FixedSizeListArray.from_arrays(flat, array.shape[1])


def _tasks(instruction: str) -> pa.Table:
    """The table of tasks as pandas writes it, with the instruction as its index."""
    types = {"task_index": ("int64", "int64"), "task": ("unicode", "object")}
    columns = [
        {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": dtype, "metadata": None}
        for name, (kind, dtype) in types.items()
    ]
    pandas = {"index_columns": ["task"], "column_indexes": [], "columns": columns, "pandas_version": "2.0.0"}
    table = pa.table({"task_index": pa.array([0]), "task": pa.array([instruction])})
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})
