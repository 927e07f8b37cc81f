"""Successive halving: the rungs of a budget, and runs that continue a shorter run.

ASHA (Li et al., arXiv 1810.05934) trains many configurations briefly and the best ones further. The id of a run has
its number of updates, so a configuration on a rung is a finished run of its own. The longer run begins with exactly the
same updates, because batches and noise depend on seed and step only.
"""

from collections.abc import Sequence
from dataclasses import replace

from lps.errors import UserError
from lps.runs.record import RunRecord, Status
from lps.runs.run import Run
from lps.runs.store import Store

ETA = 3
"""Reduction factor: one of ETA trials is promoted and trains ETA times longer."""


def rungs(steps: int, eval_interval: int, eta: int = ETA) -> list[int]:
    """Return the shorter budgets in updates: steps / eta^k, rounded down to an evaluation. UserError if there is
    none."""
    found = {steps // eta**k // eval_interval * eval_interval for k in range(1, steps.bit_length())} - {0}
    if not found:
        raise UserError(
            f"no evaluation at or below {steps // eta:,} of {steps:,} updates (one every {eval_interval:,}). "
            "Use a smaller --eval-interval, or omit --asha"
        )
    return sorted(found)


def continue_from_rungs(runs: Sequence[Run], rung: tuple[str, int], store: Store) -> None:
    """Let runs continue the shorter runs in a results folder; rung: this folder, and their number of updates."""
    folder, steps = rung
    for run in runs:
        continue_from_rung(run, steps, Store(folder, create=False), store)


def continue_from_rung(run: Run, steps: int, rung: Store, store: Store) -> None:
    """Let a run continue the shorter run of `steps` updates.

    The shorter run must be finished in `rung`. Its evaluations, metrics and checkpoint are copied into `store`, and the
    document last, so an interrupted copy is repeated. A run that `store` has already is left unchanged.
    """
    from lps.runs.checkpoint import Checkpoint, checkpoint_path  # it imports torch, which drivers do without

    if steps not in run.eval_steps:
        raise ValueError(f"{run} has no evaluation after {steps} updates to continue from")
    shorter = replace(run, steps=steps)
    document = rung.read_run(shorter.id)
    if document is None or document["status"] != Status.DONE or store.read_run(run.id):
        return
    rows = rung.read_episodes(shorter.id).to_pylist()
    for step in shorter.eval_steps:
        store.write_episodes(run.id, step, [row for row in rows if row["step"] == step])
    if metrics := rung.read_metrics(shorter.id).to_pylist():
        store.write_metrics(run.id, metrics[0]["step"], metrics)
    path = checkpoint_path(shorter)
    checkpoint = Checkpoint.from_bytes(rung.read_bytes(path), f"{rung.path}/{path}")
    store.write_bytes(checkpoint_path(run), replace(checkpoint, run=run).to_bytes())
    record = RunRecord.from_document(document).queued()
    store.write_run(replace(record, id=run.id, run=run.to_dict(), checkpoint=checkpoint_path(run)))
