"""The gain of random tuning: the joint design of a sensitivity study as a budget.

A *configuration* is a point of the joint design. Half of its seeds choose (the first ones), the other half judge: the
best of k configurations by the first half is reported with the score of the second half, so luck does not count as
skill.
"""

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import comb
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers import stats
from analysis.results import settings
from analysis.results.study import Study, protocol, records, word

FEWEST = 4
"""Minimum number of configurations of an agent in the figure."""
RESAMPLES = 1000
BUDGET = ["agent", "group", "k", "mean", "low", "high", "configurations", "choosing_seeds", "judging_seeds"]


@lru_cache(maxsize=2)
def configurations(study: Study) -> pd.DataFrame:
    """One row per agent, group and configuration with the same tasks and seeds as all others of them: agent, group,
    settings (dict), chosen_by and judged_by (scores 0..1, mean over tasks of the mean over half of the seeds; judged_by
    NaN with a single seed), score (over all seeds), choosing_seeds, judging_seeds."""
    found: dict[tuple[str, str], dict[str, dict[tuple[str, int], float]]] = {}
    for run in records(study.runs[study.runs["scored"]]):
        apart = run["departs"]
        drawn = any("point" in role and "variant" not in role for role in run["roles"])
        if drawn and all(settings.is_number(v) and k not in protocol(run) for k, v in apart.items()):
            place = found.setdefault((run["agent"], run["group"]), {})
            place.setdefault(json.dumps(apart, sort_keys=True), {})[run["short"], run["seed"]] = run["score"]
    rows: list[dict[str, Any]] = []
    for (agent, group), points in found.items():
        cells = set.intersection(*map(set, points.values()))
        seeds = sorted({seed for _, seed in cells})
        if len(points) >= FEWEST and cells:
            half = seeds[: -(-len(seeds) // 2)]
            rows += [_row(agent, group, text, scores, cells, half) for text, scores in points.items()]
    return pd.DataFrame(rows, columns=list(rows[0]) if rows else ["agent", "group"])


def _row(
    agent: str, group: str, text: str, scores: Mapping[tuple[str, int], float], cells: set, half: Sequence[int]
) -> dict[str, Any]:
    def mean(of: set[tuple[str, int]]) -> float:
        by_task: dict[str, list[float]] = {}
        for task, seed in of:
            by_task.setdefault(task, []).append(scores[task, seed])
        return float(np.mean([np.mean(values) for values in by_task.values()])) if by_task else float("nan")

    first = {cell for cell in cells if cell[1] in half}
    rest = cells - first
    counts = {"choosing_seeds": len(half), "judging_seeds": len({seed for _, seed in rest})}
    judged = {"chosen_by": mean(first), "judged_by": mean(rest), "score": mean(cells)}
    return {"agent": agent, "group": group, "settings": json.loads(text), **judged, **counts}


def best_of(chosen_by: np.ndarray, judged_by: np.ndarray) -> np.ndarray:
    """Return (n,): the expected value in `judged_by` (n,) of the best of k = 1 .. n configurations.

    The k configurations are drawn without replacement, and `chosen_by` (n,) chooses the best. Ties are random.
    """
    n = len(chosen_by)
    order = np.argsort(-chosen_by, kind="stable")
    ranked, judged = chosen_by[order], judged_by[order].astype(float)
    for value in np.unique(ranked):
        judged[ranked == value] = judged[ranked == value].mean()
    return weights(n) @ judged


@lru_cache(maxsize=64)
def weights(n: int) -> np.ndarray:
    """Return (n, n): row k - 1 has the probability of each rank, best first, to be the best of k out of n."""
    return np.array([[comb(n - 1 - i, k - 1) / comb(n, k) for i in range(n)] for k in range(1, n + 1)])


@lru_cache(maxsize=2)
def budget(study: Study) -> pd.DataFrame:
    """Return the expected success against the number of configurations, one row per agent, group and k: BUDGET.

    The interval is a bootstrap over configurations; NaN with a single seed, which cannot judge its own choice.
    """
    rows: list[dict[str, Any]] = []
    for (agent, group), here in _by_cell(configurations(study)):
        chosen, judged = here["chosen_by"].to_numpy(), here["judged_by"].to_numpy()
        if not np.isfinite(judged).all():
            continue
        rng = np.random.default_rng(0)
        picks = rng.integers(len(here), size=(RESAMPLES, len(here)))
        low, high = stats.percentile_interval(np.stack([best_of(chosen[pick], judged[pick]) for pick in picks]))
        counts = {"configurations": len(here), **here.iloc[0][["choosing_seeds", "judging_seeds"]].to_dict()}
        for k, values in enumerate(zip(best_of(chosen, judged), low, high, strict=True), start=1):
            ends = dict(zip(("mean", "low", "high"), map(float, values), strict=True))
            rows.append({"agent": agent, "group": group, "k": k, **ends, **counts})
    return pd.DataFrame(rows, columns=BUDGET)


ROBUSTNESS = [
    *("agent", "group", "default", "worst_axis", "worst_value", "worst", "random", "best", "area", "near_best"),
    "configurations",
]
NEAR = 0.9


@lru_cache(maxsize=2)
def robustness(study: Study) -> pd.DataFrame:
    """One row per agent and group, 0..1, NaN for what was not run: ROBUSTNESS.

    default: the usual setting.  worst: the lowest point of all axes, with the axis and its value.  random: one
    configuration of the joint design, drawn at random.  best: the best of all of them, judged by other seeds.  area:
    the mean of the budget curve over k.  near_best: share of configurations that reach NEAR of the best one's score.
    """
    curve, points, axes = budget(study), configurations(study), settings.sensitivity(study)
    usual = _usual(study)
    rows: list[dict[str, Any]] = []
    for (agent, group), default in usual.items():
        here = curve[(curve["agent"] == agent) & (curve["group"] == group)]
        own = points[(points["agent"] == agent) & (points["group"] == group)]
        line = axes[axes["agent"] == agent]
        if here.empty and line.empty:
            continue
        row: dict[str, Any] = {"agent": agent, "group": group, "default": default, "configurations": len(own)}
        if len(line) and len(study.groups) == 1:
            lowest = line.loc[line["mean"].idxmin()]
            row |= {"worst_axis": lowest["hyperparameter"], "worst_value": word(lowest["value"])}
            row["worst"] = lowest["mean"]
        if len(here):
            row |= {"random": here["mean"].iloc[0], "best": here["mean"].iloc[-1], "area": here["mean"].mean()}
        if len(own):
            row["near_best"] = float((own["score"] >= NEAR * own["score"].max()).mean())
        rows.append(row)
    return pd.DataFrame(rows, columns=ROBUSTNESS)


def _usual(study: Study) -> dict[tuple[str, str], float]:
    """Return {(agent, group): mean over tasks of the usual setting}."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in records(study.runs[study.runs["scored"]]):
        if not run["departs"]:
            found.setdefault((run["agent"], run["group"]), {}).setdefault(run["short"], []).append(run["score"])
    return {cell: float(stats.stratified_mean(list(tasks.values()))) for cell, tasks in found.items()}


def _by_cell(points: pd.DataFrame) -> list[tuple[tuple[str, str], pd.DataFrame]]:
    cells = points.groupby(["agent", "group"], sort=False) if len(points) else []
    return [((str(key[0]), str(key[1])), here) for key, here in cells]
