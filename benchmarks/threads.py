"""How threads wait for each other, and what that costs beside other work: updates of LPS beside busy loops.

    python benchmarks/threads.py [--threads 1 2] [--busy 0 1 2] [--seconds 5]

PyTorch's threads meet at a barrier after every operation. By default GNU OpenMP spins there, which keeps the core from
the thread that it waits for if another process has the other core. Each row is a process of its own, because OpenMP
reads its settings when torch is imported. Networks and batch are the paper's, and the data is made up. `ratio` is the
rate divided by the rate of the same threads without busy loops and with OpenMP's default. Writes a CSV.
benchmarks/NOTES.md has the result.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from lps.errors import UserError, at_least, command_line
from lps.workers import SPIN_BRIEFLY

POLICIES = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}, "short": SPIN_BRIEFLY}
"""Name -> environment variables of OpenMP. passive: sleep at once; short: after 1000 turns, the project's setting."""


def updates_per_second(threads: int, policy: str, busy: int, seconds: float) -> float:
    """Measure in a process of its own, beside so many busy loops. UserError if it fails."""
    others = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    environment = {**others, "OMP_NUM_THREADS": str(threads), **POLICIES[policy]}
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        command = [sys.executable, __file__, "--measure", str(seconds)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    finally:
        for loop in loops:
            loop.kill()
    if done.returncode:
        raise UserError(f"the measurement failed: {done.stderr.strip()[-300:]}. Repeat the command")
    return float(done.stdout)


def measure(seconds: float) -> float:
    """Return the updates per second of LPS in this process."""
    from throughput import TASK, made_up_data

    from lps.agents import AGENTS
    from lps.data.batches import Batches
    from lps.training.program import Program

    cls = AGENTS["lps"]
    agent = cls([cls.Config(horizon=TASK.horizon)], [0], TASK.observation, TASK.action.shape[0], "cpu")
    program = Program(agent, Batches(made_up_data(), [TASK.name], [0.99], TASK.horizon, "cpu"), [0])
    program.update(1)
    step, start = 1, time.perf_counter()
    while time.perf_counter() - start < seconds:
        step += 1
        program.update(step)
    return (step - 1) / (time.perf_counter() - start)


@command_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", nargs="+", type=at_least(1), default=[1, 2], metavar="N", help="OpenMP threads")
    parser.add_argument("--busy", nargs="+", type=at_least(0), default=[0, 1, 2], metavar="N", help="busy loops")
    parser.add_argument("--seconds", type=at_least(0.1), default=5.0, metavar="S", help="measured for each row")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the CSV")
    parser.add_argument("--measure", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(measure(arguments.measure))
        return 0
    from common import save, table

    rows = []
    for threads in arguments.threads:
        alone: float | None = None
        for busy in arguments.busy:
            for policy in POLICIES if threads > 1 else ["default"]:
                rate = updates_per_second(threads, policy, busy, arguments.seconds)
                alone = alone or rate
                names = {"openmp_threads": threads, "busy_loops": busy, "policy": policy}
                rows.append({**names, "updates_per_s": rate, "ratio": rate / alone})
                print(table(rows[-1:], header=len(rows) == 1), flush=True)
    for path in save(rows, arguments.out, "threads", "cpu"):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
