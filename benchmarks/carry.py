"""What of a results folder is worth carrying away from a machine: curves, rows, and a policy of each task.

    python benchmarks/carry.py RESULTS OUT

Writes OUT/curves.csv (mean success over seeds, by task and update), OUT/results.tar.gz (everything but checkpoints; an
ordinary results folder once unpacked) and OUT/policy-TASK.safetensors, the first seed's policy of each task, which
`python -m lps evaluate` and `video` take. Training cannot go on from it. For LPS a policy file has 4 MB.
"""

import csv
import sys
import tarfile
from pathlib import Path

from lps.errors import UserError, guarded
from lps.policy.file import policy_of, save_policy
from lps.runs.checkpoint import Checkpoint
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import get_task


@guarded
def main() -> int:
    if len(sys.argv) != 3:
        raise UserError("usage: python benchmarks/carry.py RESULTS OUT")
    store, out = Store(sys.argv[1], create=False), Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    runs = {doc["id"]: Run.from_dict(doc["run"]) for doc in store.runs()}
    curves(store, runs, out / "curves.csv")
    with tarfile.open(out / "results.tar.gz", "w:gz") as archive:
        for path in sorted(Path(store.path).iterdir()):
            if path.name != "checkpoints":
                archive.add(path, path.name)
    for task in dict.fromkeys(run.task for run in runs.values()):
        first = min((run for run in runs.values() if run.task == task), key=lambda run: run.seed)
        path = f"checkpoints/{first.id}.pt"
        if store.exists(path):
            policy = policy_of(Checkpoint.from_bytes(store.read_bytes(path), path))
            save_policy(policy, out / f"policy-{get_task(task).title.replace(' ', '-')}.safetensors")
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    print(f"{out}: {size / 1e6:.1f} MB")
    return 0


def curves(store: Store, runs: dict[str, Run], path: Path) -> None:
    """agent, task, step, how many runs were evaluated there, and their mean success; printed too."""
    success: dict[tuple[str, str, int], dict[str, list[bool]]] = {}
    for row in store.read_episodes().to_pylist():
        run = runs[row["run_id"]]
        success.setdefault((run.agent, run.task, row["step"]), {}).setdefault(run.id, []).append(row["success"])
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["agent", "task", "step", "runs", "success"])
        for (agent, task, step), of_runs in sorted(success.items()):
            mean = sum(sum(done) / len(done) for done in of_runs.values()) / len(of_runs)
            writer.writerow([agent, task, step, len(of_runs), f"{mean:.4f}"])
    print(path.read_text(), end="")


if __name__ == "__main__":
    sys.exit(main())
