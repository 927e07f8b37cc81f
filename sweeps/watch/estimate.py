"""Estimates for a sweep: time from measured rates, and disk and memory of images. They are for plans and not for
papers."""

import math
import zipfile
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lps.data.cache import BROKEN
from lps.data.names import data_dir as find_data_dir
from lps.data.npz import columns
from lps.runs.hyperparameters import make_config
from lps.runs.run import Run

CPU_SECONDS: dict[str, float] = {
    "lps": 0.078,
    "fm_lps": 0.28,
    "dsrl": 0.224,
    "dsrl_sac": 0.85,  # from dsrl, by the FLOPs of an update: 52.8 against 13.9 billion
    "qcfql": 0.135,
    "qcmfql": 0.078,
    "best_of_n": 3.3,
    "meanflow_best_of_n": 0.091,  # from lps, by the FLOPs of an update: 4.8 against 4.1 billion
    "quantile_lps": 0.139,  # likewise: 7.2 against 4.1 billion
    "cfgrl": 0.07,
    "meanflow_bc": 0.021,
    "flow_bc": 0.019,
}
"""Seconds of one update of one member on a CPU, with the paper's networks and batch."""
GPU_SECONDS: dict[str, tuple[float, float]] = {
    "lps": (0.00055, 6.1e-05),
    "fm_lps": (0.0017, 0.0002),
    "dsrl": (0.0011, 0.00015),
    "dsrl_sac": (0.0015, 0.00065),
    "qcfql": (0.00082, 9.8e-05),
    "qcmfql": (0.00056, 7e-05),
    "best_of_n": (0.00085, 0.0015),
    "meanflow_best_of_n": (0.0004, 6.3e-05),
    "quantile_lps": (0.00047, 8.4e-05),
    "cfgrl": (0.00055, 6.9e-05),
    "meanflow_bc": (0.00019, 1.8e-05),
    "flow_bc": (0.00014, 2.7e-05),
}
"""The same on a GPU: an update of M members takes the first number, whatever M, and M times the second.

Both come from packs of 1 and 40 (benchmarks/results/cuda). For LPS they give 4 % too much at 8 members."""
MEASURED_ON = {
    "cpu": "one core of a small cloud machine",
    "cuda": "an NVIDIA H200 with --compile --precision tf32; without --compile, updates take up to 20 times as long",
}
IMAGE_GFLOP_PER_SECOND = 107.0
"""Arithmetic of one core in updates from images: 1.65 updates of LPS a second on two cores, of 129 GFLOP each
(benchmarks/results/throughput-pixels-cpu.csv). On a GPU it is not measured."""
SECONDS_PER_ENVIRONMENT_STEP, IN_POINTMAZE = 0.003, 0.0002
"""Seconds of an environment step in evaluation, on one core. Episodes count with their maximum length."""
SECONDS_PER_PACK = 15.0
"""Starting and ending a pack in Ray."""
ROWS: dict[str, int] = {
    **dict.fromkeys(("cube-single", "cube-double", "scene", "puzzle-3x3", "puzzle-4x4"), 1_001_000),
    **dict.fromkeys(("antmaze-medium", "antmaze-large", "antmaze-teleport"), 1_001_000),
    **dict.fromkeys(("cube-triple", "puzzle-4x5"), 3_003_000),
    **dict.fromkeys(("cube-quadruple", "puzzle-4x6"), 5_005_000),
}
"""Rows of OGBench's default dataset of a group: 1, 3 or 5 million transitions in episodes of 1,001 rows. These are
expectations, not counts of the files."""
OVERHEAD = 0.15
"""The part of an update that does not shrink with networks and batch."""


def hours(runs: Sequence[Run], device: str, evaluators: float = 0) -> float | None:
    """Hours that a pack keeps its share of the cluster; None where no rate is known for its agent on this device.

    For images, they are estimated from the FLOPs of an update, and frames that an evaluation renders are not in them.

    Args:
        evaluators: cores that evaluate beside the updates; 0: evaluations run between the updates.
    """
    agent, task = runs[0].agent, runs[0].resolved_task
    if agent not in (GPU_SECONDS if device == "cuda" else CPU_SECONDS) or (task.has_images and device == "cuda"):
        return None
    training = _from_images(runs) if task.has_images else _from_states(runs, device)
    step = IN_POINTMAZE if task.group.startswith("pointmaze") else SECONDS_PER_ENVIRONMENT_STEP
    evaluation = sum(len(run.eval_steps) * run.eval_episodes for run in runs) * task.max_episode_steps * step
    busy = max(training, evaluation / evaluators) if evaluators else training + evaluation
    return (SECONDS_PER_PACK + busy) / 3600


