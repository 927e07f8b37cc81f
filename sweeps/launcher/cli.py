"""The options that all studies share: results, cluster, training and console."""

import argparse
import os
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.table import Table

from lps.errors import UserError, at_least
from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import NoResults, Store
from lps.training.options import IF_BUSY, PRECISIONS, TrainOptions, check_precision
from sweeps.launcher import connection as cluster
from sweeps.launcher.feed import unfinished
from sweeps.launcher.launch import check_name, launch
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import Limits, Nodes, PackResources, plan_packs
from sweeps.watch import estimate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", help="folder or s3://bucket/folder (default: results/SWEEP)")
    parser.add_argument("--sweep", help="name of the sweep, in MLflow and in the results")
    parser.add_argument("--data-dir", help="directory of the datasets (default: $LPS_DATA_DIR or ~/.ogbench/data)")
    parser.add_argument("--dry-run", action="store_true", help="print the runs and the estimated time, and stop")
    parser.add_argument(
        "--price",
        type=at_least(0.0),
        metavar="PER_HOUR",
        help="price per device-hour, for the cost estimate of --dry-run",
    )
    parser.add_argument(
        "--if-busy",
        choices=IF_BUSY,
        default="wait",
        help="what to do about runs that another process trains in the same results folder: wait for them after all "
        "others, skip them, or stop at once (default: wait, so that the command always completes the sweep)",
    )
    parser.add_argument("--verbose", action="store_true", help="show the output of Ray and its workers")
    parser.add_argument(
        "--checkpoint-seconds",
        type=at_least(0.0),
        default=120.0,
        metavar="S",
        help="seconds between checkpoints (default: 120)",
    )
    parser.add_argument("--no-mlflow", action="store_true", help="do not mirror to MLflow")
    parser.add_argument(
        "--precision",
        default="float32",
        help=f"precision of training: {', '.join(PRECISIONS)} (default: float32, the reference)",
    )
    parser.add_argument(
        "--compile", action="store_true", help="compile the updates: slow start of each pack, then faster updates"
    )
    place = parser.add_argument_group("the cluster")
    place.add_argument(
        "--address",
        help="address of a Ray cluster, or 'local' (default: the cluster that runs on this machine, else local)",
    )
    place.add_argument("--device", default="auto", help="auto, cpu or cuda (default: cuda if the cluster has GPUs)")
    place.add_argument("--cpus-per-pack", type=float, default=1.0, metavar="N", help="CPUs of a pack (default: 1)")
    place.add_argument(
        "--gpus-per-pack",
        type=float,
        default=1.0,
        metavar="N",
        help="GPUs of a pack; 0.25 puts four packs on one GPU (default: 1)",
    )
    place.add_argument(
        "--packs-at-once",
        type=int,
        metavar="N",
        help="number of packs that train at the same time (default: as many as fit)",
    )
    place.add_argument(
        "--max-members", type=int, metavar="N", help="maximum number of runs in a pack (default: by device)"
    )


def results_of(arguments: argparse.Namespace, sweep: str) -> str:
    """Return the results folder of --results; results/SWEEP by default. `sweep`: the default of --sweep."""
    return arguments.results or f"results/{arguments.sweep or sweep}"


def launch_or_describe(
    planned: Sequence[Planned], arguments: argparse.Namespace, sweep: str, results: str | None = None
) -> int:
    """Launch the runs, or describe them (--dry-run). Return the exit code.

    sweep: the default of --sweep. results: a results folder that replaces --results.
    """
    limits = checked(arguments)
    runs = [one.run for one in planned]
    if not runs:
        raise UserError("no run matches the filters. Check --agents, --groups, --tasks and --seeds")
    results = results or results_of(arguments, sweep)
    if arguments.dry_run:
        describe(runs, _planned_nodes(arguments.address, arguments.device), limits, arguments.price)
        for line in estimate.of_images(runs, arguments.data_dir):
            print(line)
        if len({run.id for run in runs}) == len(runs):  # repeated runs stand for trials that tuning has not chosen yet
            print(_standing(runs, results))
        return 0
    plan = plan_from_arguments(arguments, sweep, results, min(run.steps for run in runs))
    return launch(planned, plan, **driver_options(arguments))


