"""Quantile LPS beside LPS and its rivals at their best: success on equal updates and on equal FLOPs.

    python sweeps/rivals.py --preset small
    python sweeps/rivals.py --agents quantile_lps lps:pessimistic --groups scene --results s3://bucket/rivals
    python sweeps/rivals.py --dry-run

The variant "pessimistic" has ten critics as in QAM's release (arXiv 2601.14234), and "qam_critics" also has their
widths. dsrl_sac is the DSRL of that release. All agents train for the same number of updates. The results store the
FLOPs of an update of each run, and the report has a figure of success against FLOPs. The preset quick uses the ring
bandit and says nothing about robots. The same command again resumes.

The constants of Quantile LPS were chosen on task 2 of cube-single, and the preset small compares on task 1. One of
them, act_quantile, was changed after task 1 had been seen; `--tasks 3 4 5` compares on tasks that no choice has seen.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console
from rich.table import Table

from lps.errors import command_line
from lps.runs.store import Store
from lps.training.flops import update_gflop
from sweeps.launcher import cli
from sweeps.ogbench_all import build
from sweeps.study import flops
from sweeps.study import scope as scopes
from sweeps.study.scope import PAPER_SCOPE, RING_SCOPE, Scope

_ALL = [
    *("quantile_lps", "meanflow_best_of_n", "best_of_n", "lps", "lps:pessimistic", "lps:qam_critics"),
    *("dsrl", "dsrl_sac", "qcfql", "qcfql:qam_critics", "qcmfql"),
]
AGENTS_OF = {
    "quick": _ALL,
    "small": ["best_of_n:of_4" if agent == "best_of_n" else agent for agent in _ALL],  # N = 32 takes most of the time
    "paper": _ALL,
}
PRESETS = {
    "quick": RING_SCOPE,
    # One task with a quarter of the data: the smallest comparison that separates the agents. First:
    #   python -m lps collect cube-single-play --episodes 250 --seed 0 --name cube-single-play-250
    "small": Scope(
        groups=["cube-single"],
        tasks=[1],
        seeds=[0, 1, 2, 3, 4],
        steps=10_000,
        eval_interval=2500,
        dataset="cube-single-play-250",
    ),
    "paper": replace(PAPER_SCOPE, seeds=list(range(8))),
}


def show(agents: Sequence[str], scope: Scope) -> None:
    """Print the FLOPs of each agent on the first task; the FLOPs on other groups are nearly the same."""
    table = Table("agent", "GFLOP an update", "TFLOP a run", box=None, pad_edge=False)
    for agent in agents:
        run = scope.runs(agent)[0].run
        gflop = update_gflop(run)
        table.add_row(agent, f"{gflop:.2f}", f"{gflop * run.steps / 1e3:.1f}")
    Console(highlight=False).print(table)


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="rivals.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scopes.add_arguments(parser, PRESETS)
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    scope = scopes.scope_from_arguments(arguments, PRESETS)
    agents = scopes.agents_from_arguments(arguments, AGENTS_OF[arguments.preset])
    runs, sweep = build(agents, scope), f"rivals-{arguments.preset}"
    show(agents, scope)
    code = cli.launch_or_describe(runs, arguments, sweep)
    if not arguments.dry_run:
        flops.keep(Store(cli.results_of(arguments, sweep), create=False))
    return code


if __name__ == "__main__":
    sys.exit(main())
