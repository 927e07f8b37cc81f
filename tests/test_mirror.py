"""The mirror of results in MLflow: complete, without duplicates, and never in the way of a sweep."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from lps.runs.intent import Planned, write_intent
from lps.runs.lease import Lease
from lps.runs.record import Episode, Status
from lps.runs.run import Run
from lps.runs.store import Store
from sweeps.watch import mlflow as mirror
from sweeps.watch.mlflow import Follower, Mirror, main

SETTINGS: dict[str, Any] = {"steps": 20, "eval_interval": 10, "eval_episodes": 2}


def a_run(seed: int, **settings: Any) -> Run:
    return Run.create("lps", "ring-bandit-v0", seed, **SETTINGS, **settings)


def write(store: Store, run: Run, status: Status = Status.DONE) -> None:
    """The results of a run."""
    for step in run.eval_steps:
        store.write_episodes(run.id, step, [Episode(i, 0, i == 0, float(step), 1) for i in range(2)])
    store.write_metrics(run.id, 1, [{"step": step, "metric": "loss", "value": step / 10} for step in (5, 15)])
    store.write_run(store.record(run, "a").update(status, step=run.steps))


def content(results: Path) -> dict[str, dict[str, Any]]:
    """{sweep: {run id: (status, metrics)}} in MLflow, and the status of each sweep's parent as run id ""."""
    client = MlflowClient(f"sqlite:///{results}/mlflow.db")
    (experiment,) = client.search_experiments(filter_string="name = 'lps'")
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    parents = {run.info.run_id: run for run in found if "mlflow.parentRunId" not in run.data.tags}
    sweeps: dict[str, dict[str, Any]] = {
        run.data.tags["sweep"]: {"": (run.info.status, run.data.tags.get("runs_done"))} for run in parents.values()
    }
    for run in found:
        if parent := parents.get(run.data.tags.get("mlflow.parentRunId", "")):
            of_sweep = sweeps[parent.data.tags["sweep"]]
            assert run.data.tags["run_id"] not in of_sweep, "twice"
            histories = {
                key: [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, key)]
                for key in run.data.metrics
            }
            of_sweep[run.data.tags["run_id"]] = run.info.status, histories
    return sweeps


def test_any_results_are_mirrored_once(tmp_path: Path, capsys: Any) -> None:
    """Two sweeps of one name, a third one that shares a run, and a run whose intent is lost."""
    store, runs = Store(tmp_path), [a_run(seed) for seed in range(5)]
    write_intent(store, "a", [Planned(runs[0])])
    write_intent(store, "a", [Planned(runs[1]), Planned(runs[2])])
    write_intent(store, "b", [Planned(runs[0])])
    for run in (runs[0], runs[1], runs[4]):
        write(store, run)
    assert main([str(tmp_path)]) == 0
    assert f"MLflow is complete: sqlite:///{tmp_path}/mlflow.db" in capsys.readouterr().out
    first = content(tmp_path)
    assert {name: set(of) for name, of in first.items()} == {
        "a": {"", runs[0].id, runs[1].id, runs[4].id},
        "b": {"", runs[0].id},
    }
    assert first["a"][""] == ("RUNNING", "3") and first["b"][""] == ("FINISHED", "1")
    assert first["a"][runs[0].id] == first["b"][runs[0].id] == ("FINISHED", {
        "eval/success": [(10, 0.5), (20, 0.5)], "eval/return": [(10, 10.0), (20, 20.0)],
        "eval/length": [(10, 1.0), (20, 1.0)], "loss": [(5, 0.5), (15, 1.5)],
    })  # fmt: skip
    assert main([str(tmp_path)]) == 0 and content(tmp_path) == first
    write(store, runs[2], Status.FAILED)
    assert main([str(tmp_path), "--follow"]) == 0, "ends, because all runs have ended"
    assert content(tmp_path)["a"][""] == ("FAILED", "3")


def test_a_run_that_mlflow_refuses_hides_no_other(tmp_path: Path, capsys: Any) -> None:
    store, runs = Store(tmp_path), [a_run(seed) for seed in range(2)]
    for run in runs:
        write(store, run)
    bad = {**(store.read_run(runs[0].id) or {})}
    bad["run"] = {**bad["run"], "hyperparameters": {"no (such) = name": 1}}
    store.write_run(bad)
    assert main([str(tmp_path)]) == 1
    assert f"MLflow is incomplete (run {runs[0].id}: " in capsys.readouterr().out
    assert runs[1].id in content(tmp_path)["a"]


