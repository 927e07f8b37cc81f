"""The FLOPs of the runs of a results folder, kept there for the figure of success against FLOPs."""

from lps.errors import UserError
from lps.runs.run import Run
from lps.runs.store import Store
from lps.training.flops import update_gflop


def keep(store: Store) -> None:
    """Writes the GFLOP of an update of every run in the store, as the study "flops"; not of runs whose agent or task is
    not installed here."""
    gflop: dict[str, float] = {}
    for document in store.runs():
        try:
            run = Run.from_dict(document["run"])
            gflop[run.id] = update_gflop(run)
        except (KeyError, TypeError, UserError):  # made by another version, or of another package
            continue
    if gflop:
        store.write_study("flops", {"gflop": gflop})
