"""A plan: what the packs of a sweep have in common."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from lps.runs.provenance import versions
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training.options import TrainOptions


@dataclass(frozen=True)
class Plan:
    """What the packs of a sweep have in common, wherever they run."""

    results: str
    sweep: str
    max_failures: int
    options: TrainOptions


def mark_failed(store: Store, runs: Sequence[Run], sweep: str, error: str) -> None:
    """Marks those of the runs as failed that are neither done nor failed already."""
    for run in runs:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        doc = store.read_run(run.id) or {
            "id": run.id,
            "sweep": sweep,
            "run": run.to_dict(),
            "status": "queued",
            "step": 0,
            "versions": versions(),
            "host": platform.node(),
            "device": "",
            "started": now,
            "wall_time_s": 0.0,
            "evaluation_s": 0.0,
            "dataset_fingerprint": "",
            "checkpoint": "",
        }
        if doc["status"] not in ("done", "failed"):
            store.write_run({**doc, "status": "failed", "error": error, "updated": now})
