"""Packs: the runs that train together in one program, by shape, by memory and by step."""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Callable, Iterable, Sequence

from lps.agents import AGENTS
from lps.agents.config import member_scalars
from lps.errors import UserError
from lps.runs.checkpoint import Checkpoint, DamagedCheckpoint, checkpoint_path
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import get_task

log = logging.getLogger(__name__)


def pack(runs: Sequence[Run], max_members: int = 64) -> list[list[Run]]:
    """Runs that can train in one program, grouped, at most `max_members` together, in the order given.

    They share agent, group, dataset, protocol and every hyperparameter that shapes the program; seed, task and
    the scalars of members may differ.  How runs are packed never changes a result.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        task, own = get_task(run.task), member_scalars(AGENTS[run.agent].Config)
        shared = run.to_dict() | {"task": [task.suite, task.group], "seed": None}
        shared["hyperparameters"] = {k: v for k, v in run.hyperparameters.items() if k not in own}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    packs = []
    for group in groups.values():
        parts = -(-len(group) // max_members)
        size = -(-len(group) // parts)  # even parts: 5 runs by 4 are 3 + 2, not 4 + 1
        packs += [group[i : i + size] for i in range(0, len(group), size)]
    return packs


def resumable_packs(
    runs: Sequence[Run], store: Store, room: Callable[[Run], int | None]
) -> Iterable[list[tuple[Run, Checkpoint | None]]]:
    """Packs of runs that stand at the same step, each with its checkpoint, of no more members than there is room for.

    A crash between the checkpoints of two members leaves them at different steps; they then train one after the other.
    """
    packs = (pack(p, room(p[0]) or len(p)) if len(p) > 1 else [p] for p in pack(runs))
    for members in itertools.chain.from_iterable(packs):
        by_step: dict[int, list[tuple[Run, Checkpoint | None]]] = {}
        for run in members:
            checkpoint = stored_checkpoint(run, store)
            by_step.setdefault(checkpoint.step if checkpoint else 0, []).append((run, checkpoint))
        yield from by_step.values()


def shared_members(runs: Sequence[Run]) -> dict[str, int]:
    """run id -> member of the program that trains it.

    Runs of an agent that sees no reward are the same training on every task of a group: they share a member and
    differ in what it is evaluated on.
    """
    trainings: dict[str, int] = {}
    member = {}
    for run in runs:
        task = "" if AGENTS[run.agent].reward_free else run.task
        training = json.dumps([task, run.seed, dict(run.hyperparameters)], sort_keys=True)
        member[run.id] = trainings.setdefault(training, len(trainings))
    return member


def stored_checkpoint(run: Run, store: Store) -> Checkpoint | None:
    path = checkpoint_path(run)
    if not store.exists(path):
        return None
    try:
        checkpoint = Checkpoint.from_bytes(store.read_bytes(path), f"{store.path}/{path}")
    except DamagedCheckpoint as damage:  # it costs time; the result is the same
        log.warning("%s: the run starts again from its beginning", damage)
        return None
    if checkpoint.run.id != run.id:
        raise UserError(f"{store.path}/{path} belongs to another run ({checkpoint.run}); delete it or move it away")
    return checkpoint
