"""Videos of a policy at work, also on machines without a display.

The pictures are made in a process of their own: MuJoCo settles for one way to render when it is imported, which may
have happened long before anybody asks for a video, and a broken graphics driver takes down only that process.
"""

import importlib
import importlib.util
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from lps.errors import UserError
from lps.evaluation.rollout import ChunkPolicy, evaluate
from lps.files import local_path, replacing
from lps.runs.record import Episode
from lps.tasks.task import Task

_FRAME = "frame\n"  # what the process that renders prints after each


def record(
    policy: ChunkPolicy,
    task: Task,
    path: str | os.PathLike[str],
    *,
    seed: int = 0,
    step: int = 0,
    episodes: int = 1,
    fps: int = 30,
    progress: Callable[[int], None] | None = None,
) -> list[Episode]:
    """Runs some episodes as `evaluate` does with this seed and step, and writes them one after the other as an MP4 file
    at `path`.

    A frame is one environment step (OGBench's manipulation takes 20 in a second, so fps=20 is real time). MuJoCo
    renders through $MUJOCO_GL where that is set, else through the first of EGL, OSMesa and GLFW that works; without a
    GPU that takes some tenths of a second per frame. `progress` is called with the number of frames so far. Raises
    UserError where nothing renders, where imageio is missing, or where the file cannot be written: it is written
    whole or not at all.
    """
    path = local_path(path)
    if path.suffix != ".mp4":
        raise UserError(f"cannot write a video to {path}: the name must end in .mp4")
    if episodes < 1:
        raise UserError(f"a video shows at least 1 episode, not {episodes}")
    if not all(importlib.util.find_spec(name) for name in ("imageio", "imageio_ffmpeg")):
        raise UserError("videos need two more packages: pip install imageio imageio-ffmpeg")
    job = {"policy": policy, "task": task, "seed": seed, "step": step, "episodes": episodes}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part, tempfile.TemporaryDirectory() as folder:
            part.touch()  # an error comes now, and not after the filming
            film = Path(folder, "film.mp4")  # imageio asks for a name that ends in .mp4
            filmed = _in_own_process({"path": str(film), "fps": fps, "evaluation": job}, progress)
            shutil.copyfile(film, part)
            return filmed
    except OSError as error:
        raise UserError(f"cannot write the video {path}: {error.strerror or error}. Choose another file") from error


def backends() -> list[str]:
    """The values of MUJOCO_GL worth trying on this machine, best first."""
    if os.environ.get("MUJOCO_GL"):
        return [os.environ["MUJOCO_GL"]]
    if sys.platform != "linux":
        return [""]  # there is always a display
    return ["egl", "osmesa", *(["glfw"] if os.environ.get("DISPLAY") else [])]


def _in_own_process(job: dict[str, Any], progress: Callable[[int], None] | None) -> list[Episode]:
    """Films with the first backend that can render."""
    failures = []
    with tempfile.TemporaryDirectory() as folder:
        source, result = Path(folder, "job"), Path(folder, "result")
        source.write_bytes(pickle.dumps(job))
        for backend in backends():
            last_words = _run_film_job(backend, source, result, progress)
            if result.exists():
                outcome = pickle.loads(result.read_bytes())
                if isinstance(outcome, Exception):
                    raise outcome
                return outcome
            failures.append(f"{backend or 'the default'}: {last_words}")
    raise UserError(
        f"cannot render on this machine ({'; '.join(failures)}). Without a display MuJoCo needs EGL, which comes with "
        "the driver of a GPU and libegl1, or OSMesa: apt-get install libosmesa6"
    )


def _run_film_job(backend: str, source: Path, result: Path, progress: Callable[[int], None] | None) -> str:
    """Waits for `_film_job` in a new process, and returns the last line on its stderr."""
    environment = {**os.environ, "MUJOCO_GL": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment.pop("PYOPENGL_PLATFORM", None)  # follows MUJOCO_GL; dm_control may have set it for this process
    code = "import sys, lps.evaluation.video; lps.evaluation.video._film_job(*sys.argv[1:])"
    command = [sys.executable, "-c", code, str(source), str(result)]
    with (
        tempfile.TemporaryFile("w+") as stderr,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True) as process,
    ):
        try:
            frames = 0
            for line in process.stdout or ():
                if line == _FRAME:
                    frames += 1
                    if progress:
                        progress(frames)
        except BaseException:
            process.kill()
            raise
        exit_code = process.wait()
        stderr.seek(0)
        return (stderr.read().strip().splitlines() or [f"exit code {exit_code}"])[-1]


def _film_job(source: str, result: str) -> None:
    """The process that renders: reads a pickled job, and leaves a pickled list of episodes or an exception. Where
    rendering does not work at all it leaves nothing, and its last line on stderr says why."""
    try:
        _try_rendering()
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr, flush=True)
        os._exit(1)  # what a half-made renderer says when it is taken apart helps nobody
    try:
        outcome: Any = _film(**pickle.loads(Path(source).read_bytes()))
    except Exception as error:
        outcome = error
    Path(result).write_bytes(pickle.dumps(outcome))


def _try_rendering() -> None:
    mujoco: Any = importlib.import_module("mujoco")  # untyped
    world = "<mujoco><worldbody><light pos='0 0 1'/><geom size='.1' rgba='1 0 0 1'/></worldbody></mujoco>"
    model = mujoco.MjModel.from_xml_string(world)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    with mujoco.Renderer(model, 16, 16) as renderer:
        renderer.update_scene(data)
        if not renderer.render().any():
            raise RuntimeError("the pictures are black")


def _film(path: str, fps: int, evaluation: dict[str, Any]) -> list[Episode]:
    imageio: Any = importlib.import_module("imageio.v2")  # untyped
    with imageio.get_writer(path, fps=fps, quality=8) as writer:

        def frame(picture: np.ndarray) -> None:
            writer.append_data(picture)
            print(_FRAME, end="", flush=True)

        return evaluate(frames=frame, **evaluation)
