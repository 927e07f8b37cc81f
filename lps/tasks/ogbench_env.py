"""OGBench's environments, which behave the same in every version of OGBench."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, SupportsFloat

import gymnasium
import numpy as np

from lps.errors import UserError
from lps.tasks.rendering import import_mujoco, use_renderer
from lps.tasks.task import Maze, Task

VISUAL = "visual-"
"""Prefix of the names of visual groups and their datasets."""


def make_env(task: Task, *, render: bool = False) -> gymnasium.Env:
    """Make the environment of a task, with its step limit (`truncated`) and without automatic reset.

    Observations (obs,) float64, frames (height, width, 3) uint8, or both by name where `task.observation` has "pixels"
    and "state": then the state is the positions of all joints.  Actions (act,) in [-1, 1].  The reward is the task's.
    `info['success']` and `terminated` follow the task's option success_timing.  With `render`, `env.render()` returns
    uint8 frames: (480, 480, 3), or those that the policy sees, enlarged to about that size.  UserError if the installed
    OGBench does not support the timing, or if nothing renders the frames of a visual task.
    """
    id, timing, frame = task.options["env"], task.options["success_timing"], task.observation.get("pixels")
    import_ogbench()
    kwargs: dict[str, Any] = {"width": 480, "height": 480} if render and not frame else {}
    if "success_timing" in gymnasium.spec(id).kwargs:
        kwargs["success_timing"] = timing
    elif timing != "post":
        # Before 1.2.0, OGBench knew only the state after the action.
        raise UserError("success_timing='pre' needs ogbench 1.2.0 or newer. Install it, or use 'post'")
    return _TaskEnv(make(id, max_episode_steps=task.max_episode_steps, **kwargs), task)


def make(id: str, **settings: Any) -> gymnasium.Env:
    """Make an environment that OGBench registers, or `visual-pointmaze-medium`.  UserError where it has frames and
    nothing renders them."""
    import_ogbench()
    if id.startswith(VISUAL):
        use_renderer()
    # The checker only looks for mistakes in an environment's code, and prints warnings about OGBench's spaces.
    return gymnasium.make(id, disable_env_checker=True, **settings)


def set_task(env: gymnasium.Env, task: Task) -> None:
    """Turn an environment of `make_env` to another task of its group, from its next reset on.

    Nothing else sets these tasks apart, and compiling the same model once more takes longer than an episode.
    """
    core: Any = env.unwrapped
    core._reward_task_id = task.options["number"]


def maze(task: Task) -> Maze | None:
    """Return the floor plan of a task; None if it is not in a maze.  A state begins with the position (x, y)."""
    env = make_env(task)
    core: Any = env.unwrapped
    if not hasattr(core, "maze_map"):
        return None
    env.reset(seed=0)
    x, y = core.cur_goal_xy
    return Maze(core.maze_map == 1, core._maze_unit, core.ij_to_xy((0, 0)), (float(x), float(y)), core._goal_tol)


class _TaskEnv(gymnasium.Wrapper):
    """OGBench's environment with the task's reward, and with episodes that the reset's seed decides to the last bit."""

    def __init__(self, env: gymnasium.Env, task: Task):
        super().__init__(env)
        self.sparse = task.options["reward"] == "sparse"
        core: Any = env.unwrapped
        self._maze = hasattr(core, "maze_map")
        self._stream: Any = np.random.RandomState().get_state() if self._maze else None
        self._with_state = task.observation.keys() == {"pixels", "state"}
        if self._with_state:
            state = gymnasium.spaces.Box(-np.inf, np.inf, task.observation["state"].shape)
            self.observation_space = gymnasium.spaces.Dict({"pixels": env.observation_space, "state": state})
        self._enlarged = 480 // task.observation["pixels"].shape[0] if "pixels" in task.observation else 1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        core: Any = self.unwrapped
        if self._maze:
            if seed is not None:
                self._stream = np.random.RandomState(seed).get_state()
                core.action_space.seed(seed)  # the reset takes random steps
            with self._own_stream():
                observation, info = self.env.reset(seed=seed, options=options)
            return self._observed(observation), info
        # OGBench first takes two steps in a scene where the task is solved, with actions that no seed governs; the
        # contact forces and the solver's memory of them stay behind. Here the arm stands still in these steps.
        step = core.step
        core.step = lambda action: step(np.zeros_like(action))
        try:
            observation, info = self.env.reset(seed=seed, options=options)
        finally:
            del core.step
        return self._observed(observation), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        with self._own_stream():
            observation, reward, terminated, truncated, info = self.env.step(action)
        if self.sparse:
            reward = 0.0 if float(reward) == 0.0 else -1.0
        return self._observed(observation), reward, bool(terminated), bool(truncated), info

    def render(self) -> Any:
        return np.asarray(self.env.render()).repeat(self._enlarged, 0).repeat(self._enlarged, 1)

    def _observed(self, observation: Any) -> Any:
        if not self._with_state:
            return observation
        core: Any = self.unwrapped
        data = core.data if self._maze else core._data
        return {"pixels": observation, "state": data.qpos.copy()}

    @contextmanager
    def _own_stream(self) -> Iterator[None]:
        """Replace numpy's global stream by this environment's own: mazes draw noise and teleports from it."""
        if not self._maze:
            yield
            return
        outside = np.random.get_state()
        np.random.set_state(self._stream)
        try:
            yield
        finally:
            self._stream = np.random.get_state()
            np.random.set_state(outside)


