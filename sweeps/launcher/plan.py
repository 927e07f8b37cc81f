"""A plan: what the packs of a sweep have in common."""

from collections.abc import Sequence
from dataclasses import dataclass

from lps.runs.record import Status
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training.options import TrainOptions


@dataclass(frozen=True)
class Plan:
    """What the packs of a sweep have in common, wherever they run."""

    results: str
    """The results store, a local path or a URI such as s3://bucket/results. All machines must see it."""
    sweep: str
    """Name of the sweep; MLflow's parent run."""
    options: TrainOptions = TrainOptions()
    """Device and share are those of each pack."""
    max_failures: int = 5
    """Restarts of the worker of a pack that died."""


def mark_failed(store: Store, runs: Sequence[Run], sweep: str, error: str) -> None:
    """Marks those of the runs as failed that are neither done nor failed already."""
    for run in runs:
        record = store.record(run, sweep)
        if record.status not in (Status.DONE, Status.FAILED):
            store.write_run(record.failed(error))
