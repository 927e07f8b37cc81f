"""Successive halving: the rungs of a budget, and how a run goes on from a shorter one of the same kind.

ASHA (Li et al., arXiv 1810.05934) trains many configurations a little and the best of them further. A run's identity
holds its number of updates, so a configuration on a rung is a run of its own, whole and finished. It is also the
beginning of the longer one, number for number: batches and noise hang on seed and step alone, and nothing in a training
knows how long it will be.
"""

from dataclasses import replace

from lps.errors import UserError
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.record import RunRecord, Status
from lps.runs.run import Run
from lps.runs.store import Store

ETA = 3
"""Of so many configurations on a rung one goes on, and it then trains so many times as long."""


def rungs(steps: int, eval_interval: int, eta: int = ETA) -> list[int]:
    """The shorter budgets, in updates: steps / eta^k, where a run of `steps` is evaluated. UserError where there is
    none."""
    found = {steps // eta**k // eval_interval * eval_interval for k in range(1, steps.bit_length())} - {0}
    if not found:
        raise UserError(
            f"there is no rung at or below {steps // eta:,} of {steps:,} updates, for runs are evaluated every "
            f"{eval_interval:,}: ask for a smaller --eval-interval, or tune without --asha"
        )
    return sorted(found)


def go_on(run: Run, steps: int, rung: Store, store: Store) -> None:
    """Lets a run, which `store` does not know yet, begin where the one of so many `steps` ended, which is finished in
    `rung`.

    Its evaluations, metrics and checkpoint become those of the run, in this order: whatever is interrupted can be
    repeated, and what has begun is left alone.
    """
    if steps not in run.eval_steps:
        raise ValueError(f"no run of {steps} updates is the beginning of {run}")
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
