"""The ablations (lps.presets.PANELS) as numbers: every bar on the tasks that all bars of its panel have."""

from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from analysis import reference, settings, stats
from analysis.scores import Study, records
from lps.presets import PANELS

COLUMNS = ["panel", "bar", "agent", "variant", "mean", "low", "high", "n_tasks", "n_seeds_min"]
PUBLISHED = ["published_mean", "published_low", "published_high"]
Tasks = dict[tuple[str, str], list[float]]  # (group, task): scores


@lru_cache(maxsize=2)
def panels(study: Study) -> pd.DataFrame:
    """One row per bar of every panel that has at least two, one of them a variant: COLUMNS and PUBLISHED (0..1, NaN
    where there is none).

    A panel is the mean over groups of the mean over its tasks.
    """
    scored = [run for run in records(study.runs[study.runs["scored"]]) if run["group"] in study.groups]
    known = settings.variants(study)
    found: dict[str, Tasks] = {}
    for run in scored:
        if run["run_id"] in known:
            variant = known[run["run_id"]]
            bar = f"{run['agent']}:{variant}" if variant else run["agent"]
            found.setdefault(bar, {}).setdefault((run["group"], run["short"]), []).append(run["score"])
    rows: list[dict[str, Any]] = []
    for name, panel in PANELS.items():
        bars = [bar for bar in panel.bars if bar in found]
        tasks = sorted(set.intersection(*(set(found[bar]) for bar in bars))) if len(bars) > 1 else []
        tasks = tasks if any(":" in bar for bar in bars) else []  # or it is the main comparison once more
        rows += [_row(name, bar, found[bar], tasks) for bar in bars if tasks]
    return pd.DataFrame(rows, columns=[*COLUMNS, *PUBLISHED])


def _row(panel: str, bar: str, scores: Tasks, tasks: list[tuple[str, str]]) -> dict[str, Any]:
    strata = [scores[task] for task in tasks]
    groups = [group for group, _ in tasks]
    agent, _, variant = bar.partition(":")
    theirs = reference.published_ablation(panel, bar)
    ends = (theirs.mean, theirs.low, theirs.high) if theirs else (np.nan,) * 3
    return {
        "panel": panel,
        "bar": bar,
        "agent": agent,
        "variant": variant,
        **asdict(stats.estimate(strata, [1 / groups.count(group) for group in groups])),
        "n_tasks": len(tasks),
        "n_seeds_min": min(map(len, strata)),
        **dict(zip(PUBLISHED, ends, strict=True)),
    }
