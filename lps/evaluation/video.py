"""Videos of a policy at work, also on machines without a display.

The pictures are made in a process of their own: MuJoCo settles for one way to render when it is imported, which may
have happened long before anybody asks for a video, and a broken graphics driver takes down only that process.
"""

import contextlib
import importlib
import importlib.util
import math
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lps.errors import UserError
from lps.evaluation.rollout import ChunkPolicy, evaluate
from lps.files import local_path, replacing
from lps.runs.record import Episode
from lps.tasks.rendering import use_renderer
from lps.tasks.task import Task

_FRAME, _EPISODE = "frame\n", "episode\n"  # printed after each by the process that renders
_WIDEST = {".mp4": 1920, ".gif": 960}
"""Most pixels in a row of the video, by the kind of the file."""
_GIF_FPS = 15
"""Most frames per second of a GIF, which stores them badly."""


class Actor(NamedTuple):
    """A policy in a video, and the seed and step that its episodes are drawn by (lps.evaluation.rollout)."""

    policy: ChunkPolicy
    seed: int = 0
    step: int = 0


def record(
    actors: Sequence[Actor],
    task: Task,
    path: str | os.PathLike[str],
    *,
    episodes: int = 1,
    fps: int = 30,
    progress: Callable[[int, int], None] | None = None,
) -> list[list[Episode]]:
    """Film `episodes` episodes of every actor, side by side in one MP4 or GIF file at `path`, and return the episodes
    as `evaluate` does.

    Several actors are the columns of a grid and their episodes its rows; the episodes of one actor make a grid of their
    own.  An episode that is over stands still.  A frame is one environment step (OGBench's manipulation takes 20 in a
    second, so fps=20 is real time); a GIF leaves frames out and keeps the speed.  MuJoCo renders through $MUJOCO_GL
    where that is set, else through the first of EGL, OSMesa and GLFW that works; without a GPU that takes a tenth of a
    second per frame or more.  `progress` is called with the numbers of finished episodes and of frames of the next one;
    after the last episode, with the frames of the file that puts all episodes side by side.
    Raises UserError where nothing renders, where imageio is missing, or where the file cannot be written: it is written
    whole or not at all.
    """
    path = local_path(path)
    if path.suffix not in _WIDEST:
        raise UserError(f"cannot write a video to {path}: the name must end in {' or '.join(_WIDEST)}")
    if episodes < 1:
        raise UserError(f"a video shows at least 1 episode, not {episodes}")
    if not all(importlib.util.find_spec(name) for name in ("imageio", "imageio_ffmpeg")):
        raise UserError("videos need two more packages: pip install imageio imageio-ffmpeg")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, tempfile.TemporaryDirectory() as folder:
            part.touch()  # an error comes now, and not after the filming
            film = Path(folder, f"film{path.suffix}")  # imageio goes by the suffix
            job = {"film": str(film), "actors": list(actors), "task": task, "episodes": episodes, "fps": fps}
            filmed = _in_own_process(job, progress)
            shutil.copyfile(film, part)
            return filmed
    except OSError as error:
        raise UserError(f"cannot write the video {path}: {error.strerror or error}. Choose another file") from error


def _in_own_process(job: dict[str, Any], progress: Callable[[int, int], None] | None) -> list[list[Episode]]:
    """Films in a process that imports MuJoCo anew, with a renderer that works."""
    use_renderer()
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "job"), Path(folder, "result")
        source.write_bytes(pickle.dumps(job))
        last_words = _run_film_job(source, result, progress)
        if not result.exists():
            raise UserError(
                f"the process that renders died ({last_words}). Set MUJOCO_GL=osmesa to render without a GPU"
            )
        outcome = pickle.loads(result.read_bytes())
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


