"""OGBench's scripted oracles, which act in its environments as for its own datasets.

Manipulation, dataset kind 'play' (data_gen_scripts/generate_manipspace.py): an oracle follows a noisy plan to a random
target, and gets a new target whenever its plan is done.  Point mazes, kind 'navigate' (generate_locomaze.py): the point
goes in noisy steps along the shortest way to a random goal, and gets a new goal whenever it reaches one.  OGBench's
oracles of ants and humanoids are trained networks, which it does not publish.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np

from lps.tasks.ogbench_env import VISUAL, make
from lps.tasks.suites import groups


class Recipe(NamedTuple):
    """OGBench's settings of a kind of dataset."""

    group: str
    noise: float
    """Standard deviation of the noise: on an oracle's plan, times the range of each action, or on a point's action."""
    rows: int
    """Rows of an episode."""


NOISE, NOISE_SMOOTHING = 0.1, 0.5
"""OGBench's noise on the plans of manipulation, and its smoothing over time."""

STACKING = {
    "cube-double": (0.0, 0.25),
    "cube-triple": (0.05, 0.35),
    "cube-quadruple": (0.1, 0.5),
    "cube-octuple": (0.0, 0.35),
}
"""Range that each episode draws its probability of stacking from, in groups with several cubes."""


def recipes() -> Mapping[str, Recipe]:
    """Return the datasets that can be collected, by the names of their kinds, such as 'cube-single-play'."""
    found = {}
    for group in groups("ogbench"):
        if (seen := group.removeprefix(VISUAL)).startswith("pointmaze"):
            found[f"{group}-navigate"] = Recipe(group, 0.5, 2001 if group.endswith("giant") else 1001)
        elif seen.startswith(("cube", "scene", "puzzle")):
            found[f"{group}-play"] = Recipe(group, NOISE, 1001)
    return found


class Oracle(Protocol):
    """An environment and its oracle, used for many episodes one after the other."""

    def episode(self, rows: int, env_seed: int, oracle_seed: int) -> Mapping[str, list[Any]]:
        """Return the arrays of one episode by name, a list of rows each.  Depends on the seeds alone."""
        ...


def make_oracle(group: str, noise: float) -> Oracle:
    """Make the environment and oracle of a group.  A visual group moves as its group of states does."""
    return PointMaze(group, noise) if "pointmaze" in group else Manipulation(group, noise)


def _make_env(group: str, **settings: Any) -> Any:
    return make(f"{group}-v0", terminate_at_goal=False, **settings).unwrapped


def _append(columns: dict[str, list[Any]], observation: np.ndarray, action: np.ndarray, last: bool, info: Any) -> None:
    row = {"observations": observation, "actions": action, "terminals": last}
    row |= {"qpos": info["prev_qpos"], "qvel": info["prev_qvel"]}
    if "prev_button_states" in info:
        row["button_states"] = info["prev_button_states"]
    for key, value in row.items():
        columns.setdefault(key, []).append(value)


class PointMaze:
    """The point, which goes where OGBench's breadth-first search says."""

    def __init__(self, group: str, noise: float):
        self.env, self.noise = _make_env(group), noise
        free = self.env.maze_map == 0
        self.cells = [tuple(cell) for cell in np.argwhere(free)]

        def hallway(i: int, j: int) -> bool:
            up_down, left_right = (free[i - 1, j], free[i + 1, j]), (free[i, j - 1], free[i, j + 1])
            return all(up_down) and not any(left_right) or all(left_right) and not any(up_down)

        self.goals = [cell for cell in self.cells if not hallway(*cell)]

    def episode(self, rows: int, env_seed: int, oracle_seed: int) -> Mapping[str, list[Any]]:
        env, columns = self.env, dict[str, list[Any]]()
        with _numpy_seed(oracle_seed):
            start, goal = self._draw(self.cells), self._draw(self.goals)
            env.action_space.seed(env_seed)
            observation, _ = env.reset(seed=env_seed, options={"task_info": {"init_ij": start, "goal_ij": goal}})
            for row in range(rows):
                way = env.get_oracle_subgoal(env.get_xy(), env.cur_goal_xy)[0] - env.get_xy()
                direction = way / (np.linalg.norm(way) + 1e-6)
                action = np.clip(direction + np.random.normal(0, self.noise, direction.shape), -1, 1)
                next_observation, _, _, _, info = env.step(action)
                _append(columns, observation, action, row == rows - 1, info)
                if info["success"]:
                    env.set_goal(goal_xy=env.add_noise(env.ij_to_xy(self._draw(self.goals))))
                observation = next_observation
        return columns

    def _draw(self, cells: list[Any]) -> Any:
        return cells[np.random.randint(len(cells))]


class Manipulation:
    """The arm, which follows plans to move cubes, buttons, drawer and window."""

    def __init__(self, group: str, noise: float):
        self.group, self.env = group.removeprefix(VISUAL), _make_env(group, mode="data_collection")
        from ogbench.manipspace.oracles.plan.button_plan import ButtonPlanOracle
        from ogbench.manipspace.oracles.plan.cube_plan import CubePlanOracle
        from ogbench.manipspace.oracles.plan.drawer_plan import DrawerPlanOracle
        from ogbench.manipspace.oracles.plan.window_plan import WindowPlanOracle

        # The first reset also compiles the model. Without this one, a worker's first episode would start otherwise.
        self.env.reset(seed=0)
        noisy: dict[str, Any] = {"env": self.env, "noise": noise, "noise_smoothing": NOISE_SMOOTHING}
        self.oracles = {
            "cube": CubePlanOracle(**noisy),
            "button": ButtonPlanOracle(**noisy, gripper_always_closed=self.group.startswith("puzzle")),
            "drawer": DrawerPlanOracle(**noisy),
            "window": WindowPlanOracle(**noisy),
        }

    def episode(self, rows: int, env_seed: int, oracle_seed: int) -> Mapping[str, list[Any]]:
        with _numpy_seed(oracle_seed):
            columns = self._play(rows, env_seed)
            while self.group == "scene" and not _cube_in_sight(np.array(columns["qpos"], np.float32)):
                columns = self._play(rows, None)  # the environment's stream goes on
        return columns

    def _play(self, rows: int, env_seed: int | None) -> dict[str, list[Any]]:
        env = self.env
        observation, info = env.reset(seed=env_seed)
        p_stack = np.random.uniform(*STACKING.get(self.group, (0.0, 0.0)))
        oracle = self.oracles[info["privileged/target_task"]]
        oracle.reset(observation, info)
        columns: dict[str, list[Any]] = {}
        for row in range(rows):
            action = np.clip(oracle.select_action(observation, info), -1, 1)
            next_observation, _, _, _, info = env.step(action)
            _append(columns, observation, action, row == rows - 1, info)
            observation = next_observation
            if oracle.done:
                target_observation, target_info = env.set_new_target(p_stack=p_stack)
                oracle = self.oracles[target_info["privileged/target_task"]]
                oracle.reset(target_observation, target_info)
        return columns


def _cube_in_sight(qpos: np.ndarray) -> bool:
    """OGBench's check of a scene episode: the cube stays within reach, unless it lies in the drawer."""
    _, y, z = qpos[:, 14:17].T
    return not ((y >= 0.29) | ((y <= -0.3) & ((z < 0.06) | (z > 0.08)))).any()


@contextmanager
def _numpy_seed(seed: int) -> Iterator[None]:
    """Seed numpy's global stream, which OGBench's oracles and mazes draw from, and restore it at the end."""
    state = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(state)
