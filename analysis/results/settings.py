"""What sets runs of one agent apart: the setting most of them share, and how each departs from it.

A study of sensitivity changes one number at a time around a common setting, an ablation changes a word (a latent
distribution, a form of a loss). The common setting is read from the results themselves: of every hyperparameter and
every part of the protocol the value of most settings; among equals, and of words wherever it was run at all, the
default that the agent's page declares.
"""

import json
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import asdict
from functools import lru_cache
from typing import Any

import pandas as pd

from analysis.numbers import stats, tuning
from analysis.results.agents import declared
from analysis.results.study import PROTOCOL, Study, defaults, records, setting
from lps.agents.variants import ADDED, VARIANTS

MANY = 10
"""Series beyond which a figure of rivals shows one of every agent."""

Setting = Mapping[str, Any]


@lru_cache(maxsize=2)
def common(study: Study) -> Mapping[tuple[str, str], Setting]:
    """The common setting of every agent on every group; a key of which no value is the common one is left out."""
    found = {}
    default, tried = study.results.held_out("default"), tuning.tried(study)
    for (agent, group), runs in study.runs.groupby(["agent", "group"]):
        free = runs[~runs.index.isin(list(tried))]  # what a tuner tried is no vote
        settings = list({_same(own): own for own in map(_setting, records(runs if free.empty else free))}.values())
        known = defaults(study.results, str(agent), str(group), settings)
        for run in records(runs[runs.index.isin(default)]):
            known |= _setting(run)  # what a tuning study was held against
        keys = {key for own in settings for key in own}
        values = {key: _most([own[key] for own in settings if key in own], known.get(key)) for key in keys}
        found[str(agent), str(group)] = {key: value for key, value in values.items() if value is not None}
    return found


@lru_cache(maxsize=2)
def departures(study: Study) -> Mapping[str, Setting]:
    """{run id: what of its setting is not the common one of its agent on its group}."""
    usual = common(study)
    return {
        run["run_id"]: {
            key: value
            for key, value in _setting(run).items()
            if _same(value) != _same(usual[run["agent"], run["group"]].get(key))
        }
        for run in records(study.runs)
    }


@lru_cache(maxsize=2)
def variants(study: Study) -> Mapping[str, str]:
    """{run id: the variant of lps.agents.variants that its departures make up, '' for none}; a run that departs in
    anything else is left out."""
    own, usual, found = departures(study), common(study), {}
    for run in records(study.runs):
        here = usual[run["agent"], run["group"]]
        names = {"": {}, **VARIANTS.get(run["agent"], {})}
        for name, settings in names.items():
            apart = {key: value for key, value in settings.items() if _same(value) != _same(here.get(key))}
            if _same(apart) == _same(own[run["run_id"]]) and (apart or not name):
                found[run["run_id"]] = name
                break
    return found


@lru_cache(maxsize=2)
def rivals(study: Study) -> list[str]:
    """The series that are compared with each other, in showing order: of every agent its common setting, its variants
    and what departs from it in words. What else departs, in a number or in the protocol, is a point of another study,
    unless the agent has nothing else. What a tuner tried is none.
    """
    own, known = departures(study), variants(study)
    scored = study.runs[study.runs["scored"] & ~study.runs.index.isin(list(tuning.tried(study)))]
    plain = {
        key
        for key, runs in scored.groupby("series")
        if all(run in known for run in runs.index)
        or not any(is_number(value) or name in PROTOCOL for run in runs.index for name, value in own[run].items())
    }
    agents = {study.series[key].agent for key in plain}
    present = set(scored["series"])
    return [
        key for key, series in study.series.items() if key in plain or (key in present and series.agent not in agents)
    ]


@lru_cache(maxsize=2)
def shown(study: Study) -> list[str]:
    """The rivals that a figure has room for: all of them, or of every agent its common setting where there are more
    than MANY."""
    found = rivals(study)
    if len(found) <= MANY:
        return found
    agents = dict.fromkeys(study.series[key].agent.name for key in found)
    usual = {agent: plain(study, agent, found) for agent in agents}
    return [key for key in found if usual[study.series[key].agent.name] in (key, None)]


