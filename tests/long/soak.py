"""A thousand runs in a hundred packs on one machine's Ray, and what they cost beside the training, which is one step.

    make test-long

The driver is watched from outside: its memory, files and processor time, the live actors, placement groups and
processes of its Ray, as CSV in build/long. Nothing of it may grow with the packs that are done. The agent is the
cheapest there is, of 16 units: a step and its evaluation take milliseconds, and a pack takes ten seconds and more.
LPS_LONG_PACKS says how many packs, of ten runs each. Run as a script, this file is the driver:
python tests/long/soak.py RESULTS ADDRESS PACKS.
"""

import csv
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where it is run as a script

import numpy as np
import pytest
import ray
from leftovers import MARK, OUT, environment, marked, title, wait_until
from small import small_hyperparameters
from test_sweeps import files, mlflow_content

from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.ring import RING
from sweeps.launcher import connection as cluster
from sweeps.launcher.launch import launch
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import Limits

import psutil  # isort: skip

PACKS = int(os.environ.get("LPS_LONG_PACKS", "100"))
MEMBERS = 10
EVERY = 5.0
"""Seconds between two samples."""
GROWTH = {"driver_mb": (10.0, 0.5), "driver_files": (5.0, 0.0), "driver_threads": (5.0, 0.0), "ray_files": (30.0, 0.5)}
"""What may be more in the last quarter of the sweep than in the first: so much, and so much more with every pack. The
driver keeps a trial of Tune's and ten children of MLflow's for each pack, so its memory does grow; Ray's own services
keep a file for every other pack or so."""


def runs(packs: int) -> list[Run]:
    settings: dict[str, Any] = {**small_hyperparameters("flow_bc"), "horizon": RING.horizon}
    return [
        Run.create("flow_bc", RING.name, seed, steps=1, eval_interval=1, eval_episodes=1, **settings)
        for seed in range(MEMBERS * packs)
    ]


def sweep(results: str, address: str, packs: int) -> int:
    return launch(
        list(map(Planned, runs(packs))),
        Plan(results, "soak"),
        address=address,
        limits=Limits(max_members=MEMBERS),
    )


class Watch:
    """Samples of a driver, of its Ray and of its results, as rows of numbers."""

    def __init__(self, driver: psutil.Process, results: Path, mark: str):
        self.driver, self.results, self.mark = driver, results, mark
        self.began = time.monotonic()
        self.rows: list[dict[str, float]] = []
        self.processes: dict[str, Counter] = {}
        """Title -> most at one time, most memory of one in MB, and most of all together; of memory that several
        processes share, each has its part."""
        self.seconds: dict[tuple[int, str], float] = {}
        """(pid, title) -> processor seconds."""

    def look(self) -> None:
        row: dict[str, float] = {"seconds": round(time.monotonic() - self.began, 1)}
        with self.driver.oneshot():
            times = self.driver.cpu_times()
            row |= {
                "runs_done": len(list((self.results / "episodes").glob("*"))),
                "driver_mb": round(self.driver.memory_info().rss / 1e6, 1),
                "driver_cpu_s": round(times.user + times.system, 2),
                "driver_files": self.driver.num_fds(),
                "driver_threads": self.driver.num_threads(),
            }
        self.rows.append(row | self._ray() | self._family())

    def _ray(self) -> dict[str, float]:
        actors = ray._private.state.actors().values()
        groups = ray.util.placement_group_table().values()
        free, total = ray.available_resources(), ray.cluster_resources()
        return {
            "actors_alive": sum(actor["State"] != "DEAD" for actor in actors),
            "actors_dead": sum(actor["State"] == "DEAD" for actor in actors),
            "groups_held": sum(group["state"] != "REMOVED" for group in groups),
            "object_store_mb": round((total["object_store_memory"] - free.get("object_store_memory", 0)) / 1e6, 2),
        }

    def _family(self) -> dict[str, float]:
        family: dict[str, list[float]] = {}
        files = 0.0
        for process in marked(self.mark):
            name = title(process)
            try:
                memory, times = process.memory_full_info().pss / 1e6, process.cpu_times()
                files += process.num_fds() if name in ("raylet", "gcs_server") else 0
            except psutil.Error:
                continue
            family.setdefault(name, []).append(memory)
            self.seconds[process.pid, name] = times.user + times.system  # those that are gone stay in the sum
        for name, memories in family.items():
            most = self.processes.setdefault(name, Counter())
            now = {"count": len(memories), "mb": round(max(memories)), "mb_together": round(sum(memories))}
            self.processes[name] = Counter({key: max(most[key], value) for key, value in now.items()})
        return {
            "processes": sum(map(len, family.values())),
            "all_cpu_s": round(sum(self.seconds.values()), 1),
            "all_mb": round(sum(map(sum, family.values())), 1),
            "gcs_mb": round(sum(family.get("gcs_server", [0.0])), 1),
            "raylet_mb": round(sum(family.get("raylet", [0.0])), 1),
            "ray_files": files,
        }

    def steady(self, first: int) -> dict[str, np.ndarray]:
        """The samples from when so many runs were done, and everything is loaded, until all were."""
        done = [row["runs_done"] for row in self.rows]
        rows = self.rows[np.searchsorted(done, first) : np.searchsorted(done, done[-1]) + 1]
        return {name: np.array([row[name] for row in rows], float) for name in rows[0]}


