"""The renderer of MuJoCo: EGL or OSMesa without a display.

MuJoCo settles for one when it is imported, and a broken graphics driver may take its process down.  So each candidate
is tried in a process of its own first.
"""

import atexit
import importlib
import os
import subprocess
import sys
from typing import Any

from lps.errors import UserError
from lps.files import reason

_settled: str | None = None
"""The value of MUJOCO_GL that is known to work in this process."""


def backends() -> list[str]:
    """The values of MUJOCO_GL worth trying on this machine, best first."""
    if os.environ.get("MUJOCO_GL"):
        return [os.environ["MUJOCO_GL"]]
    if sys.platform != "linux":
        return [""]  # there is always a display
    return ["egl", "osmesa", *(["glfw"] if os.environ.get("DISPLAY") else [])]


def use_renderer() -> None:
    """Let MuJoCo render in this process and in those that it starts: through $MUJOCO_GL where that is set, else through
    the first of EGL, OSMesa and GLFW that works.  UserError where none does."""
    if _settled is not None and os.environ.get("MUJOCO_GL") == _settled:
        return
    failures = []
    for backend in backends():
        environment = {**os.environ, "MUJOCO_GL": backend, "PYTHONPATH": os.pathsep.join(sys.path)}
        environment.pop("PYOPENGL_PLATFORM", None)  # follows MUJOCO_GL; dm_control may have set it for this process
        code = "from lps.tasks.rendering import _try_rendering; _try_rendering()"
        tried = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        if tried.returncode == 0:
            _settle_for(backend)
            return
        said = tried.stderr.strip().splitlines() or [f"exit code {tried.returncode}"]
        failures.append(f"{backend or 'the default'}: {said[-1][:300]}")
    raise UserError(
        f"cannot render on this machine ({'; '.join(failures)}). Without a display MuJoCo needs EGL, which comes with "
        "the driver of a GPU and libegl1, or OSMesa: apt-get install libosmesa6"
    )


def import_mujoco() -> Any:
    """Import MuJoCo.  UserError where $MUJOCO_GL names a renderer that does not load."""
    try:
        return importlib.import_module("mujoco")  # untyped
    except Exception as error:
        if not (named := os.environ.get("MUJOCO_GL")):
            raise
        raise UserError(
            f"MuJoCo does not load with MUJOCO_GL={named}: {reason(error)}. Unset MUJOCO_GL, or install that renderer"
        ) from error


def _settle_for(backend: str) -> None:
    global _settled
    _settled = os.environ["MUJOCO_GL"] = backend
    os.environ.pop("PYOPENGL_PLATFORM", None)
    contexts: Any = importlib.import_module("mujoco.gl_context")
    if contexts._MUJOCO_GL != backend:  # MuJoCo was imported for another task, and settled for a display
        importlib.reload(contexts)
    # At exit, MuJoCo takes EGL's display away first, and then every renderer complains that it cannot free its part.
    for kind, method in ((import_mujoco().Renderer, "close"), (contexts.GLContext, "free")):
        atexit.register(setattr, kind, method, lambda _: None)


def _try_rendering() -> None:
    """Draw a ball and end the process; where that fails, its last line on stderr says why."""
    try:
        mujoco: Any = importlib.import_module("mujoco")  # untyped
        world = "<mujoco><worldbody><light pos='0 0 1'/><geom size='.1' rgba='1 0 0 1'/></worldbody></mujoco>"
        model = mujoco.MjModel.from_xml_string(world)
        data = mujoco.MjData(model)
        mujoco.mj_forward(model, data)
        with mujoco.Renderer(model, 16, 16) as renderer:
            renderer.update_scene(data)
            if not renderer.render().any():
                raise RuntimeError("the pictures are black")
    except Exception as error:
        print(f"{type(error).__name__}: {error}".replace("\n", " "), file=sys.stderr, flush=True)
        os._exit(1)  # what a half-made renderer says when it is taken apart helps nobody
