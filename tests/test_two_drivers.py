"""Two commands on one results folder at once: each run has one writer, and nothing waits for ever, even with kills."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from small import small_hyperparameters

from lps.runs.intent import Planned
from lps.runs.lease import Lease, claims
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.ring import RING
from lps.training.options import TrainOptions
from lps.training.trainer import train
from sweeps.launcher.launch import launch
from sweeps.launcher.plan import Plan

pytestmark = pytest.mark.slow
SEED = int(os.environ.get("LPS_LONG_SEED", "0"))
REPETITIONS = int(os.environ.get("LPS_LONG_PAIRS", "2"))
PATIENCE = 1200.0
"""Seconds for a pair of drivers that takes half a minute on a quiet machine."""
PROTOCOL: dict[str, Any] = {"steps": 600, "eval_interval": 200, "eval_episodes": 20}
OPTIONS = TrainOptions("cpu", checkpoint_seconds=0.2, log_interval=50)


def runs() -> list[Run]:
    small = {**small_hyperparameters("flow_bc"), "horizon": RING.horizon}
    return [Run.create("flow_bc", RING.name, seed, **PROTOCOL, **small) for seed in (0, 1)]


def rows(store: Store) -> tuple[list[dict[str, Any]], ...]:
    return tuple(sorted(table.to_pylist(), key=str) for table in (store.read_episodes(), store.read_metrics()))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], ...]:
    store = Store(tmp_path_factory.mktemp("undisturbed") / "results")
    train(runs(), store, OPTIONS)
    return rows(store)


def start(command: list[str], output: Path) -> subprocess.Popen:
    with output.open("w") as file:
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)


def assert_undisturbed(store: Store, expected: tuple[list[dict[str, Any]], ...]) -> None:
    assert [doc["status"] for doc in store.runs()] == ["done"] * len(runs())
    episodes, metrics = rows(store)
    assert (episodes, [(row["run_id"], row["step"], row["metric"]) for row in metrics]) == (
        expected[0],
        [(row["run_id"], row["step"], row["metric"]) for row in expected[1]],
    )
    assert store.problems == []


@pytest.mark.parametrize("repetition", range(REPETITIONS))
def test_two_drivers_of_one_second(repetition: int, undisturbed: Any, tmp_path: Path) -> None:
    """Every other time one of them is killed at a random moment; it is started again."""
    results, draw = tmp_path / "results", random.Random(f"{SEED} {repetition}")
    command = [sys.executable, __file__, str(results)]
    drivers = {name: start(command, tmp_path / name) for name in ("first", "second")}
    if repetition % 2:
        victim = draw.choice(list(drivers))
        due = draw.uniform(0, 1200)
        while all(driver.poll() is None for driver in drivers.values()) and done_steps(results) < due:
            time.sleep(0.05)
        drivers[victim].kill()
        drivers[victim].wait()
        drivers["again"] = start(command, tmp_path / "again")
        del drivers[victim]
    try:
        codes = {name: driver.wait(PATIENCE) for name, driver in drivers.items()}
    finally:
        for driver in drivers.values():
            driver.kill()
    said = {name: (tmp_path / name).read_text() for name in codes}
    assert set(codes.values()) == {0}, said
    if not repetition % 2:
        assert any("trained by process" in text and "Waiting for them" in text for text in said.values()), said
    store = Store(results, create=False)
    assert_undisturbed(store, undisturbed)
    assert all(claim.gone() for claim in claims(store)), "only a killed process leaves its claim"


def done_steps(results: Path) -> int:
    """Updates of all runs together, as the store has them."""
    if not (results / "schema.json").exists():
        return -1
    return sum(doc["step"] for doc in Store(results, create=False, warn=False).runs())


def command(results: Path, *more: str) -> list[str]:
    settings = [f"{name}={list(value) if isinstance(value, tuple) else value}" for name, value in
                small_hyperparameters("flow_bc").items() if name != "horizon"]  # fmt: skip
    return [
        *(sys.executable, "-m", "lps", "train", "--agent", "flow_bc", "--task", RING.name, "--seeds", "0", "1"),
        *("--steps", "600", "--eval-interval", "200", "--eval-episodes", "20", "--log-interval", "50"),
        *("--checkpoint-seconds", "0.2", "--results", str(results), "--set", *settings, *more),
    ]


def test_two_trainings_of_the_same_runs(undisturbed: Any, tmp_path: Path) -> None:
    results = tmp_path / "results"
    both = [start(command(results), tmp_path / name) for name in ("first", "second")]
    assert [process.wait(PATIENCE) for process in both] == [0, 0]
    assert_undisturbed(Store(results, create=False), undisturbed)


def test_a_training_beside_a_holder_stops_or_skips(tmp_path: Path) -> None:
    results = tmp_path / "results"
    store, busy = Store(results), runs()
    with Lease(store) as lease:
        lease.take([run.id for run in busy])
        stopped = start(command(results, "--if-busy", "stop"), tmp_path / "stop")
        skipped = start(command(results, "--if-busy", "skip"), tmp_path / "skip")
        assert (stopped.wait(PATIENCE), skipped.wait(PATIENCE)) == (2, 0)
    last = (tmp_path / "stop").read_text().splitlines()[-1]
    assert last.startswith("error: flow_bc ring bandit seed 0") and f"trained by process {os.getpid()} on " in last
    assert "skipped, because another process trains them: seed 0, seed 1" in (tmp_path / "skip").read_text()
    assert store.runs() == []


if __name__ == "__main__":
    sys.exit(launch(list(map(Planned, runs())), Plan(sys.argv[1], "two", OPTIONS), address="local", mlflow=False))
