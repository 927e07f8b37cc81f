"""Agents compared over all tasks at once, as Agarwal et al. (arXiv 2108.13264) ask for. Functions return tidy tables.

The compared series are those of `settings.compared_series`, on the tasks that all of them have. A series with fewer
than half of the tasks is excluded, because the others would lose those tasks. Intervals are as in `summaries`.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from analysis.numbers import stats
from analysis.results import settings
from analysis.results.study import SUCCESS, Study

THRESHOLDS = np.linspace(0, 1, 51)
STATISTICS: dict[str, tuple[str, Callable[..., stats.Floats]]] = {
    "iqm": ("IQM", stats.iqm),
    "median": ("Median", stats.median),
    "mean": ("Mean", stats.mean),
    "optimality_gap": ("Optimality gap", stats.optimality_gap),
}
"""name -> title and function."""


@dataclass(frozen=True)
class SharedTasks:
    """Scores of the compared series on the tasks that all of them have, {series: {(group, task): {seed: score}}}, and
    the excluded series."""

    scores: dict[str, dict[tuple[str, str], dict[int, float]]]
    left_out: list[str]
    tasks_of_all: int

    @property
    def tasks(self) -> list[tuple[str, str]]:
        return list(next(iter(self.scores.values()), {}))

    def strata(self, series: str) -> list[list[float]]:
        return [list(seeds.values()) for seeds in self.scores[series].values()]

    def seeds(self, series: str) -> tuple[int, int]:
        """Fewest and most seeds of a task."""
        counts = [len(seeds) for seeds in self.scores[series].values()]
        return min(counts), max(counts)

    def note(self, study: Study) -> str:
        """Return the sentences of a caption about tasks and excluded series."""
        count = len(self.tasks)
        text = f"On the {f'{count} tasks' if count != 1 else 'one task'} that all of them have"
        text += f", of {self.tasks_of_all}." if len(self.tasks) < self.tasks_of_all else "."
        if self.left_out:
            names = ", ".join(study.series[key].title for key in self.left_out)
            text += f" Not shown, for too few tasks: {names}."
        return text


@lru_cache(maxsize=2)
def shared_tasks(study: Study) -> SharedTasks:
    """Return the scores of the compared series on the tasks that all of them have."""
    found = {
        key: {(group, task): seeds for group in study.comparable for task, seeds in study.scores(key, group).items()}
        for key in settings.plotted_series(study)
    }
    everywhere = {task for own in found.values() for task in own}
    enough = {key: own for key, own in found.items() if 2 * len(own) >= len(everywhere)}
    shared = set(everywhere).intersection(*enough.values()) if enough else set()
    if not shared:
        return SharedTasks({}, list(found), len(everywhere))
    scores = {key: {task: seeds for task, seeds in own.items() if task in shared} for key, own in enough.items()}
    return SharedTasks(scores, [key for key in found if key not in enough], len(everywhere))


def statistics(study: Study) -> dict[str, tuple[str, Callable[..., stats.Floats]]]:
    """STATISTICS; without the optimality gap where the best possible score is not known."""
    return {name: known for name, known in STATISTICS.items() if name != "optimality_gap" or study.unit() == SUCCESS}


@lru_cache(maxsize=2)
def aggregates(study: Study) -> pd.DataFrame:
    """One row per series and statistic of STATISTICS. Columns: series, statistic, value, low, high, n_tasks,
    n_seeds_min, n_seeds_max (per task)."""
    here = shared_tasks(study)
    rows = []
    for key in here.scores:
        fewest, most = here.seeds(key)
        for name, (_, statistic) in statistics(study).items():
            value = stats.aggregate(here.strata(key), statistic)
            ends = {"value": value.mean, "low": value.low, "high": value.high, "n_tasks": len(here.tasks)}
            rows.append({"series": key, "statistic": name, **ends, "n_seeds_min": fewest, "n_seeds_max": most})
    columns = ["series", "statistic", "value", "low", "high", "n_tasks", "n_seeds_min", "n_seeds_max"]
    return pd.DataFrame(rows, columns=columns)


@lru_cache(maxsize=2)
def profiles(study: Study) -> pd.DataFrame:
    """The share of runs above each of THRESHOLDS, or of as many values between the lowest and the highest score where
    these are no success rates. Columns: series, threshold, share, low, high, n_tasks, n_seeds_min."""
    here = shared_tasks(study)
    frames, thresholds = [], THRESHOLDS
    if study.unit() != SUCCESS and here.scores:
        every = [score for key in here.scores for stratum in here.strata(key) for score in stratum]
        thresholds = np.linspace(min(every), max(every), len(THRESHOLDS))
    for key in here.scores:
        share, low, high = stats.profile(here.strata(key), thresholds)
        columns = {"series": key, "threshold": thresholds, "share": share, "low": low, "high": high}
        frames.append(pd.DataFrame({**columns, "n_tasks": len(here.tasks), "n_seeds_min": here.seeds(key)[0]}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


@lru_cache(maxsize=2)
def improvements(study: Study) -> pd.DataFrame:
    """The probability that a run of one series scores above one of another on the same task, for every pair. Columns:
    series, versus, probability, low, high, n_tasks, n_seeds, n_seeds_versus (per task, at least)."""
    here = shared_tasks(study)
    rows = []
    for i, key in enumerate(here.scores):
        for versus in list(here.scores)[:i]:
            value = stats.improvement(here.strata(key), here.strata(versus))
            back = stats.Estimate(1 - value.mean, 1 - value.high, 1 - value.low)
            for a, b, found in ((key, versus, value), (versus, key, back)):
                ends = {"n_tasks": len(here.tasks), "n_seeds": here.seeds(a)[0], "n_seeds_versus": here.seeds(b)[0]}
                known = asdict(found)
                rows.append({"series": a, "versus": b, "probability": known.pop("mean"), **known, **ends})
    columns = ["series", "versus", "probability", "low", "high", "n_tasks", "n_seeds", "n_seeds_versus"]
    return pd.DataFrame(rows, columns=columns)
