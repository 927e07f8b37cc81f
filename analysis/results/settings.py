"""Settings of an agent: compared series and points of a study, by the roles of the runs."""

import json
from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import pandas as pd

from analysis.numbers import stats
from analysis.results.study import Study, protocol, records

MANY = 10
"""Maximum number of series in a figure; beyond it, the figure shows one series per agent."""


@lru_cache(maxsize=2)
def compared_series(study: Study) -> list[str]:
    """Return the series that are compared with each other, in the order of display.

    These are the usual setting of every agent, its variants, and the settings that a sweep compares. Points of studies
    and other protocols are included only if the agent has no other runs. Tuning trials are always excluded.
    """
    scored = study.runs[study.runs["scored"]]
    present = {key for key, runs in scored.groupby("series") if not all(map(_tuned, runs["roles"]))}
    plain = {key for key in present if all(map(_is_rival, records(scored[scored["series"] == key])))}
    agents = {study.series[key].agent for key in plain}
    return [
        key for key, series in study.series.items() if key in plain or (key in present and series.agent not in agents)
    ]


def _is_rival(run: Mapping[str, Any]) -> bool:
    compared = any(role.keys() <= {"variant"} or role.get("held_out") == "default" for role in run["roles"])
    return not run["departs"] or (compared and not run["departs"].keys() & protocol(run).keys())


def _tuned(roles: Collection[Mapping[str, Any]]) -> bool:
    """Whether a tuner chose the setting."""
    return all("trial" in role or role.get("held_out") == "best" for role in roles)


@lru_cache(maxsize=2)
def plotted_series(study: Study) -> list[str]:
    """Return the compared series for a figure: all of them, or the usual setting of every agent if there are more
    than MANY."""
    found = compared_series(study)
    if len(found) <= MANY:
        return found
    agents = dict.fromkeys(study.series[key].agent.name for key in found)
    usual = {agent: default_series(study, agent, found) for agent in agents}
    return [key for key in found if usual[study.series[key].agent.name] in (key, None)]


def default_series(study: Study, agent: str, among: Collection[str]) -> str | None:
    """Return the series of an agent's usual setting among the given series; None if it is missing."""
    named = [key for key in among if study.series[key].agent.name == agent and not study.series[key].departs]
    return next(iter(named), None)


SENSITIVITY = ["hyperparameter", "series", "agent", "value", "common", "mean", "low", "high", "n_tasks", "n_seeds_min"]


@lru_cache(maxsize=2)
def sensitivity(study: Study) -> pd.DataFrame:
    """Return the scores along each axis of a study, with the other hyperparameters at their usual values.

    One row per agent and value, on the tasks that all values of the agent have. Columns: SENSITIVITY; `common` marks
    the usual value.
    """
    scored = records(study.runs[study.runs["scored"] & study.runs["group"].isin(study.comparable)])
    axes = {role["axis"] for run in scored for role in run["roles"] if role.keys() == {"axis", "value"}}
    rows: list[dict[str, Any]] = []
    for name in sorted(axes):
        for agent in study.agents(run["agent"] for run in scored):
            own = [run for run in scored if run["agent"] == agent and name in run["hyperparameters"]]
            line = [
                run for run in own if run["departs"].keys() <= {name} and (_on_axis(run, name) or not run["departs"])
            ]
            rows += [{"hyperparameter": name, "agent": agent, **row} for row in _line(name, line)]
    return pd.DataFrame(rows, columns=SENSITIVITY)


def _on_axis(run: Mapping[str, Any], name: str) -> bool:
    return any(role.get("axis") == name and "variant" not in role for role in run["roles"])


def _line(name: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of one agent and hyperparameter; empty with fewer than two values."""
    points: dict[str, dict[tuple[str, str], list[float]]] = defaultdict(dict)
    marks: dict[str, bool] = {}
    series: dict[str, str] = {}
    for run in runs:
        value = json.dumps(run["setting"][name])
        points[value].setdefault((run["group"], run["short"]), []).append(run["score"])
        # A value that is tuned by group may be usual on one group only; no value is marked then.
        marks[value] = marks.get(value, True) and not run["departs"]
        series[value] = run["series"]
    tasks = set.intersection(*map(set, points.values())) if len(points) > 1 else set()
    rows = []
    for value in sorted(points, key=_order):
        strata = [points[value][task] for task in sorted(tasks)]
        if strata:
            ends = {"n_tasks": len(strata), "n_seeds_min": min(map(len, strata))}
            found = asdict(stats.estimate(strata))
            rows.append({"series": series[value], "value": json.loads(value), "common": marks[value], **found, **ends})
    return rows


def _order(text: str) -> tuple[float, str]:
    value = json.loads(text)
    return (float(value), "") if is_number(value) else (float("inf"), text)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