def plain(study: Study, agent: str, among: Collection[str]) -> str | None:
    """The series among the given ones in which an agent has its common setting; None where it is not there."""
    own = departures(study)
    for key in among:
        runs = study.runs.index[study.runs["series"] == key]
        if study.series[key].agent.name == agent and not any(own[run] for run in runs):
            return key
    return None


@lru_cache(maxsize=2)
def titles(study: Study) -> Mapping[str, str]:
    """Titles of the series that say only what departs from the common setting, by its name if it has one: 'LPS',
    'LPS (normal)', 'LPS (lr=0.001)'."""
    own, known = departures(study), variants(study)
    found = {}
    for key, series in study.series.items():
        runs = study.runs.index[study.runs["series"] == key]
        names = {known.get(run) for run in runs}
        named = names.pop() if len(names) == 1 else None
        apart = (named or "").replace("_", " ") or ", ".join(
            f"{k}={v}" for k, v in {k: word(v) for run in runs for k, v in own[run].items()}.items()
        )
        found[key] = f"{series.agent.title} ({apart})" if apart else series.agent.title
    counts = Counter(found.values())
    return {key: title if counts[title] == 1 else study.series[key].title for key, title in found.items()}


SENSITIVITY = ["hyperparameter", "series", "agent", "value", "common", "mean", "low", "high", "n_tasks", "n_seeds_min"]


@lru_cache(maxsize=2)
def sensitivity(study: Study) -> pd.DataFrame:
    """Success along every hyperparameter that varies, all others at the common setting: one row per agent and value,
    on the tasks that all values of the agent have. Columns: SENSITIVITY; `common` marks the value most runs share.
    """
    own = departures(study)
    scored = study.runs[study.runs["scored"]]
    rows: list[dict[str, Any]] = []
    varying = {key for run in scored.index for key in own[run]} - set(PROTOCOL)
    for name in sorted(varying):
        for agent in dict.fromkeys(series.agent for series in study.series.values()):
            runs = scored[scored["agent"] == agent.name]
            line = [run for run in records(runs) if set(own[run["run_id"]]) <= {name} and name in _setting(run)]
            rows += [{"hyperparameter": name, "agent": agent.name, **row} for row in _line(study, name, line)]
    return pd.DataFrame(rows, columns=SENSITIVITY)


def _line(study: Study, name: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of one agent and hyperparameter; none with less than two values."""
    points: dict[str, dict[tuple[str, str], list[float]]] = {}
    marks: dict[str, bool] = {}
    series: dict[str, str] = {}
    for run in runs:
        value = _same(_setting(run)[name])
        points.setdefault(value, {}).setdefault((run["group"], run["short"]), []).append(run["score"])
        # A value may be the common one on one group only, where it is tuned by group: then no value is marked.
        here = name in common(study)[run["agent"], run["group"]] and name not in departures(study)[run["run_id"]]
        marks[value] = marks.get(value, True) and here
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


def word(value: Any) -> str:
    """A value as people write it: 0.001, normal, 512x4 for four layers."""
    if isinstance(value, list) and len(value) > 1 and len(set(value)) == 1:
        return f"{value[0]}x{len(value)}"
    if isinstance(value, list):
        return "-".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _setting(run: Mapping[str, Any]) -> dict[str, Any]:
    own = setting(run)
    return {**{key: value for key, value in ADDED.items() if key in declared(run["agent"])}, **own}


def _most(values: list[Any], known: Any) -> Any:
    if isinstance(known, str | bool) and known in values:
        return known  # of an ablation's words the default may well be the rarer one
    counts = Counter(map(_same, values))
    most = max(counts.values())
    best = [value for value in counts if counts[value] == most]
    if len(best) > 1:
        best = [value for value in best if value == _same(known)]
    return json.loads(best[0]) if best else None


def _same(value: Any) -> str:
    """A text that equal values share."""
    return json.dumps(value, sort_keys=True, default=lambda other: other.item())
