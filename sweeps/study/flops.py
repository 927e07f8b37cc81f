"""Store the FLOPs of the runs of a results folder, for the figure of success against FLOPs."""

from lps.errors import UserError
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training.flops import update_gflop


def keep(store: Store) -> None:
    """Write the GFLOP of an update of every run into the store, as the study "flops". Runs whose agent or task is not
    installed are skipped."""
    gflop: dict[str, float] = {}
    for document in store.runs():
        try:
            run = Run.from_dict(document["run"])
            gflop[run.id] = update_gflop(run)
        except (KeyError, TypeError, UserError):  # a run of another version or package
            continue
    if gflop:
        store.write_study("flops", {"gflop": gflop})
