"""Faults that a night has: each is injected, and the results are those of an undisturbed training.

Elsewhere: workers and drivers killed, an MLflow that is away (test_sweeps.py); kills at any step, members that diverge
(test_train.py); damaged datasets and downloads (test_data.py); damaged results (test_results.py).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import small_hyperparameters
from test_train import FakeEvaluator

from lps.errors import UserError
from lps.runs.checkpoint import checkpoint_path
from lps.runs.record import Status
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training.options import TrainOptions
from lps.training.trainer import train
from sweeps.launcher import pack
from sweeps.launcher.plan import Plan

TASK = "cube-single-play-singletask-task1-v0"
NO_SPACE = OSError(28, "No space left on device")


def runs(seeds: int = 2) -> list[Run]:
    protocol: dict[str, Any] = {"steps": 20, "eval_interval": 5, "eval_episodes": 1}
    return [Run.create("flow_bc", TASK, seed, **protocol, **small_hyperparameters("flow_bc")) for seed in range(seeds)]


@pytest.fixture
def go(tiny_data_dir: Path) -> Callable[[Store], dict[str, str]]:
    def go(store: Store) -> dict[str, str]:
        return train(
            runs(),
            store,
            TrainOptions("cpu", data_dir=str(tiny_data_dir), log_interval=5, checkpoint_seconds=0.0),
            evaluator=FakeEvaluator(),
        )

    return go


@pytest.fixture
def undisturbed(go: Callable[[Store], Any], tmp_path: Path) -> Store:
    store = Store(tmp_path / "undisturbed")
    go(store)
    return store


def rows(store: Store) -> tuple[list[dict[str, Any]], ...]:
    return tuple(sorted(table.to_pylist(), key=str) for table in (store.read_episodes(), store.read_metrics()))


def assert_as_undisturbed(store: Store, undisturbed: Store) -> None:
    assert [doc["status"] for doc in store.runs()] == ["done"] * len(runs())
    assert rows(store) == rows(undisturbed)
    assert store.problems == []


# --- the results store ---


@pytest.mark.parametrize("kept", [0, 100, 0.5, 0.99])
def test_a_truncated_checkpoint_costs_time_and_no_result(kept, go, undisturbed, caplog):
    store, run = Store(undisturbed.path), runs()[0]
    before, whole = rows(store), store.read_bytes(checkpoint_path(run))
    store.write_run({**(store.read_run(run.id) or {}), "status": "running"})
    store.write_bytes(checkpoint_path(run), whole[: int(kept * len(whole)) if kept < 1 else kept])
    assert set(go(store).values()) == {"done"}
    assert f"{run.id}.pt is not a whole checkpoint" in caplog.text and "restarts" in caplog.text
    assert rows(store) == before
    assert len(store.read_bytes(checkpoint_path(run))) == len(whole)


class Disk:
    """Stands where local files are written, with room for so many bytes; files of one name take the place once."""

    def __init__(self, write: Callable[[str, bytes], None], room: float):
        self.write, self.room, self.files = write, room, dict[str, int]()

    def __call__(self, path: str, data: bytes) -> None:
        files = {**self.files, path: len(data)}
        if sum(files.values()) > self.room:
            raise NO_SPACE
        self.write(path, data)
        self.files = files


@pytest.fixture
def write_durably() -> Callable[[str, bytes], None]:
    from lps.runs import store as results

    return results.write_durably


def test_a_full_disk_stops_the_runs_with_one_line_and_room_lets_them_go_on(
    go, undisturbed, write_durably, tmp_path, monkeypatch
):
    needed = sum(file.stat().st_size for file in Path(undisturbed.path).rglob("*") if file.is_file())
    store = Store(tmp_path / "results")
    monkeypatch.setattr("lps.runs.store.write_durably", Disk(write_durably, 0.8 * needed))
    with pytest.raises(UserError, match="No space left on device.*run the same command again"):
        go(store)
    assert not list(Path(store.path).rglob("*.part")) and store.read_episodes().num_rows and store.problems == []
    monkeypatch.setattr("lps.runs.store.write_durably", write_durably)
    go(store)
    assert_as_undisturbed(store, undisturbed)


def test_a_store_that_is_away_for_a_while_is_waited_for(go, undisturbed, write_durably, tmp_path, monkeypatch, caplog):
    """Every third attempt works."""
    attempts = 0

    def write(path: str, data: bytes) -> None:
        nonlocal attempts
        attempts += 1
        if attempts % 3:
            raise OSError("AWS Error NETWORK_CONNECTION: curlCode: 7, Couldn't connect to server")
        write_durably(path, data)

    store = Store(tmp_path / "results")
    monkeypatch.setattr("lps.runs.store.write_durably", write)
    go(store)
    assert_as_undisturbed(store, undisturbed)
    assert "Couldn't connect to server; trying again in" in caplog.text


def test_patience_with_a_store_ends(tmp_path, monkeypatch):
    store, slept = Store(tmp_path / "results"), list[float]()
    monkeypatch.setattr("lps.runs.store.write_durably", lambda *_: (_ for _ in ()).throw(NO_SPACE))
    monkeypatch.setattr("lps.runs.store.PAUSES", (1, 2, 4))
    monkeypatch.setattr("time.sleep", slept.append)
    with pytest.raises(UserError, match="No space left"):
        store.write_bytes("checkpoints/a.pt", b"")
    assert slept == [1, 2, 4]


# --- memory ---


@pytest.fixture
def driven(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Drives a pack of eight whose worker dies when `too_large` says so; returns the store and the packs tried."""

    def drive(too_large: Callable[[list[Run]], bool]) -> tuple[Store, list[int], bool]:
        store, tried = Store(tmp_path / "results"), list[int]()

        def fit(number: int, members: list[Run], *_: Any) -> str | None:
            tried.append(len(members))
            if too_large(members):
                raise pack.PackTooLarge("Traceback\nray.exceptions.OutOfMemoryError: the worker was killed")
            for run in members:
                store.write_run(store.record(run).update(Status.DONE))
            return None

        monkeypatch.setattr(pack, "_run_worker", fit)
        monkeypatch.setattr(pack, "record_start", lambda *_: 0)
        monkeypatch.setattr(pack, "forget_starts", lambda *_: None)
        board = SimpleNamespace(update=SimpleNamespace(remote=lambda *_, **__: None))
        plan = Plan(store.path, "test", max_failures=2)
        failed = pack.run_pack(0, runs(8), plan, None, board, str(tmp_path))["failed"]  # type: ignore[arg-type]
        return store, tried, failed

    yield drive


