"""The tables: what stands in them (`analysis.page.table` is how they are written). A table added is one function and
one line in TABLES.
"""

import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers import budgets, summaries, tuning
from analysis.numbers.claims import claims as claimed
from analysis.page import provenance
from analysis.page.table import DOUBLE_DAGGER, Table
from analysis.progress import progress
from analysis.results.agents import AVERAGE, SUBJECT, group_key
from analysis.results.load import metric
from analysis.results.study import DAGGER, SUCCESS, Study, Unit
from lps.runs.scores import HELD_OUT


def success(study: Study) -> Table:
    """Scores by group: ours, the published number, what stands behind ours, and how the protocols differ."""
    data, letters = summaries.by_group(study), _letters(study)
    departures, rows = [], []
    for row in data.to_dict("records"):
        phrases = summaries.protocol_differences(study, row["series"], row["group"])
        own = ",".join(letters[phrase] for phrase in phrases)
        departures.append(phrases)
        dagger = DAGGER if row["runs_scored"] < row["runs_planned"] else ""
        seeds = _range(row["n_seeds_min"], row["n_seeds_max"])
        runs = f"{row['runs_scored']} of {row['runs_planned']}"
        unit = study.unit(row["group"])
        value = interval(row["mean"], row["low"], row["high"], unit, alone=row["n_seeds_min"] == 1)
        published = interval(row["published_mean"], row["published_low"], row["published_high"])
        title = study.series[row["series"]].title + dagger
        rows.append([row["group"], title, value, published, seeds, str(row["n_tasks"]), runs, own])
    letters = _used(letters, departures)
    notes = _success_notes(data, letters)
    unit = study.unit(*study.groups)
    score = _in_unit(unit.title, unit)
    header = ["Group", "Agent", f"{score} [95% CI]", "Published %", "Seeds", "Tasks", "Runs", "Protocol"]
    spelled = ["; ".join(phrase for phrase in letters if phrase in own) for own in departures]
    frame = data.assign(protocol_differences=spelled)
    return Table(f"{unit.title} by group", header, rows, frame, notes)


def _in_unit(name: str, unit: Unit) -> str:
    return f"{name} {unit.sign}".strip()


def _success_notes(data: pd.DataFrame, letters: dict[str, str]) -> list[str]:
    notes = [f"({letter}) {phrase}" for phrase, letter in letters.items()]
    if (data["runs_scored"] < data["runs_planned"]).any():
        notes.append(f"{DAGGER} not all of its runs count: see the list of runs that are missing")
    notes += summaries.interval_notes(data)
    known = data[data["published_mean"].notna() & (data["group"] != AVERAGE)]
    notes += [f"Published: {source}; {protocol}." for source, protocol in summaries.sources(known)]
    if known.empty:
        notes.append("No published number is known for these agents and groups.")
    return notes


def published(study: Study) -> Table:
    """The subject here and the best agent here against what is published of the subject (LPS's figure) and the best
    published number of any method, by group and by task, with what each of them was made with."""
    data, title = summaries.beside_published(study), study.subject.title
    figure = f"{title}'s figure" if study.subject.name == SUBJECT else f"{title} as published"
    letters, used = _letters(study), []
    rows = []
    for (group, task), here in data.groupby(["group", "task"], sort=False):
        cells = dict.fromkeys(("ours", "best", "figure", "record"), "")
        for value in here.to_dict("records"):
            what, own = value["what"], value["what"] in ("ours", "best")
            phrases = _phrases(value)
            used.append(phrases)
            marks = ",".join(letters[phrase] for phrase in phrases)
            # A value of ours without an interval has a task with a single seed.
            unit = study.unit(str(group)) if own else SUCCESS
            number = interval(value["mean"], value["low"], value["high"], unit, alone=own) + (
                f" ({marks})" if marks else ""
            )
            column, dagger = ("record", DOUBLE_DAGGER) if what == "second-hand" else (what, "")
            by = "" if what in ("ours", "figure") else f"{value['by']}{dagger} "
            cells[column] = "; ".join(filter(None, [cells[column], by + number]))
        rows.append([group, task or "all", *cells.values()])
        rows[-1][-1] = rows[-1][-1] or "none known"
    notes = [f"({letter}) {phrase}" for phrase, letter in _used(letters, used).items()]
    if data["what"].isin(["record", "second-hand"]).any():
        notes.append(
            "Best published: the highest number of any method on the same tasks, with the same reward and size of "
            f"dataset. The highest of many is a maximum, and so is the best here: both flatter. {figure} has no "
            "numbers by task, and protocols differ in what the marks say: a higher number is not yet a better method."
        )
    else:
        notes.append("There is no overlap with what is published: no number is known of these groups.")
    if (data["what"] == "second-hand").any():
        notes.append(f"{DOUBLE_DAGGER} second-hand: higher than the next one, but not read in its source.")
    unit = study.unit(*study.groups)
    header = ["Group", "Tasks", _in_unit(title, unit), _in_unit("Best here", unit), f"{figure} %", "Best published %"]
    return Table("Beside the published numbers", header, rows, data, notes)


