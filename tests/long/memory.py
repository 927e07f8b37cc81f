"""A worker that takes more memory than there is: Ray kills it, and the sweep goes on with smaller packs.

    make test-long

Nothing is pretended: batch and networks are such that four members do not fit under Ray's limit and two do, and one run
is so large that it does not fit alone. The limit is what the machine uses now and a few GB more, so the machine itself
is never short of memory. Needs 16 GB free. Run as a script, this file is the sweep:
python tests/long/memory.py RESULTS ADDRESS.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where it is run as a script

import pytest
import ray
from leftovers import MARK, environment, marked, title, wait_until
from small import small_hyperparameters

from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.ring import RING
from sweeps.launcher import connection as cluster
from sweeps.launcher.launch import launch
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import Limits

import psutil  # isort: skip

GB = 1e9
BATCH, WIDTH = 2**20, 16
"""Of a member: rows cost memory and little time."""
PER_LAYER = 0.145
"""GB that a member takes for a hidden layer, measured: what the backward pass needs of the forward one."""
RAY = 2.0
"""GB that Ray and the processes of two packs take, without what they train."""
LIMIT = 5.5
"""GB for what is trained."""


def runs() -> list[Run]:
    """Four that fit two by two, and one that does not fit at all."""
    few, many = round(0.35 * LIMIT / PER_LAYER), round(1.5 * LIMIT / PER_LAYER)
    settings = {**small_hyperparameters("flow_bc"), "horizon": RING.horizon, "batch_size": BATCH}
    protocol: dict[str, Any] = {"steps": 2, "eval_interval": 2, "eval_episodes": 1}

    def run(seed: int, layers: int) -> Run:
        return Run.create("flow_bc", RING.name, seed, **protocol, **{**settings, "base_hidden": [WIDTH] * layers})

    return [*(run(seed, few) for seed in range(4)), run(4, many)]


def sweep(results: str, address: str) -> int:
    limits = Limits(max_members=4, at_once=1)
    return launch(
        list(map(Planned, runs())),
        Plan(results, "memory", max_failures=1),
        address=address,
        limits=limits,
        mlflow=False,
    )


@pytest.fixture
def address() -> Iterator[str]:
    memory = psutil.virtual_memory()
    if memory.available < 16 * GB:
        pytest.skip(f"needs 16 GB of free memory: there are {memory.available / GB:.0f}")
    cluster.apply_environment()
    os.environ[MARK] = "memory"
    limit = (memory.total - memory.available) + (RAY + LIMIT) * GB
    os.environ["RAY_memory_usage_threshold"] = f"{limit / memory.total:.3f}"
    context = ray.init(address="local", include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()
    del os.environ[MARK], os.environ["RAY_memory_usage_threshold"]
    wait_until(lambda: not marked("memory"), 180.0, lambda: f"left: {[title(p) for p in marked('memory')]}")


def test_a_worker_that_takes_more_memory_than_there_is(address: str, tmp_path: Path) -> None:
    results = tmp_path / "results"
    command = [sys.executable, __file__, str(results), address]
    assert subprocess.run(command, env=environment()).returncode == 1

    store = Store(results, create=False)
    docs = {doc["id"]: doc for doc in store.runs()}
    *small, large = (docs[run.id] for run in runs())
    assert [doc["status"] for doc in small] == ["done"] * 4
    assert large["status"] == "failed" and "ran out of memory" in large["error"].splitlines()[-1], large["error"]
    assert store.read_episodes().num_rows == 4


if __name__ == "__main__":
    sys.exit(sweep(sys.argv[1], sys.argv[2]))
