"""Scores summed up: by group, by task, along training, and against imitation. Every function returns a tidy table.

Scores are fractions (0..1) or returns, intervals 95 % bootstrap intervals (see `stats`), NaN where the seeds do not
support one. Figures and tables ask for the same summary, so the last ones are kept: do not change what you are given.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers import published as reference
from analysis.numbers import stats
from analysis.results import settings
from analysis.results.agents import AVERAGE
from analysis.results.study import DAGGER, LAST, Series, Study, as_text, planned_steps

Scores = Mapping[str, Mapping[int, float]]  # {task: {seed: score}}


@lru_cache(maxsize=2)
def by_group(study: Study) -> pd.DataFrame:
    """One row per series and group, groups and series in showing order, then the average over groups if there are
    several. Columns: series, group, mean, low, high, n_tasks, n_seeds_min, n_seeds_max (per task), runs_scored,
    runs_planned, published_mean, published_low, published_high, published_source, published_protocol.
    """
    rows = []
    for group in study.groups:
        for key, series in study.series.items():
            scores = study.scores(key, group)
            if scores:
                counts = {"runs_scored": _runs(scores), "runs_planned": study.planned(key, group)}
                known = reference.published(series.agent, group) if study.is_ogbench(group) else None
                rows.append({"series": key, "group": group, **_summary(scores), **counts, **_published(known)})
    if len(study.comparable) > 1 and study.unit().sign:
        rows += [row for series in study.series.values() if (row := _average(study, series))]
    return pd.DataFrame(rows)


def _average(study: Study, series: Series) -> dict[str, Any] | None:
    """Every group weighs the same. None for a series that lacks a group: its average would be another quantity."""
    cells = [study.scores(series.key, group) for group in study.comparable]
    if not all(cells):
        return None
    strata = {f"{i}/{task}": seeds for i, cell in enumerate(cells) for task, seeds in cell.items()}
    weights = [1 / len(cell) for cell in cells for _ in cell]
    planned = sum(study.planned(series.key, group) for group in study.comparable)
    counts = {"runs_scored": _runs(strata), "runs_planned": planned}
    ogbench = all(map(study.is_ogbench, study.comparable))
    known = reference.published_average(series.agent, study.comparable) if ogbench else None
    return {"series": series.key, "group": AVERAGE, **_summary(strata, weights), **counts, **_published(known)}


@lru_cache(maxsize=2)
def by_task(study: Study) -> pd.DataFrame:
    """One row per series and task. Columns: series, group, task, mean, low, high, n_seeds, min, max (over seeds),
    mean_return."""
    rows = []
    for group in study.groups:
        for key in study.series:
            for task, seeds in study.scores(key, group).items():
                values = list(seeds.values())
                cell = study.cell(key, group)
                mean_return = cell.loc[cell["short"] == task, "mean_return"].mean()
                ends = {"n_seeds": len(values), "min": min(values), "max": max(values), "mean_return": mean_return}
                rows.append({"series": key, "group": group, "task": task, **asdict(stats.estimate([values])), **ends})
    frame = pd.DataFrame(rows)
    order = {group: i for i, group in enumerate(study.groups)}
    return frame.sort_values(["group", "task"], key=lambda c: c.map(order) if c.name == "group" else c, kind="stable")


CURVES = ["series", "group", "task", "step", "mean", "low", "high", "n_tasks", "n_runs", "n_seeds_min", "n_seeds_max"]


@lru_cache(maxsize=2)
def curves(study: Study) -> pd.DataFrame:
    """Scores along training, one row per series, group and step. Columns: CURVES without `task`; n_seeds_min and
    n_seeds_max are counts per task. A step appears where every scored run of the series has been evaluated, so that a
    curve is the mean of the same runs from its beginning to its end.
    """
    return _curves(study, whole=True).drop(columns="task")


@lru_cache(maxsize=2)
def task_curves(study: Study) -> pd.DataFrame:
    """Scores along training, one row per series, group, task and step, as in `curves`. Columns: CURVES."""
    return _curves(study, whole=False)


def _curves(study: Study, whole: bool) -> pd.DataFrame:
    rows = []
    for group in study.groups:
        for key in study.series:
            cell = study.cell(key, group)
            parts = [("", cell)] if whole else list(cell.groupby("short"))
            for task, part in parts if len(cell) else []:
                place = {"series": key, "group": group, "task": str(task)}
                rows += [{**place, **point} for point in _curve(study.results.evaluations, part)]
    return pd.DataFrame(rows, columns=CURVES)


def _curve(evaluations: pd.DataFrame, runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The points of the curve of some runs, tasks weighing the same."""
    here = evaluations[evaluations["run_id"].isin(runs.index)]
    wide = here.pivot(index="run_id", columns="step", values="value").dropna(axis="columns")
    if wide.empty:
        return []
    strata = [wide.loc[own.index].to_numpy() for _, own in runs.groupby("short")]
    seeds = [len(stratum) for stratum in strata]
    counts = {"n_tasks": len(seeds), "n_runs": sum(seeds), "n_seeds_min": min(seeds), "n_seeds_max": max(seeds)}
    points = zip(wide.columns, *stats.curve(strata), strict=True)
    return [{"step": int(step), "mean": mean, "low": low, "high": high, **counts} for step, mean, low, high in points]


