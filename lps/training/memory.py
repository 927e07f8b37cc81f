"""Measure how many members fit on a device at once, and where images are kept.

Every tensor of a program carries the member axis, so its memory is a line in the number of members. Two short
measurements, of two members and of three, give the line for this agent, these widths, this device and this torch. (One
member is off the line: some copies are views when there is only one.)

Images are kept on the device up to a share of its memory, and in host memory beyond that (lps.data.batches).
"""

from __future__ import annotations

import functools
import gc
import json
import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from lps.agents import AGENTS
from lps.data.batches import Batches
from lps.data.episodes import Dataset
from lps.errors import UserError
from lps.runs.checkpoint import blank_networks
from lps.runs.run import Run
from lps.spaces import stacked
from lps.tasks.suites import get_task
from lps.tasks.task import Task
from lps.training.flops import kept_bytes
from lps.training.program import Program

USABLE = 0.8
"""Share of the free memory for members; the rest is for the dataset and the allocator's gaps."""

IMAGE_SHARE = 0.5
"""Largest share of a GPU's memory for the images of a dataset."""

COPIES = 4
"""Copies of every parameter: itself, its gradient and Adam's two moments."""


def check_fits(run: Run, device: str) -> None:
    """UserError if the parameters of a run, or one batch with what its losses keep of it, cannot fit the memory of the
    device, before any is taken.  The run needs more than these: it may pass and still be too large."""
    total = _total(device)
    task, config = run.resolved_task, run.config
    observation = stacked(task.observation, config.frame_stack)
    seen = sum(math.prod(space.shape) * np.dtype(space.dtype).itemsize for space in observation.values())
    batch = config.batch_size * (2 * seen + 4 * config.horizon * task.action.shape[0])
    try:
        blank_networks(run, observation, task.action.shape[0], total // (4 * COPIES))
        if task.has_images:
            batch += kept_bytes(run)
        if batch > total:
            raise ValueError(f"a batch takes {batch / 1e9:.3g} GB")
    except ValueError as problem:
        raise UserError(
            f"{run.agent} does not fit the {total / 1e9:.0f} GB of this machine's {device}: {problem}. Use smaller "
            "networks, a smaller batch_size or a smaller horizon"
        ) from problem


def image_room(device: str, device_share: float = 1.0) -> float | None:
    """Return the bytes of a device for images; None (no limit) on the CPU, where they are memory-mapped files."""
    return IMAGE_SHARE * device_share * _total(device) if torch.device(device).type == "cuda" else None


def _total(device: str) -> int:
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True)
class Footprint:
    """Peak memory of a program in bytes: `fixed` + M * `member`, the dataset not counted."""

    fixed: int
    member: int


def members_that_fit(
    run: Run, device: str, precision: str = "float32", device_share: float = 1.0, images: int = 0
) -> int | None:
    """Return how many members like `run` (same agent, widths, batch) fit into one program on `device`, at least 1.

    On the CPU it is estimated for images; None (no limit) without images, where members need little memory.

    Args:
        device_share: share of the device for this process, if other processes train on it too.
        images: bytes of the dataset's images.
    """
    if torch.device(device).type != "cuda":
        return max(1, int(_total(device) * USABLE // kept_bytes(run))) if run.resolved_task.has_images else None
    line = footprint(run, device, precision)
    torch.cuda.empty_cache()  # the measurement's memory counts as free again
    free, total = torch.cuda.mem_get_info(device)
    room = min(free, device_share * total) * USABLE
    if images <= IMAGE_SHARE * device_share * total:
        room -= images
    return max(1, int((room - line.fixed) // line.member))


def footprint(run: Run, device: str, precision: str = "float32") -> Footprint:
    """Return the memory of a pack of `run`, measured by one plain update of two members and of three.

    A process measures each agent, configuration and device once. Compiled updates need less memory.
    """
    return _footprint(run.agent, run.config, run.task, json.dumps(dict(run.options)), device, precision)


@functools.cache
def _footprint(agent: str, config: Any, task: str, options: str, device: str, precision: str) -> Footprint:
    of = functools.partial(peak, agent, config, get_task(task, json.loads(options)), device=device, precision=precision)
    of(1)  # the first update of a process also brings the workspaces of the device's libraries
    two, three = of(2), of(3)
    return Footprint(fixed=max(0, 3 * two - 2 * three), member=max(1, three - two))


def peak(agent: str, config: Any, task: Task, members: int, device: str, precision: str = "float32") -> int:
    """Return the peak bytes of GPU memory while building a program of `members` and running its first update."""
    dataset = _no_data(task, rows=2 * config.horizon)

    def once() -> None:
        seeds = list(range(members))
        observation = stacked(task.observation, config.frame_stack)
        subject = AGENTS[agent]([config] * members, seeds, observation, task.action.shape[0], device)
        discounts = [config.discount] * members
        batches = Batches(
            dataset, [task.name] * members, discounts, config.horizon, device, frame_stack=config.frame_stack
        )
        Program(subject, batches, seeds, precision=precision).update(1)

    gc.collect()  # nothing from before may be freed in between
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    once()
    return torch.cuda.max_memory_allocated(device) - before


def _no_data(task: Task, rows: int) -> Dataset:
    """One episode of zeros."""
    return Dataset(
        name="zeros",
        fingerprint="",
        observations={name: np.zeros((rows, *space.shape), space.dtype) for name, space in task.observation.items()},
        actions=np.zeros((rows, *task.action.shape), np.float32),
        terminals=np.arange(rows) == rows - 1,
        rewards=np.zeros((1, rows), np.float32),
        masks=np.ones((1, rows), np.float32),
        tasks=(task.name,),
    )
