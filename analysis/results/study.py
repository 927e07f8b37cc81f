"""From runs to scores: which runs belong together, which are complete, and the one number of each.

The score of a run is the mean over its last three evaluations (Park et al., "Flow Q-learning", arXiv 2502.02538), all
of them if there are fewer; never its best evaluation, which would reward noise. Runs of one agent that differ in
anything but task and seed are shown as series of their own, never averaged.
"""

import json
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from analysis.results.agents import AGENTS, SUBJECT, Agent, agents_of, declared, group_key
from analysis.results.load import Results
from analysis.results.plays import standard
from lps.agents.variants import ADDED, group_settings
from lps.runs.scores import LAST
from lps.tasks.ring import RING

DAGGER = "†"
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
PROTOCOL = ("steps", "dataset", "eval_interval", "eval_episodes", "success_timing", "reward_timing")


@dataclass(frozen=True)
class Series:
    """Runs that are shown as one: an agent with one setting of everything that is not task or seed."""

    key: str
    agent: Agent
    variant: str = ""  # what sets it apart from other series of the agent: 'lr=0.001'

    @property
    def title(self) -> str:
        return f"{self.agent.title} ({self.variant})" if self.variant else self.agent.title


@dataclass(frozen=True, eq=False)
class Study:
    """Results with their series and scores.

    runs: the runs of `Results`, and: series (key), state ('done', 'failed', 'running' or 'incomplete'), scored (whether
        it counts), score (0..1, NaN without evaluations), evaluated (number of complete evaluations).
    gaps: one row per run that is not what was planned (see `find_gaps`).
    subject: the agent that claims are about.
    """

    results: Results
    series: dict[str, Series]
    runs: pd.DataFrame
    gaps: pd.DataFrame
    include_unfinished: bool = False
    subject: Agent = AGENTS[SUBJECT]

    @property
    def groups(self) -> list[str]:
        """Groups with at least one scored run, in showing order; the ring bandit, which is a picture and no benchmark,
        only where there is nothing else."""
        found = set(self.runs.loc[self.runs["scored"], "group"])
        return sorted(found - {RING.group} or found, key=group_key)

    @cached_property
    def _cells(self) -> dict[tuple[str, str], pd.DataFrame]:
        cells = self.runs.sort_values(["short", "seed"]).groupby(["series", "group"])
        return {(str(key[0]), str(key[1])): rows for key, rows in cells}

    def cell(self, series: str, group: str, scored: bool = True) -> pd.DataFrame:
        """The runs of one series on one group by task and seed, only those that count unless told otherwise."""
        rows = self._cells.get((series, group), self.runs.iloc[:0])
        return rows[rows["scored"]] if scored else rows

    def scores(self, series: str, group: str) -> dict[str, dict[int, float]]:
        """{task: {seed: score}} of one series on one group."""
        cell = self.cell(series, group)
        return {str(task): dict(zip(rows["seed"], rows["score"], strict=True)) for task, rows in cell.groupby("short")}

    def planned(self, series: str, group: str) -> int:
        """How many runs a series should have on a group: its own, and those that only other series have."""
        absent = self.gaps[(self.gaps["series"] == series) & (self.gaps["group"] == group)]
        return len(self.cell(series, group, scored=False)) + int(absent.loc[absent["state"] == "absent", "runs"].sum())


def study(results: Results, include_unfinished: bool = False, subject: str = SUBJECT) -> Study:
    """Scores all runs; those that are not finished count only with `include_unfinished`. Claims are about `subject`."""
    runs = results.runs.copy()
    series, runs["series"] = _assign_series(runs, results)
    by_run: dict[str, list[Evaluation]] = {}
    for run_id, *evaluation in results.evaluations[["run_id", *Evaluation._fields]].itertuples(index=False):
        by_run.setdefault(run_id, []).append(Evaluation(*evaluation))
    verdicts = [_judge(run, by_run.get(run["run_id"], []), include_unfinished) for run in records(runs)]
    verdict = pd.DataFrame(verdicts, index=runs.index)
    runs = pd.concat([runs, verdict], axis=1)
    gaps = find_gaps(runs, series, results.held_out(), results.left_out)
    return Study(results, series, runs, gaps, include_unfinished, agents_of([subject])[subject])