DIFFERENCES = ["series", "versus", "group", "difference", "low", "high", "paired", "paired_low", "paired_high"]


@lru_cache(maxsize=2)
def differences(study: Study) -> pd.DataFrame:
    """Every other rival that is shown minus every imitation one, on the tasks they share: one row per pair and group.
    Columns: DIFFERENCES (`paired` over the seeds they share), n_tasks, n_seeds, n_seeds_versus, n_pairs (per task, at
    least).
    """
    rows = []
    shown = [study.series[key] for key in settings.plotted_series(study)]
    baselines = [series for series in shown if series.agent.imitation]
    others = [series for series in shown if not series.agent.imitation]
    for group in study.groups:
        for series in others:
            for versus in baselines:
                mine, theirs = study.scores(series.key, group), study.scores(versus.key, group)
                tasks = sorted(mine.keys() & theirs.keys())
                if tasks:
                    pair = ([mine[task] for task in tasks], [theirs[task] for task in tasks])
                    row = {"series": series.key, "versus": versus.key, "group": group, "n_tasks": len(tasks)}
                    rows.append({**row, **_difference(*pair)})
    return pd.DataFrame(rows, columns=[*DIFFERENCES, "n_tasks", "n_seeds", "n_seeds_versus", "n_pairs"])


def _difference(mine: Sequence[Mapping[int, float]], theirs: Sequence[Mapping[int, float]]) -> dict[str, Any]:
    free = stats.difference(*([list(seeds.values()) for seeds in side] for side in (mine, theirs)))
    paired = stats.paired_difference(mine, theirs) or stats.Estimate(float("nan"))
    return {
        "difference": free.mean,
        "low": free.low,
        "high": free.high,
        "paired": paired.mean,
        "paired_low": paired.low,
        "paired_high": paired.high,
        "n_seeds": min(map(len, mine)),
        "n_seeds_versus": min(map(len, theirs)),
        "n_pairs": min(len(a.keys() & b.keys()) for a, b in zip(mine, theirs, strict=True)),
    }


