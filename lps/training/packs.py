"""Packs: the runs that train together in one program. They share a shape, fit the device and stand at one step."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from lps.agents import AGENTS
from lps.agents.config import member_scalars
from lps.errors import UserError
from lps.runs.checkpoint import Checkpoint, DamagedCheckpoint, checkpoint_path
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.task import Task

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Member:
    """A run in a pack: its task, its Config, its slot on the program's member axis, and its checkpoint if it resumes.

    Runs of an agent that sees no reward are the same training on every task of a group: such runs share a slot, and
    only their evaluations differ.
    """

    run: Run
    config: Any
    task: Task
    slot: int
    checkpoint: Checkpoint | None = None

    @property
    def seed(self) -> int:
        return self.run.seed


def packs_to_train(runs: Sequence[Run], store: Store, room: Callable[[Run], int | None]) -> Iterator[list[Member]]:
    """Yield the packs that train one after the other, the members of each at the same step.

    A crash between the checkpoints of two members leaves them at different steps; they then train in two packs.

    Args:
        room: number of members like the given run that the device has memory for; None for no limit.
    Raises:
        UserError: for a checkpoint of another run.
    """
    for same_shape in pack(runs):
        limit = room(same_shape[0]) if len(same_shape) > 1 else None
        for fitting in pack(same_shape, limit or len(same_shape)):
            checkpoints = {run.id: stored_checkpoint(run, store) for run in fitting}
            by_step: dict[int, list[Run]] = {}
            for run in fitting:
                checkpoint = checkpoints[run.id]
                by_step.setdefault(checkpoint.step if checkpoint else 0, []).append(run)
            for same_step in by_step.values():
                yield members(same_step, checkpoints)


def pack(runs: Sequence[Run], max_members: int = 64) -> list[list[Run]]:
    """Group the runs that can train in one program, at most `max_members` together, in the order given.

    They share agent, group, dataset, protocol and every hyperparameter that shapes the program; seed, task and
    the scalars of members (lps.agents.config) may differ. Packing changes a result by rounding only.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        task, own = run.resolved_task, member_scalars(AGENTS[run.agent].Config)
        shared = run.to_dict() | {"task": [task.suite, task.group], "seed": None}
        shared["hyperparameters"] = {k: v for k, v in run.hyperparameters.items() if k not in own}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    packs = []
    for group in groups.values():
        parts = -(-len(group) // max_members)
        size = -(-len(group) // parts)  # even parts: 5 runs by 4 are 3 + 2, not 4 + 1
        packs += [group[i : i + size] for i in range(0, len(group), size)]
    return packs


def members(runs: Sequence[Run], checkpoints: dict[str, Checkpoint | None]) -> list[Member]:
    """Return a member for each run. `checkpoints` are by run id."""
    slots: dict[str, int] = {}
    pack = []
    for run in runs:
        task = "" if AGENTS[run.agent].reward_free else run.task
        training = json.dumps([task, run.seed, dict(run.hyperparameters)], sort_keys=True)
        slot = slots.setdefault(training, len(slots))
        pack.append(Member(run, run.config, run.resolved_task, slot, checkpoints[run.id]))
    return pack


def one_per_slot(members: Sequence[Member]) -> list[Member]:
    """Return the first member of each slot, in the order of the slots."""
    first: dict[int, Member] = {}
    for member in members:
        first.setdefault(member.slot, member)
    return list(first.values())


def stored_checkpoint(run: Run, store: Store) -> Checkpoint | None:
    """Read a run's checkpoint. None if there is none or if it is damaged; UserError if it belongs to another run."""
    path = checkpoint_path(run)
    if not store.exists(path):
        return None
    try:
        checkpoint = Checkpoint.from_bytes(store.read_bytes(path), f"{store.path}/{path}")
    except DamagedCheckpoint as damage:  # it costs time; the result is the same
        log.warning("%s; the run restarts from its beginning", damage)
        return None
    if checkpoint.run.id != run.id:
        raise UserError(f"{store.path}/{path} belongs to another run ({checkpoint.run}); delete it or move it away")
    return checkpoint
