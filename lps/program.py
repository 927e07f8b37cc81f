"""One update as one program: drawing the batch, the losses, their gradients, Adam and the targets, for a whole pack.

Nothing in it waits for the host.  `compiled` is the one switch of speed: torch.compile fuses the losses and their
gradients, and on CUDA the whole update is captured as a graph and replayed.  Both compute what the plain update
computes, up to the rounding of fused arithmetic.
"""

from __future__ import annotations

import os
import shutil
import warnings

import torch
from torch import Tensor

from lps.agents import Agent
from lps.agents.base import Info
from lps.batches import Batches
from lps.errors import UserError
from lps.streams import Stream

WARM_UP = 3
"""Updates before the capture, so that every kernel has been chosen and every buffer made.  They are real updates."""


class Program:
    """Updates of `agent` on `batches`, keyed by the members' run seeds.

    Args:
        seeds: run seed of each member.
        compiled: see above; the first updates are slow then, and the plain ones are not.
    """

    def __init__(self, agent: Agent, batches: Batches, seeds: list[int], compiled: bool = False):
        if compiled and agent.device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
            raise UserError(
                "compiling for the CPU needs a C++ compiler: install g++, name another in $CXX, or do without"
            )
        self.agent, self.batches = agent, batches
        self.seeds = torch.tensor(seeds, dtype=torch.int64, device=agent.device)
        self._losses = torch.compile(agent.losses, dynamic=False) if compiled else agent.losses
        # The compiler looks through the cache of constant row numbers, which is right: they are constants.
        warnings.filterwarnings("ignore", message=r"Dynamo detected a call to a `functools.lru_cache`")
        self._warm_up = WARM_UP if compiled and agent.device.type == "cuda" else None
        self._step = torch.zeros((), dtype=torch.int64, device=agent.device)
        self._graph: torch.cuda.CUDAGraph | None = None
        self._info: Info = {}

    def update(self, step: int) -> Info:
        """The update number `step`, which decides its batch and noise; metrics by name, (M,) each, on the device."""
        if self._warm_up is None:
            return self._update(step)
        self._step.fill_(step)
        if self._graph is None and self._warm_up:
            self._warm_up -= 1
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                self._info = self._update(self._step)
            torch.cuda.current_stream().wait_stream(side)
            return self._info
        if self._graph is None:
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph):
                self._info = self._update(self._step)
        self._graph.replay()
        return self._info

    def _update(self, step: int | Tensor) -> Info:
        size = self.agent.config.batch_size
        batch = self.batches.sample(Stream(self.seeds, step, "batch"), size)
        return self.agent.update(batch, self.agent.noise(Stream(self.seeds, step, "noise"), size), self._losses)
