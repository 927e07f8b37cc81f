"""Packs are as large as the device has room for, and their size changes no result."""

import pytest
import torch
from small import small_hyperparameters
from test_train import FakeEvaluator

from lps.runs.run import Run
from lps.runs.store import Store
from lps.training import memory
from lps.training.memory import Footprint, members_that_fit
from lps.training.options import TrainOptions
from lps.training.trainer import train

TASK = "cube-single-play-singletask-task1-v0"


def a_run(agent, seed=0):
    return Run.create(agent, TASK, seed, steps=10, eval_interval=5, eval_episodes=1, **small_hyperparameters(agent))


@pytest.mark.parametrize(
    ("free", "total", "share", "fit"),
    [(1000, 1000, 1.0, 7), (500, 1000, 1.0, 3), (1000, 1000, 0.25, 1), (1, 1000, 1.0, 1)],
)
def test_members_fill_what_is_free_of_the_share(free, total, share, fit, monkeypatch):
    monkeypatch.setattr(memory, "footprint", lambda *_: Footprint(fixed=10, member=100))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, total))
    assert members_that_fit(a_run("lps"), "cuda", device_share=share) == fit
    assert members_that_fit(a_run("lps"), "cpu", device_share=share) is None


@pytest.mark.parametrize("room", [1, 2])
def test_a_pack_that_does_not_fit_trains_in_parts_with_the_same_results(room, tmp_path, tiny_data_dir, monkeypatch):
    def trained(name):
        store, runs = Store(tmp_path / name), [a_run("lps", seed) for seed in range(3)]
        starts = []
        status = train(
            runs, store, TrainOptions("cpu", data_dir=str(tiny_data_dir), log_interval=5), evaluator=FakeEvaluator(),
            callback=lambda progress: starts.append(progress.event == "start"),
        )  # fmt: skip
        assert set(status.values()) == {"done"}
        rows = store.read_episodes().sort_by([("run_id", "ascending"), ("step", "ascending")]).to_pylist()
        return sum(starts), [(row["run_id"], row["step"]) for row in rows], [row["return"] for row in rows]

    together = trained("together")
    monkeypatch.setattr("lps.training.trainer.members_that_fit", lambda *_, **__: room)
    parts = trained("parts")
    assert (together[0], parts[0]) == (1, -(-3 // room))
    assert parts[1] == together[1]
    assert parts[2] == pytest.approx(together[2], abs=1e-4)
