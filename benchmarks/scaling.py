"""What Ray costs: a sweep's wall clock against the time inside lps.training.trainer, over pack sizes and workers.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --members 1 8 40 --workers 1 2 4 --seeds 8 --tasks 5 --steps 20000 --size paper

One group (cube-single), one agent, tasks x seeds runs. Each row is a whole sweep in a process of its own that starts
and ends its own Ray. `train_s` is the time inside lps.training.trainer, summed over packs, as their run documents have
it; `ideal_s` is that work divided evenly over the workers; `overhead_s` is what the sweep took beyond it: starting Ray,
starting a worker for every pack, waiting for the last one. `evaluation` is the share of `train_s` in which evaluation
kept learners from their updates: snapshots, storing what came back, and waiting for that of the last step.

By default everything is tiny, so that Ray's part is nearly all of it: read the seconds for each pack, not the share. On
a machine that does other work too, all times are upper bounds. Writes a CSV and a plot.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import save, table  # noqa: E402

from lps import data  # noqa: E402
from lps.agents import AGENTS  # noqa: E402
from lps.errors import UserError, check_known, command_line  # noqa: E402
from lps.runs.intent import Planned  # noqa: E402
from lps.runs.run import Run  # noqa: E402
from lps.runs.store import Store  # noqa: E402
from lps.tasks.suites import groups  # noqa: E402
from lps.training.options import TrainOptions  # noqa: E402
from lps.training.program import chosen_device  # noqa: E402
from sweeps.launcher.launch import launch  # noqa: E402
from sweeps.launcher.plan import Plan  # noqa: E402
from sweeps.launcher.resources import Limits, plan_packs  # noqa: E402

GROUPS = groups("ogbench")


GROUP = "cube-single"
DATASET = "scaling"
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {"base_hidden": [64, 64], "critic_hidden": [64, 64], "latent_actor_hidden": [64, 64], "batch_size": 64},
    "paper": {},
}


def runs_of(arguments: argparse.Namespace) -> list[Run]:
    known = set(vars(AGENTS[arguments.agent].Config()))
    settings = {name: value for name, value in SIZES[arguments.size].items() if name in known}
    return [
        Run.create(
            arguments.agent,
            task.name,
            seed,
            steps=arguments.steps,
            eval_interval=arguments.eval_interval or arguments.steps,
            eval_episodes=arguments.eval_episodes,
            dataset=arguments.dataset or DATASET,
            **settings,
        )
        for task in GROUPS[GROUP][: arguments.tasks]
        for seed in range(arguments.seeds)
    ]


def measure(arguments: argparse.Namespace, members: int, workers: int, data_dir: str) -> dict[str, Any]:
    """One row: the sweep, run in a process of its own."""
    with tempfile.TemporaryDirectory() as results:
        start = time.perf_counter()
        words = ["--one", results, data_dir, str(members), str(workers)]
        done = subprocess.run([sys.executable, *sys.argv, *words], capture_output=True, text=True)
        sweep_s = time.perf_counter() - start
        if done.returncode:
            raise UserError(f"the sweep did not finish:\n{done.stdout}{done.stderr}")
        docs = Store(results, create=False).runs()
        inside, packs_of = json.loads(done.stdout.splitlines()[-1])
    # The runs of a pack have the same wall time, that of their program.
    train_s = sum(doc["wall_time_s"] for doc in docs if doc["id"] in packs_of)
    packs = len(packs_of)
    ideal = train_s / min(workers, packs)
    return {
        "members": members,
        "workers": workers,
        "packs": packs,
        "runs": len(docs),
        "sweep_s": sweep_s,
        "train_s": train_s,
        "ideal_s": ideal,
        "overhead_s": sweep_s - ideal,
        "overhead_s_per_pack": (sweep_s - ideal) * min(workers, packs) / packs,
        "launch_s": inside,
        "evaluation": sum(doc["evaluation_s"] for doc in docs if doc["id"] in packs_of) / train_s,
    }


def one(arguments: argparse.Namespace) -> int:
    """The sweep of one row; prints the seconds in `launch`, without starting Python and importing, and the first run
    of each pack."""
    results, data_dir, members, workers = arguments.one
    limits = Limits(device=arguments.device, at_once=int(workers), max_members=int(members))
    nodes = [{"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}]
    packs, _ = plan_packs(
        runs_of(arguments), nodes, limits
    )  # as launch will do: smaller ones, where workers would idle
    start = time.perf_counter()
    code = launch(
        list(map(Planned, runs_of(arguments))),
        Plan(results, "scaling", TrainOptions(data_dir=data_dir, log_interval=max(1, arguments.steps // 10))),
        limits=limits,
        address="local",
        mlflow=False,
    )
    print(json.dumps([time.perf_counter() - start, [pack[0].id for pack in packs]]))
    return code


@command_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agent", default="lps", help=", ".join(AGENTS))
    parser.add_argument("--members", nargs="+", type=int, default=[1, 4], metavar="M", help="runs in a pack")
    parser.add_argument("--workers", nargs="+", type=int, default=[1, 2], metavar="N", help="packs at once")
    parser.add_argument("--tasks", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--eval-interval", type=int, metavar="N", help="updates (default: at the end only)")
    parser.add_argument("--eval-episodes", type=int, default=1, metavar="N", help="of an evaluation (default: 1)")
    parser.add_argument("--size", choices=list(SIZES), default="tiny", help="of the networks")
    parser.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    parser.add_argument("--dataset", help="in the data folder (default: 3 episodes, collected first)")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"), help="folder for the CSV and the plot")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    check_known([arguments.agent], AGENTS, "agent")
    arguments.device = chosen_device(arguments.device)
    if arguments.one:
        return one(arguments)
    rows: list[dict[str, Any]] = []
    with contextlib.ExitStack() as stack:
        data_dir = str(data.data_dir()) if arguments.dataset else stack.enter_context(tempfile.TemporaryDirectory())
        if not arguments.dataset:
            data.collect(f"{GROUP}-play", episodes=3, workers=2, seed=0, name=DATASET, data_dir=data_dir)
        for workers in arguments.workers:
            for members in arguments.members:
                rows.append(measure(arguments, members, workers, data_dir))
                print(table(rows[-1:], header=len(rows) == 1), flush=True)
    for path in save(rows, Path(arguments.out), "scaling", arguments.device, _draw):
        print(f"written: {path}")
    return 0


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    names = [f"{row['packs']} x {-(-row['runs'] // row['packs'])} runs,\n{row['workers']} at once" for row in rows]
    ideal = [row["ideal_s"] for row in rows]
    axes.bar(names, ideal, color="#1F4FA3", label="inside lps.training.trainer")
    axes.bar(names, [row["overhead_s"] for row in rows], bottom=ideal, color="#CCCCCC", label="Ray and waiting")
    axes.set(ylabel=f"seconds for {rows[0]['runs']} runs")
    axes.tick_params(axis="x", labelsize=6)
    axes.legend(fontsize=6)


if __name__ == "__main__":
    sys.exit(main())
