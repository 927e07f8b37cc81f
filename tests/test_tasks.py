"""The table of tasks against OGBench itself, and the environments made from it."""

import os
import subprocess
import sys
from typing import Any, get_args

import gymnasium
import numpy as np
import pytest
from lps.tasks.table import GROUPS, TASKS, SuccessTiming, get_task

from lps.errors import UserError
from lps.tasks.ogbench import import_ogbench, make_env


def test_table_is_complete_and_consistent():
    assert len(TASKS) == len(GROUPS) * 5 + 1 == 46
    for group, tasks in GROUPS.items():
        assert [task.index for task in tasks] == [1, 2, 3, 4, 5]
        for task in tasks:
            assert task.group == group
            assert get_task(task.name) is task
    assert {group for group, tasks in GROUPS.items() if tasks[0].reward == "sparse"} == {"scene", "puzzle-3x3"}


@pytest.mark.parametrize("group", GROUPS)
def test_table_agrees_with_ogbench(group: str):
    import_ogbench()
    for task in GROUPS[group]:
        assert gymnasium.spec(task.env).max_episode_steps == task.max_episode_steps
        assert gymnasium.spec(task.env).kwargs["reward_task_id"] == task.index
    env = make_env(task := GROUPS[group][0])
    observation, _ = env.reset(seed=0)
    assert observation.shape == (task.observation_dim,)
    assert env.action_space.shape == (task.action_dim,)
    _, reward, terminated, truncated, info = env.step(np.zeros(task.action_dim))
    assert not (info["success"] or terminated or truncated)
    assert float(reward) == -1 if task.reward == "sparse" else float(reward) <= -1


@pytest.mark.parametrize("name", ["cube-singel-play-singletask-task1-v0", "cube-single-play-singletask-task6-v0"])
def test_unknown_task_names_the_nearest(name: str):
    with pytest.raises(UserError, match="did you mean .cube-single-play-singletask-task"):
        get_task(name)


def test_a_name_near_no_task_gets_the_groups_on_a_line():
    with pytest.raises(UserError, match="task1-v0 ... task5.* puzzle-4x6, and ring-bandit-v0") as error:
        get_task("foo")
    assert len(str(error.value)) < 300 and all(group in str(error.value) for group in GROUPS)


def test_success_timing_decides_which_state_counts():
    task = get_task("cube-single-play-singletask-task1-v0")
    successes = {}
    for timing in get_args(SuccessTiming):
        env = make_env(task, success_timing=timing)
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


def test_actions_are_clipped_and_episodes_end_at_the_step_limit():
    env = make_env(task := get_task("cube-single-play-singletask-task2-v0"))

    def after(action: float) -> np.ndarray:
        env.reset(seed=7)
        return env.step(np.full(task.action_dim, action))[0]

    np.testing.assert_allclose(after(3), after(1), atol=1e-3)
    assert np.abs(after(0.5) - after(1)).max() > 1e-2
    env.reset(seed=7)
    truncations = [env.step(np.zeros(task.action_dim))[3] for _ in range(task.max_episode_steps)]
    assert truncations == [False] * 199 + [True]


def test_imports_stay_light_and_the_console_clean():
    script = """
import sys
import lps.tasks
assert not {"torch", "gymnasium", "mujoco"} & set(sys.modules), "lps.tasks.table is a table"
from lps.tasks.ogbench_collect import collect
from lps.tasks.ogbench import make_env
import lps.tasks.table
make_env(lps.tasks.table.get_task("scene-play-singletask-task1-v0")).reset(seed=0)
assert "torch" not in sys.modules, "environments and data need no torch"
"""
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "MUJOCO_GL")}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
