"""Floating-point operations and memory of an update, counted on torch's device without data: no arithmetic is done."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lps.agents import AGENTS
from lps.agents.base import Agent, Noise
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.runs.run import Run
from lps.spaces import Space, stacked

Spaces = tuple[tuple[str, Space], ...]
"""Spaces of an observation by name, as a key of a cache."""


def update_gflop(run: Run) -> float:
    """Billions of floating-point operations of one update of a run: matrix products and convolutions, in the losses and
    their gradients. A multiplication and an addition count as two. UserError if the task is not installed here."""
    return _update_gflop(run.agent, run.config, *_shapes(run))


def kept_bytes(run: Run) -> int:
    """Bytes of the values that the losses of a run keep for their gradients: activations, beside the parameters. An
    update needs at least as much. UserError if the task is not installed here."""
    return _kept_bytes(run.agent, run.config, *_shapes(run))


def _shapes(run: Run) -> tuple[Spaces, int]:
    task = run.resolved_task
    return tuple(task.observation.items()), task.action.shape[0]


@functools.cache
def _update_gflop(name: str, config: Any, spaces: Spaces, action_dim: int) -> float:
    agent, batch, noise = _without_data(name, config, spaces, action_dim)
    with FlopCounterMode(display=False) as counter:
        agent.update(batch, noise)
    return counter.get_total_flops() / 1e9


@functools.cache
def _kept_bytes(name: str, config: Any, spaces: Spaces, action_dim: int) -> int:
    agent, batch, noise = _without_data(name, config, spaces, action_dim)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept.setdefault(tensor.untyped_storage()._cdata, tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        agent.objective(batch, noise)
    parameters = {value.untyped_storage()._cdata for net in agent.params.values() for value in net.values()}
    return sum(tensor.untyped_storage().nbytes() for storage, tensor in kept.items() if storage not in parameters)


def _without_data(name: str, config: Any, spaces: Spaces, action_dim: int) -> tuple[Agent, Batch, Noise]:
    """An agent of one member, a batch and its noise."""
    observation = stacked(dict(spaces), config.frame_stack)
    agent = AGENTS[name]([config], [0], observation, action_dim, "meta")
    rows = (1, config.batch_size)
    with torch.device("meta"):
        observations, next_observations = (
            {key: torch.empty(*rows, *space.shape, dtype=getattr(torch, space.dtype)) for key, space in items}
            for items in [observation.items()] * 2
        )
        actions, rewards, masks = torch.empty(*rows, agent.chunk_dim), torch.empty(rows), torch.empty(rows)
        noise = agent.noise(Stream(torch.zeros(1, dtype=torch.int64), 1, "noise"), config.batch_size)
    return agent, Batch(observations, actions, next_observations, rewards, masks), noise