def tasks(study: Study) -> Table:
    """Scores by task, with the lowest and highest seed, and the mean return where tasks have both metrics."""
    data = summaries.by_task(study)
    both = (study.runs["metric"] == "both").any()
    rows = [
        [
            f"{row['group']} {row['task']}" if row["group"] != row["task"] else row["task"],
            study.series[row["series"]].title,
            interval(row["mean"], row["low"], row["high"], study.unit(row["group"]), alone=row["n_seeds"] == 1),
            _ends(row["min"], row["max"], study.unit(row["group"])),
            str(row["n_seeds"]),
            *([f"{row['mean_return']:.4g}"] if both else []),
        ]
        for row in data.to_dict("records")
    ]
    unit = study.unit(*study.groups)
    score = _in_unit(unit.title, unit)
    header = ["Task", "Agent", f"{score} [95% CI]", "Lowest-highest", "Seeds", *(["Return"] if both else [])]
    return Table(f"{unit.title} by task", header, rows, data if both else data.drop(columns="mean_return"))


def _ends(low: float, high: float, unit: Unit) -> str:
    return f"{100 * low:.0f}-{100 * high:.0f}" if unit == SUCCESS else f"{unit.text(low)} to {unit.text(high)}"


def differences(study: Study) -> Table:
    """Every agent against every imitation agent."""
    data, series = summaries.differences(study), study.series
    rows = [
        [
            row["group"],
            f"{series[row['series']].title} - {series[row['versus']].title}",
            interval(row["difference"], row["low"], row["high"], study.unit(row["group"]), signed=True),
            interval(row["paired"], row["paired_low"], row["paired_high"], study.unit(row["group"]), signed=True),
            f"{row['n_seeds']}, {row['n_seeds_versus']}",
            str(row["n_pairs"]),
            str(row["n_tasks"]),
        ]
        for row in data.to_dict("records")
    ]
    points = study.unit(*study.groups).points.capitalize()
    notes = [f"{points}. Unpaired: seeds resampled independently. Paired: over the seeds both have, together."]
    if data.empty:
        notes = ["Nothing to compare: this needs an imitation agent and another one on the same task."]
    else:
        notes += summaries.interval_notes(data, "n_seeds", "n_seeds_versus")
    header = ["Group", "Difference", "Unpaired [95% CI]", "Paired [95% CI]", "Seeds", "Pairs", "Tasks"]
    return Table("Difference from imitation", header, rows, data, notes)


