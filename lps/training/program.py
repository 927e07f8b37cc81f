"""One update of a whole pack as one program: batch, losses, gradients, Adam and targets.

The program never waits for the host. Two options make it faster:

compiled: torch.compile fuses the losses and their gradients. On CUDA the whole update is captured as a graph and
    replayed. Results equal those of the plain update up to the rounding of fused arithmetic.
precision: the precision of matrix products. It changes the results.

    float32  the reference, tested against the authors' numbers
    tf32     CUDA only: products of numbers rounded to 10 bits, summed in float32; the rest as in float32
    bf16     losses and gradients under autocast: products and intermediate values in 8 bits; parameters, Adam,
             targets, losses and metrics in float32

A policy acts and is evaluated in float32, whatever the precision of its training.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import shutil
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lps.agents.base import Agent, Info, Noise
from lps.cpu import keep_freed_memory
from lps.data.augment import augmented
from lps.data.batch import Batch
from lps.data.batches import Batches, Frames
from lps.errors import UserError
from lps.members.streams import Stream
from lps.training.options import check_precision

log = logging.getLogger(__name__)

WARM_UP = 3
"""Number of updates before the capture: they choose every kernel and make every buffer.  They are real updates."""


def chosen_device(device: str) -> str:
    """Return "cpu" or "cuda" for a name in lps.training.options.DEVICES. UserError if CUDA is not available."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        why = "finds no GPU" if torch.version.cuda else "has no CUDA support"
        raise UserError(f"device cuda is not available: torch {torch.__version__} {why}; use --device cpu or auto")
    return device


class Program:
    """Updates of `agent` on `batches`, keyed by the members' run seeds.

    Args:
        seeds: run seed of each member.
        compiled: see above; the first updates are slow.
        precision: one of lps.training.options.PRECISIONS; see above.
    Raises:
        UserError: for a precision that the agent's device does not support; to compile on a CPU without a C++ compiler.
    """

    def __init__(
        self, agent: Agent, batches: Batches, seeds: list[int], compiled: bool = False, precision: str = "float32"
    ):
        on_gpu = agent.device.type == "cuda"
        check_precision(precision, agent.device.type)
        if not on_gpu:
            keep_freed_memory()
        self.agent, self.batches, self.precision = agent, batches, precision
        self.seeds = torch.tensor(seeds, dtype=torch.int64, device=agent.device)
        self._losses = _in_bf16(agent) if precision == "bf16" else agent.objective
        self._draw = _draw
        self._ahead = batches.ahead(agent.config.batch_size)
        if compiled and _can_compile(on_gpu):
            self._losses = _compiled(self._losses)
            if on_gpu:  # a CPU rounds a compiled logarithm differently for different numbers of members
                self._draw = _compiled(_draw)
        self._capture = _Capture() if compiled and on_gpu else None

    def update(self, step: int) -> Info:
        """Make update number `step`, which selects its batch and noise.  Return the metrics by name, (M,) each, on the
        device."""
        update = functools.partial(self._update, frames=self._ahead(step)) if self._ahead else self._update
        return self._capture(update, step) if self._capture else update(step)

    def _update(self, step: int | Tensor, frames: Frames | None = None) -> Info:
        batch, noise = self._draw(self.agent, self.batches, self.seeds, step, frames)
        with _tf32() if self.precision == "tf32" else contextlib.nullcontext():
            return self.agent.update(batch, noise, self._losses)


def _draw(
    agent: Agent, batches: Batches, seeds: Tensor, step: int | Tensor, frames: Frames | None = None
) -> tuple[Batch, Noise]:
    """The batch and the noise of an update.  frames: the batch's images, where they are in host memory."""
    size = agent.config.batch_size
    batch = batches.sample(Stream(seeds, step, "batch"), size, frames)
    if batches.images and agent.largest["p_aug"] > 0:
        batch = augmented(batch, Stream(seeds, step, "augment"), agent.p_aug)
    return batch, agent.noise(Stream(seeds, step, "noise"), size)


class _Capture:
    """Captures the update as a CUDA graph after a few plain updates, and replays it."""

    def __init__(self) -> None:
        self.warm_up = WARM_UP
        self.side = torch.cuda.Stream()
        self.step = torch.zeros((), dtype=torch.int64, device="cuda")
        self.graph: torch.cuda.CUDAGraph | None = None
        self.info: Info = {}

    def __call__(self, update: Callable[[Tensor], Info], step: int) -> Info:
        self.step.fill_(step)
        if self.warm_up:
            self.warm_up -= 1
            self.side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.side):
                self.info = update(self.step)
            torch.cuda.current_stream().wait_stream(self.side)
            return self.info
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, stream=self.side):
                self.info = update(self.step)
        self.graph.replay()
        return self.info


Losses = Callable[[Batch, Noise], tuple[Info, Info]]


def _in_bf16(agent: Agent) -> Losses:
    def losses(batch: Batch, noise: Noise) -> tuple[Info, Info]:
        # Autocast's cache of rounded parameters would keep those made under no_grad, which pass no gradient on.
        with torch.autocast(agent.device.type, torch.bfloat16, cache_enabled=False):
            losses, info = agent.objective(batch, noise)
        return {k: v.float() for k, v in losses.items()}, {k: v.float() for k, v in info.items()}

    return losses


def _compiled(function: Any) -> Any:
    # Beyond its limit of 8 shapes the compiler silently runs the plain losses. Agents, pack sizes and precisions can
    # make more shapes than that.
    torch._dynamo.config.recompile_limit = 256
    return torch.compile(function, dynamic=False)


def _can_compile(on_gpu: bool) -> bool:
    """Whether torch finds its compiler.  CPU: without a C++ compiler, raise UserError.  GPU: without a C compiler and
    Python's headers, warn; the capture as a graph works without them."""
    if not on_gpu:
        if not shutil.which(os.environ.get("CXX", "g++")):
            raise UserError("--compile on the CPU needs a C++ compiler. Install g++, set $CXX, or omit --compile")
        return True
    compiler = any(shutil.which(name) for name in (os.environ.get("CC", ""), "gcc", "clang"))
    found = compiler and (Path(sysconfig.get_path("include")) / "Python.h").exists()
    if not found:
        log.warning(
            "updates are captured as a graph but not compiled: no C compiler or no Python headers. Install them with "
            "apt install gcc python3-dev"
        )
    return found


@contextlib.contextmanager
def _tf32() -> Iterator[None]:
    """Allow TF32 inside the block.  The switch belongs to the process and other trainings, so it is restored."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
