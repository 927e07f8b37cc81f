"""Real environments from their data to a report: a maze of OGBench's, and a dataset that Minari wrote."""

import json
from pathlib import Path

import gymnasium
import minari
import numpy as np
import pytest
from small import small_hyperparameters

from analysis.__main__ import main as report
from lps.__main__ import main
from lps.tasks.ogbench_collect import collect
from lps.tasks.suites import get_task

AGENTS = ("lps", "flow_bc")


def _report(tasks: list[str], dataset: str, folder: Path) -> None:
    """Train each agent on the tasks, a few updates and two seeds, and write the report of its results."""
    results = str(folder / "results")
    toy = ["--seeds", "0", "1", "--steps", "20", "--eval-interval", "20", "--eval-episodes", "2", "--device", "cpu"]
    for agent in AGENTS:
        small = [f"{name}={json.dumps(value)}" for name, value in small_hyperparameters(agent).items()]
        data = ["--dataset", dataset, "--data-dir", str(folder), "--results", results]
        assert main(["train", "--agent", agent, "--task", *tasks, *toy, *data, "--set", *small]) == 0
    assert report(["report", results]) == 0
    text = Path(results, "report", "report.html").read_text()
    assert all(get_task(task).title in text or get_task(task).group in text for task in tasks)


@pytest.mark.slow
def test_a_maze_from_its_oracle_to_a_report(tmp_path: Path):
    path = collect("pointmaze-medium-navigate", episodes=5, data_dir=tmp_path, progress=False)
    _report(["pointmaze-medium-navigate-singletask-task3-v0"], path.stem, tmp_path)


SUITE = """
from lps.tasks import gym

TASKS = {"swing": gym.task("Pendulum-v1", name="swing", dataset="pendulum-v0", max_episode_steps=30)}
make_env, load = gym.make_env, gym.load
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_dataset_of_minaris_to_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    env = gymnasium.make("Pendulum-v1", max_episode_steps=30)
    env.action_space.seed(0)
    buffers = []
    for seed in range(5):
        seen, actions, rewards = [env.reset(seed=seed)[0]], [], []
        for _ in range(30):
            actions.append(env.action_space.sample())
            observation, reward, *_ = env.step(actions[-1])
            seen.append(observation)
            rewards.append(reward)
        ends = {"terminations": [False] * 30, "truncations": [False] * 29 + [True]}
        arrays = {"observations": np.stack(seen), "actions": np.stack(actions), "rewards": rewards}
        buffers.append(minari.data_collector.EpisodeBuffer(**arrays, **ends))
    minari.create_dataset_from_buffers("pendulum-v0", buffers, env=env)
    (tmp_path / "suites_here").mkdir()
    (tmp_path / "suites_here" / "pendulum.py").write_text(SUITE)
    monkeypatch.syspath_prepend(tmp_path)
    _report(["suites_here.pendulum:swing"], "pendulum-v0", tmp_path)
