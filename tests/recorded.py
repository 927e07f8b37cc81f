"""Recordings for tests: synthetic episodes of a robot, with two cameras, and the files that formats have."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from lps.data.frames import VideoWriter
from lps.data.recordings import InMemory, Recording, Roles
from lps.spaces import Space

LENGTHS = (12, 9, 15, 11, 10, 13)
RATE = 10.0
SIZE = (32, 48)
CAMERAS = ("observation.images.exterior", "observation.images.wrist")


def frames(rng: np.random.Generator, rows: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Smooth frames (rows, *size, 3) uint8, each different."""
    y, x = np.mgrid[: size[0], : size[1]] / max(size)
    phase = rng.uniform(0, 6, 3) + np.arange(rows)[:, None] * 0.7
    waves = np.sin(4 * x[None, ..., None] + 3 * y[None, ..., None] + phase[:, None, None, :])
    return (127 + 120 * waves).astype(np.uint8)


def episodes(seed: int = 0, lengths: tuple[int, ...] = LENGTHS, cameras: bool = True) -> InMemory:
    """Episodes with a state of 4 numbers, actions of 3 in [-2, 2], rewards, and a success in all but every third."""
    rng = np.random.default_rng(seed)
    found = []
    for number, length in enumerate(lengths):
        last = np.arange(length)[:, None] == length - 1
        columns = {
            "observation.state": rng.standard_normal((length, 4)).astype(np.float32),
            "action": rng.uniform(-2, 2, (length, 3)).astype(np.float32),
            "next.reward": (last - 1).astype(np.float32),
            "next.done": last,
            "next.success": last & (number % 3 != 2),
        }
        columns |= {name: frames(rng, length) for name in CAMERAS if cameras}
        found.append(Recording(columns))
    spaces = {name: Space(rows.shape[1:], str(rows.dtype)) for name, rows in found[0].columns.items()}
    roles = Roles(
        ("observation.state",), CAMERAS if cameras else (), ("action",), "next.reward", "next.done", "next.success"
    )
    return InMemory("test", Path("test"), spaces, list(lengths), roles, RATE, episodes=found)


def write_v21(recordings: InMemory, folder: Path, images: bool = False) -> None:
    """Write a LeRobot dataset of version v2.1: a table and videos for each episode; with `images`, PNG in the table."""
    import io

    from PIL import Image

    cameras = recordings.roles.cameras
    (folder / "meta").mkdir(parents=True)
    template = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    info = {
        "codebase_version": "v2.1",
        "fps": int(RATE),
        "chunks_size": 4,
        "data_path": "tables/{episode_chunk:03d}/{episode_index:06d}.parquet",  # not the usual one
        "video_path": template,
        "features": {
            name: {
                "dtype": ("image" if images else "video") if name in cameras else space.dtype,
                "shape": list(space.shape),
                "names": ["height", "width", "channel"] if name in cameras else None,
            }
            for name, space in recordings.columns.items()
        },
    }
    (folder / "meta/info.json").write_text(json.dumps(info))
    lines = []
    for number, episode in enumerate(recordings.episodes):
        rows = len(episode.columns["action"])
        lines.append(json.dumps({"episode_index": number, "tasks": ["test"], "length": rows}))
        table = {
            name: pa.array(array[:, 0] if array.shape[1] == 1 else list(array))
            for name, array in episode.columns.items()
            if name not in cameras
        }
        for name in cameras:
            if images:
                encoded = []
                for frame in episode.columns[name]:
                    Image.fromarray(frame).save(buffer := io.BytesIO(), "PNG")
                    encoded.append({"bytes": buffer.getvalue(), "path": ""})
                table[name] = pa.array(encoded)
                continue
            path = folder / template.format(episode_chunk=number // 4, video_key=name, episode_index=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            with VideoWriter(path, RATE, SIZE, "lossless") as video:
                video.add(episode.columns[name])
        table |= {"episode_index": pa.array([number] * rows), "frame_index": pa.array(range(rows))}
        path = folder / f"tables/{number // 4:03d}/{number:06d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table), path)
    (folder / "meta/episodes.jsonl").write_text("\n".join(lines))


def write_robomimic(recordings: InMemory, path: Path, next_obs: bool = True) -> None:
    """Write a robomimic file: demos in an order that is not that of their names, and the filters train and valid."""
    import h5py

    order = [3, 0, 5, 1, 4, 2]
    with h5py.File(path, "w") as file:
        for number in order:
            columns = recordings.episodes[number].columns
            demo = file.create_group(f"data/demo_{9 + number}")  # demo_10 sorts before demo_9
            demo["actions"] = columns["action"]
            demo["rewards"], demo["dones"] = columns["next.reward"][:, 0], columns["next.done"][:, 0].astype(int)
            state = columns["observation.state"]
            seen = {"robot0_eef_pos": state[:, :3], "object": state[:, 3:]}
            seen |= {"agentview_image": columns[CAMERAS[0]]} if CAMERAS[0] in columns else {}
            for name, rows in seen.items():
                demo[f"obs/{name}"] = rows
                if next_obs:
                    demo[f"next_obs/{name}"] = np.concatenate([rows[1:], rows[-1:]])
        file["mask/train"] = np.array([f"demo_{9 + n}" for n in (0, 2, 3, 5)], dtype="S")
        file["mask/valid"] = np.array([f"demo_{9 + n}" for n in (4, 1)], dtype="S")


def write_droid(recordings: InMemory, root: Path, ending: str = ".h5") -> None:
    """Write trajectories as LPS's fork of DROID does: every third one a failure, and one with a single camera."""
    import h5py

    for number, episode in enumerate([*recordings.episodes, recordings.episodes[0]]):
        part = "failure" if number % 3 == 2 else "success"
        path = root / part / f"trajectory_{number}{ending}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:
            rows = len(episode.columns["action"])
            file["action/cartesian_velocity"] = np.tile(episode.columns["action"] / 2, 2)
            file["action/gripper_position"] = np.linspace(0, 1, rows)
            file["observation/robot_state/cartesian_position"] = np.ones((rows, 6))
            file["observation/robot_state/gripper_position"] = np.zeros(rows)
            serials = ["222", "111"] if number < len(recordings.episodes) else ["111"]
            for serial in serials:
                rgb = episode.columns[CAMERAS[serial == "222"]]
                alpha = np.full((*rgb.shape[:3], 1), 255, np.uint8)
                file[f"observation/image/{serial}_left"] = np.concatenate([rgb[..., ::-1], alpha], axis=-1)
                file[f"observation/image/{serial}_right"] = rgb