def _from_states(runs: Sequence[Run], device: str) -> float:
    """Seconds of training a pack on states, from the measured rates."""
    agent = runs[0].agent
    fixed = OVERHEAD / vars(make_config(agent, {})).get("num_samples", 1)  # samples are rows, not operations
    updates = sum(run.steps * (fixed + (1 - fixed) * _size(run)) for run in runs)
    if device != "cuda":
        return updates * CPU_SECONDS[agent]
    of_pack, of_member = GPU_SECONDS[agent]
    return max(run.steps for run in runs) * of_pack + updates * of_member


def _from_images(runs: Sequence[Run]) -> float:
    """Seconds of training a pack on images on a CPU, from the operations of an update."""
    from lps.training.flops import update_gflop  # a driver that only launches does without torch

    return sum(run.steps * update_gflop(run) for run in runs) / IMAGE_GFLOP_PER_SECOND


def of_images(runs: Sequence[Run], data_dir: str | None = None) -> list[str]:
    """Lines on the disk and the memory that runs on images need; none where no run has images."""
    seen = {run.dataset: run for run in runs if run.resolved_task.has_images}
    if not seen:
        return []
    sizes = {}
    for name, run in seen.items():
        spaces = run.resolved_task.observation.values()
        rows = _rows(run, data_dir)
        sizes[name] = rows and rows * sum(math.prod(space.shape) for space in spaces if space.is_image)
    known = [size for size in sizes.values() if size]
    line = f"Frames: {sum(known) / 1e9:.1f} GB on the disk of the data for {len(known)} datasets, beside their files"
    if known:
        line += f"; the largest has {max(known) / 1e9:.1f} GB, which members share in memory"
    if missing := [name for name, size in sizes.items() if not size]:
        line += f". Unknown sizes: {', '.join(missing)}"
    from lps.training.flops import kept_bytes  # a driver that only launches does without torch

    members = {agent: kept_bytes(run) for agent, run in {run.agent: run for run in runs}.items()}
    return [
        f"{line}.",
        "Hours on a CPU follow the operations of an update; rendering in evaluations is not in them.",
        "Memory of a member, at least: "
        + ", ".join(f"{agent} {size / 1e9:.1f} GB" for agent, size in members.items())
        + ".",
    ]


def _rows(run: Run, data_dir: str | None) -> int | None:
    """Rows of a run's dataset: of its file where that is here, else as OGBench published it; None if unknown."""
    path = find_data_dir(data_dir) / f"{run.dataset}.npz"
    try:
        with zipfile.ZipFile(path) as archive:
            return columns(archive)["actions"].shape[0]
    except (OSError, KeyError, IndexError, ValueError, *BROKEN):
        task = run.resolved_task
        return ROWS.get(task.group.removeprefix("visual-")) if run.dataset == task.dataset else None


def cost(runs: Sequence[Run]) -> float:
    """Packs by their work, comparable between packs of one sweep; an agent without a rate counts as the slowest."""
    rate = CPU_SECONDS.get(runs[0].agent, max(CPU_SECONDS.values()))
    return sum(run.steps * _size(run) for run in runs) * rate


def _size(run: Run) -> float:
    """Multiplications of one update, relative to the paper's networks and batch; hidden layers only. Of an agent that
    chooses among samples nearly all of them are the samples'."""

    def work(hyperparameters: Mapping[str, Any]) -> float:
        layers = [widths for name, widths in hyperparameters.items() if name.endswith("_hidden")]
        rows = hyperparameters["batch_size"] * hyperparameters.get("num_samples", 1)
        return rows * sum(a * b for widths in layers for a, b in pairwise(widths))

    default = make_config(run.agent, {})
    return work(run.hyperparameters) / work(vars(default))
