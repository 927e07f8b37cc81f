"""The ring bandit: how the weight between imitation and value changes a policy, as a picture, in two minutes.

    python sweeps/ring.py
    python sweeps/ring.py --agents qcfql qcmfql lps flow_bc --alphas 30 3 --seeds 0 1 2
    python sweeps/ring.py --dry-run

Trains every agent at every alpha, samples actions from the policies, and draws them. The same command again resumes.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from lps.agents import AGENTS
from lps.errors import command_line
from lps.policy.file import policy_of
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.hyperparameters import hyperparameters
from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.ring import RING
from sweeps.launcher import cli
from sweeps.study.scope import RING_SCOPE

AGENT_NAMES = ["qcfql", "lps"]
ALPHAS = [100.0, 10.0, 1.0, 0.1]
SAMPLES = 4000
"""Number of actions from each policy."""


def build(agents: Sequence[str], alphas: Sequence[float], seeds: Sequence[int], steps: int) -> list[Planned]:
    """Plan the runs: agents x alphas x seeds; an agent without alpha has one run per seed."""
    scope = replace(RING_SCOPE, seeds=seeds, steps=steps, eval_interval=max(1, steps // 4))
    runs = []
    for agent in agents:
        if "alpha" not in hyperparameters(agent):
            runs += scope.runs(agent)
            continue
        for alpha in alphas:
            runs += scope.runs(agent, {"axis": "alpha", "value": alpha}, alpha=alpha)
    return runs


def sample(store: Store, runs: Sequence[Run]) -> None:
    """Store actions of the finished runs that have none yet."""
    sampled = set(store.read_actions()["run_id"].to_pylist())
    for run in runs:
        if run.id not in sampled and store.finished(run.id):
            path = checkpoint_path(run)
            policy = policy_of(Checkpoint.from_bytes(store.read_bytes(path), path))
            chunks = policy.sample(np.ones(1), SAMPLES, seed=run.seed)
            store.write_actions(run.id, policy.step, chunks[:, 0].tolist())


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="ring.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--agents", nargs="+", metavar="AGENT", default=AGENT_NAMES, help=f"agents: {', '.join(AGENTS)}")
    what.add_argument("--alphas", nargs="+", type=float, metavar="X", default=ALPHAS, help="values of alpha")
    what.add_argument("--seeds", nargs="+", type=int, metavar="N", default=[0], help="seeds of the runs")
    what.add_argument("--steps", type=int, metavar="N", default=RING_SCOPE.steps, help="number of updates")
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    runs = build(arguments.agents, arguments.alphas, arguments.seeds, arguments.steps)
    code = cli.launch_or_describe(runs, arguments, RING.group)
    if arguments.dry_run:
        return code
    results = cli.results_of(arguments, RING.group)
    sample(Store(results, create=False), [one.run for one in runs])
    return code or subprocess.run([sys.executable, "-m", "analysis", "compare", results]).returncode


if __name__ == "__main__":
    sys.exit(main())