def claims(study: Study) -> Table:
    """Table of claims: one sentence per comparison, with its evidence."""
    columns = ["group", "series", "versus", "verdict"]
    rows: list[list[str]] = []
    data: list[dict[str, Any]] = []
    for claim in claimed(study):
        rows.append([claim.verdict, claim.sentence, claim.details])
        row: dict[str, Any] = dict(zip(columns, (claim.group, claim.ours, claim.theirs, claim.verdict), strict=True))
        if one := claim.evidence:
            value, gap = one.probability, one.difference
            row |= {"probability": value.mean, "low": value.low, "high": value.high}
            row |= {"difference": gap.mean, "difference_low": gap.low, "difference_high": gap.high}
            row |= {"n_tasks": one.tasks, "n_pairs": one.test.pairs, "p": one.test.p, "p_corrected": claim.p}
        data.append({**row, "comparisons": claim.comparisons, "sentence": claim.sentence})
    notes = [
        "Better: a paired sign-flip test over (task, seed) finds a difference at 5 %, corrected by Holm's method for "
        "all comparisons on the same group, and the probability of improvement agrees on its direction. That is the "
        "chance that a run of the one scores above a run of the other on the same task. Imitation does not see "
        "rewards: its runs of one seed on the tasks of a group are one network, and count as one pair."
    ]
    if not rows:
        notes = ["Nothing to compare: this needs two agents on the same group."]
    frame = pd.DataFrame(data, columns=None if data else columns)
    return Table("What the data support", ["Verdict", "Claim", "Evidence"], rows, frame, notes, text_columns=3)


def robustness(study: Study) -> Table:
    """Table of the default's score, and of its change along every axis."""
    data = budgets.robustness(study)
    rows = []
    for row in data.to_dict("records"):
        unit, near = study.unit(row["group"]), interval(row["near_best"], np.nan, np.nan)
        percent = {key: interval(row[key], np.nan, np.nan, unit) for key in ("default", "random", "best", "area")}
        worst = interval(row["worst"], np.nan, np.nan, unit)
        worst += f" ({row['worst_axis']} {row['worst_value']})" if worst else ""
        title = study.agents([row["agent"]])[row["agent"]].title
        cells = [*(percent[key] for key in ("random", "best", "area")), near]
        rows.append([row["group"], title, percent["default"], worst, *cells, str(row["configurations"])])
    notes = [
        "Default: the setting that most runs of the agent share, untuned. Worst: the lowest point of all axes of "
        "the sensitivity figure. Random, best, area: one configuration of the joint design drawn at random, the best "
        "of all by one half of the seeds and judged by the other, and the mean of the budget curve in between. Near "
        f"best: share of configurations with at least {100 * budgets.NEAR:.0f} % of the best one's success."
    ]
    if data.empty:
        notes = ["No hyperparameter varies: this needs a study of sensitivity."]
    header = ["Group", "Agent", "Default", "Worst on an axis", "Random", "Best", "Area", "Near best", "Configurations"]
    return Table("Robustness to hyperparameters (%)", header, rows, data, notes)


def tuned(study: Study) -> Table:
    """Table of the gain by tuning, on seeds that no trial used."""
    data, unit = tuning.tuning_gain(study), study.unit()
    rows = []
    for row in data.to_dict("records"):
        alone = row["n_seeds_min"] == 1
        values = [
            interval(row[f"{side}_mean"], row[f"{side}_low"], row[f"{side}_high"], unit, alone=alone) for side in SIDES
        ]
        gap = interval(row["difference"], row["low"], row["high"], unit, signed=True)
        best = ", ".join(f"{key} {value:.3g}" for key, value in json.loads(row["setting"] or "{}").items())
        trials = str(row["trials"]) + (f" ({row['pruned']} pruned)" if row["pruned"] else "")
        counts = [trials, str(row["n_tasks"]), str(row["n_seeds_min"])]
        rows.append([_variant_title(study, row["agent"]), best, *values, gap, *counts])
    notes = []
    if not data.empty:
        notes = [
            "Mean over tasks, on held-out seeds. Difference: best minus default over the seeds that both have, "
            "together. The best setting is that of the trial with the highest score on the tuning seeds, which "
            "flatter it.",
            *summaries.interval_notes(data, "n_seeds_min"),
        ]
    for document in tuning.documents(study.results):
        if document["agent"] in set(data["agent"]):
            continue
        finished = sum(trial["state"] in ("COMPLETE", "PRUNED") for trial in document["trials"])
        notes.append(
            f"{_variant_title(study, document['agent'])}: under way, {finished} of the {len(document['trials'])} "
            "trials so far are finished. The comparison on held-out seeds comes last. Until then its trials are "
            "compared with nothing."
        )
    notes = notes or ["Nothing was tuned: this needs a tuning study."]
    header = ["Agent", "Best setting", *(_in_unit(side.capitalize(), unit) for side in SIDES)]
    header += ["Difference", "Trials", "Tasks", "Seeds"]
    return Table("What tuning bought", header, rows, data, notes)


