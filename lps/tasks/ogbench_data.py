"""OGBench's datasets: found or downloaded, converted once, and loaded with the rewards of a group's tasks.

OGBench's files bring no rewards.  OGBench's own relabelling computes each task's from the simulator's states (qpos,
button_states).
"""

from __future__ import annotations

import functools
import json
import math
import os
import shlex
import sys
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from lps.data.cache import Damaged, cached, check_room, create, mapped
from lps.data.download import download
from lps.data.episodes import Dataset
from lps.data.names import data_dir as find_data_dir
from lps.data.names import plain_name
from lps.data.npz import Column, columns
from lps.data.readers import ACTION_LIMIT, check_ends, check_finite
from lps.errors import UserError, suggest
from lps.tasks.ogbench_env import VISUAL, import_ogbench, make_env, set_task
from lps.tasks.ogbench_oracles import recipes
from lps.tasks.suites import groups
from lps.tasks.task import Task

URL = "https://rail.eecs.berkeley.edu/datasets/ogbench"
"""Base URL of OGBench's datasets, as in ogbench.utils."""

KINDS = {
    "pointmaze": ("navigate", "stitch"),
    "antmaze": ("navigate", "stitch", "explore"),
    "humanoidmaze": ("navigate", "stitch"),
    "antsoccer": ("navigate", "stitch"),
    "cube": ("play", "noisy"),
    "scene": ("play", "noisy"),
    "puzzle": ("play", "noisy"),
}
"""Kinds of datasets that OGBench has of each family of groups."""

FAR = 2.0
"""Actions are clipped to [-1, 1], but those beyond this are in other units."""

BLOCK_BYTES = 1 << 26
"""Bytes converted at a time, so that memory use does not grow with the dataset."""


# --- Names ------------------------------------------------------------------------------------------------------------


@functools.cache
def _published() -> frozenset[str]:
    names = {
        f"{group}-{kind}-v0"
        for group in groups("ogbench")
        for kind in KINDS[group.removeprefix(VISUAL).split("-")[0]]
        if group != "visual-pointmaze-medium"
    }
    return frozenset(names - {"antmaze-giant-explore-v0", "visual-antmaze-giant-explore-v0"})


def published(name: str) -> bool:
    """Whether a dataset of this name is among OGBench's."""
    return name.removesuffix("-val") in _published()


def default_name(dataset: str, episodes: int) -> str:
    """Return the name of a collected dataset of a kind ('cube-single-play', with or without '-v0')."""
    return f"{dataset.removesuffix('-v0')}-{episodes}"


def collect_command(about: Mapping[str, Any], name: str) -> str:
    """Return the command that collects a dataset with these settings (lps.tasks.ogbench_collect), without the data
    folder.  A dataset with the name of one of OGBench's gets its own name."""
    episodes = about["episodes"]["train"]
    name = default_name(about["dataset"], episodes) if published(name) else name
    words = ["python", "-m", "lps", "collect", about["dataset"], "--episodes", episodes, "--seed", about["seed"]]
    return shlex.join(map(str, [*words, "--name", name, "--noise", about["noise"]]))


def _command(path: Path) -> str | None:
    """The command that collects the npz file `path` again, from NAME.json; None if it was not collected."""
    path = path.with_stem(path.stem.removesuffix("-val"))
    try:
        command = collect_command(json.loads(path.with_suffix(".json").read_text()), path.stem)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return command + ("" if path.parent == find_data_dir() else f" --data-dir {shlex.quote(str(path.parent))}")


# --- Files ------------------------------------------------------------------------------------------------------------


