"""Any gymnasium environment as a task."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from lps.errors import UserError
from lps.spaces import Space
from lps.tasks import gym, suites
from lps.tasks.task import Task

STATE, PICTURE = spaces.Box(-1, 1, (3,), np.float64), spaces.Box(0, 255, (4, 4), np.uint8)
ARM = spaces.Box(np.array([-1, 0], np.float32), np.array([1, 5], np.float32))


class Anything(gymnasium.Env):
    """An environment with the spaces that it is told."""

    def __init__(self, observation: str = "STATE", action: str = "ARM"):
        names: dict[str, Any] = {
            "STATE": STATE,
            "PICTURE": PICTURE,
            "BOTH": spaces.Dict({"camera": PICTURE, "joints": STATE}),
            "NESTED": spaces.Dict({"deep": spaces.Dict({"joints": STATE})}),
            "NUMBER": spaces.Discrete(3),
            "ARM": ARM,
            "FREE": spaces.Box(-np.inf, np.inf, (2,)),
            "MATRIX": spaces.Box(-1, 1, (2, 2)),
        }
        self.observation_space, self.action_space = names[observation], names[action]


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    gymnasium.register("lps-tests/Anything-v0", Anything, max_episode_steps=7)
    gymnasium.register("lps-tests/Endless-v0", Anything)


def _task(**settings: Any) -> Task:
    return gym.task("lps-tests/Anything-v0", **{"name": "any", "dataset": "mine", **settings})


def test_a_task_has_the_spaces_of_its_environment():
    assert _task().observation == {"state": Space((3,))}
    assert _task(observation="PICTURE").observation == {"pixels": Space((4, 4), "uint8")}
    task = _task(observation="BOTH", group="arms", metric="both", return_range=(0.0, 9.0), horizon=4)
    assert task.observation == {"camera": Space((4, 4), "uint8"), "joints": Space((3,))}
    assert (task.action, task.max_episode_steps, task.horizon, task.group) == (Space((2,)), 7, 4, "arms")
    assert gym.make_env(task).observation_space == spaces.Dict({"camera": PICTURE, "joints": STATE})
    assert gym.task("lps-tests/Endless-v0", name="a", dataset="b", max_episode_steps=3).max_episode_steps == 3


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _task(action="NUMBER"), "Discrete.*agents need a Box.*Wrap"),
        (lambda: _task(action="MATRIX"), "agents need a Box.*Wrap"),
        (lambda: _task(action="FREE"), "no finite bounds. Wrap"),
        (lambda: _task(observation="NUMBER"), "Discrete.*agents need a Box or a Dict.*Wrap"),
        (lambda: _task(observation="NESTED"), "'deep'.*agents need a Box or a Dict.*Wrap"),
        (lambda: _task(colour="red"), "colour='red'.*check the arguments"),
        (lambda: gym.task("lps-tests/Nothing-v0", name="a", dataset="b"), "cannot make.*Register the environment"),
        (lambda: gym.task("lps-tests/Endless-v0", name="a", dataset="b"), "no step limit. Give"),
        (lambda: gym.make_env(_task(), render=True), "render_mode='rgb_array'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes")
def test_unfit_environments(make: Callable[[], Any], message: str):
    with pytest.raises(UserError, match=message):
        make()


def test_a_suite_lacks_data(tmp_path: Path):
    np.savez(tmp_path / "mine2.npz", actions=np.zeros((2, 2)))
    with pytest.raises(UserError, match="no mine.npz and no Minari folder mine.*did you mean 'mine2'.*--data-dir"):
        gym.load([_task()], "mine", tmp_path)
    with pytest.raises(UserError, match="no array 'terminals'"):
        gym.load([_task()], "mine2", tmp_path)


def test_pixels_and_states_come_back_in_the_environments_units(tmp_path: Path):
    rng = np.random.default_rng(0)
    arrays = {
        "observations/camera": rng.integers(0, 256, (8, 4, 4)).astype(np.uint8),
        "observations/joints": rng.uniform(-1, 1, (8, 3)),
        "actions": rng.uniform(ARM.low, ARM.high, (8, 2)),
        "rewards": np.ones(8),
        "terminals": np.arange(8) == 7,
        "timeouts": np.zeros(8, bool),
    }
    np.savez(tmp_path / "mine.npz", **arrays)
    dataset = gym.load([_task(observation="BOTH")], "mine", tmp_path)
    assert dataset.observations["camera"].dtype == np.uint8 and dataset.observations["joints"].dtype == np.float32
    np.testing.assert_allclose(dataset.scale.to_env(dataset.actions[:8]), arrays["actions"], atol=1e-4)
    assert dataset.masks[0, :8].tolist() == [1] * 7 + [0], "the true end is kept"


def test_a_suite_that_lacks_a_function_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "suites_of").mkdir()
    (tmp_path / "suites_of" / "half.py").write_text("TASKS = {}\nmake_env = None\n")
    with pytest.raises(UserError, match="suites_of.half has no load. Add it to the module"):
        suites.get_suite("suites_of.half")
    with pytest.raises(UserError, match="unknown suite 'suites_of.nothing'"):
        suites.get_suite("suites_of.nothing")
