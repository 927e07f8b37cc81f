"""The ablations (lps.agents.variants.PANELS) as numbers: every bar on the tasks that all bars of its panel have."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers import published as reference
from analysis.numbers import stats
from analysis.results import load
from analysis.results.study import Study, records
from lps.agents.variants import PANELS

COLUMNS = ["panel", "bar", "agent", "variant", "mean", "low", "high", "n_tasks", "n_seeds_min"]
PUBLISHED = ["published_mean", "published_low", "published_high"]
SIZES = ["bar", "agent", "variant", "step", "mean", "low", "high", "n_tasks", "n_seeds_min"]
Bars = Mapping[str, Mapping[tuple[str, str], list[dict[str, Any]]]]  # {bar: {(group, task): runs}}


@lru_cache(maxsize=2)
def panels(study: Study) -> pd.DataFrame:
    """Return one row per bar of every panel with at least two bars, one of them a variant: COLUMNS and PUBLISHED (0..1,
    NaN if none, for example outside OGBench).

    A panel is the mean over groups of the mean over its tasks.
    """
    found = _found(study)
    rows: list[dict[str, Any]] = []
    for name, panel in PANELS.items():
        bars, tasks = _shared(panel.bars, found)
        rows += [_row(name, bar, found, tasks) for bar in bars if tasks]
    return pd.DataFrame(rows, columns=[*COLUMNS, *PUBLISHED])


def latent_sizes(study: Study) -> pd.DataFrame:
    """Panel (c): the size of the latent (lps.agents.latents.latent_size) along training, one row per bar of panel (b)
    and step where all its runs have logged it: SIZES. The mean is geometric, as sizes differ by orders of magnitude.
    Empty without a comparison or without logged sizes.
    """
    panel = PANELS["b"].bars
    own = [tasks for bar, tasks in _found(study).items() if bar in panel]
    ids = [run["run_id"] for tasks in own for runs in tasks.values() for run in runs]
    logged = load.metric(study.results, "latent_size", ids if len(own) > 1 else [])
    found = _found(study, set(logged["run_id"]))
    bars, tasks = _shared(panel, found)
    sizes = logged.pivot(index="run_id", columns="step", values="value")
    rows: list[dict[str, Any]] = []
    for bar in bars if tasks else []:
        strata = [[run["run_id"] for run in found[bar][task]] for task in tasks]
        here = np.log(sizes.loc[[run_id for ids in strata for run_id in ids]].dropna(axis="columns"))
        agent, _, variant = bar.partition(":")
        ends = {"n_tasks": len(strata), "n_seeds_min": min(map(len, strata))}
        lines = np.exp(stats.curve([here.loc[ids].to_numpy() for ids in strata]))
        for step, (mean, low, high) in zip(here.columns, lines.T, strict=True):
            row = {"bar": bar, "agent": agent, "variant": variant, "step": int(step)}
            rows.append({**row, "mean": mean, "low": low, "high": high, **ends})
    return pd.DataFrame(rows, columns=SIZES)


def _found(study: Study, only: Collection[str] | None = None) -> Bars:
    """Return the scored runs by bar and task; only those in `only`, if given."""
    found: dict[str, dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for run in records(study.runs[study.runs["scored"]]):
        if run["group"] in study.comparable and run["variant"] is not None and (only is None or run["run_id"] in only):
            bar = f"{run['agent']}:{run['variant']}" if run["variant"] else run["agent"]
            found.setdefault(bar, {}).setdefault((run["group"], run["short"]), []).append(run)
    return found


def _shared(panel: Sequence[str], found: Bars) -> tuple[list[str], list[tuple[str, str]]]:
    """Return the bars of a panel with runs, and the tasks that all of them have. No tasks with a single bar or without
    a variant, because such a panel repeats the main comparison."""
    bars = [bar for bar in panel if bar in found]
    compares = len(bars) > 1 and any(":" in bar for bar in bars)
    return bars, sorted(set.intersection(*(set(found[bar]) for bar in bars))) if compares else []


def _row(panel: str, bar: str, found: Bars, tasks: Sequence[tuple[str, str]]) -> dict[str, Any]:
    strata = [[run["score"] for run in found[bar][task]] for task in tasks]
    groups = [group for group, _ in tasks]
    agent, _, variant = bar.partition(":")
    ogbench = all(run["suite"] == "ogbench" for task in tasks for run in found[bar][task])
    theirs = reference.published_ablation(panel, bar) if ogbench else None
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
