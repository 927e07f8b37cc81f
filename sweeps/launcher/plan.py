"""The plan of a sweep: the settings that all its packs share."""

from collections.abc import Sequence
from dataclasses import dataclass

from lps.files import open_filesystem
from lps.runs.lease import in_force
from lps.runs.record import Status
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training.options import TrainOptions


@dataclass(frozen=True)
class Plan:
    """Settings that all packs of a sweep share."""

    results: str
    """The results store, a local path or a URI such as s3://bucket/results; kept as `Store.path` has it. All machines
    must see it."""
    sweep: str
    """Name of the sweep; MLflow's parent run."""
    options: TrainOptions = TrainOptions()
    """Options of the training; each pack sets device and share of the device."""
    max_failures: int = 5
    """Maximum number of restarts of a pack's worker."""
    driver: str = ""
    """Owner of the lease under which the driver holds the runs (lps.runs.lease)."""
    rung: tuple[str, int] | None = None
    """Results folder and number of updates of shorter runs that these runs continue (sweeps/study/halving.py)."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", open_filesystem(self.results)[0])


def mark_failed(store: Store, runs: Sequence[Run], sweep: str, error: str, driver: str = "") -> None:
    """Mark the unfinished runs as failed, unless the lease of their driver is no longer in force."""
    if driver and not in_force(store, driver):
        return
    for run in runs:
        record = store.record(run, sweep)
        if record.status not in (Status.DONE, Status.FAILED):
            store.write_run(record.failed(error))
