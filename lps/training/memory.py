"""Measure how many members fit on a device at once.

Every tensor of a program carries the member axis, so its memory is a line in the number of members. Two short
measurements, of two members and of three, give the line for this agent, these widths, this device and this torch. (One
member is off the line: some copies are views when there is only one.)
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
from lps.tasks.suites import get_task
from lps.tasks.task import Task
from lps.training.program import Program

USABLE = 0.8
"""Share of the free memory for members; the rest is for the dataset and the allocator's gaps."""


COPIES = 4
"""Copies of every parameter: itself, its gradient and Adam's two moments."""


def check_fits(run: Run, device: str) -> None:
    """UserError if the parameters or one batch of a run cannot fit the memory of the device, before any is taken.  The
    run needs more than these: it may pass and still be too large."""
    total = (
        torch.cuda.get_device_properties(device).total_memory
        if torch.device(device).type == "cuda"
        else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    )
    task, config = run.resolved_task, run.config
    seen = sum(math.prod(space.shape) * np.dtype(space.dtype).itemsize for space in task.observation.values())
    batch = config.batch_size * (2 * seen + 4 * config.horizon * task.action.shape[0])
    try:
        blank_networks(run, task.observation, task.action.shape[0], total // (4 * COPIES))
        if batch > total:
            raise ValueError(f"a batch takes {batch / 1e9:.3g} GB")
    except ValueError as problem:
        raise UserError(
            f"{run.agent} does not fit the {total / 1e9:.0f} GB of this machine's {device}: {problem}. Use smaller "
            "networks, a smaller batch_size or a smaller horizon"
        ) from problem


@dataclass(frozen=True)
class Footprint:
    """Peak memory of a program in bytes: `fixed` + M * `member`, the dataset not counted."""

    fixed: int
    member: int


def members_that_fit(run: Run, device: str, precision: str = "float32", device_share: float = 1.0) -> int | None:
    """Return how many members like `run` (same agent, widths, batch) fit into one program on `device`, at least 1.

    None (no limit) on the CPU, where packs are small and members need little memory.

    Args:
        device_share: share of the device for this process, if other processes train on it too.
    """
    if torch.device(device).type != "cuda":
        return None
    line = footprint(run, device, precision)
    torch.cuda.empty_cache()  # the measurement's memory counts as free again
    free, total = torch.cuda.mem_get_info(device)
    room = min(free, device_share * total) * USABLE
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
        subject = AGENTS[agent]([config] * members, seeds, task.observation, task.action.shape[0], device)
        batches = Batches(dataset, [task.name] * members, [config.discount] * members, config.horizon, device)
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
