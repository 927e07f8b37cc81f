"""Benchmarks compare equal things, and what is carried away can be used. Nothing here is timed."""

import importlib
import sys
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
MEASURES = ("inference", "savings", "scaling", "serving", "throughput")


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


def carried(tmp_path, tiny_data_dir, monkeypatch, *options: str) -> tuple[Store, list[Run], Path]:
    """Results of four runs, and the folder that they were carried into."""
    import carry

    settings = {"steps": 4, "eval_interval": 2, "eval_episodes": 1, **small_hyperparameters("lps")}
    tasks = [task.name for task in GROUPS["cube-single"]][:2]
    runs = [Run.create("lps", task, seed, **settings) for task in tasks for seed in (0, 1)]
    store, out = Store(tmp_path / "results"), tmp_path / "out"
    train(runs, store, TrainOptions("cpu", data_dir=str(tiny_data_dir)), evaluator=FakeEvaluator())
    monkeypatch.setattr(sys, "argv", ["carry.py", "away", str(tmp_path / "results"), str(out), *options])
    assert carry.main() == 0
    return store, runs, out


def brought_back(out: Path, to: Path, monkeypatch) -> int:
    import carry

    monkeypatch.setattr(sys, "argv", ["carry.py", "back", str(out), str(to)])
    return carry.main()


def test_what_is_carried_away_comes_back_whole(scripts, tmp_path, tiny_data_dir, monkeypatch):
    import carry

    monkeypatch.setattr(carry, "PART", 50_000)
    store, runs, out = carried(tmp_path, tiny_data_dir, monkeypatch)
    assert len(list(out.glob("state.zip.*"))) > 1
    lines = (out / "curves.csv").read_text().splitlines()
    assert lines[0] == "agent,task,step,runs,success" and len(lines) == 1 + 2 * 2
    assert lines[1].startswith(f"lps,{runs[0].task},2,2,")

    assert brought_back(out, tmp_path / "again", monkeypatch) == 0
    again = Store(tmp_path / "again", create=False)
    assert again.read_episodes().num_rows == store.read_episodes().num_rows and len(again.runs()) == 4
    for run in runs:
        assert again.read_bytes(checkpoint_path(run)) == store.read_bytes(checkpoint_path(run))
    policy = load_policy(tmp_path / "again" / "policies" / "lps-cube-single-task-2.safetensors")
    kept = load_policy(tmp_path / "results" / checkpoint_path(runs[2]))
    observation = np.ones(28, np.float32)
    assert (policy.act(observation) == kept.act(observation)).all()


def test_as_many_checkpoints_are_carried_as_fit(scripts, tmp_path, tiny_data_dir, monkeypatch, capsys):
    store, runs, out = carried(tmp_path, tiny_data_dir, monkeypatch)
    of_all = sum(path.stat().st_size for path in out.iterdir())
    some = (of_all - len(store.read_bytes(checkpoint_path(runs[0]))) // 2) / 2**20
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--mib", str(some), "--skip", "1"])
    assert importlib.import_module("carry").main() == 0
    assert sum(path.stat().st_size for path in out.iterdir()) <= some * 2**20
    said = capsys.readouterr().out
    assert checkpoint_path(runs[2]) in said and checkpoint_path(runs[0]) not in said  # seed 0 of both tasks comes first


def test_parts_of_two_calls_are_one_line(scripts, tmp_path, tiny_data_dir, monkeypatch, capsys):
    _, _, out = carried(tmp_path, tiny_data_dir, monkeypatch)
    data = (out / "state.zip.0").read_bytes()
    (out / "state.zip.0").write_bytes(data[: len(data) // 2])
    assert brought_back(out, tmp_path / "again", monkeypatch) == 2
    assert "not one whole archive" in capsys.readouterr().err
