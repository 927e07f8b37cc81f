"""The raylet, Ray's own process on every machine, is killed: that of a worker machine, and that of the head.

    make test-long

Ray takes a machine without its raylet for lost. A worker machine's packs go on elsewhere from their checkpoints; where
the driver has started Ray itself, it starts it over. Rows are those of an undisturbed sweep either way.
Run as a script, this file is the sweep: python tests/long/raylet.py RESULTS ADDRESS.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where it is run as a script

import kills
import pytest
from kills import finish, rows
from leftovers import MARK, environment, marked, title, wait_until
from ray.cluster_utils import Cluster
from test_sweeps import checkpoint_step

from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training.options import TrainOptions
from lps.training.trainer import train
from sweeps.launcher import connection as cluster
from sweeps.launcher.launch import launch
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import Limits

STEPS = 6000
CPUS = 2
"""Of a worker machine, and of a pack: there is one machine at a time."""


def runs() -> list[Run]:
    return [replace(run, steps=STEPS, eval_interval=STEPS // 2, eval_episodes=2) for run in kills.runs()]


def sweep(results: str, address: str) -> int:
    limits = Limits(cpus=CPUS, max_members=4)
    plan = Plan(results, "raylet", TrainOptions(checkpoint_seconds=0.5, log_interval=100))
    return launch(list(map(Planned, runs())), plan, address=address, limits=limits, mlflow=False)


def start(results: Path, address: str) -> subprocess.Popen:
    with results.with_suffix(".output").open("a") as file:
        command = [sys.executable, __file__, str(results), address]
        # Ray's Cluster has no token, whether or not this machine has one.
        own = environment() if address == "local" else {**environment(), "RAY_AUTH_MODE": "disabled"}
        return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=own)


def wait_for_checkpoints(results: Path, driver: subprocess.Popen) -> dict[str, int]:
    """Waits until a pack is under way; the steps of its runs."""

    def steps() -> dict[str, int]:
        return {
            run.id: checkpoint_step(results, run) for run in runs() if (results / f"checkpoints/{run.id}.pt").exists()
        }

    wait_until(lambda: driver.poll() is not None or steps(), kills.PATIENCE, lambda: "no checkpoint")
    assert driver.poll() is None, results.with_suffix(".output").read_text()
    return steps()


@pytest.fixture(autouse=True)
def mark(request: pytest.FixtureRequest) -> Iterator[str]:
    os.environ[MARK] = request.node.name
    yield request.node.name
    del os.environ[MARK]
    left = lambda: [p for p in marked(request.node.name) if p.pid != os.getpid()]  # noqa: E731
    wait_until(lambda: not left(), kills.AGENTS_LINGER, lambda: f"left: {[title(p) for p in left()]}")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    results = tmp_path_factory.mktemp("undisturbed") / "results"
    train(runs(), Store(results), TrainOptions("cpu"))
    return rows(results)


def test_a_worker_machine_is_lost(undisturbed: list, tmp_path: Path) -> None:
    cluster.apply_environment()
    results = tmp_path / "results"
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        lost = machines.add_node(num_cpus=CPUS)
        driver = start(results, machines.address)
        steps = wait_for_checkpoints(results, driver)
        lost.kill_raylet(check_alive=False)
        machines.add_node(num_cpus=CPUS)
        finish(driver, results)
    finally:
        machines.shutdown()
    assert 0 < max(steps.values()) < STEPS
    assert "4 of 4 runs are done" in results.with_suffix(".output").read_text()
    assert rows(results) == undisturbed


def test_the_head_is_lost(undisturbed: list, tmp_path: Path, mark: str) -> None:
    results = tmp_path / "results"
    driver = start(results, "local")
    steps = wait_for_checkpoints(results, driver)
    for process in marked(mark):
        if title(process) == "raylet":
            process.kill()
    finish(driver, results)
    output = results.with_suffix(".output").read_text()
    assert "restarting it with the unfinished runs" in output and "4 of 4 runs are done" in output
    assert 0 < max(steps.values()) < STEPS
    assert rows(results) == undisturbed


if __name__ == "__main__":
    sys.exit(sweep(sys.argv[1], sys.argv[2]))