def plan_from_arguments(arguments: argparse.Namespace, sweep: str, results: str, steps: int) -> Plan:
    """Return the settings that all packs share. sweep: the default of --sweep; steps: updates of the shortest run."""
    return Plan(
        results,
        arguments.sweep or sweep,
        TrainOptions(
            precision=arguments.precision,
            compile=arguments.compile,
            data_dir=arguments.data_dir,
            checkpoint_seconds=arguments.checkpoint_seconds,
            log_interval=min(1000, max(1, steps // 40)),
        ),
    )


def driver_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `launch` and `drive`."""
    return {
        "limits": checked(arguments),
        "address": arguments.address,
        "mlflow": not arguments.no_mlflow,
        "verbose": arguments.verbose,
        "if_busy": arguments.if_busy,
    }


def checked(arguments: argparse.Namespace) -> Limits:
    """Return the resources of a pack. UserError for invalid options, before anything is written."""
    if arguments.sweep is not None:
        check_name(arguments.sweep)
    limits = Limits(
        device=arguments.device,
        cpus=arguments.cpus_per_pack,
        gpus=arguments.gpus_per_pack,
        at_once=arguments.packs_at_once,
        max_members=arguments.max_members,
    )
    check_precision(arguments.precision, arguments.device)
    if arguments.price is not None and not arguments.dry_run:
        raise UserError("--price requires --dry-run")
    return limits


def describe(runs: Sequence[Run], nodes: Nodes, limits: Limits, price: float | None = None) -> None:
    """Print the runs and packs by agent and group, the estimated time, and with `price` (per device-hour) the cost."""
    packs, share = plan_packs(runs, nodes, limits)
    table = Table("agent", "group", "tasks", "seeds", "steps", "runs", "packs", "hours", box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    total: float | None = 0.0
    order = list(dict.fromkeys(_row([run]) for run in runs))
    packs.sort(key=lambda pack: order.index(_row(pack)))
    for (agent, group, steps), row in groupby(packs, key=_row):
        of_row = list(row)
        members = [run for pack in of_row for run in pack]
        times = [estimate.hours(pack, share.device, share.evaluating_cores if share.gpus else 0) for pack in of_row]
        hours = None if None in times else sum(time for time in times if time is not None)
        total = None if hours is None or total is None else total + hours
        counts = (len({run.task for run in members}), len({run.seed for run in members}), steps)
        cells = [*map(str, counts), str(len(members)), str(len(of_row)), _hours(hours)]
        table.add_row(agent, group, *cells)
    console = Console(highlight=False)
    console.print(table)
    print(f"{len(runs)} runs in {len(packs)} packs, {share.at_once} at a time on {share.device}")
    if total is None:
        print(f"No time estimate for {share.device}: some of these agents have no measured rate.")
    else:
        print(
            f"Estimate: {_hours(total)} device hours ({share.device}), {_hours(total / share.at_once)} hours in "
            f"all, from rates measured on {estimate.MEASURED_ON[share.device]}."
        )
    if price is not None:
        print(_bill(total, share, price))


def _standing(runs: Sequence[Run], results: str) -> str:
    """Describe how many runs are finished. UserError if the results folder is not usable."""
    try:
        store = Store(results, create=False)
    except NoResults:
        return f"{results} does not exist yet: {len(runs)} runs to train"
    left = len(unfinished(store, runs))
    return f"{results}: {len(runs) - left} runs are finished, {left} to train"


def _bill(hours: float | None, share: PackResources, price: float) -> str:
    """Describe the cost of this many device hours; None: unknown."""
    device = "GPU" if share.gpus else "CPU core"
    if hours is None:
        return f"No cost estimate at {price:g} per {device}-hour, because the time is unknown."
    devices = share.gpus or share.cpus_of_pack
    return (
        f"Cost at {price:g} per {device}-hour: about {hours * devices * price:,.2f} for {_hours(hours * devices)} "
        f"{device}-hours. Idle devices and the head node are not included."
    )


def _row(pack: Sequence[Run]) -> tuple[str, str, int]:
    return pack[0].agent, pack[0].resolved_task.group, pack[0].steps


def _hours(hours: float | None) -> str:
    if hours is None:
        return "unknown"
    return f"{hours:.0f}" if hours >= 100 else f"{hours:.2g}"


def _planned_nodes(address: str | None, device: str) -> Nodes:
    """The machines that there are; for CUDA, where none has a GPU, one that a plan may count on."""
    nodes = _nodes(address)
    if device != "cuda" or any(node.get("GPU", 0) for node in nodes):
        return nodes
    print("There is no GPU here. The plan is for one machine with 16 CPUs and one GPU.")
    return [{"CPU": 16.0, "GPU": 1.0}]


def _nodes(address: str | None) -> Nodes:
    address = cluster.find(address)
    if address != "local":
        with cluster.connected(address) as address:
            return cluster.nodes()
    import torch

    return [{"CPU": float(os.cpu_count() or 1), "GPU": float(torch.cuda.device_count())}]