def import_ogbench() -> Any:
    """Import OGBench, which registers its environments, without two harmless warnings, and register
    `visual-pointmaze-medium` beside them.  UserError if $MUJOCO_GL keeps MuJoCo from loading."""
    # OGBench makes a new float32 action space from float64 bounds of exactly +-1 at every use.
    warnings.filterwarnings("ignore", message=r".*Box (low|high)'s precision lowered by casting")
    # MuJoCo's viewer, which nobody opens here, asks for a display as soon as the first environment is made.
    warnings.filterwarnings("ignore", message=r".*DISPLAY environment variable is missing")
    import_mujoco()
    import ogbench

    for name in ("", *(f"-singletask-task{number}" for number in range(1, 6))):
        if (id := f"visual-pointmaze-medium{name}-v0") not in gymnasium.registry:
            theirs = gymnasium.spec(id.removeprefix(VISUAL))
            gymnasium.register(id, visual_pointmaze, max_episode_steps=theirs.max_episode_steps, kwargs=theirs.kwargs)
    return ogbench


def visual_pointmaze(frame: int = 32, **settings: Any) -> gymnasium.Env:
    """Make OGBench's point maze seen from above, in frames (frame, frame, 3) uint8.

    It is drawn to be learned from on a CPU.  The point is yellow and has twice its radius, four pixels across.  Shadows
    and multisampling, which take nine tenths of the time of a frame without a GPU, are off.
    """
    from ogbench.locomaze.maze import make_maze_env

    maze: Any = make_maze_env(ob_type="pixels", width=frame, height=frame, **settings)
    maze.observation_space = gymnasium.spaces.Box(0, 255, (frame, frame, 3), np.uint8)
    maze.model.vis.quality.offsamples = 0
    maze.custom_renderer.close()
    maze.initialize_renderer()
    renderer, point = maze.custom_renderer, maze.model.geom("pointbody")
    renderer.scene.flags[import_mujoco().mjtRndFlag.mjRND_SHADOW] = 0

    def render() -> np.ndarray:
        renderer.update_scene(maze.data, camera=maze.custom_camera)
        (drawn,) = (geom for geom in renderer.scene.geoms[: renderer.scene.ngeom] if geom.objid == point.id)
        drawn.size[:] = 2 * point.size[0]
        drawn.pos[2] += 2  # above the walls
        drawn.rgba[:] = (1, 1, 0, 1)
        return renderer.render()

    maze.render = render
    return maze
