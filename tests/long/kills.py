"""The driver of a sweep is killed at a random moment and the same command is run again; again and again.

    make test-long

Every time: each run is done exactly once, with the rows of an undisturbed sweep; MLflow has one child for each run; no
process of Ray's is left. The moments are random but seeded (LPS_LONG_SEED): every other one falls into the first half
of the time that a sweep takes, which is imports and Ray's start, the others into its training and its end, by the steps
that are done. LPS_LONG_KILLS says how many. Run as a script, this file is such a sweep:
python tests/long/kills.py RESULTS.
"""

import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where it is run as a script

import pytest
from leftovers import MARK, environment, marked, title, wait_until
from small import small_hyperparameters
from test_sweeps import files, mlflow_content

from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.ring import RING
from lps.training.options import TrainOptions
from sweeps.launcher.launch import launch
from sweeps.launcher.plan import Plan

KILLS = int(os.environ.get("LPS_LONG_KILLS", "20"))
SEED = int(os.environ.get("LPS_LONG_SEED", "0"))
AGENTS = ("lps", "flow_bc")
PROTOCOL: dict[str, Any] = {"steps": 900, "eval_interval": 300, "eval_episodes": 50}
PATIENCE = 1200.0
"""Seconds for a sweep that takes twenty on a quiet machine."""
AGENTS_LINGER = 180.0
"""Seconds within which Ray's own agents notice that their raylet is gone."""


def runs() -> list[Run]:
    return [
        Run.create(agent, RING.name, seed, **PROTOCOL, **{**small_hyperparameters(agent), "horizon": RING.horizon})
        for agent in AGENTS
        for seed in (0, 1)
    ]


def sweep(results: str) -> int:
    return launch(
        list(map(Planned, runs())),
        Plan(results, "kills", TrainOptions(checkpoint_seconds=0.2, log_interval=100)),
        address="local",
    )


def start(results: Path, mark: str) -> subprocess.Popen:
    """The command, as a process that leads a session of its own."""
    own = {**environment(), MARK: mark}
    with results.with_suffix(".output").open("a") as file:
        command = [sys.executable, __file__, str(results)]
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=own, start_new_session=True)


def finish(process: subprocess.Popen, results: Path) -> None:
    try:
        code = process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    assert code == 0, results.with_suffix(".output").read_text()


def rows(results: Path) -> list[dict[str, Any]]:
    return sorted(Store(results, create=False).read_episodes().to_pylist(), key=str)


def steps(results: Path) -> dict[str, str]:
    """Status and step of each run, as the store has them at this moment."""
    if not (results / "schema.json").exists():
        return {}
    docs = Store(results, create=False, warn=False).runs()
    return {doc["id"]: f"{doc['status']} {doc['step']}" for doc in docs}


def done_steps(results: Path) -> int:
    """Of all runs together, as the store has them; 0 as long as it has none."""
    return sum(int(found.split()[1]) for found in steps(results).values())


@dataclass
class Undisturbed:
    rows: list[dict[str, Any]]
    seconds: float


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    results = tmp_path_factory.mktemp("undisturbed") / "results"
    began = time.monotonic()
    finish(start(results, "undisturbed"), results)
    seconds = time.monotonic() - began
    found = rows(results)
    assert len(found) == len(runs()) * len(runs()[0].eval_steps) * PROTOCOL["eval_episodes"]
    print(f"\nundisturbed: {seconds:.0f} s", flush=True)
    return Undisturbed(found, seconds)


@pytest.mark.parametrize("kill", range(KILLS))
def test_a_driver_killed_at_a_random_moment(kill: int, undisturbed: Undisturbed, tmp_path: Path) -> None:
    results, marks = tmp_path / "results", [f"{tmp_path}-killed", f"{tmp_path}-again"]
    driver = start(results, marks[0])
    began = time.monotonic()
    # Stratified, so that few kills still meet all of a sweep.
    part = (kill // 2 + random.Random(f"{SEED} {kill}").random()) / ((KILLS + 1) // 2)
    if kill % 2:
        due = lambda: done_steps(results) >= part * len(runs()) * PROTOCOL["steps"]  # noqa: E731
    else:
        due = lambda: time.monotonic() - began >= part * undisturbed.seconds / 2  # noqa: E731
    while driver.poll() is None and not due():
        time.sleep(0.02)
    early = driver.poll() is not None  # it was faster than we are
    driver.kill()
    driver.wait()
    moment = time.monotonic() - began
    at = steps(results)
    print(f"\nkill {kill} of seed {SEED} after {moment:.1f} s: {', '.join(at.values()) or 'nothing yet'}", flush=True)
    done = [run.id for run in runs() if at.get(run.id, "").startswith("done")]
    finished = {
        path: path.stat().st_mtime_ns for path in files(results) if any(run in str(path) for run in done)
    } if at else {}  # fmt: skip

    finish(start(results, marks[1]), results)

    assert early or "4 of 4 runs are done" in results.with_suffix(".output").read_text()
    assert {path: path.stat().st_mtime_ns for path in finished} == finished, "what was done is not done again"
    store = Store(results, create=False)
    assert {doc["id"]: (doc["status"], doc["step"], doc["error"]) for doc in store.runs()} == {
        run.id: ("done", PROTOCOL["steps"], None) for run in runs()
    }
    assert rows(results) == undisturbed.rows
    metrics = [(row["run_id"], row["step"], row["metric"]) for row in store.read_metrics().to_pylist()]
    assert len(metrics) == len(set(metrics)) and store.problems == []
    assert not list(results.rglob("*.part")) or at, "part files are of the kill"

    content = mlflow_content(results)  # which asserts that there is one parent, and no child twice
    assert content.pop("parent") == ("kills", "FINISHED")
    assert set(content) == {run.id for run in runs()}
    for run in runs():
        status, _, history, _ = content[run.id]
        # In any order: on a busy machine evaluations come back as they like.
        assert status == "FINISHED" and sorted(step for step, _ in history["eval/success"]) == run.eval_steps

    for mark in marks:
        wait_until(lambda: not marked(mark), AGENTS_LINGER, lambda: f"left: {[title(p) for p in marked(mark)]}")  # noqa: B023


if __name__ == "__main__":
    sys.exit(sweep(sys.argv[1]))