def _variant_title(study: Study, name: str) -> str:
    """'DSRL (matched)' of 'dsrl:matched'."""
    agent, _, variant = name.partition(":")
    return study.agents([agent])[agent].title + (f" ({variant})" if variant else "")


SIDES = ("default", "best")
STATES = ("done", "running", "failed", "incomplete", "absent")


def coverage(study: Study) -> Table:
    """Table of finished and unfinished runs by group and agent."""
    absent = study.gaps[study.gaps["state"] == "absent"]
    data = []
    for group in sorted(set(study.runs["group"]), key=group_key):
        for key in study.series:
            runs = study.cell(key, group, scored=False)
            lacking = absent[(absent["series"] == key) & (absent["group"] == group)]["runs"].sum()
            if len(runs):
                counts = {state: int((runs["state"] == state).sum()) for state in STATES} | {"absent": int(lacking)}
                data.append({"group": group, "series": key, **counts, "counted": int(runs["scored"].sum())})
    rows = [
        [row["group"], study.series[row["series"]].title, *(str(row[state]) for state in (*STATES, "counted"))]
        for row in data
    ]
    header = ["Group", "Agent", *(state.capitalize() for state in STATES), "Counted"]
    notes = ["Incomplete: done, but evaluations are missing. Absent: no such run here, while another agent has it."]
    return Table("Coverage", header, rows, pd.DataFrame(data), notes)


def gaps(study: Study) -> Table:
    """The runs that failed, are not finished, lack evaluations or are not there at all."""
    data = study.gaps
    rows = []
    for row in data.to_dict("records"):
        progress = "" if row["state"] == "absent" else f"{int(row['step']):,} / {int(row['steps']):,}"
        name = study.series[row["series"]].title
        counts = "yes" if row["scored"] else "no"
        rows.append([row["group"], name, row["task"], row["seeds"], row["state"], row["reason"], progress, counts])
    header = ["Group", "Agent", "Task", "Seeds", "State", "Why", "Updates", "Counts"]
    notes = [] if rows else ["None: every run is finished, with all its evaluations."]
    return Table("Runs that are missing, failed or unfinished", header, rows, data, notes, text_columns=6)


def held_out(study: Study) -> Table:
    """The last held-out checks of the runs on robots, by group and agent: means over seeds."""
    runs = study.runs[study.runs["suite"] == "robot"]
    checks = {name: metric(study.results, f"{HELD_OUT}{name}", runs.index) for name in (*CHECKS, *_fifths())}
    last = {name: rows.groupby("run_id")["value"].last() for name, rows in checks.items()}
    frame = runs[["group", "series", "seed", "step"]].join(pd.DataFrame(last)).dropna(subset=["action_error"])
    data = frame.drop(columns=["seed", "step"]).groupby(["group", "series"], sort=False).mean().reset_index()
    seeds = frame.groupby(["group", "series"])["seed"].nunique()
    rows = [
        [row["group"], study.series[row["series"]].title, *(_number(row[name]) for name in CHECKS)]
        + [", ".join(f"{_number(row[q])}: {_number(row[g])}" for q, g in _pairs()) if _number(row["return"]) else ""]
        + [str(seeds[row["group"], row["series"]])]
        for row in data.to_dict("records")
    ]
    notes = [
        "The checks compare policies with episodes that training has not seen. They say how a policy fits recordings, "
        "and not how often it succeeds. Action error: mean absolute "
        "difference of the policy's and the recorded chunk, in actions from -1 to 1; that of the first action beside "
        "it. Q: value of the recorded chunk and of the policy's. Return: discounted return to go of the recordings. "
        "Calibration: mean Q and mean return in each fifth of the states, ordered by Q."
    ]
    header = ["Group", "Agent", *CHECKS.values(), "Calibration, Q: return", "Seeds"]
    return Table("Held-out checks (no success rates)", header, rows, data, notes if rows else [])


