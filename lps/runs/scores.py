"""The one number of a run: the mean of its last three evaluations by its task's metric, never its best evaluation.

After Park et al., "Flow Q-learning", arXiv 2502.02538. The best evaluation would reward noise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from lps.runs.record import Episode
from lps.runs.store import Store
from lps.tasks.task import Task

if TYPE_CHECKING:
    from lps.runs.run import Run

LAST = 3
"""Number of evaluations in the score; all of them if there are fewer."""


def measure(metric: str, return_range: Sequence[float] | None, success: float | None, return_: float) -> float:
    """One evaluation by a task's metric, from its mean success and mean return.

    The success rate (0..1) for "success" and "both". For "return" the mean return; with a `return_range` its place
    between the two ends, where 0 and 1 are the ends.
    """
    if metric != "return":
        return float("nan") if success is None else success
    if return_range is None:
        return return_
    low, high = return_range
    return (return_ - low) / (high - low)


def mean_score(episodes: Sequence[Episode], task: Task) -> float:
    """The same of the episodes of one evaluation."""
    successes = [episode.success for episode in episodes if episode.success is not None]
    returns = fmean(episode.return_ for episode in episodes)
    return measure(task.metric, task.return_range, fmean(successes) if successes else None, returns)


def describe_score(episodes: Sequence[Episode], task: Task) -> str:
    """The mean score as people read it: 'success 0.620', 'return 12.300', 'normalised return 0.410'."""
    names = {"return": "normalised return" if task.return_range else "return"}
    return f"{names.get(task.metric, 'success')} {mean_score(episodes, task):.3f}"


def scores(store: Store, runs: Sequence[Run]) -> dict[str, float]:
    """{run id: score} of the runs that are done and have all episodes of their last evaluations."""
    found = {}
    for run in runs:
        if not store.finished(run.id):
            continue
        episodes = store.episodes(run.id)
        last = [episodes.get(step, []) for step in run.eval_steps[-LAST:]]
        if all(len(of_step) >= run.eval_episodes for of_step in last):
            found[run.id] = fmean(mean_score(of_step, run.resolved_task) for of_step in last)
    return found


HELD_OUT = "heldout/"
"""Beginning of the names of held-out checks (lps.evaluation.heldout)."""


def last_checks(store: Store, run: Run) -> dict[str, float]:
    """The held-out checks of a run after its last update that has any; {} if there are none."""
    rows = [row for row in store.read_metrics(run.id).to_pylist() if row["metric"].startswith(HELD_OUT)]
    last = max((row["step"] for row in rows), default=0)
    return {row["metric"]: row["value"] for row in rows if row["step"] == last}


def describe_checks(checks: Mapping[str, float]) -> str:
    """Held-out checks as people read them; they are no success rates."""
    shown = {
        "action_error": "action error",
        "q_minus_return": "Q - return",
        "q_return_correlation": "correlation of both",
    }
    found = [f"{words} {checks[HELD_OUT + name]:.3g}" for name, words in shown.items() if HELD_OUT + name in checks]
    return f"held-out {', '.join(found)}" if found else "no held-out checks"
