"""Shared by all readers of datasets: the needs of tasks, checks, and the conversion to memory-mapped arrays.

A reader is a function of a path that yields Episodes.  `load` checks them, writes them once per machine
(lps.data.cache) and returns the Dataset.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from lps.data.cache import cached, check_room, create, mapped
from lps.data.episodes import Dataset
from lps.data.scale import ActionScale
from lps.errors import UserError
from lps.spaces import Space, as_observation

ACTION_LIMIT = 1.0 - 1e-5
"""Actions are clipped to plus and minus this: one of exactly 1 has no density under a squashed policy.  FQL and LPS
clip so."""


class Needs(NamedTuple):
    """Arrays that a group of tasks needs from a dataset."""

    observations: Mapping[str, Space]
    """Space of each array of an observation, by name."""
    low: np.ndarray
    """(act,): smallest actions, in the environment's units."""
    high: np.ndarray
    """(act,): largest actions."""
    tasks: tuple[str, ...]
    """Names of the tasks."""
    clips: bool = False
    """Whether actions outside of `low` and `high` are clipped; else they are errors."""
    settings: str = ""
    """Further settings of the reader that change the arrays."""


class Episode(NamedTuple):
    """n transitions with n + 1 observations, as a file has them."""

    observations: Mapping[str, np.ndarray]
    """(n + 1, *shape) each."""
    actions: np.ndarray
    """(n, act)."""
    rewards: Mapping[str, np.ndarray]
    """(n,) each, by the task's name inside its suite; "" for all other tasks."""
    masks: Mapping[str, np.ndarray]
    """(n,) each, like rewards: 0 where nothing comes after the transition, else 1."""


Reader = Callable[[Path, Needs], tuple[int, Iterator[Episode]]]
"""(path, needs) -> the number of observations in all episodes, and the episodes."""


def load(path: Path, needs: Needs, read: Reader) -> Dataset:
    """Return the dataset at `path` with a row of rewards and masks for each task.

    UserError: an observation of another shape or dtype, actions outside their bounds, NaN or infinity in any array, no
    rewards, no ends of episodes, a damaged file.
    """
    spaces = [sorted(needs.observations.items()), needs.low.tolist(), needs.high.tolist()]
    spaces += [needs.settings] if needs.settings else []
    key = hashlib.sha256(repr(spaces).encode()).hexdigest()[:16]
    fingerprint, folder = cached(path, key, lambda folder: _write(path, folder, needs, read))
    names = mapped(folder, "tasks").tolist()
    rows = []
    for task in needs.tasks:
        name = task.partition(":")[2] or task
        if name not in names and "" not in names:
            raise UserError(f"{path} has no rewards for the task {name!r}. Add the array 'rewards/{name}'")
        rows.append(names.index(name if name in names else ""))
    scale = ActionScale.of_bounds(needs.low, needs.high)
    return Dataset(
        name=path.name.removesuffix(".npz"),
        fingerprint=fingerprint,
        observations={name: mapped(folder, f"observations.{name}") for name in needs.observations},
        actions=mapped(folder, "actions"),
        terminals=mapped(folder, "terminals"),
        rewards=mapped(folder, "rewards")[rows],
        masks=mapped(folder, "masks")[rows],
        tasks=needs.tasks,
        action_scale=None if scale.is_identity else scale,
    )


def check_finite(path: Path, name: str, array: np.ndarray, start: int) -> None:
    """UserError if `array` does not hold real numbers, or if some row of it has NaN, infinity or a number too large for
    float32; its first row is row `start` of the dataset."""
    if array.dtype.kind not in "fiub":
        raise UserError(f"{path}: {name} holds {array.dtype} and not real numbers. Convert the array")
    if array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            finite = np.isfinite(array.astype(np.float32, copy=False))
        if not finite.all():
            row = start + int(np.argmin(finite.reshape(len(array), -1).all(1)))
            raise UserError(f"{path}: {name} has NaN or infinity in row {row}. Repair or remove that episode")


def check_ends(path: Path, ends: np.ndarray) -> None:
    """UserError if no row is the last one of an episode."""
    if not ends.any():
        raise UserError(f"{path}: terminals are never true. Mark the last row of each episode (docs/adding-data.md)")


def _write(path: Path, folder: Path, needs: Needs, read: Reader) -> None:
    rows, episodes = read(path, needs)
    first = next(episodes)
    np.save(folder / "tasks.npy", list(first.rewards))
    scale = ActionScale.of_bounds(needs.low, needs.high)
    shapes = {name: ((rows, *shape), dtype) for name, (shape, dtype) in needs.observations.items()}
    check_room(path, folder, shapes.values())
    observations = {name: create(folder, f"observations.{name}", *array) for name, array in shapes.items()}
    actions = create(folder, "actions", (rows, len(needs.low)), np.float32)
    terminals = create(folder, "terminals", (rows,), np.bool_)
    rewards = create(folder, "rewards", (len(first.rewards), rows), np.float32)
    masks = create(folder, "masks", (len(first.rewards), rows), np.float32)
    masks[:] = 1
    start = 0
    with tqdm(total=rows, desc=f"converting {path.name}", unit="row", unit_scale=True, leave=False) as progress:
        for episode in itertools.chain([first], episodes):
            _check(path, episode, needs, start)
            steps = len(episode.actions)
            here = slice(start, start + steps)
            for name, array in observations.items():
                array[start : start + steps + 1] = episode.observations[name]
            actions[here] = np.clip(scale.normalise(episode.actions), -ACTION_LIMIT, ACTION_LIMIT)
            terminals[start + steps] = True
            for row, task in enumerate(first.rewards):
                rewards[row, here], masks[row, here] = episode.rewards[task], episode.masks[task]
            start += steps + 1
            progress.update(steps + 1)
    for array in (*observations.values(), actions, terminals, rewards, masks):
        array.flush()


def _check(path: Path, episode: Episode, needs: Needs, start: int) -> None:
    """UserError if an episode, whose first observation is row `start`, does not fit the tasks."""
    rows = len(episode.actions) + 1
    for name, array in as_observation(episode.observations, needs.observations, str(path), rows).items():
        check_finite(path, f"the observation {name!r}", array, start)
    actions, size = episode.actions, len(needs.low)
    if actions.shape[1:] != (size,):
        raise UserError(
            f"{path}: an action has shape {actions.shape[1:]}, but the task's has shape {(size,)}. Convert the array, "
            "or change the task's action space"
        )
    check_finite(path, "actions", actions, start)
    slack = 1e-4 * (needs.high - needs.low)
    beyond = (actions < needs.low - slack) | (actions > needs.high + slack)
    if not needs.clips and (outside := np.flatnonzero(beyond.any(1)).tolist()):
        raise UserError(
            f"{path}: the action {actions[outside[0]].tolist()} in row {start + outside[0]} is outside the action "
            f"space, {needs.low.tolist()} to {needs.high.tolist()}. Rescale the actions, or change the action space"
        )
    for kind, arrays in (("rewards", episode.rewards), ("masks", episode.masks)):
        for array in arrays.values():
            if array.shape != (len(actions),):
                raise UserError(f"{path}: {kind} have shape {array.shape[1:]} in a step. Write one number per step")
            check_finite(path, kind, array, start)
    for array in episode.masks.values():
        if outside := np.flatnonzero((array < 0) | (array > 1)).tolist():
            raise UserError(
                f"{path}: the mask in row {start + outside[0]} is {array[outside[0]]:g}. Write numbers from 0 to 1"
            )
