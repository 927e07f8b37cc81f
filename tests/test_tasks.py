"""The table of tasks against OGBench itself, and the environments made from it."""

import os
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import pytest

from lps.errors import UserError
from lps.tasks import SUITES, ogbench
from lps.tasks.ogbench_data import KINDS, published
from lps.tasks.ogbench_env import import_ogbench
from lps.tasks.suites import all_tasks, get_suite, get_task, groups, make_env

GROUPS = groups("ogbench")
MAZES = ["pointmaze-teleport", "antmaze-medium", "antsoccer-arena"]


def test_table_is_complete_and_consistent():
    assert len(ogbench.TASKS) == len(GROUPS) * 5 == 200
    assert len(all_tasks()) == 201, "and the ring bandit"
    for group, tasks in GROUPS.items():
        assert [task.options["number"] for task in tasks] == [1, 2, 3, 4, 5]
        assert all(task.group == group and get_task(task.name) is task for task in tasks)
        assert published(tasks[0].dataset) or group == "visual-pointmaze-medium"
        assert group.removeprefix("visual-").split("-")[0] in KINDS
    sparse = {group for group, tasks in GROUPS.items() if tasks[0].options["reward"] == "sparse"}
    assert sparse == {"scene", "puzzle-3x3", "visual-scene", "visual-puzzle-3x3"}


def test_every_single_task_environment_is_a_task():
    import_ogbench()
    theirs = {id for id in gymnasium.registry if "-singletask-task" in id}
    ours = {task.options["env"] for task in ogbench.TASKS.values()}
    assert theirs - ours == {
        f"{visual}humanoidmaze-teleport-singletask-task{number}-v0"
        for visual in ("", "visual-")
        for number in range(1, 6)
    }
    assert ours <= theirs
    for task in ogbench.TASKS.values():
        assert gymnasium.spec(task.options["env"]).max_episode_steps == task.max_episode_steps
        assert gymnasium.spec(task.options["env"]).kwargs["reward_task_id"] == task.options["number"]
    with pytest.raises(ValueError, match="teleport_in"):  # why it is left out; if this model loads, add the group
        gymnasium.make("humanoidmaze-teleport-singletask-task1-v0")


@pytest.mark.slow
@pytest.mark.parametrize("group", [group for group in GROUPS if not group.startswith("visual-")])
def test_table_agrees_with_ogbench(group: str):
    env = make_env(task := GROUPS[group][0])
    default = gymnasium.make(f"{group}-singletask-v0", disable_env_checker=True).unwrapped
    default.reset(seed=0)
    assert default.cur_task_id == ogbench._GROUPS[group].default
    observation, _ = env.reset(seed=0)
    assert observation.shape == task.observation["state"].shape == env.observation_space.shape
    assert env.action_space.shape == task.action.shape
    assert (env.action_space.low == -1).all() and (env.action_space.high == 1).all()
    _, reward, terminated, truncated, info = env.step(np.zeros(task.action.shape))
    assert not (info["success"] or terminated or truncated)
    assert float(reward) == -1 if "maze" in group or task.options["reward"] == "sparse" else float(reward) <= -1


def _episode(env: gymnasium.Env, seed: int, steps: int = 25) -> list[Any]:
    """Observations and rewards of an episode whose actions depend on the seed alone."""
    rng = np.random.default_rng(seed)
    found: list[Any] = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        observation, reward, *_ = env.step(rng.uniform(-1, 1, env.action_space.shape))
        found += [observation, reward]
    return found


@pytest.mark.parametrize("group", [*MAZES, "scene"])
def test_an_episode_depends_on_nothing_but_its_seed(group: str):
    suite = get_suite("ogbench")
    first, second = GROUPS[group][0], GROUPS[group][3]
    expected = _episode(make_env(first), 5)
    env = make_env(second)
    _episode(env, 1)
    suite.set_task(env, first)  # type: ignore[attr-defined]
    np.random.seed(3)
    before = np.random.get_state(legacy=False)
    found = _episode(env, 5)
    np.testing.assert_equal(np.random.get_state(legacy=False), before, "the caller's random stream is left alone")
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert (np.asarray(_episode(env, 6)[0]) != found[0]).any()