def slope(x: np.ndarray, y: np.ndarray) -> float:
    """What y grows by with x; nan where x has one value only."""
    return float(np.polyfit(x, y, 1)[0]) if len(set(x)) > 1 else float("nan")


def growth(y: np.ndarray) -> float:
    """The median of the last quarter less that of the first."""
    quarter = max(1, len(y) // 4)
    return float(np.median(y[-quarter:]) - np.median(y[:quarter]))


def size(path: Path) -> int:
    return path.stat().st_size


def write(name: str, rows: Sequence[Mapping[str, Any]]) -> Path:
    OUT.mkdir(parents=True, exist_ok=True)
    with (OUT / name).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return OUT / name


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Ray that outlives the driver: what the driver leaves there can be seen."""
    cluster.apply_environment()
    os.environ[MARK] = "soak"
    context = ray.init(address="local", include_dashboard=False, log_to_driver=False)
    yield context.address_info["gcs_address"]
    ray.shutdown()
    del os.environ[MARK]
    wait_until(lambda: not marked("soak"), 180.0, lambda: f"left: {[title(p) for p in marked('soak')]}")


def test_a_thousand_runs(address: str, tmp_path: Path) -> None:
    results, output = tmp_path / "results", tmp_path / "output"
    before = len(ray._private.state.actors())
    with output.open("w") as file:
        command = [sys.executable, __file__, str(results), address, str(PACKS)]
        driver = psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT, env=environment())
    watch = Watch(driver, results, "soak")
    while driver.poll() is None:
        try:
            watch.look()
        except psutil.Error:
            break
        write("soak.csv", watch.rows)
        time.sleep(EVERY)
    assert driver.wait() == 0, output.read_text()[-3000:]

    store = Store(results, create=False)
    docs = store.runs()
    assert {doc["status"] for doc in docs} == {"done"} and len(docs) == MEMBERS * PACKS
    assert store.read_episodes().num_rows == len(docs)
    content = mlflow_content(results)
    assert content.pop("parent") == ("soak", "FINISHED") and len(content) == len(docs)

    at_once = min(PACKS, os.cpu_count() or 1)
    steady = watch.steady(MEMBERS * at_once)
    done = steady["runs_done"] / MEMBERS
    grown = {name: growth(steady[name]) for name in GROWTH}
    most = {name: max(row[name] for row in watch.rows) for name in ("actors_alive", "groups_held", "object_store_mb")}
    cpu = Counter[str]()
    for (_, name), seconds in watch.seconds.items():
        cpu[name] += seconds
    figures = {
        "packs": PACKS,
        "runs": len(docs),
        "packs_at_once": at_once,
        "seconds": watch.rows[-1]["seconds"],
        "seconds_until_first_wave_is_done": steady["seconds"][0],
        "seconds_per_pack_and_place": at_once * slope(done, steady["seconds"]),
        "seconds_of_it_in_train": float(np.mean([doc["wall_time_s"] for doc in docs])),
        "driver_cpu_s_per_pack": slope(done, steady["driver_cpu_s"]),
        "all_cpu_s_per_pack": slope(done, steady["all_cpu_s"]),
        "driver_mb_first": steady["driver_mb"][0],
        "driver_mb_last": steady["driver_mb"][-1],
        **{f"{name}_per_pack": slope(done, steady[name]) for name in (*GROWTH, "gcs_mb", "raylet_mb")},
        "actors_per_pack": (len(ray._private.state.actors()) - before) / PACKS,
        **{f"{name}_most": value for name, value in most.items()},
        "results_kb_per_run": sum(map(size, files(results))) / len(docs) / 1e3,
        "mlflow_kb_per_run": size(results / "mlflow.db") / len(docs) / 1e3,
    }
    figures = {name: round(float(value), 3) for name, value in figures.items()}
    kinds = [{"process": n, "cpu_s": round(cpu[n], 1), **watch.processes[n]} for n in sorted(watch.processes)]
    tables = [write("soak-figures.csv", [{"figure": k, "value": v} for k, v in figures.items()])]
    tables.append(write("soak-processes.csv", kinds))
    print("", *(f"{key:34} {value:g}" for key, value in figures.items()), *map(str, tables), sep="\n", flush=True)

    for name, (much, more) in GROWTH.items():
        assert grown[name] <= much + more * PACKS, f"{name} has grown by {grown[name]:g}"
    # For a pack: trial, worker, and Train's barrier, which dies at birth; twice, where one goes and the next comes.
    assert most["actors_alive"] <= 6 * at_once + 2
    assert most["groups_held"] <= 2 * at_once

    def left() -> tuple[list[str], list[str]]:
        actors, groups = ray._private.state.actors().values(), ray.util.placement_group_table().values()
        return (
            [actor["ActorClassName"] for actor in actors if actor["State"] != "DEAD"],
            [group["state"] for group in groups if group["state"] != "REMOVED"],
        )

    wait_until(lambda: left() == ([], []), 60.0, lambda: f"left in Ray: {left()}")
    total = ray.cluster_resources()["CPU"]
    wait_until(lambda: ray.available_resources().get("CPU") == total, 60.0, lambda: f"{ray.available_resources()}")


if __name__ == "__main__":
    sys.exit(sweep(sys.argv[1], sys.argv[2], int(sys.argv[3])))