CHECKS = {
    "action_error": "Action error",
    "first_action_error": "First action",
    "q_recorded": "Q recorded",
    "q_policy": "Q policy",
    "return": "Return",
    "q_return_correlation": "Correlation of Q and return",
}
"""Held-out checks of the table (lps.evaluation.heldout) -> their titles."""


def _pairs() -> list[tuple[str, str]]:
    return [(f"calibration_q_{fifth}", f"calibration_return_{fifth}") for fifth in range(1, 6)]


def _fifths() -> list[str]:
    return [name for pair in _pairs() for name in pair]


def _number(value: float) -> str:
    return f"{value:.3g}" if np.isfinite(value) else ""


TABLES: dict[str, Callable[[Study], Table]] = {
    "claims": claims,
    "success": success,
    "published": published,
    "tasks": tasks,
    "differences": differences,
    "robustness": robustness,
    "tuned": tuned,
    "held_out": held_out,
    "coverage": coverage,
    "missing_runs": gaps,
}
UNSCORED = ("held_out", "coverage", "missing_runs")  # tables that need no scores
OF_SERIES = ("claims", "success", "published", "tasks", "differences")  # tables whose numbers are those of series


def all_tables(study: Study) -> dict[str, Table]:
    """All tables, with what has to stand beside every one of them: what was left out by hand, and what was trained by
    different code or on different data under one name."""
    mixed = list(filter(None, [provenance.mixed_code(study), provenance.mixed_data(study)]))
    found = {}
    for name, make in progress(TABLES.items(), what="tables", unit="table"):
        if not study.groups and name not in UNSCORED:
            continue
        table = make(study)
        notes = [*table.notes, *(mixed if name in OF_SERIES else []), *study.results.notes]
        found[name] = replace(table, notes=notes)
    return found


def interval(
    mean: float, low: float, high: float, unit: Unit = SUCCESS, *, alone: bool = False, signed: bool = False
) -> str:
    """A score with the ends of its interval: '95.0 [92.8, 97.0]', '40.0 (n=1)' for a single seed, '' for no number."""
    if not np.isfinite(mean):
        return ""
    sign = "+" if signed else ""
    text = unit.text(mean, sign)
    if np.isfinite(low):
        return f"{text} [{unit.text(low, sign)}, {unit.text(high, sign)}]"
    return f"{text} (n=1)" if alone else text


def _range(low: int, high: int) -> str:
    return str(low) if low == high else f"{low}-{high}"


@lru_cache(maxsize=2)
def _letters(study: Study) -> dict[str, str]:
    """The letter of every phrase about a protocol: the same in all tables."""
    cells = summaries.by_group(study)[["series", "group"]].itertuples(index=False, name=None)
    phrases = [phrase for cell in cells for phrase in summaries.protocol_differences(study, *cell)]
    phrases += [phrase for row in summaries.beside_published(study).to_dict("records") for phrase in _phrases(row)]
    return {phrase: _letter(i) for i, phrase in enumerate(dict.fromkeys(phrases))}


def _phrases(row: Mapping[Hashable, Any]) -> list[str]:
    """The phrases about the protocol of a row of `summaries.beside_published`."""
    own = row["what"] in ("ours", "best")
    return [phrase for phrase in (row["protocol"].split("; ") if own else [row["protocol"]]) if phrase]


def _used(letters: Mapping[str, str], phrases: Sequence[Sequence[str]]) -> dict[str, str]:
    """The letters of these phrases, in order."""
    here = {phrase for some in phrases for phrase in some}
    return {phrase: letter for phrase, letter in letters.items() if phrase in here}


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else _letter(i // 26 - 1) + _letter(i % 26)
