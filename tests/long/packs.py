"""What packs at work cost: memory and processes, by kind and by machine, with logical CPUs; the table of docs/scale.md.

    python tests/long/packs.py --packs 24     on a Ray of two machines: a head without CPUs, and a worker machine
    python tests/long/packs.py --packs 24 --short     seconds, and seconds of a core, of a pack of one step

Each pack is one tiny run on the ring, and there is a CPU for each by Ray's count. Run with --driver, this file is the
sweep.
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where it is run as a script

from leftovers import MARK, environment, marked, title, wait_until
from ray.cluster_utils import Cluster
from small import small_hyperparameters

from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.tasks.ring import RING
from lps.training.options import TrainOptions
from sweeps.launcher import connection as cluster
from sweeps.launcher.launch import launch
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import Limits

import psutil  # isort: skip

PATIENCE = 1200.0
SETTLED = 30.0
"""Seconds after the last pack has begun to train."""


def sweep(results: str, address: str, packs: int, steps: int) -> int:
    settings: dict[str, Any] = {**small_hyperparameters("flow_bc"), "horizon": RING.horizon}
    runs = [
        Run.create("flow_bc", RING.name, seed, steps=steps, eval_interval=steps, eval_episodes=1, **settings)
        for seed in range(packs)
    ]
    plan = Plan(results, "packs", TrainOptions(log_interval=min(steps, 100), checkpoint_seconds=1e6))
    return launch(list(map(Planned, runs)), plan, address=address, limits=Limits(max_members=1), mlflow=False)


def machine_of(process: psutil.Process, raylets: dict[int, str]) -> str:
    """The machine whose raylet has started the process; 'head' for the services of Ray and the driver."""
    while process:
        if process.pid in raylets:
            return raylets[process.pid]
        process = process.parent()
    return "head"


def look(machines: Cluster) -> dict[tuple[str, str], list[float]]:
    """Memory (PSS, MB) of all processes of the sweep, by machine and kind."""
    raylets = {
        node.all_processes["raylet"][0].process.pid: name
        for node, name in zip(machines.list_all_nodes(), ("head", "worker"), strict=True)
    }
    found: dict[tuple[str, str], list[float]] = {}
    for process in marked("packs"):
        try:
            where, memory = machine_of(process, raylets), process.memory_full_info().pss / 1e6
        except psutil.Error:
            continue
        if process.pid != os.getpid():
            found.setdefault((where, title(process)), []).append(memory)
    return found


def processor_seconds() -> dict[int, float]:
    """The seconds of a core that each process of the sweep has used, by its id."""
    found = {}
    for process in marked("packs"):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        if process.pid != os.getpid():
            found[process.pid] = times.user + times.system
    return found


def table(found: dict[tuple[str, str], list[float]]) -> None:
    print(f"{'machine':8} {'process':28} count  MB each  MB together")
    for (where, kind), memory in sorted(found.items()):
        print(f"{where:8} {kind:28} {len(memory):5} {sum(memory) / len(memory):8.0f} {sum(memory):8.0f}")
    for where in ("head", "worker"):
        memory = [one for (place, _), all_ in found.items() if place == where for one in all_]
        print(f"{where:8} {'all':28} {len(memory):5} {'':8} {sum(memory):8.0f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packs", type=int, default=4)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--driver", nargs=2, metavar=("RESULTS", "ADDRESS"))
    arguments = parser.parse_args()
    if arguments.driver:
        sys.exit(sweep(*arguments.driver, arguments.packs, 1 if arguments.short else 10**8))
    cluster.apply_environment()
    os.environ[MARK] = "packs"
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    machines.add_node(num_cpus=arguments.packs)
    time.sleep(5)
    with tempfile.TemporaryDirectory() as folder:
        results, began = Path(folder) / "results", time.monotonic()
        command = [sys.executable, __file__, "--packs", str(arguments.packs), *["--short"] * arguments.short]
        print("before the sweep")
        table(look(machines))
        own = {**environment(), "RAY_AUTH_MODE": "disabled"}  # as Ray's Cluster has it
        driver = psutil.Popen([*command, "--driver", str(results), machines.address], env=own)
        try:
            if arguments.short:
                cores: dict[int, float] = {}
                while driver.poll() is None:
                    cores |= processor_seconds()
                    time.sleep(1)
                assert driver.wait() == 0
                seconds, each = time.monotonic() - began, arguments.packs
                print(f"{seconds:.0f} s, {seconds / each:.1f} s a pack, {sum(cores.values()) / each:.1f} s of a core")
            else:

                def at_work() -> bool:
                    assert driver.poll() is None
                    return len(list(results.glob("runs/*.json"))) == arguments.packs

                wait_until(at_work, PATIENCE, lambda: "the packs do not come to work")
                print(f"all at work after {time.monotonic() - began:.0f} s", flush=True)
                time.sleep(SETTLED)
                table(look(machines))
        finally:
            if driver.poll() is None:
                driver.kill()
            driver.wait()
            machines.shutdown()


if __name__ == "__main__":
    main()
