"""How long a sweep may take, from rates that were measured: an estimate, to plan by and not to quote."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from lps.runs.hyperparameters import make_config
from lps.runs.run import Run
from lps.tasks.suites import get_task

SECONDS_PER_STEP: dict[str, dict[str, float]] = {
    "cpu": {
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
    },
    "cuda": {},
}
"""Seconds of one update of one member with the paper's networks and batch, by device and agent."""
MEASURED_ON = {"cpu": "one core of a small cloud machine", "cuda": "nothing yet"}
SECONDS_PER_ENVIRONMENT_STEP = 0.003
"""Of evaluation, on one core; an episode is taken to last as long as it may."""
SECONDS_PER_PACK = 15.0
"""Starting and ending a pack in Ray."""
OVERHEAD = 0.15
"""The part of an update that does not shrink with networks and batch."""


def hours(runs: Sequence[Run], device: str) -> float | None:
    """Hours that a pack keeps its share of the cluster; None where no rate is known for its agent on this device."""
    rate = SECONDS_PER_STEP[device].get(runs[0].agent)
    if rate is None:
        return None
    length = get_task(runs[0].task).max_episode_steps
    evaluation = sum(len(run.eval_steps) * run.eval_episodes for run in runs) * length * SECONDS_PER_ENVIRONMENT_STEP
    fixed = OVERHEAD / vars(make_config(runs[0].agent, {})).get("num_samples", 1)  # samples are rows, not operations
    updates = sum(run.steps * (fixed + (1 - fixed) * _size(run)) for run in runs)
    return (SECONDS_PER_PACK + updates * rate + evaluation) / 3600


def cost(runs: Sequence[Run]) -> float:
    """Packs by their work, comparable between packs of one sweep; an agent without a rate counts as the slowest."""
    known = SECONDS_PER_STEP["cpu"]
    return sum(run.steps * _size(run) for run in runs) * known.get(runs[0].agent, max(known.values()))


def _size(run: Run) -> float:
    """Multiplications of one update, relative to the paper's networks and batch; hidden layers only. Of an agent that
    chooses among samples nearly all of them are the samples'."""

    def work(hyperparameters: Mapping[str, Any]) -> float:
        layers = [widths for name, widths in hyperparameters.items() if name.endswith("_hidden")]
        rows = hyperparameters["batch_size"] * hyperparameters.get("num_samples", 1)
        return rows * sum(a * b for widths in layers for a, b in pairwise(widths))

    default = make_config(run.agent, {})
    return work(run.hyperparameters) / work(vars(default))