def protocol_differences(study: Study, series: str, group: str, task: str = "") -> list[str]:
    """How the runs behind one value, of a group or of one of its tasks, differ from the published protocol, and its
    agent's hyperparameters from the defaults, one phrase each."""
    groups = study.comparable if group == AVERAGE else [group]
    found: list[str] = []
    for here in groups:
        cell = study.cell(series, here)
        if cell.empty or study.fact(here, "bandit"):
            continue
        run = cell.iloc[0].to_dict()  # the protocol is one for all runs of a series on a group
        ogbench, standard = study.is_ogbench(here), study.fact(here, "standard")
        if ogbench and run["steps"] != reference.STEPS:
            found.append(f"{run['steps']:,} updates (published: {reference.STEPS:,})")
        if run["dataset"] and standard and run["dataset"] != standard:
            found.append(f"dataset {run['dataset']} ({'published' if ogbench else 'standard'}: {standard})")
        if ogbench and run["eval_episodes"] != reference.EVAL_EPISODES:
            found.append(f"{run['eval_episodes']} episodes per evaluation (published: {reference.EVAL_EPISODES})")
        evaluations = len(planned_steps(int(run["steps"]), int(run["eval_interval"])))
        if evaluations < LAST:
            found.append(f"score from {evaluations} evaluation{'s' * (evaluations > 1)} (rule: the last {LAST})")
        if ogbench and run["success_timing"] != reference.SUCCESS_TIMING:
            found.append(f"success timing '{run['success_timing']}' (published: '{reference.SUCCESS_TIMING}')")
        if ogbench and run["reward_timing"] != reference.REWARD_TIMING:
            found.append(f"reward timing '{run['reward_timing']}' (published: '{reference.REWARD_TIMING}')")
        found += _own_settings(study, run, study.series[series].title)
        tasks = cell["short"].nunique()
        if ogbench and not task and tasks < reference.TASKS_PER_GROUP:
            found.append(f"{tasks} of {reference.TASKS_PER_GROUP} tasks of {here}")
        if study.include_unfinished and (cell["state"] != "done").any():
            found.append("includes unfinished runs")
    return list(dict.fromkeys(found))


def _own_settings(study: Study, run: Mapping[str, Any], title: str) -> list[str]:
    """The hyperparameters of a run that are not its agent's on its group, but for those that its title tells."""
    usual = study.results.defaults(run["agent"], run["group"])
    return [
        f"{name} {as_text(value)} (default: {as_text(usual[name])})"
        for name, value in sorted(run["hyperparameters"].items())
        if name in usual and as_text(value) != as_text(usual[name]) and not re.search(rf"\b{name}=", title)
    ]


BESIDE = ["group", "task", "what", "by", "mean", "low", "high", "protocol"]


def beside_published(study: Study) -> pd.DataFrame:
    """What was reached here beside what is published, by whatever method: one row per value, by group and then by each
    of its tasks (`task` is '' for the group). Columns: BESIDE; `what` is

    'ours' (the subject at its common setting), 'best' (of the rivals here), 'figure' (what is published of the subject:
    LPS in its paper; of groups only),
    'record' (the highest published number of any method) and 'second-hand' (a higher one that we have not from its
    source); `protocol` is how ours differ from the published protocol, and how a published value was made.
    """
    groups, tasks = by_group(study), by_task(study)
    rows: list[dict[str, Any]] = []
    for group in study.groups:
        rows += _beside(study, group, "", groups[groups["group"] == group])
        for task, here in tasks[tasks["group"] == group].groupby("task", sort=False):
            rows += _beside(study, group, str(task), here)
    return pd.DataFrame(rows, columns=BESIDE)


def _beside(study: Study, group: str, task: str, data: pd.DataFrame) -> list[dict[str, Any]]:
    values = {row["series"]: row for row in data.to_dict("records") if row["series"] in settings.compared_series(study)}
    place = {"group": group, "task": task}
    ours = settings.default_series(study, study.subject.name, list(values))
    best = max(values, key=lambda key: values[key]["mean"], default=None)
    found = []
    for what, key in (("ours", ours), ("best", best)):
        if key is not None:
            protocol = "; ".join(protocol_differences(study, key, group, task))
            value = {name: values[key][name] for name in ("mean", "low", "high")}
            found.append({**place, "what": what, "by": study.series[key].title, **value, "protocol": protocol})
    if not study.is_ogbench(group):
        return found
    figure = None if task else reference.published(study.subject, group)
    if figure:
        value = {"mean": figure.mean, "low": figure.low, "high": figure.high}
        source = f"{figure.source}: {figure.protocol}"
        found.append({**place, "what": "figure", "by": study.subject.title, **value, "protocol": source})
    return found + [{**place, **asdict(record)} for record in reference.records(group, task)]


