"""One update as one program: drawing the batch, the losses, their gradients, Adam and the targets, for a whole pack.

Nothing in it waits for the host.  There are two switches of speed.  `compiled`: torch.compile fuses the losses and
their gradients, and on CUDA the whole update is captured as a graph and replayed; both compute what the plain update
computes, up to the rounding of fused arithmetic.  `precision`: how exactly matrix products are taken, and this does
change what is computed:

    float32  the reference, which is held to the authors' numbers
    tf32     CUDA only: products of numbers rounded to 10 bits, summed in float32; all else as in float32
    bf16     losses and gradients under autocast: products and what lies between them in 8 bits; parameters, Adam,
             targets, losses and metrics stay float32

A policy acts, and is evaluated, in float32 whatever it was trained in.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator

import torch
from torch import Tensor

from lps.agents import Agent
from lps.agents.base import Batch, Info, Noise
from lps.batches import Batches
from lps.errors import UserError, suggest
from lps.streams import Stream

PRECISIONS = ("float32", "tf32", "bf16")

WARM_UP = 3
"""Updates before the capture, so that every kernel has been chosen and every buffer made.  They are real updates."""


def chosen_device(device: str) -> str:
    """The device that "auto" stands for: cuda where there is one.  UserError for a GPU that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        built = "finds no GPU" if torch.version.cuda else "is a build without CUDA"
        raise UserError(f"there is no device {device!r} here: torch {torch.__version__} {built}; take cpu or auto")
    return device


def check_precision(precision: str, device: str) -> None:
    """UserError for a precision that does not exist, or not on `device` ("cpu" or "cuda")."""
    if precision not in PRECISIONS:
        raise UserError(suggest(precision, PRECISIONS, "precision"))
    if precision == "tf32" and device == "cpu":
        raise UserError("tf32 is a precision of NVIDIA GPUs: on the CPU take float32 or bf16")


class Program:
    """Updates of `agent` on `batches`, keyed by the members' run seeds.

    Args:
        seeds: run seed of each member.
        compiled: see above; the first updates are slow then, and the plain ones are not.
        precision: one of PRECISIONS; see above.
    Raises:
        UserError: for a precision that the agent's device does not have, and for compiling without a compiler.
    """

    def __init__(
        self,
        agent: Agent,
        batches: Batches,
        seeds: list[int],
        compiled: bool = False,
        precision: str = "float32",
    ):
        check_precision(precision, agent.device.type)
        if compiled and agent.device.type == "cpu" and not shutil.which(os.environ.get("CXX", "g++")):
            raise UserError(
                "compiling for the CPU needs a C++ compiler: install g++, name another in $CXX, or do without"
            )
        self.agent, self.batches, self.precision = agent, batches, precision
        self.seeds = torch.tensor(seeds, dtype=torch.int64, device=agent.device)
        losses = self._losses_in_bf16 if precision == "bf16" else agent.losses
        self._losses = torch.compile(losses, dynamic=False) if compiled else losses
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
        noise = self.agent.noise(Stream(self.seeds, step, "noise"), size)
        with _tf32() if self.precision == "tf32" else contextlib.nullcontext():
            return self.agent.update(batch, noise, self._losses)

    def _losses_in_bf16(self, batch: Batch, noise: Noise) -> tuple[Info, Info]:
        # Autocast's cache of rounded parameters would keep those made under no_grad, which pass no gradient on.
        with torch.autocast(self.agent.device.type, torch.bfloat16, cache_enabled=False):
            losses, info = self.agent.losses(batch, noise)
        return {k: v.float() for k, v in losses.items()}, {k: v.float() for k, v in info.items()}


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    """The switch is the process's, so it is put back: what trains beside or after this asked for something else."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
