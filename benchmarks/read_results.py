"""How long it takes to read results, against a plain read of the same files by pyarrow.

    python benchmarks/read_results.py [--runs 2000] [--evaluations 10] [--episodes 50]

Writes a store of made-up runs, by default a million episodes in 20,000 files, into a temporary folder, reads it in
every way once after it is in the page cache, and removes it. CPU seconds are of all threads together; where the machine
does other work too, they and the ratio say more than the wall clock.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from analysis.results.agents import GROUP_ORDER  # noqa: E402
from analysis.results.load import load  # noqa: E402
from analysis.results.study import study  # noqa: E402
from lps.agents import AGENTS  # noqa: E402
from lps.runs.store import EPISODES, SCHEMA, Store  # noqa: E402

INTERVAL = 100_000  # updates between evaluations
TASKS = 5  # of a group


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--evaluations", type=int, default=10, help="of each run")
    parser.add_argument("--episodes", type=int, default=50, help="of each evaluation")
    arguments = parser.parse_args()
    rows = arguments.runs * arguments.evaluations * arguments.episodes
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        write(path, arguments.runs, arguments.evaluations, arguments.episodes)
        print(f"{rows:,} episodes in {arguments.runs * arguments.evaluations:,} files\n")
        plain(path)  # into the page cache
        print("| what | seconds | CPU seconds | x plain (CPU) |\n| :-- | --: | --: | --: |")
        table, base = timed("pyarrow.dataset, the same files", lambda: plain(path))
        assert table.num_rows == rows
        table, _ = timed("Store.read_episodes", Store(path, create=False).read_episodes, base)
        assert table.num_rows == rows
        results, _ = timed("analysis.results.load: episodes and run documents", lambda: load(str(path)), base)
        assert results.evaluations["episodes"].sum() == rows and not results.problems
        here, _ = timed("analysis.results.study.study: the score of every run", lambda: study(results), base)
        assert here.runs["scored"].all()


def write(path: Path, runs: int, evaluations: int, episodes: int) -> None:
    """A store as sweeps leave it, without waiting for the disk as they do."""
    Store(path)
    rng = np.random.default_rng(0)
    agents = list(AGENTS)
    (path / "runs").mkdir()
    for i in range(runs):
        run_id, rest = f"{i:016x}", i
        rest, agent = divmod(rest, len(agents))
        rest, task = divmod(rest, TASKS)
        seed, group = divmod(rest, len(GROUP_ORDER))
        run = {
            "agent": agents[agent],
            "task": f"{GROUP_ORDER[group]}-play-singletask-task{task + 1}-v0",
            "seed": seed,
            "steps": INTERVAL * evaluations,
            "hyperparameters": {"lr": 3e-4, "batch_size": 256, "tau": 0.005},
            "dataset": f"{GROUP_ORDER[group]}-play-v0",
            "eval_interval": INTERVAL,
            "eval_episodes": episodes,
        }
        document = {"schema": SCHEMA, "id": run_id, "run": run, "status": "done", "step": INTERVAL * evaluations}
        (path / "runs" / f"{run_id}.json").write_text(json.dumps(document))
        folder = path / "episodes" / run_id
        folder.mkdir(parents=True)
        for evaluation in range(1, evaluations + 1):
            columns = [
                [run_id] * episodes,
                [INTERVAL * evaluation] * episodes,
                np.arange(episodes, dtype=np.int32),
                np.arange(episodes),
                rng.random(episodes) < 0.5,
                rng.normal(size=episodes),
                np.full(episodes, 200, np.int32),
            ]
            table = pa.table(dict(zip(EPISODES.names, columns, strict=True)), schema=EPISODES)
            pq.write_table(table, folder / f"{INTERVAL * evaluation:09d}.parquet")


def plain(path: Path) -> pa.Table:
    return ds.dataset(path / "episodes", format="parquet").to_table()


def timed(what: str, call: Callable[[], Any], base: float | None = None) -> tuple[Any, float]:
    """Prints a row of the table; what the call returned, and its CPU seconds."""
    start, cpu = time.perf_counter(), time.process_time()
    value = call()
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    print(f"| {what} | {seconds:.2f} | {cpu:.2f} | {cpu / (base or cpu):.2f} |")
    return value, cpu


if __name__ == "__main__":
    main()
