"""Floating-point operations of an update, counted on torch's device without data: no arithmetic is done."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from lps.agents import AGENTS
from lps.data.batch import Batch
from lps.members.streams import Stream
from lps.runs.run import Run
from lps.tasks.suites import get_task


def update_gflop(run: Run) -> float:
    """Billions of floating-point operations of one update of a run: matrix products and convolutions, in the losses and
    their gradients. A multiplication and an addition count as two. UserError if the task is not installed here."""
    return _update_gflop(run.agent, run.config, run.task)


@functools.cache
def _update_gflop(name: str, config: Any, task_name: str) -> float:
    task = get_task(task_name)
    agent = AGENTS[name]([config], [0], task.observation, task.action.shape[0], "meta")
    rows = (1, config.batch_size)
    with torch.device("meta"):
        observations, next_observations = (
            {key: torch.empty(*rows, *space.shape, dtype=getattr(torch, space.dtype)) for key, space in spaces}
            for spaces in [task.observation.items()] * 2
        )
        actions, rewards, masks = torch.empty(*rows, agent.chunk_dim), torch.empty(rows), torch.empty(rows)
        noise = agent.noise(Stream(torch.zeros(1, dtype=torch.int64), 1, "noise"), config.batch_size)
    with FlopCounterMode(display=False) as counter:
        agent.update(Batch(observations, actions, next_observations, rewards, masks), noise)
    return counter.get_total_flops() / 1e9
