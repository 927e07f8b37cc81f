"""Placement groups of packs: recorded when a worker starts, released when the worker is gone."""

from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list, _internal_kv_put
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

HELD = "lps-held"
"""Namespace of the records in Ray's key-value store on the head, which survives when a machine loses its actors."""


class PlacementGroupTracker(WorkerGroupCallback):
    """Record the placement group of each worker of a pack.

    If a trial is killed, Ray Train releases its placement group only when a dashboard runs and no other Ray is on the
    machine. `release` frees the recorded groups instead; otherwise the sweep would hang.
    """

    def __init__(self, number: int, board: Any, scratch: str):
        self.number, self.board, self.scratch = number, board, scratch

    def after_worker_group_start(self, worker_group: Any) -> None:
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        _internal_kv_put(_notes(self.scratch, self.number) + group.id.hex(), b"", namespace=HELD)
        self.board.start.remote(self.number)


def release(scratch: str, number: int) -> None:
    """Free the placement groups of a pack's dead workers. `scratch` is the folder of the sweep."""
    for note in _internal_kv_list(_notes(scratch, number), namespace=HELD):
        group = note.decode().rpartition(" ")[2]
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
        _internal_kv_del(note, namespace=HELD)


def _notes(scratch: str, number: int) -> str:
    return f"{scratch} {number} "
