"""The placement groups that Ray holds for packs: recorded when a worker starts, released when it is gone."""

from typing import Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list, _internal_kv_put
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, remove_placement_group

HELD = "lps-held"
"""The namespace of these notes in the memory of the head's own service: a machine without memory loses actors."""


class _Hold(WorkerGroupCallback):
    """Notes the placement group of each worker of a pack: where a trial or its helpers are killed, Ray Train's own
    cleaner frees it only with a dashboard and with no other Ray on the machine, and otherwise the sweep would wait for
    it for ever."""

    def __init__(self, number: int, board: Any, scratch: str):
        self.number, self.board, self.scratch = number, board, scratch

    def after_worker_group_start(self, worker_group: Any) -> None:
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        _internal_kv_put(_notes(self.scratch, self.number) + group.id.hex(), b"", namespace=HELD)
        self.board.start.remote(self.number)


def release(scratch: str, number: int) -> None:
    """Frees what Ray holds for the workers of a pack that are gone. `scratch` is the sweep's folder."""
    for note in _internal_kv_list(_notes(scratch, number), namespace=HELD):
        group = note.decode().rpartition(" ")[2]
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group))))
        _internal_kv_del(note, namespace=HELD)


def _notes(scratch: str, number: int) -> str:
    return f"{scratch} {number} "
