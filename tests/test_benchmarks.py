"""Benchmarks compare equal things, and what is carried away can be used. Nothing here is timed."""

import importlib
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from small import make_agent, random_batch, small_hyperparameters
from test_train import FakeEvaluator

from lps import cpu as gelu
from lps.members.streams import Stream
from lps.policy.file import load_policy
from lps.runs.checkpoint import checkpoint_path
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import groups
from lps.training.options import TrainOptions
from lps.training.trainer import train

GROUPS = groups("ogbench")


SEEDS = torch.tensor([0, 1])
MEASURES = ("inference", "savings", "scaling", "throughput")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    yield
    for name in ("carry", "common", "release", *MEASURES):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", ["jvp", "critics", "frozen", "adam", "gelu", "separate"])
def test_an_update_without_a_saving_has_the_same_losses(name, scripts, monkeypatch):
    import savings

    monkeypatch.setattr(gelu, "MANY", 0)  # the batch here is small
    found = []
    for form in (savings.contextlib.nullcontext, savings.SAVINGS[name]):
        agent = make_agent("lps", [0, 1])
        noise = agent.noise(Stream(SEEDS, 1, "noise"), agent.config.batch_size)
        with form():
            for _ in range(1 if name == "frozen" else 3):  # without it the critics learn something else
                losses = agent.update(random_batch(agent, SEEDS, 1), noise)
        found.append(torch.stack([losses[key] for key in ("critic_loss", "base_loss", "latent_loss")]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", MEASURES)
def test_a_gpu_that_is_not_there_is_one_line(name, scripts, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", "--device", "cuda"])
    assert importlib.import_module(name).main() == 2
    assert "device cuda is not available" in capsys.readouterr().err


def test_a_folder_without_the_release_is_one_line(scripts, tmp_path, monkeypatch, capsys):
    import release

    monkeypatch.setattr(sys, "argv", ["release.py", str(tmp_path), "--device", "cpu"])
    assert release.main() == 2
    assert "has no agents/lps.py" in capsys.readouterr().err


def test_what_is_carried_away_acts_and_can_be_read(scripts, tmp_path, tiny_data_dir, monkeypatch):
    import carry

    settings = {"steps": 4, "eval_interval": 2, "eval_episodes": 1, **small_hyperparameters("lps")}
    tasks = [task.name for task in GROUPS["cube-single"]][:2]
    runs = [Run.create("lps", task, seed, **settings) for task in tasks for seed in (0, 1)]
    store, out = Store(tmp_path / "results"), tmp_path / "out"
    train(runs, store, TrainOptions("cpu", data_dir=str(tiny_data_dir)), evaluator=FakeEvaluator())
    monkeypatch.setattr(sys, "argv", ["carry.py", str(tmp_path / "results"), str(out)])
    assert carry.main() == 0

    lines = (out / "curves.csv").read_text().splitlines()
    assert lines[0] == "agent,task,step,runs,success" and len(lines) == 1 + 2 * 2
    assert lines[1].startswith(f"lps,{tasks[0]},2,2,")
    policy = load_policy(out / "policy-cube-single-task-2.safetensors")
    kept = load_policy(tmp_path / "results" / checkpoint_path(runs[2]))
    observation = np.ones(28, np.float32)
    assert (policy.act(observation) == kept.act(observation)).all()
    with tarfile.open(out / "results.tar.gz") as archive:
        archive.extractall(tmp_path / "again", filter="data")
    again = Store(tmp_path / "again", create=False)
    assert again.read_episodes().num_rows == store.read_episodes().num_rows and len(again.runs()) == 4
