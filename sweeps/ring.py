"""The ring bandit: what a weight between imitation and value does to a policy, as a picture, in two minutes.

    python sweeps/ring.py
    python sweeps/ring.py --agents qcfql qcmfql lps flow_bc --alphas 30 3 --seeds 0 1 2
    python sweeps/ring.py --dry-run

Trains every agent at every alpha, samples actions from the policies, and has analysis draw them. Run again, the same
command goes on with what is left.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from lps.agents import AGENTS
from lps.errors import guarded
from lps.policy.file import policy_of
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.hyperparameters import hyperparameters
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.ring import RING
from sweeps.launcher import cli
from sweeps.study.scope import RING_SCALE

AGENT_NAMES = ["qcfql", "lps"]
ALPHAS = [100.0, 10.0, 1.0, 0.1]
SAMPLES = 4000
"""Actions from each policy."""
COMPARE = Path(__file__).resolve().parent.parent / "analysis" / "compare.py"


def build(agents: Sequence[str], alphas: Sequence[float], seeds: Sequence[int], steps: int) -> list[Run]:
    """The runs: agents x alphas x seeds; an agent without an alpha has one run a seed."""
    where = replace(RING_SCALE, seeds=seeds, steps=steps, eval_interval=max(1, steps // 4))
    runs = []
    for agent in agents:
        points: list[dict[str, Any]] = [{"alpha": alpha} for alpha in alphas]
        for point in points if "alpha" in hyperparameters(agent) else [{}]:
            runs += where.runs(agent, **point)
    return runs


def sample(store: Store, runs: Sequence[Run]) -> None:
    """Writes actions of those finished runs that have none yet into the store."""
    sampled = set(store.read_actions()["run_id"].to_pylist())
    for run in runs:
        if run.id not in sampled and store.finished(run.id):
            path = checkpoint_path(run)
            policy = policy_of(Checkpoint.from_bytes(store.read_bytes(path), path))
            chunks = policy.sample(np.ones(1), SAMPLES, seed=run.seed)
            store.write_actions(run.id, policy.step, chunks[:, 0].tolist())


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="ring.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    what = parser.add_argument_group("what to run")
    what.add_argument("--agents", nargs="+", metavar="AGENT", default=AGENT_NAMES, help=f"of {', '.join(AGENTS)}")
    what.add_argument("--alphas", nargs="+", type=float, metavar="X", default=ALPHAS)
    what.add_argument("--seeds", nargs="+", type=int, metavar="N", default=[0])
    what.add_argument("--steps", type=int, metavar="N", default=RING_SCALE.steps, help="updates")
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    arguments.sweep = arguments.sweep or RING.group
    arguments.results = arguments.results or f"results/{arguments.sweep}"

    runs = build(arguments.agents, arguments.alphas, arguments.seeds, arguments.steps)
    code = cli.go(runs, arguments)
    if arguments.dry_run:
        return code
    sample(Store(arguments.results, create=False), runs)
    return code or subprocess.run([sys.executable, str(COMPARE), arguments.results]).returncode


if __name__ == "__main__":
    sys.exit(main())