def is_short(study: Study, series: str, group: str) -> bool:
    """Whether some run of a series on a group does not count."""
    return len(study.cell(series, group)) < study.planned(series, group)


def marked_title(study: Study, series: Series, groups: Sequence[str]) -> str:
    """The title of a series, with a dagger if it is short of runs on one of the groups."""
    return study.series[series.key].title + DAGGER * any(is_short(study, series.key, group) for group in groups)


def shortfall(study: Study) -> str:
    """Text of the dagger: 'n of m runs' of every rival with missing runs; '' if none has any."""
    cells = [
        f"{study.series[key].title} on {group}: {len(study.cell(key, group))} of {study.planned(key, group)} runs"
        for group in study.groups
        for key in settings.compared_series(study)
        if is_short(study, key, group)
    ]
    return f"{DAGGER} {'; '.join(cells)}." if cells else ""


def small_print(study: Study) -> list[str]:
    """The notes to a figure of rivals: which of them are short of runs, and which hyperparameters of theirs are not
    the defaults of their agents."""
    return [line for line in (shortfall(study), _settings_of_rivals(study)) if line]


def _settings_of_rivals(study: Study) -> str:
    """`_own_settings` of the rivals shown, those that have the same ones named together; '' if none has any. Bandits
    are left out, where all are small on purpose."""
    rivals_with: dict[str, list[str]] = {}
    for key in settings.plotted_series(study):
        title = study.series[key].title
        cells = [study.cell(key, group) for group in study.groups if not study.fact(group, "bandit")]
        found = [_own_settings(study, cell.iloc[0].to_dict(), title) for cell in cells if not cell.empty]
        for text in dict.fromkeys(text for texts in found for text in texts):
            rivals_with.setdefault(text, []).append(title)
    settings_of: dict[str, list[str]] = {}
    for text, titles in rivals_with.items():
        settings_of.setdefault(", ".join(titles), []).append(text)
    return "; ".join(f"{titles}: {', '.join(texts)}" for titles, texts in settings_of.items()) + "." * bool(settings_of)


def of_shown(study: Study, data: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of the series in `settings.plotted_series`."""
    return data[data["series"].isin(settings.plotted_series(study))]


def others_note(study: Study) -> list[str]:
    """The note that tells where the series are that a figure does not show; none if it shows all."""
    count = len(set(study.runs.loc[study.runs["scored"], "series"]) - set(settings.plotted_series(study)))
    some = "One other setting is" if count == 1 else f"{count} other settings are"
    return [f"{some} in the tables and the figures of ablations and sensitivity."] if count else []


def sources(known: pd.DataFrame) -> list[tuple[str, str]]:
    """Source and protocol of the published values in rows of `by_group`, each once."""
    return list(dict.fromkeys(zip(known["published_source"], known["published_protocol"], strict=True)))


def interval_notes(data: pd.DataFrame, *counts: str) -> list[str]:
    """Notes to the intervals of a table; `counts` name its columns of seeds."""
    some = data[data["low"].notna()]
    notes = []
    if len(some) and some[list(counts or ("n_seeds_min",))].min(axis=None) < stats.FEW_SEEDS:
        notes.append(f"With fewer than {stats.FEW_SEEDS} seeds per task a bootstrap interval tends to be too narrow.")
    if np.isclose(some["low"], some["high"]).any():
        notes.append("An interval without width says that all seeds scored the same, not that the value is certain.")
    return notes


def _summary(scores: Scores, weights: list[float] | None = None) -> dict[str, Any]:
    strata = [list(seeds.values()) for seeds in scores.values()]
    counts = [len(stratum) for stratum in strata]
    value = asdict(stats.estimate(strata, weights))
    return {**value, "n_tasks": len(strata), "n_seeds_min": min(counts), "n_seeds_max": max(counts)}


def _runs(scores: Scores) -> int:
    return sum(map(len, scores.values()))


def _published(known: reference.Published | None) -> dict[str, Any]:
    values = asdict(known or reference.Published(np.nan, np.nan, np.nan, "", ""))
    return {f"published_{name}": value for name, value in values.items()}