def test_a_pack_that_is_killed_for_memory_is_tried_again_in_halves(driven):
    store, tried, failed = driven(lambda members: len(members) > 2)
    assert tried == [8, 4, 2, 2, 4, 2, 2] and not failed
    assert {doc["status"] for doc in store.runs()} == {"done"} and len(store.runs()) == 8


def test_a_run_that_no_memory_suffices_for_fails_alone(driven):
    culprit = runs(8)[5]
    store, tried, failed = driven(lambda members: culprit in members)
    assert tried == [8, 4, 4, 2, 1, 1, 2] and failed
    states = {doc["id"]: doc for doc in store.runs()}
    assert "OutOfMemoryError" in states.pop(culprit.id)["error"]
    assert {doc["status"] for doc in states.values()} == {"done"} and len(states) == 7


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (MemoryError(), True),
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("a bug"), False),
        (OSError(), False),
    ],
)
def test_a_worker_says_whether_it_was_memory(error, memory, tmp_path, monkeypatch):
    def train(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("lps.training.trainer.train", train)
    plan = Plan(Store(tmp_path / "r").path, "t")
    share = SimpleNamespace(cpus=1.0, gpus=0.0, eval_cpus=1.0, eval_tasks=1, device="cpu")
    monkeypatch.setattr("sweeps.launcher.notice.Notice", lambda: SimpleNamespace(close=lambda: None))
    board = SimpleNamespace(start=SimpleNamespace(remote=lambda _: None))
    outcome = pack.train_on_worker({"runs": runs(), "plan": plan, "share": share, "number": 0, "board": board})
    assert "Traceback" in outcome.error and outcome.too_large is memory