def _run_film_job(source: Path, result: Path, progress: Callable[[int, int], None] | None) -> str:
    """Waits for `_film_job` in a new process, and returns the last line on its stderr."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    code = "import sys, lps.evaluation.video; lps.evaluation.video._film_job(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(source), str(result)]
    with (
        tempfile.TemporaryFile("w+") as stderr,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            episodes = frames = 0
            for line in process.stdout or ():
                if line == _FRAME:
                    frames += 1
                elif line == _EPISODE:
                    episodes, frames = episodes + 1, 0
                if progress:
                    progress(episodes, frames)
        except BaseException:
            process.kill()
            raise
        exit_code = process.wait()
        stderr.seek(0)
        return (stderr.read().strip().splitlines() or [f"exit code {exit_code}"])[-1]


def _film_job(source: str, result: str) -> None:
    """The process that renders: reads a pickled job, and leaves a pickled list of episodes or an exception."""
    try:
        outcome: Any = _film(**pickle.loads(Path(source).read_bytes()))
    except Exception as error:
        outcome = error
    Path(result).write_bytes(pickle.dumps(outcome))


def _film(film: str, actors: Sequence[Actor], task: Task, episodes: int, fps: int) -> list[list[Episode]]:
    """Films every episode into a file of its own, so that memory does not grow with them, and puts the files side by
    side."""
    imageio: Any = importlib.import_module("imageio.v2")  # untyped
    suffix = Path(film).suffix
    columns = len(actors) if len(actors) > 1 else math.ceil(math.sqrt(episodes))
    scenes, filmed = [], []
    for number, actor in enumerate(actors):
        filmed.append(list[Episode]())
        for episode in range(episodes):
            scenes.append(str(Path(film).with_name(f"{number}-{episode}.mp4")))
            with imageio.get_writer(scenes[-1], fps=fps, quality=9, macro_block_size=1) as writer:

                def frame(picture: np.ndarray, writer: Any = writer) -> None:
                    shrink = -(-columns * picture.shape[1] // _WIDEST[suffix])
                    writer.append_data(_smaller(picture, shrink))
                    print(_FRAME, end="", flush=True)

                filmed[-1] += evaluate(
                    actor.policy, task, seed=actor.seed, step=actor.step, episodes=[episode], frames=frame
                )
            print(_EPISODE, end="", flush=True)
    if len(actors) > 1:  # an actor is a column
        scenes = [scenes[number * episodes + episode] for episode in range(episodes) for number in range(len(actors))]
    _side_by_side(imageio, scenes, columns, film, fps)
    return filmed


def _side_by_side(imageio: Any, scenes: Sequence[str], columns: int, film: str, fps: int) -> None:
    """Writes the frames of all scenes, row after row, as one film."""
    every = -(-fps // _GIF_FPS) if film.endswith(".gif") else 1
    options = {"loop": 0, "duration": 1000 * every / fps} if film.endswith(".gif") else {"fps": fps, "quality": 8}
    with contextlib.ExitStack() as stack:
        readers = [stack.enter_context(imageio.get_reader(scene)) for scene in scenes]
        writer = stack.enter_context(imageio.get_writer(film, **options))
        takes = [iter(reader) for reader in readers]
        pictures = [np.asarray(next(take)) for take in takes]
        blank = [np.zeros_like(pictures[0])] * (-len(pictures) % columns)
        running, number = True, 0
        while running:
            if number % every == 0:
                tiles = pictures + blank
                rows = [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
                writer.append_data(np.vstack(rows))
            following = [next(take, None) for take in takes]
            running = any(picture is not None for picture in following)
            pictures = [old if new is None else np.asarray(new) for old, new in zip(pictures, following, strict=True)]
            number += 1
            print(_FRAME, end="", flush=True)


def _smaller(picture: np.ndarray, factor: int) -> np.ndarray:
    """The picture with `factor` pixels along each side averaged to one; even sides, as MP4 wants them."""
    if factor == 1:
        return picture
    height, width = (size // factor // 2 * 2 for size in picture.shape[:2])
    blocks = picture[: height * factor, : width * factor].reshape(height, factor, width, factor, 3)
    return blocks.mean((1, 3)).astype(np.uint8)
