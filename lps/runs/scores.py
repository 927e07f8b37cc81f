"""The one number of a run: the mean success of its last three evaluations, never its best.

After Park et al., "Flow Q-learning", arXiv 2502.02538. The best evaluation would reward noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from lps.runs.record import Episode
from lps.runs.store import Store
from lps.tasks.task import Task

if TYPE_CHECKING:
    from lps.runs.run import Run

LAST = 3
"""Evaluations that make the score; all of them if there are fewer."""


def mean_score(episodes: Sequence[Episode], task: Task) -> float:
    """Return the mean over episodes of what the task is scored by: success (0 or 1), the return, or the normalised
    return (1 at the upper end of the task's return_range)."""
    if task.metric != "return":
        return fmean(bool(episode.success) for episode in episodes)
    low, high = task.return_range or (0.0, 1.0)
    return (fmean(episode.return_ for episode in episodes) - low) / (high - low)


def describe_score(episodes: Sequence[Episode], task: Task) -> str:
    """The mean score as people read it: 'success 0.620', 'return 12.300', 'normalised return 0.410'."""
    names = {"return": "normalised return" if task.return_range else "return"}
    return f"{names.get(task.metric, 'success')} {mean_score(episodes, task):.3f}"


def scores(store: Store, runs: Sequence[Run]) -> dict[str, float]:
    """{run id: score in 0 .. 1} of the runs that are done and have all episodes of their last evaluations."""
    found = {}
    for run in runs:
        if not store.finished(run.id):
            continue
        table = store.read_episodes(run.id).select(["step", "success"]).to_pydict()
        rows = list(zip(table["step"], table["success"], strict=True))
        last = [[success for at, success in rows if at == step] for step in run.eval_steps[-LAST:]]
        if all(len(of_step) >= run.eval_episodes for of_step in last):
            found[run.id] = fmean(map(fmean, last))
    return found
