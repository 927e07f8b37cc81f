"""The part of a sweep's command line that is the same for all sweeps: where, on what, and how it is shown."""

import argparse
import os
from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.table import Table

from lps.errors import UserError, at_least
from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import NoResults, Store
from lps.tasks.suites import get_task
from lps.training.options import PRECISIONS, TrainOptions, check_precision
from sweeps.launcher import connection as cluster
from sweeps.launcher.launch import check_name, launch, unfinished
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import Limits, Nodes, Share, split
from sweeps.watch import estimate


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--results", help="folder or s3://bucket/folder (default: results/SWEEP)")
    parser.add_argument("--sweep", help="name of these runs together, in MLflow and in the results")
    parser.add_argument("--data-dir", help="where datasets are (default: $LPS_DATA_DIR or ~/.ogbench/data)")
    parser.add_argument("--dry-run", action="store_true", help="say what would run and how long it may take, and stop")
    parser.add_argument(
        "--price",
        type=at_least(0.0),
        metavar="PER_HOUR",
        help="with --dry-run: of one device, to say what the updates may cost",
    )
    parser.add_argument("--verbose", action="store_true", help="show what Ray and its workers print")
    parser.add_argument(
        "--checkpoint-seconds",
        type=at_least(0.0),
        default=120.0,
        metavar="S",
        help="what a lost worker costs (default: 120)",
    )
    parser.add_argument("--no-mlflow", action="store_true", help="do not mirror to MLflow")
    parser.add_argument(
        "--precision", default="float32", help=f"of training: {', '.join(PRECISIONS)} (default: float32, the reference)"
    )
    parser.add_argument(
        "--compile", action="store_true", help="let torch compile the updates: minutes for each pack first, then faster"
    )
    place = parser.add_argument_group("the cluster")
    place.add_argument("--address", help="of a Ray cluster; 'local' for this machine (default: one that is up here)")
    place.add_argument("--device", default="auto", help="auto, cpu or cuda (default: cuda if the cluster has any)")
    place.add_argument("--cpus-per-pack", type=float, default=1.0, metavar="N")
    place.add_argument("--gpus-per-pack", type=float, default=1.0, metavar="N", help="0.25: four packs on a GPU")
    place.add_argument("--packs-at-once", type=int, metavar="N", help="(default: as many as fit)")
    place.add_argument("--max-members", type=int, metavar="N", help="most runs in a pack (default: by device)")


def results_of(arguments: argparse.Namespace, sweep: str) -> str:
    """The results folder of --results; results/SWEEP by default. `sweep`: the default of --sweep."""
    return arguments.results or f"results/{arguments.sweep or sweep}"


def go(planned: Sequence[Planned], arguments: argparse.Namespace, sweep: str, results: str | None = None) -> int:
    """Launches the runs with the options of the command line, or prints a description (--dry-run); the exit code.

    sweep: the default of --sweep. results: another results folder than that of --results.
    """
    limits = checked(arguments)
    runs = [one.run for one in planned]
    if not runs:
        raise UserError("there is nothing to run: the filters leave no run")
    results = results or results_of(arguments, sweep)
    if arguments.dry_run:
        describe(runs, _planned_nodes(arguments.address, arguments.device), limits, arguments.price)
        if len({run.id for run in runs}) == len(runs):  # else they stand for others, as a tuning's trials do
            print(_standing(runs, results))
        return 0
    return launch(
        planned,
        Plan(
            results,
            arguments.sweep or sweep,
            TrainOptions(
                precision=arguments.precision,
                compile=arguments.compile,
                data_dir=arguments.data_dir,
                checkpoint_seconds=arguments.checkpoint_seconds,
                log_interval=min(1000, max(1, min(run.steps for run in runs) // 40)),
            ),
        ),
        limits=limits,
        address=arguments.address,
        mlflow=not arguments.no_mlflow,
        verbose=arguments.verbose,
    )


def checked(arguments: argparse.Namespace) -> Limits:
    """The part of the cluster for a pack. UserError for options that no sweep can have; nothing is written before."""
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
        raise UserError("--price goes with --dry-run: a sweep does not count money")
    return limits


def describe(runs: Sequence[Run], nodes: Nodes, limits: Limits, price: float | None = None) -> None:
    """Prints the runs and packs by agent and group, and an estimate of the time they take; with a price per device
    hour, also of the money."""
    packs, share = split(runs, nodes, limits)
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
        print(
            f"How long that takes on {share.device} is not known: no rate was measured for some of these agents there."
        )
    else:
        print(
            f"About {_hours(total)} device hours ({share.device}), {_hours(total / share.at_once)} hours from start to "
            f"end. An estimate, from rates measured on {estimate.MEASURED_ON[share.device]}."
        )
    if price is not None:
        print(_bill(total, share, price))


def _standing(runs: Sequence[Run], results: str) -> str:
    """How many of the runs need no training any more. UserError where the results cannot take them."""
    try:
        store = Store(results, create=False)
    except NoResults:
        return f"{results} is not there yet: all of them are to be trained"
    left = len(unfinished(store, runs))
    return f"{len(runs) - left} of them are finished in {results}: {left} are to be trained"


def _bill(hours: float | None, share: Share, price: float) -> str:
    """What packs that train for so many hours in all cost."""
    device = "GPU" if share.gpus else "CPU core"
    if hours is None:
        return f"What it costs at {price:g} an hour of a {device} is not known either."
    devices = share.gpus or share.cpus_of_pack
    return (
        f"At {price:g} an hour of a {device}: about {hours * devices * price:,.2f} for the {_hours(hours * devices)} "
        f"{device} hours that are used. Devices that idle and machines without one (the head) cost what they cost."
    )


def _row(pack: Sequence[Run]) -> tuple[str, str, int]:
    return pack[0].agent, get_task(pack[0].task).group, pack[0].steps


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