def test_teleports_are_drawn_from_the_episodes_own_stream():
    env = make_env(task := GROUPS["pointmaze-teleport"][0])
    other = make_env(task)
    core: Any = env.unwrapped

    def exits(seed: int, mixed: bool) -> list[tuple[float, ...]]:
        found = []
        env.reset(seed=seed)
        for _ in range(8):
            core.set_xy(np.array(core._teleport_info["teleport_in_xys"][0]))
            env.step(np.zeros(2))
            found.append(tuple(core.get_xy().round(3)))
            if mixed:
                other.reset(seed=9)
                np.random.random()
        return found

    assert exits(1, mixed=False) == exits(1, mixed=True)
    assert len(set(exits(1, mixed=False))) > 1


@pytest.mark.parametrize("name", ["cube-singel-play-singletask-task1-v0", "cube-single-play-singletask-task6-v0"])
def test_unknown_task_names_the_nearest(name: str):
    with pytest.raises(UserError, match="did you mean .cube-single-play-singletask-task"):
        get_task(name)


def test_unknown_suites_and_options():
    for suite in SUITES.table:
        assert get_suite(suite).TASKS or suite == "robot"  # whose tasks come from files
    with pytest.raises(UserError, match="did you mean 'ogbench'"):
        get_suite("ogbenhc")
    with pytest.raises(UserError, match="lps.tasks.task has no TASKS, make_env, load"):
        get_suite("lps.tasks.task")


def test_success_timing_decides_which_state_counts():
    task = get_task("cube-single-play-singletask-task1-v0")
    successes = {}
    for timing in ogbench.OPTIONS["success_timing"]:
        env = make_env(get_task(task.name, {"success_timing": timing}))
        env.reset(seed=0)
        state: Any = env.unwrapped
        qpos = state.data.qpos.copy()
        qpos[14:17] = state.data.mocap_pos[0]
        state.set_state(qpos, np.zeros_like(state.data.qvel))
        steps = [env.step(np.zeros(5)) for _ in range(2)]
        successes[timing] = [info["success"] for *_, info in steps]
        assert [terminated for _, _, terminated, _, _ in steps] == successes[timing]
    assert successes == {"post": [True, True], "pre": [False, True]}


def test_sparse_reward_is_zero_only_at_the_goal():
    env = make_env(get_task("puzzle-3x3-play-singletask-task1-v0"))
    env.reset(seed=0)
    puzzle: Any = env.unwrapped
    goal = puzzle._target_button_states
    rewards = []
    for wrong in (9, 1, 0):
        buttons = goal.copy()
        buttons[:wrong] = 1 - buttons[:wrong]
        puzzle.set_state(puzzle.data.qpos.copy(), puzzle.data.qvel.copy(), buttons)
        rewards.append(env.step(np.zeros(5))[1])
    assert rewards == [-1, -1, 0]


def test_episodes_end_at_the_step_limit():
    env = make_env(task := get_task("cube-single-play-singletask-task2-v0"))
    env.reset(seed=7)
    truncations = [env.step(np.zeros(task.action.shape))[3] for _ in range(task.max_episode_steps)]
    assert truncations == [False] * 199 + [True]


def test_imports_stay_light_and_the_console_clean():
    script = """
import sys
import lps.tasks.suites
lps.tasks.suites.all_tasks()
assert not {"torch", "mujoco"} & set(sys.modules), "tasks are values"
from lps.tasks.ogbench_collect import collect
from lps.tasks.suites import get_task, make_env
make_env(get_task("scene-play-singletask-task1-v0")).reset(seed=0)
assert not {"torch", "requests"} & set(sys.modules), "environments and data need neither"
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
