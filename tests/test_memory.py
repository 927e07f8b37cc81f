"""Packs are as large as the device has room for, and their size changes no result."""

import pytest
import torch
from small import small_hyperparameters
from test_train import FakeEvaluator

from lps.errors import UserError
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training import memory
from lps.training.flops import kept_bytes
from lps.training.memory import Footprint, check_fits, members_that_fit
from lps.training.options import TrainOptions
from lps.training.trainer import train

TASK = "cube-single-play-singletask-task1-v0"
PIXELS = f"visual-{TASK}"
FRAMES = 2 * 256 * 64 * 64 * 3  # bytes of a batch


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


def test_images_take_room_from_members_while_they_are_on_the_gpu(monkeypatch):
    monkeypatch.setattr(memory, "footprint", lambda *_: Footprint(fixed=0, member=100))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1000, 1000))
    fit = {images: members_that_fit(a_run("lps"), "cuda", images=images) for images in (0, 500, 501)}
    assert fit == {0: 8, 500: 3, 501: 8}, "more than half of the memory stays in host memory"


def test_the_memory_of_an_update_grows_with_its_images():
    """Three encoders are trained. The first stack of each keeps 16 float32 channels for each pixel."""
    state, small, large = (
        kept_bytes(Run.create("lps", task, **sizes))
        for task, sizes in ((TASK, {}), (PIXELS, {"encoder_width": 0.25}), (PIXELS, {}))
    )
    assert large > 3 * 256 * 64 * 64 * 16 * 4 and large > 2 * small > 4 * state
    twice = kept_bytes(Run.create("lps", PIXELS, batch_size=512))
    assert twice == pytest.approx(2 * large, rel=0.05)


def test_a_batch_of_images_that_cannot_fit_is_refused_before_it_is_made(monkeypatch):
    run = Run.create("lps", PIXELS)
    need = kept_bytes(run) + FRAMES
    monkeypatch.setattr(memory, "_total", lambda _: int(1.01 * need))
    check_fits(run, "cpu")
    monkeypatch.setattr(memory, "_total", lambda _: int(0.99 * need))
    with pytest.raises(UserError, match="a batch takes 0.81 GB.* smaller batch_size"):
        check_fits(run, "cpu")
    assert members_that_fit(run, "cpu") == 1


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
