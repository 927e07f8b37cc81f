"""A dataset as agents train on it: transitions of whole episodes, with rewards and masks of the tasks asked for."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from tqdm import tqdm

from lps.data.cache import converted
from lps.data.download import dataset_path, remedies
from lps.data.integrity import Damaged
from lps.errors import UserError, suggest
from lps.tasks import ring
from lps.tasks.table import RING, SuccessTiming, Task


@dataclass(frozen=True, eq=False)
class Dataset:
    """N rows of episodes, one after the other. Row i is the state and action of step i; with row i + 1 of the same
    episode it makes transition i. The last row of an episode starts no transition."""

    name: str
    fingerprint: str
    """SHA-256 of the npz file, hex; of the actions where there is none."""
    observations: np.ndarray
    """(N, obs) float32, memory-mapped; writing to it changes memory only."""
    actions: np.ndarray
    """(N, act) float32, within +-(1 - 1e-5)."""
    terminals: np.ndarray
    """(N,) bool: true at the last row of an episode."""
    rewards: np.ndarray
    """(T, N) float32, of transition i for each task; meaningless where none starts."""
    masks: np.ndarray
    """(T, N) float32: 0 where transition i reaches the task's goal, or nothing comes after it, else 1."""
    tasks: tuple[Task, ...]

    def starts(self, horizon: int) -> np.ndarray:
        """All rows i, in order, for which rows i to i + horizon are of one episode, (n,) int64: the starts of the
        chunks that never cross an episode's end. UserError if there are none."""
        if horizon < 1:
            raise ValueError(f"a horizon of {horizon}")
        ends = np.concatenate([[0], np.cumsum(self.terminals, dtype=np.int64)])  # before row i
        starts = np.flatnonzero(ends[horizon:-1] == ends[: -1 - horizon])
        if not len(starts):
            raise UserError(f"no episode of the dataset {self.name} has the {horizon + 1} rows that a chunk needs")
        return starts


def load_dataset(
    tasks: Sequence[Task],
    *,
    dataset: str | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    reward_timing: SuccessTiming = "pre",
) -> Dataset:
    """Loads the dataset of one group, with a row of rewards and masks for each of `tasks`, in their order.

    `dataset` names a file in the data directory, by default OGBench's, which is downloaded if need be. The reward of
    transition i, s_i -> s_{i+1}, is that of s_i ('pre': OGBench's own loader in every version, and so the papers) or
    of s_{i+1} ('post'), made sparse where the task says so. Converts the file on first use.

    What is damaged is noticed by its checksum (lps.data.integrity): converted arrays are made again, a downloaded file
    is downloaded again, once, and a collected one is moved aside. UserError: tasks of several groups, an unknown
    timing, a dataset that is not found, damaged for good, or of another group.
    """
    if not tasks or len({task.group for task in tasks}) > 1:
        raise UserError(f"a dataset is loaded for tasks of one group, not {[task.name for task in tasks]}")
    if reward_timing not in get_args(SuccessTiming):
        raise UserError(suggest(reward_timing, get_args(SuccessTiming), "reward timing"))
    if tasks[0].group == RING.group:
        return ring.dataset(dataset or RING.dataset)
    name = dataset or tasks[0].dataset
    fingerprint, directory = _intact(name, tasks[0].group, data_dir)

    def array(of: str) -> np.ndarray:
        return np.load(directory / f"{of}.npy", mmap_mode="c")

    columns = [task.index - 1 for task in tasks]
    rewards, masks = array("rewards")[columns], array("masks")[columns]
    if reward_timing == "post":
        rewards, masks = np.roll(rewards, -1, axis=1), np.roll(masks, -1, axis=1)
    for row, task in enumerate(tasks):
        if task.reward == "sparse":
            rewards[row] = np.where(rewards[row] != 0.0, -1.0, 0.0)
    return Dataset(
        name=name,
        fingerprint=fingerprint,
        observations=array("observations"),
        actions=array("actions"),
        terminals=array("terminals"),
        rewards=rewards,
        masks=masks,
        tasks=tuple(tasks),
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
