"""Costs of every agent: time and memory of an update, and time of a decision.

    python sweeps/compute.py --results results/paper
    ray job submit --entrypoint-num-gpus 1 --working-dir . -- python sweeps/compute.py --results s3://bucket/paper

Runs benchmarks/throughput.py and benchmarks/inference.py with the paper's networks on this machine. It stores the
measurements and the FLOPs of the runs in the results, and the report (`python -m analysis report`) shows both. Run
nothing else on the machine.
"""

import argparse
import csv
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lps.agents import AGENTS
from lps.errors import UserError, check_known, command_line
from lps.runs.store import Store
from sweeps.study import flops

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
PRESETS = {"paper": ("3", "500"), "quick": ("0.3", "50")}
"""Preset -> (seconds of measured updates, number of measured decisions)."""


def measured(benchmark: str, arguments: Sequence[str]) -> dict[str, dict[str, str]]:
    """Run a benchmark and return the rows of its CSV by agent. UserError if the benchmark fails."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(BENCHMARKS / f"{benchmark}.py"), *arguments, "--out", folder]
        if subprocess.run(command).returncode:
            raise UserError(f"benchmarks/{benchmark}.py failed. Read its output above")
        (file,) = Path(folder).glob("*.csv")
        with file.open(newline="") as rows:
            return {row["agent"]: row for row in csv.DictReader(rows)}


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="compute.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="paper", help=f"one of {', '.join(PRESETS)} (default: paper)")
    parser.add_argument(
        "--agents", nargs="+", default=list(AGENTS), metavar="AGENT", help=f"agents: {', '.join(AGENTS)} (default: all)"
    )
    parser.add_argument(
        "--results",
        default="results/compute",
        help="results folder to add the measurements to (default: results/compute)",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the planned measurements, and stop")
    arguments = parser.parse_args(argv)
    check_known([arguments.preset], PRESETS, "preset")
    check_known(arguments.agents, AGENTS, "agent")
    seconds, calls = PRESETS[arguments.preset]
    if arguments.dry_run:
        print(f"{len(arguments.agents)} agents, each with updates for {seconds} s or more and {calls} decisions")
        return 0
    store = Store(arguments.results)
    agents = ["--agents", *arguments.agents]
    updates = measured("throughput", [*agents, "--members", "1", "--modes", "plain", "--seconds", seconds])
    decisions = measured("inference", [*agents, "--calls", calls])
    rows: list[dict[str, Any]] = [
        {
            "agent": name,
            "update_ms": float(updates[name]["update_ms"]),
            "memory_mib": float(updates[name]["memory_mib"]),
            "decision_ms": float(decisions[name]["median_ms"]),
            "decision_p99_ms": float(decisions[name]["p99_ms"]),
        }
        for name in arguments.agents
    ]
    about = next(iter(updates.values()))
    store.write_study("compute", {"rows": rows, **{key: about[key] for key in ("device", "torch", "threads")}})
    flops.keep(store)
    print(f"measurements stored in {arguments.results}")
    if store.runs():
        print(f"`python -m analysis report {arguments.results}` shows them beside the runs")
    else:
        print("No runs in this folder. Pass the --results of a sweep to include the measurements in its report.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
