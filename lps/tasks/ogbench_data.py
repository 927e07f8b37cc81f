"""OGBench's datasets: found or downloaded, converted once, and loaded with the rewards of a group's tasks."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lps.data.cache import converted
from lps.data.download import dataset_path, remedies
from lps.data.episodes import Dataset
from lps.data.integrity import Damaged
from lps.errors import UserError
from lps.tasks.task import Task


def load(tasks: Sequence[Task], name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a dataset of one group, with a row of rewards and masks for each of `tasks`, in their order.

    The reward of transition i, s_i -> s_{i+1}, is that of s_i or of s_{i+1} (the option reward_timing), made sparse
    where the task is.  The file is downloaded and converted on first use.  UserError: a dataset that is not found,
    damaged for good, or of another group.
    """
    fingerprint, directory = _intact(name, tasks[0].group, data_dir)

    def array(of: str) -> np.ndarray:
        return np.load(directory / f"{of}.npy", mmap_mode="c")

    columns = [task.options["number"] - 1 for task in tasks]
    rewards, masks = array("rewards")[columns], array("masks")[columns]
    if tasks[0].options["reward_timing"] == "post":
        # The last row takes the first one's: it starts no transition.
        rewards, masks = np.roll(rewards, -1, axis=1), np.roll(masks, -1, axis=1)
    for row, task in enumerate(tasks):
        if task.options["reward"] == "sparse":
            rewards[row] = np.where(rewards[row] != 0.0, -1.0, 0.0)
    return Dataset(
        name=name,
        fingerprint=fingerprint,
        observations={"state": array("observations")},
        actions=array("actions"),
        terminals=array("terminals"),
        rewards=rewards,
        masks=masks,
        tasks=tuple(task.name for task in tasks),
    )


def _intact(name: str, group: str, data_dir: str | os.PathLike[str] | None) -> tuple[str, Path]:
    """`converted` of the dataset called `name`, which is downloaded a second time where the first was damaged."""
    try:
        return converted(dataset_path(name, data_dir), group)
    except Damaged as error:
        damage = error
    tqdm.write(f"{damage}. Downloading it again", file=sys.stderr)
    try:
        return converted(dataset_path(name, data_dir), group)
    except Damaged as error:
        raise UserError(f"{error}. That was a fresh copy already. {remedies(name)}") from None
    except UserError as error:
        raise UserError(f"{damage}. To download it again does not work: {error}") from None
