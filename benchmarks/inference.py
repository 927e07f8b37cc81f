"""How long one decision takes: `policy.act` for one observation, for every agent.

    python benchmarks/inference.py
    python benchmarks/inference.py --device cuda

Networks are the paper's. One decision is a chunk of 5 actions. Median and 99th percentile over the calls, beside a bare
matrix product chain of the same base network in the same run. The observation comes from numpy and the actions go
back to it, so on a GPU both copies are in the time. Writes a CSV and a plot. No Ray.

Evaluation runs four episodes side by side, which ask together. The last three columns say what that is worth: a
decision's share of such a query, the 5 steps of the simulator that follow every decision, and the time of both with
a query for each over the time of both with one for four.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import device_name, save, table

from lps.agents import AGENTS
from lps.errors import at_least, check_known, command_line
from lps.evaluation.rollout import EPISODES_PER_QUERY
from lps.policy.policy import Policy
from lps.runs.run import Run
from lps.tasks.ogbench import make_env
from lps.tasks.suites import groups
from lps.training.program import chosen_device

GROUPS = groups("ogbench")


TASK = GROUPS["cube-single"][0]


def measure(name: str, calls: int, device: str, physics: float) -> dict[str, Any]:
    """One row of the table: milliseconds."""
    run = Run.create(name, TASK.name)
    agent = AGENTS[name]([run.config], [0], TASK.observation, TASK.action.shape[0])
    policy = Policy.of_member(agent, 0, run, 0).to(device)
    rng = np.random.default_rng(0)
    observations = rng.standard_normal((calls, *TASK.observation["state"].shape)).astype(np.float32)
    for observation in observations[:20]:
        policy.act(observation)
    median, p99 = np.percentile([milliseconds(policy.act, observation) for observation in observations], [50, 99])
    batches = [
        observations[first : first + EPISODES_PER_QUERY]
        for first in range(0, calls - EPISODES_PER_QUERY + 1, EPISODES_PER_QUERY)
    ]
    noise = rng.standard_normal((EPISODES_PER_QUERY, policy.noise_dim)).astype(np.float32) if policy.noise_dim else None
    queries = [milliseconds(policy.act_batch, batch, noise) for batch in batches]
    base, shared = forward_pass(calls, device), float(np.median(queries)) / EPISODES_PER_QUERY
    return {
        "agent": name,
        "median_ms": median,
        "p99_ms": p99,
        "base_pass_ms": base,
        "ratio": median / base,
        "together_ms": shared,
        "physics_ms": physics,
        "gain": (median + physics) / (shared + physics),
    }


def milliseconds(call: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    call(*arguments)
    return (time.perf_counter() - start) * 1e3


def physics(chunks: int) -> float:
    """Median milliseconds of the steps of the simulator that one decision is good for."""
    env, rng, taken = make_env(TASK), np.random.default_rng(0), []
    env.reset(seed=0)
    for _ in range(chunks):
        actions = rng.uniform(-1, 1, (5, *TASK.action.shape))
        taken.append(sum(milliseconds(env.step, action) for action in actions))
    env.close()
    return float(np.median(taken))


def forward_pass(calls: int, device: str) -> float:
    """Median milliseconds of one pass through a bare network of the base policy's size, batch 1."""
    obs, d = TASK.observation["state"].shape[0], 5 * TASK.action.shape[0]
    sizes = (obs + d + 2, 512, 512, 512, 512, d)
    layers = [torch.nn.Linear(i, o) for i, o in zip(sizes, sizes[1:], strict=False)]
    net, x = torch.nn.Sequential(*layers).to(device), torch.randn(1, sizes[0])
    with torch.inference_mode():
        return float(np.median([milliseconds(lambda: net(x.to(device)).cpu()) for _ in range(calls)]))


@command_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), metavar="AGENT", help=", ".join(AGENTS))
    parser.add_argument(
        "--calls", type=at_least(EPISODES_PER_QUERY), default=500, help="decisions measured of each agent"
    )
    parser.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda"], help="(default: cpu)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1, the fastest for one row)")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"), help="folder for the CSV and the plot")
    arguments = parser.parse_args()
    arguments.device = chosen_device(arguments.device)
    check_known(arguments.agents, AGENTS, "agent")
    torch.set_num_threads(arguments.threads)
    print(f"{device_name(arguments.device)}, torch {torch.__version__}, {arguments.threads} threads")
    rows, steps = [], physics(40)
    for name in arguments.agents:
        rows.append(measure(name, arguments.calls, arguments.device, steps))
        print(table(rows[-1:], header=len(rows) == 1), flush=True)
    for path in save(rows, Path(arguments.out), "inference", arguments.device, _draw):
        print(f"written: {path}")
    return 0


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    titles = [AGENTS[row["agent"]].title for row in rows]
    axes.barh(titles, [row["p99_ms"] for row in rows], color="#CCCCCC", label="99th percentile")
    axes.barh(titles, [row["median_ms"] for row in rows], color="#1F4FA3", label="median")
    axes.set(xlabel="milliseconds for one decision (5 actions)")
    axes.invert_yaxis()
    axes.legend(fontsize=6)


if __name__ == "__main__":
    sys.exit(main())