def dataset_path(name: str, data_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the npz file of a dataset: the one in the data folder, else OGBench's, which is downloaded into it.

    UserError: unknown name, no network, no permission to write, a damaged file at the source, or a dataset that was
    collected here and was deleted: OGBench's of the same name is another one.
    """
    name = plain_name(name, "--dataset")
    directory = find_data_dir(data_dir)
    path = directory / f"{name}.npz"
    if path.exists():
        return path
    if again := _command(path):
        theirs = f", or remove {path.with_suffix('.json')} to download OGBench's" if published(name) else ""
        raise UserError(f"{path} was collected here and is gone. Collect it again: {again}{theirs}")
    if not published(name):
        here = [file.stem for file in directory.glob("*.npz") if not file.stem.endswith("-val")]
        kind = max((kind for kind in recipes() if name.startswith(recipes()[kind].group)), key=len, default="KIND")
        known = suggest(name, [*here, *sorted(_published())], "dataset", "OGBench's are such as scene-play-v0")
        raise UserError(
            f"no {name}.npz in {directory}, nor among OGBench's: {known}. "
            f"To collect one of that name: python -m lps collect {kind} --episodes 100 --name {name}"
        )
    return download(path, URL, _remedies(name))


def _remedies(name: str) -> str:
    kind = name.removesuffix("-val").removesuffix("-v0")
    remedy = "Set LPS_DATA_MIRROR to another base URL or to a folder that has the file"
    if kind not in recipes():
        return remedy
    return (
        f"{remedy}, or collect a dataset: python -m lps collect {kind} --episodes 1000, and train on it with "
        f"--dataset {default_name(kind, 1000)}"
    )


# --- Loading ----------------------------------------------------------------------------------------------------------


def load(tasks: Sequence[Task], name: str, data_dir: str | os.PathLike[str] | None = None) -> Dataset:
    """Load a dataset of one group, with a row of rewards and masks for each of `tasks`, in their order.

    The reward of transition i, s_i -> s_{i+1}, is that of s_i or of s_{i+1} (the option reward_timing), made sparse
    where the task is.  The file is downloaded and converted on first use.  UserError: a dataset that is not found, is
    damaged at its source, or is of another group.
    """
    fingerprint, folder = _converted(name, tasks[0].group, data_dir)
    rows = [task.options["number"] - 1 for task in tasks]
    rewards, masks = mapped(folder, "rewards")[rows], mapped(folder, "masks")[rows]
    if tasks[0].options["reward_timing"] == "post":
        # The last row takes the first one's: it starts no transition.
        rewards, masks = np.roll(rewards, -1, axis=1), np.roll(masks, -1, axis=1)
    for row, task in enumerate(tasks):
        if task.options["reward"] == "sparse":
            rewards[row] = np.where(rewards[row] != 0.0, -1.0, 0.0)
    return Dataset(
        name=name.removesuffix(".npz"),
        fingerprint=fingerprint,
        observations={observation: mapped(folder, "observations") for observation in tasks[0].observation},
        actions=mapped(folder, "actions"),
        terminals=mapped(folder, "terminals"),
        rewards=rewards,
        masks=masks,
        tasks=tuple(task.name for task in tasks),
    )


def _converted(name: str, group: str, data_dir: str | os.PathLike[str] | None, again: bool = False) -> tuple[str, Path]:
    """The SHA-256 and the arrays of a dataset; a damaged file of OGBench's is downloaded once more."""
    path = dataset_path(name, data_dir)
    try:
        # By group as well: the rewards are those of its tasks, and another group's file must come to the checks.
        return cached(path, group, lambda folder: _convert(path, groups("ogbench")[group], folder))
    except Damaged as error:
        damage = error
    if command := _command(path):
        aside = _set_aside(path, keep=True)
        raise UserError(
            f"{path} is {damage.how}. It was collected here and is now {aside.name}. Collect it again: {command}. If "
            f"you have changed it yourself, move it back and remove {path.name}.sha256"
        )
    if not published(path.stem):
        raise damage
    aside = _set_aside(path, keep=False)
    if again:
        raise UserError(f"{path} is {damage.how}, after a second download. {_remedies(path.stem)}")
    tqdm.write(f"{path} is {damage.how}; it is now {aside.name}. Downloading it again", file=sys.stderr)
    try:
        return _converted(name, group, data_dir, again=True)
    except UserError as error:
        raise UserError(f"{path} is {damage.how}, and cannot be downloaded again: {error}") from error


def _set_aside(path: Path, keep: bool) -> Path:
    """Rename a damaged file to NAME.npz.damaged; with `keep`, an earlier one stays."""
    aside, number = path.with_name(f"{path.name}.damaged"), 1
    while keep and aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.damaged{number}")
    return path.replace(aside) if path.exists() else aside


def _convert(path: Path, tasks: Sequence[Task], folder: Path) -> None:
    """Write observations (N, *shape) as the tasks observe them, actions (N, act) float32, terminals (N,) bool, and for
    the state of each row the rewards and masks of the tasks, (5, N) float32."""
    ((_, space),) = tasks[0].observation.items()
    with zipfile.ZipFile(path) as archive:
        arrays = columns(archive)
        relabel = _Relabel(tasks)
        keys = _check(path, arrays, tasks[0], relabel.sizes)
        rows = arrays["observations"].shape[0]
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "observations": ((rows, *space.shape), space.dtype),
            "actions": (arrays["actions"].shape, np.float32),
            "terminals": ((rows,), np.bool_),
            "rewards": ((len(tasks), rows), np.float32),
            "masks": ((len(tasks), rows), np.float32),
        }
        check_room(path, folder, shapes.values())
        out = {name: create(folder, name, *array) for name, array in shapes.items()}
        size = sum(arrays[key].dtype.itemsize * math.prod(arrays[key].shape[1:]) for key in keys)
        block_rows = max(1, BLOCK_BYTES // size)
        with tqdm(total=rows, desc=f"converting {path.name}", unit="row", unit_scale=True, leave=False) as progress:
            for start in range(0, rows, block_rows):
                here = slice(start, min(start + block_rows, rows))
                block = {key: arrays[key].take(here.stop - start) for key in keys}
                for key, array in block.items():
                    check_finite(path, key, array, start)
                if (largest := np.abs(block["actions"]).max()) > FAR:
                    raise UserError(
                        f"{path}: an action is {largest:g}, but those of {tasks[0].group} are in [-1, 1]. Rescale them"
                    )
                out["observations"][here] = block["observations"]
                out["actions"][here] = np.clip(block["actions"], -ACTION_LIMIT, ACTION_LIMIT)
                out["terminals"][here] = block["terminals"]
                out["rewards"][:, here], out["masks"][:, here] = relabel(block)
                progress.update(here.stop - start)
        check_ends(path, out["terminals"])
        for array in out.values():
            array.flush()


def _check(path: Path, arrays: Mapping[str, Column], task: Task, sizes: Mapping[str, int]) -> list[str]:
    """The names of the arrays that are read.  UserError if they are not those of a dataset of the task's group."""
    ((_, space),) = task.observation.items()
    shapes = {
        "observations": space.shape,
        "actions": task.action.shape,
        "terminals": (),
        **{key: (size,) for key, size in sizes.items()},
    }
    if missing := [key for key in shapes if key not in arrays]:
        raise UserError(
            f"{path} has no {', '.join(missing)}, which a dataset of {task.group} has. Add the arrays, or use --dataset"
        )
    rows = arrays["observations"].shape[0] if arrays["observations"].shape else 0
    if not rows:
        raise UserError(f"{path} is empty. Remove it, then download or collect it")
    for key, shape in shapes.items():
        if arrays[key].shape != (rows, *shape):
            raise UserError(
                f"{path}: {key} of shape {arrays[key].shape}, but {task.group} needs {(rows, *shape)}. "
                "Use a dataset of that group"
            )
    if space.dtype == "uint8" and (given := arrays["observations"].dtype) != np.uint8:
        raise UserError(
            f"{path}: observations of {given}, but {task.group} needs frames of uint8. Convert them to 0 to 255"
        )
    return list(shapes)


class _Relabel:
    """OGBench's rewards and masks of states, for each of the tasks."""

    def __init__(self, tasks: Sequence[Task]):
        import_ogbench()
        # The states of a visual group are those of its group of states, whose environment needs no renderer.
        self.tasks = groups("ogbench")[tasks[0].group.removeprefix(VISUAL)]
        env: Any = make_env(self.tasks[0]).unwrapped
        env.reset()
        self.env = env
        self.sizes = {"qpos": int(env.model.nq)}
        """Return the parts of a state beside the observation, with their sizes."""
        if hasattr(env, "_num_buttons"):
            self.sizes["button_states"] = env._num_buttons

    def __call__(self, states: dict[str, np.ndarray]) -> tuple[list[np.ndarray], list[np.ndarray]]:
        from ogbench.relabel_utils import relabel_dataset

        rewards, masks = [], []
        for task in self.tasks:
            set_task(self.env, task)  # OGBench's relabelling resets it
            block = dict(states)
            relabel_dataset(task.options["env"], self.env, block)
            rewards.append(block["rewards"])
            masks.append(block["masks"])
        return rewards, masks