def records(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table of runs as dicts, `run_id` among them."""
    return [{str(key): value for key, value in row.items()} for row in runs.reset_index().to_dict("records")]


def planned_steps(steps: int, interval: int) -> list[int]:
    """The steps at which a run is evaluated: every `interval` updates and at the end."""
    return sorted({*range(interval, steps + 1, interval), steps})


class Evaluation(NamedTuple):
    """A row of `Results.evaluations`; plain values, for a table per run would take longer than reading the runs."""

    step: int
    success: float
    episodes: int


def _judge(run: Mapping[str, Any], evaluations: list[Evaluation], include_unfinished: bool) -> dict[str, Any]:
    planned = planned_steps(int(run["steps"]), int(run["eval_interval"]))
    complete = {evaluation.step for evaluation in evaluations if evaluation.episodes >= run["eval_episodes"]}
    missing = [step for step in planned if step not in complete]
    state = run["status"] if run["status"] != "done" or not missing else "incomplete"
    # A hole early in the curve does not touch the score; one among the last evaluations does.
    sound = run["status"] == "done" and not set(missing) & set(planned[-LAST:])
    last = [evaluation for evaluation in evaluations if evaluation.step in planned[-LAST:]]
    counted = [evaluation.success for evaluation in (last if sound else evaluations[-LAST:])]
    reason = ""
    if state == "failed":
        reason = (str(run["error"]).strip().splitlines() or ["no traceback in its document"])[-1]
    elif state == "incomplete":
        shown = ", ".join(f"{step:,}" for step in missing[:3]) + (", ..." if len(missing) > 3 else "")
        reason = f"{len(missing)} of {len(planned)} evaluations missing or short (at {shown})"
    elif state != "done":
        reason = f"last heard of {run['updated']}" if run["updated"] else "never heard of"
    return {
        "state": state,
        "scored": bool(counted) and (sound or include_unfinished),
        "score": fmean(counted) if counted else float("nan"),
        "evaluated": len(planned) - len(missing),
        "reason": reason,
    }


def _assign_series(runs: pd.DataFrame, results: Results) -> tuple[dict[str, Series], list[str]]:
    """The series by key in showing order, and the key of every run."""
    settings = [setting(run) for run in records(runs)]
    frame = runs[["agent", "group"]].assign(setting=settings)
    agents = agents_of(runs["agent"])
    varying = {
        name: _varying([list(rows["setting"]) for _, rows in rows.groupby("group")])
        for name, rows in frame.groupby("agent")
    }
    variants = [
        ", ".join(f"{key}={as_text(setting.get(key, ADDED.get(key, 'unset')))}" for key in varying[agent])
        for agent, setting in zip(runs["agent"], settings, strict=True)
    ]
    keys = [
        f"{agent} ({variant})" if variant else agent for agent, variant in zip(runs["agent"], variants, strict=True)
    ]
    # The default, or what departs least from it, comes first.
    rows = frame.assign(variant=variants, key=keys, apart=_apart(frame, varying, results))
    series: dict[str, Series] = {}
    for name, agent in agents.items():
        own = rows[rows["agent"] == name].groupby("variant").agg({"key": "first", "apart": "min"})
        ordered = sorted(own.itertuples(), key=lambda row: (row.apart, _natural(str(row.Index))))
        series |= {str(row.key): Series(str(row.key), agent, str(row.Index)) for row in ordered}
    return series, keys


def _apart(frame: pd.DataFrame, varying: Mapping[Any, list[str]], results: Results) -> pd.Series:
    """Of how many of the keys that vary every run has not the default: the declared value, or that of most runs of its
    agent on its group where none of them has the declared one."""
    found = pd.Series(0, index=frame.index)
    for (agent, group), rows in frame.groupby(["agent", "group"]):
        known = defaults(results, agent, group, list(rows["setting"]))
        for name in varying[agent]:
            values = rows["setting"].map(lambda setting, name=name: as_text(setting.get(name, ADDED.get(name))))
            default = as_text(known.get(name))
            usual = default if default in set(values) else values.mode().iloc[0]
            found[rows.index] += values != usual
    return found


def defaults(results: Results, agent: str, group: str, settings: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The values that an agent has on a group unless told otherwise: its page's, the group's, and of the datasets that
    these settings have the one that stands for the group (`plays.standard`; None where nothing says which)."""
    datasets = {setting["dataset"] for setting in settings}
    return {**declared(agent), **group_settings(agent, group), "dataset": standard(results, group, datasets)}


def _natural(text: str) -> list[str | float]:
    """A sort key that takes numbers as numbers: lr=1e-05 is before lr=0.001, and play-30 before play-100."""
    return [float(part) if i % 2 else part for i, part in enumerate(_NUMBER.split(text))]


def setting(run: Mapping[str, Any]) -> dict[str, Any]:
    """Everything of a run that can change its result but agent, task and seed."""
    return {**{key: run[key] for key in PROTOCOL}, **run["hyperparameters"]}


def _varying(groups: list[list[Mapping[str, Any]]]) -> list[str]:
    """The keys that differ between settings of one group. A setting per group (alpha, say) sets nothing apart."""
    found = []
    for settings in groups:
        for key in sorted({key for setting in settings for key in setting}):
            if len({json.dumps(_scalar(setting.get(key, ADDED.get(key))), sort_keys=True) for setting in settings}) > 1:
                found.append(key)
    return list(dict.fromkeys(found))


def _scalar(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def as_text(value: Any) -> str:
    """A hyperparameter for people; equal values give equal texts, whether a file has 1 or 1.0."""
    value = _scalar(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


LEFT_OUT = "left out by hand"
GAP_COLUMNS = ["series", "group", "task", "seeds", "state", "step", "steps", "reason", "run_id", "scored", "runs"]


def find_gaps(
    runs: pd.DataFrame,
    series: Mapping[str, Series],
    apart: Collection[str] = (),
    left_out: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Runs that failed, are unfinished or lack evaluations, and runs that a series lacks where another has them
    (state 'absent', one row per task with all its seeds). Columns: GAP_COLUMNS; `runs` is how many a row stands for.

    apart: runs with seeds of their own (a tuning study's held-out ones), which nobody else lacks, nor they the others'.
    left_out: runs that are not there because somebody left them out (`Results.left_out`).
    """
    rows: list[dict[str, Any]] = []
    by_hand = set() if left_out is None else {(_identity(run), run["short"], run["seed"]) for run in records(left_out)}
    for run in records(runs[runs["state"] != "done"]):
        row = {key: run[key] for key in ("series", "group", "state", "step", "steps", "reason", "scored")}
        rows.append({**row, "task": run["short"], "seeds": str(run["seed"]), "run_id": run["run_id"], "runs": 1})
    for (group, _), here in runs.groupby(["group", runs.index.isin(list(apart))]):
        everyone = set(zip(here["short"], here["seed"], strict=True))
        for key, own in here.groupby("series"):
            identity = _identity(records(own.iloc[:1])[0])
            lacking: dict[tuple[str, str], list[int]] = {}
            for task, seed in sorted(everyone - set(zip(own["short"], own["seed"], strict=True))):
                reason = (
                    LEFT_OUT if (identity, task, seed) in by_hand else "no such run here, while another agent has it"
                )
                lacking.setdefault((task, reason), []).append(int(seed))
            for (task, reason), seeds in lacking.items():
                row = {"series": key, "group": group, "task": task, "seeds": spans(seeds), "runs": len(seeds)}
                rows.append({**row, "state": "absent", "reason": reason, "scored": False, "run_id": ""})
    order = {key: i for i, key in enumerate(series)}
    rows.sort(key=lambda row: (group_key(row["group"]), order[row["series"]], row["task"], row["state"], row["seeds"]))
    return pd.DataFrame(rows, columns=GAP_COLUMNS)


def _identity(run: Mapping[str, Any]) -> str:
    """A text that runs of one series on one group share."""
    return json.dumps([run["agent"], run["group"], setting(run)], sort_keys=True, default=_scalar)


def spans(numbers: list[int]) -> str:
    """Sorted numbers with runs of them drawn together: [0, 1, 2, 5] is '0-2, 5'."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
