"""The place of a pack at work: Ray Train in two processes on one machine, the trial and its worker.

By default Ray Train starts five processes for a run: controller, worker, and helpers that one worker does not need.
Here the controller runs inside the trial, the worker runs in the placement group that Ray Tune reserved for the trial,
and no helper starts. So the head holds nothing of a pack, and Ray Tune alone reserves and frees resources.
"""

import asyncio
import uuid
from typing import TYPE_CHECKING, Any

import ray
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_list, _internal_kv_put
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2._internal.execution.worker_group import WorkerGroup
from ray.train.v2._internal.execution.worker_group.placement_group_handle import DefaultPlacementGroupHandle
from ray.train.v2._internal.execution.worker_group.state import WorkerGroupStateBuilder
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.tune import PlacementGroupFactory
from ray.util.placement_group import get_current_placement_group

from sweeps.launcher.resources import PackResources

if TYPE_CHECKING:
    from ray.train import Result

STARTS = "lps-starts"
"""Namespace of the records of starts in Ray's key-value store, which is on the head and survives a lost machine."""


def reserved(share: PackResources) -> PlacementGroupFactory:
    """Return the resources that Ray Tune reserves for a pack: nothing for the trial, and the learner's share beside it.
    A placement group of one bundle is on one machine."""
    return PlacementGroupFactory([{}, learner(share)])


def learner(share: PackResources) -> dict[str, float]:
    """Return the resources of the worker of a pack."""
    return {"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})}


class PackTrainer(DataParallelTrainer):
    """Ray Train for the one worker of a pack, called inside of a trial that has the resources `reserved`."""

    def _create_default_callbacks(self) -> list[Any]:
        return []  # they start helpers: for shards of Ray Data, and for placement groups that outlive a run

    def _initialize_and_run_controller(self, **arguments: Any) -> "Result":
        controller = _Controller(**{**arguments, "scaling_policy": _Reserved(self.scaling_config)})
        asyncio.run(controller.run())
        return controller.get_result()


class _Reserved(FixedScalingPolicy):
    """Asks no autoscaler for resources: Ray Tune has reserved them."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class _TrialsPlacementGroup(DefaultPlacementGroupHandle):
    """The placement group of the trial, which Ray Tune removes."""

    def shutdown(self) -> None:
        pass


class _StateOfOne(WorkerGroupStateBuilder):
    def with_sync_actor(self, sync_actor: Any) -> WorkerGroupStateBuilder:
        ray.kill(sync_actor)  # the barrier of several workers; a process of 0.1 GB
        return super().with_sync_actor(sync_actor)


class _WorkerGroup(WorkerGroup):
    def _start(self) -> None:
        state = _StateOfOne()
        try:
            self._start_impl(state)
        except Exception:
            if not self.has_started():
                state.shutdown()
            raise

    def _create_placement_group(self, *_: Any) -> _TrialsPlacementGroup:
        return _TrialsPlacementGroup(get_current_placement_group())


class _Controller(TrainController):
    worker_group_cls = _WorkerGroup


# --- starts: to tell a trial that is killed again and again from one whose machines are lost ---


def record_start(scratch: str, number: int) -> int:
    """Record that the trial of a pack starts on this machine. Return how often it was killed on machines that live.

    Args:
        scratch: folder of the sweep, which identifies it.
        number: number of the pack.
    """
    alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
    killed = sum(record.rpartition(" ")[0].rpartition(" ")[2] in alive for record in _starts(scratch, number))
    here = ray.get_runtime_context().get_node_id()
    _internal_kv_put(f"{scratch} {number} {here} {uuid.uuid4().hex}", b"", namespace=STARTS)
    return killed


def forget_starts(scratch: str, number: int) -> None:
    """Forget the starts of a pack, because its trial ends in order."""
    for record in _starts(scratch, number):
        _internal_kv_del(record, namespace=STARTS)


def _starts(scratch: str, number: int) -> list[str]:
    return [record.decode() for record in _internal_kv_list(f"{scratch} {number} ", namespace=STARTS)]
