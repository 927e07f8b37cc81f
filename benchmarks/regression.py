"""Updates per second of this checkout beside those of another one, in turn, in one call.

    git worktree add ../before COMMIT
    python benchmarks/regression.py ../before [--agents lps dsrl] [--members 1 8] [--modes plain compiled]

Each round runs benchmarks/throughput.py of both checkouts, first the one and then the other, in processes of their own.
Reported is `before / after` of the milliseconds of an update, the median over rounds: 1.05 means that this checkout is
5 % faster. Writes a CSV. Both checkouts use this Python and its packages.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from common import table

from lps.agents import AGENTS
from lps.errors import UserError, at_least, command_line

HERE = Path(__file__).resolve().parents[1]
MODES = ("plain", "compiled")


def update_ms(checkout: Path, agent: str, mode: str, members: Sequence[int], seconds: float) -> dict[int, float]:
    """Milliseconds of an update by number of members, by the benchmark of a checkout.  UserError if it fails."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, str(checkout / "benchmarks" / "throughput.py"), "--agents", agent, "--modes", mode]
        command += ["--members", *map(str, members), "--seconds", str(seconds), "--device", "cpu", "--threads", "1"]
        environment = {**os.environ, "PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
        done = subprocess.run([*command, "--out", out], env=environment, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"the benchmark of {checkout} failed: {done.stderr.strip()[-300:]}. Check the checkout")
        (file,) = Path(out).glob("*.csv")
        with open(file, newline="") as rows:
            return {int(row["members"]): float(row["update_ms"]) for row in csv.DictReader(rows)}


@command_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, help="another checkout of this project")
    parser.add_argument("--agents", nargs="+", default=list(AGENTS), metavar="AGENT", help=", ".join(AGENTS))
    parser.add_argument("--members", nargs="+", type=at_least(1), default=[1, 8], metavar="M")
    parser.add_argument("--modes", nargs="+", default=list(MODES), choices=MODES)
    parser.add_argument("--rounds", type=at_least(1), default=3, help="number of pairs (default: 3)")
    parser.add_argument("--seconds", type=at_least(0.1), default=2.0, help="seconds of each measurement (default: 2)")
    parser.add_argument("--out", type=Path, default=Path("regression.csv"), help="CSV to write")
    arguments = parser.parse_args()
    before = arguments.before.resolve()
    if not (before / "benchmarks" / "throughput.py").exists():
        raise UserError(f"{before} has no benchmarks/throughput.py. Give the path of a checkout of this project")
    rows: list[dict[str, Any]] = []
    for mode in arguments.modes:
        for agent in arguments.agents:
            taken: dict[Path, list[dict[int, float]]] = {before: [], HERE: []}
            for number in range(arguments.rounds):
                for checkout in (before, HERE) if number % 2 == 0 else (HERE, before):
                    found = update_ms(checkout, agent, mode, arguments.members, arguments.seconds)
                    taken[checkout].append(found)
            for members in arguments.members:
                pairs = [(a[members], b[members]) for a, b in zip(taken[before], taken[HERE], strict=True)]
                row = {
                    "agent": agent,
                    "members": members,
                    "mode": mode,
                    "before_ms": median(a for a, _ in pairs),
                    "after_ms": median(b for _, b in pairs),
                    "ratio": median(a / b for a, b in pairs),
                    "lowest": min(a / b for a, b in pairs),
                    "highest": max(a / b for a, b in pairs),
                    "rounds": arguments.rounds,
                }
                rows.append(row)
                print(table([row], header=len(rows) == 1), flush=True)
    with open(arguments.out, "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"written: {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
