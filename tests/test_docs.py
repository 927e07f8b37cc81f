"""Pages that show code are executed."""

import json
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from small import make_agent, member_params, run_updates, small_hyperparameters

from lps.__main__ import main
from lps.agents import AGENTS
from lps.evaluation.rollout import evaluate
from lps.policy.file import load_policy
from lps.runs.checkpoint import checkpoint_path
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks import suites
from lps.training.options import TrainOptions
from lps.training.trainer import train
from sweeps import STUDIES

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def rows(page: Path) -> list[list[str]]:
    """The cells of all table rows of a page."""
    lines = page.read_text(encoding="utf-8").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def test_the_readme_lists_every_agent_and_every_study():
    code = [re.findall(r"^`([^`]+)`$", cell) for row in rows(ROOT / "README.md") for cell in row[:2]]
    names = {name for found in code for name in found}
    assert names >= set(AGENTS) | {f"python sweeps/{study}.py" for study in STUDIES}


def test_the_results_in_the_readme_are_those_of_the_docs():
    results = rows(DOCS / "results.md")
    table = [row for row in rows(ROOT / "README.md") if re.fullmatch(r"\d+ % \[\d+, \d+\]", row[1])]
    assert len(table) == 8
    for agent, score, seeds in table:
        assert any(row[:2] == [agent, score] and len(row[2].split(",")) == int(seeds) for row in results), agent


def test_the_links_of_the_readme_cover_every_page_of_the_docs():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    others = {"scale.md"}  # docs/status.md links it
    assert {page.name for page in DOCS.glob("*.md")} - others <= set(re.findall(r"docs/([\w-]+\.md)", readme))


@pytest.fixture
def mean_bc(monkeypatch):
    """The agent of docs/adding-an-agent.md: its file as a module, its line in the table."""
    page, line = re.findall(r"```python\n(.*?)```", (DOCS / "adding-an-agent.md").read_text(), re.DOTALL)
    module = types.ModuleType("lps.agents.mean_bc")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(page, "docs/adding-an-agent.md", "exec"), module.__dict__)
    table = eval("{" + line.strip() + "}")
    for name, path in table.items():
        monkeypatch.setitem(AGENTS.table, name, path)
    return next(iter(table))


def test_the_agent_of_the_page_trains_alone_as_packed(mean_bc):
    packed, alone = make_agent(mean_bc, [0, 1]), make_agent(mean_bc, [1])
    start = member_params(alone, 0)
    run_updates(packed, [0, 1], 1, 50)
    run_updates(alone, [1], 1, 50)
    ours, theirs = member_params(alone, 0), member_params(packed, 1)
    assert all(not torch.equal(ours[k], start[k]) for k in ours)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], atol=1e-4, rtol=1e-3)


@pytest.fixture
def ball(tmp_path, monkeypatch):
    """The suite and the dataset of docs/adding-a-task.md; returns the data folder."""
    suite, collect = re.findall(r"```python\n(.*?)```", (DOCS / "adding-a-task.md").read_text(), re.DOTALL)
    (package := tmp_path / "my_package").mkdir()
    (package / "my_suite.py").write_text(suite)
    (package / "collect.py").write_text(collect)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_package")]:
        del sys.modules[name]


def _commands(page: str) -> list[list[str]]:
    """The commands of a page's shell blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    return [line.split() for block in blocks for line in block.splitlines()]


def test_the_task_of_the_page_has_an_environment_and_data(ball, monkeypatch):
    monkeypatch.chdir(ball)
    for command in _commands("adding-a-task.md")[:2]:
        python = [sys.executable] if command[0] == "python" else ["mkdir"]
        subprocess.run([*python, *command[1:]], check=True)
    tasks = list(suites.groups("my_package.my_suite")["ball"])
    assert [task.name for task in tasks] == ["my_package.my_suite:left", "my_package.my_suite:top"]
    assert suites.get_task(tasks[0].name) is tasks[0] and tasks[0].key == "left" and tasks[0].max_episode_steps == 20
    dataset = suites.load_dataset(tasks, data_dir=str(ball / "data"))
    assert dataset.observations["pixels"].dtype == np.uint8 and len(dataset.starts(1)) == 2000
    assert dataset.rewards.shape == (2, 2100) and (dataset.rewards[0] != dataset.rewards[1]).any()
    assert (dataset.masks == 1).all() and np.abs(dataset.actions).max() <= 1
    env = suites.make_env(tasks[1])
    observation, _ = env.reset(seed=0)
    np.testing.assert_array_equal(observation["state"], dataset.observations["state"][0])
    action = dataset.scale.to_env(dataset.actions[0])
    observation, reward, *_ = env.step(action)
    np.testing.assert_allclose(observation["state"], dataset.observations["state"][1], atol=1e-5)
    assert reward == pytest.approx(dataset.rewards[1, 0], abs=1e-5)


def test_agents_train_on_the_task_of_the_page(ball, monkeypatch):
    monkeypatch.chdir(ball)
    mkdir, collect, train_command = _commands("adding-a-task.md")
    for command in (mkdir, collect):
        subprocess.run([sys.executable if word == "python" else word for word in command], check=True)
    small = [f"{name}={json.dumps(value)}" for name, value in small_hyperparameters("lps").items()]
    toy = ["--steps", "4", "--eval-interval", "2", "--eval-episodes", "2", "--device", "cpu", "--results", "cli"]
    assert main([*train_command[3:], *toy, "--set", *small]) == 0

    runs = [
        Run.create(
            "meanflow_bc",
            f"my_package.my_suite:{task}",
            seed,
            steps=4,
            eval_interval=2,
            eval_episodes=2,
            **small_hyperparameters("meanflow_bc"),
        )
        for task in ("left", "top")
        for seed in (0, 1)
    ]
    store = Store("results")
    assert set(train(runs, store, TrainOptions(device="cpu", data_dir=str(ball / "data"))).values()) == {"done"}
    policy = load_policy(f"{store.path}/{checkpoint_path(runs[0])}")
    rows = evaluate(policy, runs[0].resolved_task, seed=0, step=4, episodes=2)
    assert [row.success for row in rows] == [None, None] and all(row.return_ < 0 for row in rows)
    assert [row.length for row in rows] == [20, 20]
