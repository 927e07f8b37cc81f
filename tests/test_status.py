"""`python -m sweeps status` and `retry` on stores made by hand, and that a retried run is trained."""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from small import small_hyperparameters
from test_train import FakeEvaluator

from lps.runs.intent import Planned, write_intent
from lps.runs.lease import Lease
from lps.runs.record import Episode
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training.options import TrainOptions
from lps.training.trainer import train
from sweeps.__main__ import main
from sweeps.launcher.feed import unfinished
from sweeps.launcher.plan import mark_failed
from sweeps.watch.status import SILENCE, standings

TASK = "cube-single-play-singletask-task1-v0"


def a_run(agent: str = "flow_bc", seed: int = 0, **settings: Any) -> Run:
    protocol: dict[str, Any] = {"steps": 20, "eval_interval": 10, "eval_episodes": 1}
    return Run.create(agent, TASK, seed, **protocol, **small_hyperparameters(agent), **settings)


def write(store: Store, run: Run, status: str, *, error: str | None = None, age: timedelta = timedelta(0)) -> None:
    updated = (datetime.now(UTC) - age).isoformat(timespec="seconds")
    doc = {"id": run.id, "run": run.to_dict(), "status": status, "step": 10, "error": error, "updated": updated}
    store.write_run(doc)


def note(store: Store, runs: list[Run]) -> None:
    write_intent(store, "test", list(map(Planned, runs)))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "results")


def test_status_says_what_is_done_running_failed_or_missing_and_why(store: Store, capsys: Any) -> None:
    done, running, stopped, failed, missing = (a_run(seed=seed) for seed in range(5))
    unplanned = a_run("lps")
    note(store, [done, running, stopped, failed, missing])
    for run in (done, unplanned):
        write(store, run, "done")
    write(store, running, "running", age=SILENCE / 2)
    write(store, stopped, "running", age=SILENCE * 2)
    write(store, failed, "failed", error="Traceback (most recent call last):\nRuntimeError: the arm fell off\n")
    store.write_bytes("runs/damaged.json", b"{")

    assert main(["status", store.path]) == 0
    table, _, rest = capsys.readouterr().out.partition("6 runs: ")
    assert [line.split() for line in table.splitlines()] == [
        ["agent", "group", "done", "running", "interrupted", "failed", "missing"],
        ["flow_bc", "cube-single", "1", "1", "1", "1", "1"],
        ["lps", "cube-single", "1", "-", "-", "-", "-"],
    ]
    lines = rest.splitlines()
    assert lines[0] == "2 done, 1 running, 1 interrupted, 1 failed, 1 missing"
    title = f"flow_bc cube-single task 1 seed 3 (run {failed.id}, step 10 of 20)"
    assert lines[1] == f"failed: {title}: RuntimeError: the arm fell off"
    assert lines[2].startswith("cannot be read: ") and "damaged.json" in lines[2]
    assert lines[-1].strip() == store.sweeps()[0]["command"] and sys.orig_argv[0] in lines[-1]


def test_plans_of_the_same_sweep_stand_side_by_side(store: Store) -> None:
    first, second = a_run(), a_run("lps")
    for runs in ([first], [second], [first]):
        note(store, runs)
    assert [(run.id, run.state) for run in standings(store)] in (
        [(first.id, "missing"), (second.id, "missing")],
        [(second.id, "missing"), (first.id, "missing")],
    )
    assert len(store.sweeps()) == 2


def test_retry_queues_what_failed_and_nothing_else(store: Store, capsys: Any) -> None:
    runs = [a_run(seed=seed) for seed in range(3)]
    note(store, runs)
    write(store, runs[0], "done")
    mark_failed(store, runs[1:], "test", "diverged: loss not finite")
    assert main(["retry", store.path, "--run", runs[2].id]) == 0
    out = capsys.readouterr().out
    assert f"queued: flow_bc cube-single task 1 seed 2 (run {runs[2].id})" in out and "will diverge again" in out
    assert [run.state for run in standings(store)] == ["done", "failed", "queued"]
    doc = store.read_run(runs[2].id)
    assert doc and doc["error"] is None
    assert unfinished(store, runs) == runs[1:]
    assert main(["retry", store.path]) == 0
    assert [run.state for run in standings(store)] == ["done", "queued", "queued"]
    capsys.readouterr()
    assert main(["retry", store.path]) == 0
    assert "no run has failed" in capsys.readouterr().out


def test_status_names_the_holders_and_retry_leaves_them_alone(store: Store, capsys: Any) -> None:
    run = a_run()
    mark_failed(store, [run], "test", "out of memory")
    with Lease(store) as driver, Lease(store, driver.owner) as worker:
        driver.take([run.id, "another"])
        worker.take([run.id])
        assert main(["status", store.path]) == 0
        held = [line for line in capsys.readouterr().out.splitlines() if "held by" in line]
        assert len(held) == 1 and held[0].startswith(f"2 held by process {os.getpid()} on ")
        assert main(["retry", store.path]) == 2
        assert "trained by process" in capsys.readouterr().err
    assert [standing.state for standing in standings(store)] == ["failed"]


def test_a_retried_run_is_trained_from_its_start_if_asked(store: Store, tiny_data_dir: Path) -> None:
    run = a_run()
    mark_failed(store, [run], "test", "its checkpoint is of another version")
    store.write_bytes(f"checkpoints/{run.id}.pt", b"old")
    store.write_metrics(run.id, 5, [{"step": 5, "metric": "loss", "value": 1.0}])
    store.write_episodes(run.id, 10, [Episode(0, 1, True, 0.0, 1)])
    assert main(["retry", store.path, "--from-start"]) == 0
    assert not store.exists(f"checkpoints/{run.id}.pt")
    assert store.read_episodes().num_rows == store.read_metrics().num_rows == 0
    assert train([run], store, TrainOptions("cpu", data_dir=str(tiny_data_dir)), evaluator=FakeEvaluator()) == {
        run.id: "done"
    }


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["status", "{none}"], "there are no results in"),
        (["retry", "{store}", "--run", "nobody"], "unknown run 'nobody'"),
        (["retry", "{store}", "--run", "{done}"], "has not failed: it is done"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], message: str, store: Store, capsys: Any) -> None:
    run = a_run()
    write(store, run, "done")
    names = {"none": f"{store.path}-none", "store": store.path, "done": run.id}
    assert main([argument.format(**names) for argument in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.startswith("error: ") and error.count("\n") == 1