def test_a_second_mirror_of_a_folder_is_refused_or_waits(tmp_path: Path, capsys: Any) -> None:
    store = Store(tmp_path)
    write(store, a_run(0))
    with Lease(store) as lease:
        lease.take([mirror.LEASE])
        assert main([str(tmp_path)]) == 2
        assert "mirrors" in capsys.readouterr().err and not (tmp_path / "mlflow.db").exists()
        follower = Follower(store)
        follower.close()
        assert not follower.problem and not (tmp_path / "mlflow.db").exists(), "the other mirror does it"


@pytest.mark.parametrize("uri", ["http://127.0.0.1:9", "nonsense://x"])
def test_mlflow_that_is_away_is_a_remark(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    store = Store(tmp_path)
    write(store, a_run(0))
    away = Mirror(store, mirror.tracking_uri(store))
    away.look()
    assert away.uri == uri and away.problem


def test_mlflow_that_is_not_installed_is_a_remark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow.tracking", None)
    write(Store(tmp_path), a_run(0))
    away = Mirror(Store(tmp_path), "sqlite:///x.db")
    away.look()
    assert "not installed" in str(away.problem)


def test_a_problem_is_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    import threading

    store, ended = Store(tmp_path), threading.Event()
    looks = []

    def look(self: Mirror, last: bool = False) -> float:
        looks.append(last)
        self.problem = "no route to host"
        if len(looks) == 4:
            ended.set()
        return 0.0

    monkeypatch.setattr(Mirror, "look", look)
    with Lease(store) as lease:
        mirror.follow(Mirror(store, ""), lease, 0.01, ended)
    assert looks == [False] * 4 + [True] and capsys.readouterr().out.count("no route to host") == 1


@pytest.mark.slow
def test_a_followers_life(tmp_path: Path, capsys: Any) -> None:
    """It mirrors while the sweep trains, has a last look when the sweep ends, and also when the sweep is killed."""
    store, runs = Store(tmp_path), [a_run(seed) for seed in range(2)]
    write_intent(store, "a", list(map(Planned, runs)))
    follower = Follower(store)
    write(store, runs[0])
    wait_for(lambda: (tmp_path / "mlflow.db").exists() and runs[0].id in content(tmp_path).get("a", {}))
    write(store, runs[1], Status.RUNNING)
    follower.close()
    assert not follower.problem and content(tmp_path)["a"][""] == ("KILLED", "1")

    sweep = "import sys, time; from sweeps.watch.mlflow import *; Follower(Store(sys.argv[1])); time.sleep(999)"
    process = subprocess.Popen([sys.executable, "-c", sweep, str(tmp_path)])
    wait_for(lambda: content(tmp_path)["a"][""] == ("RUNNING", "1"))
    process.send_signal(signal.SIGKILL)
    process.wait()
    wait_for(lambda: content(tmp_path)["a"][""] == ("KILLED", "1"))


@pytest.mark.slow
def test_a_mlflow_that_hangs_ends_with_patience(tmp_path: Path) -> None:
    store = Store(tmp_path)
    write(store, a_run(0))
    hangs = "from sweeps.watch import mlflow; mlflow.PATIENCE = 1; mlflow._make_database = lambda _: __import__('time')"
    hangs += f".sleep(999); mlflow.main(['{tmp_path}', '--beside-sweep'])"
    done = subprocess.run([sys.executable, "-c", hangs], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert done.returncode == 1 and "has taken nothing for 1 s" in done.stdout


@pytest.mark.slow
def test_a_process_killed_while_mlflows_database_is_made_leaves_none_that_is_half_made(tmp_path: Path) -> None:
    database = tmp_path / "mlflow.db"
    make = f"from sweeps.watch.mlflow import _make_database as make; make('sqlite:///{database}')"
    dies = "import os, signal; from mlflow.store.db import utils; utils._upgrade_db = lambda _: os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", f"{dies}; {make}"]).returncode == -signal.SIGKILL
    assert not database.exists() and max(path.stat().st_size for path in tmp_path.iterdir()) > 10_000
    subprocess.run([sys.executable, "-c", make], check=True)
    assert [path.name for path in tmp_path.iterdir()] == [database.name]
    assert MlflowClient(f"sqlite:///{database}").search_experiments()


def wait_for(condition: Any, seconds: float = 300.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.5)
