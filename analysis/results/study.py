"""From runs to scores: which runs belong together, which are complete, and the one number of each.

The score of a run is the mean over its last three evaluations (Park et al., "Flow Q-learning", arXiv 2502.02538), all
of them if there are fewer; never its best evaluation, which would reward noise. Runs of one agent that differ in
anything but task and seed are shown as series of their own, never averaged.
"""

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

import pandas as pd

from analysis.results import version1
from analysis.results.agents import AVERAGE, SUBJECT, Agent, agents_of, group_key
from analysis.results.load import Results
from lps.runs.scores import LAST

DAGGER = "†"
_NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[+-]?\d+)?)")
PROTOCOL = ("steps", "dataset", "eval_interval", "eval_episodes")
"""The protocol of every run; the options of its suite are part of it, too."""


class Unit(NamedTuple):
    """The unit of scores, by the metric of their tasks."""

    name: str
    scale: float  # from scores to numbers for people: 100 for percent
    sign: str = ""

    @property
    def label(self) -> str:
        return f"{self.name.replace('success', 'success rate')} ({self.sign})" if self.sign else self.name

    @property
    def title(self) -> str:
        return self.name.capitalize()

    @property
    def points(self) -> str:
        """The unit of a difference."""
        return "percentage points" if self.sign else f"{self.name}"

    def text(self, value: float, sign: str = "") -> str:
        """A score for people: '95.0' percent, or a return with four digits."""
        scaled = self.scale * value
        return f"{scaled:{sign}.1f}" if self.sign or abs(scaled) >= 1000 else f"{scaled:{sign}.4g}"


SUCCESS, NORMALISED, RETURN = Unit("success", 100, "%"), Unit("normalised return", 100, "%"), Unit("return", 1)


@dataclass(frozen=True)
class Series:
    """Runs that are shown as one: an agent with one setting of everything that is not task or seed."""

    key: str
    agent: Agent
    variant: str = ""  # name of its variant, or its departures from the usual setting: 'lr=0.001'
    departs: int = 0  # number of departures
    samples: int | None = None  # the N of a best-of-N, where all runs have the same

    @property
    def title(self) -> str:
        title = self.agent.title
        if self.samples is not None and title.endswith("-N"):
            title = f"{title.removesuffix('N')}{self.samples}"
            if self.variant == f"of {self.samples}":  # the variant of_4: the title says so
                return title
        return f"{title} ({self.variant})" if self.variant else title


@dataclass(frozen=True, eq=False)
class Study:
    """Results with their series and scores.

    runs: the runs of `Results`, and: series (key), usual, departs, roles, variant (see `_with_intent`), state ('done',
        'failed', 'running' or 'incomplete'), scored (whether it counts), score and mean_return (NaN without
        evaluations), evaluated
        (number of complete evaluations).
    gaps: one row per run that is not what was planned (see `find_gaps`).
    subject: the agent that claims are about.
    """

    results: Results
    series: dict[str, Series]
    runs: pd.DataFrame
    gaps: pd.DataFrame
    include_unfinished: bool = False
    subject: Agent = agents_of([SUBJECT], version1.agents())[SUBJECT]

    @cached_property
    def groups(self) -> list[str]:
        """Groups with at least one scored run, in showing order; bandits, which are pictures and no benchmarks, only
        where there is nothing else."""
        scored = self.runs[self.runs["scored"]]
        return sorted(set(scored.loc[~scored["bandit"], "group"]) or set(scored["group"]), key=group_key)

    @cached_property
    def _facts(self) -> dict[str, dict[str, Any]]:
        return self.runs.drop_duplicates("group").set_index("group")[["suite", "standard", "bandit"]].to_dict("index")

    def is_ogbench(self, group: str) -> bool:
        """Whether a group is one of OGBench's: published numbers are of these."""
        return self.fact(group, "suite") == "ogbench"

    def fact(self, group: str, name: str) -> Any:
        """The suite or the standard dataset of a group, or whether it is a bandit."""
        return self._facts[group][name]

    @cached_property
    def _units(self) -> dict[str, set[Unit]]:
        found: dict[str, set[Unit]] = {}
        for run in self.runs[["group", "metric", "percent"]].drop_duplicates().to_dict("records"):
            unit = SUCCESS if run["metric"] != "return" else NORMALISED if run["percent"] else RETURN
            found.setdefault(str(run["group"]), set()).add(unit)
        return found

    def unit(self, *groups: str) -> Unit:
        """The unit of the scores of some groups, of the comparable ones by default."""
        wanted = [group for group in groups if group != AVERAGE] or self.comparable
        units = set().union(*(self._units[group] for group in wanted))
        if len(units) == 1:
            return units.pop()
        return Unit("score", 1) if RETURN in units else Unit("score", 100, "%")

    @cached_property
    def comparable(self) -> list[str]:
        """The groups that figures and tables over several groups may mix: those of percentages, if there is any."""
        return [group for group in self.groups if self.unit(group).sign] or self.groups

    def agents(self, names: Iterable[str]) -> dict[str, Agent]:
        """The agents of these names in showing order."""
        return self.results.agents(names)

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
        """Return the number of planned runs of a series on a group: its own, and those that only other series have."""
        absent = self.gaps[(self.gaps["series"] == series) & (self.gaps["group"] == group)]
        return len(self.cell(series, group, scored=False)) + int(absent.loc[absent["state"] == "absent", "runs"].sum())


def study(results: Results, include_unfinished: bool = False, subject: str = SUBJECT) -> Study:
    """Scores all runs; those that are not finished count only with `include_unfinished`. Claims are about `subject`."""
    runs = _with_intent(results)
    series = {one.key: one for one in sorted(runs["series"], key=_place(results.agents(runs["agent"])))}
    runs["series"] = [one.key for one in runs["series"]]
    for key, own in runs.groupby("series")["hyperparameters"]:
        samples = {values.get("num_samples") for values in own}
        series[key] = replace(series[key], samples=samples.pop() if len(samples) == 1 else None)
    by_run: dict[str, list[Evaluation]] = {}
    for run_id, *evaluation in results.evaluations[["run_id", *Evaluation._fields]].itertuples(index=False):
        by_run.setdefault(run_id, []).append(Evaluation(*evaluation))
    verdicts = [_judge(run, by_run.get(run["run_id"], []), include_unfinished) for run in records(runs)]
    verdict = pd.DataFrame(verdicts, index=runs.index)
    runs = pd.concat([runs, verdict], axis=1)
    apart = [run_id for run_id, roles in runs["roles"].items() if any("held_out" in role for role in roles)]
    gaps = find_gaps(runs, series, apart, results.left_out)
    return Study(results, series, runs, gaps, include_unfinished, results.agents([subject])[subject])


def records(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table of runs as dicts, `run_id` among them."""
    return [{str(key): value for key, value in row.items()} for row in runs.reset_index().to_dict("records")]


def planned_steps(steps: int, interval: int) -> list[int]:
    """The steps at which a run is evaluated: every `interval` updates and at the end."""
    return sorted({*range(interval, steps + 1, interval), steps})


def protocol(run: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a run's setting that is no hyperparameter."""
    return {name: value for name, value in run["setting"].items() if name not in run["hyperparameters"]}


def options(run: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a run that are its suite's."""
    return {name: value for name, value in sorted(protocol(run).items()) if name not in PROTOCOL}


class Evaluation(NamedTuple):
    """A row of `Results.evaluations`; plain values, for a table per run would take longer than reading the runs."""

    step: int
    value: float
    mean_return: float
    episodes: int


def _judge(run: Mapping[str, Any], evaluations: list[Evaluation], include_unfinished: bool) -> dict[str, Any]:
    planned = [] if run["metric"] == "none" else planned_steps(int(run["steps"]), int(run["eval_interval"]))
    complete = {evaluation.step for evaluation in evaluations if evaluation.episodes >= run["eval_episodes"]}
    missing = [step for step in planned if step not in complete]
    state = run["status"] if run["status"] != "done" or not missing else "incomplete"
    # A hole early in the curve does not touch the score; one among the last evaluations does.
    sound = run["status"] == "done" and not set(missing) & set(planned[-LAST:])
    last = [evaluation for evaluation in evaluations if evaluation.step in planned[-LAST:]]
    counted = last if sound else evaluations[-LAST:]
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
        "score": fmean(evaluation.value for evaluation in counted) if counted else float("nan"),
        "mean_return": fmean(evaluation.mean_return for evaluation in counted) if counted else float("nan"),
        "evaluated": len(planned) - len(missing),
        "reason": reason,
    }


def _with_intent(results: Results) -> pd.DataFrame:
    """The runs with: usual (the usual setting of the agent on the group), departs (the part of the run's setting that
    is not usual), roles (see lps.runs.intent), variant (name of the variant that departs so, '' for the usual setting,
    None for all else), series."""
    runs = results.runs.copy()
    stored = [sweep for sweep in results.sweeps if "usual" in sweep]
    roles: dict[str, list[dict[str, Any]]] = {}
    for sweep in stored:
        for run_id, own in sweep["runs"].items():
            roles.setdefault(run_id, []).extend(own["roles"])
    found: dict[str, dict[str, Any]] = {}
    agents = results.agents(runs["agent"])
    for (agent, group), here in runs.groupby(["agent", "group"]):
        rows = records(here)
        usuals = [own for sweep in stored if (own := sweep["usual"].get(agent, {}).get(group))]
        if usuals:  # of several sweeps, that of most runs
            usual = max(usuals, key=lambda own: sum(own == run["setting"] for run in rows))
        else:
            usual = version1.usual(str(agent), str(group), rows, results.studies)
        for run in rows:
            departs = version1.changes(run["setting"], usual)
            own = roles.get(run["run_id"]) or version1.roles(str(agent), str(group), run, usual, results.studies)
            variant = _variant(departs, own, results.about.get(str(agent), {}).get("variants", {}))
            changes = ", ".join(f"{key}={word(value)}" for key, value in sorted(departs.items()))
            told = (variant or "").replace("_", " ") or changes
            series = Series(f"{agent} ({told})" if told else str(agent), agents[str(agent)], told, len(departs))
            row = {"usual": usual, "departs": departs, "roles": own, "variant": variant, "series": series}
            found[run["run_id"]] = row
    columns = pd.DataFrame(list(found.values()), index=list(found), dtype=object)
    return runs.join(columns)


def _variant(departs: Mapping[str, Any], roles: list[dict[str, Any]], variants: Mapping[str, Any]) -> str | None:
    if not departs:
        return ""
    names = [role["variant"] for role in roles if role.keys() == {"variant"}]
    return next((name for name in names if departs.keys() <= variants.get(name, {}).keys()), None)


def _place(agents: Mapping[str, Agent]) -> Callable[[Series], tuple[Any, ...]]:
    """Sort key of series: agents in showing order, the usual setting first."""
    order = {name: number for number, name in enumerate(agents)}
    return lambda one: (order[one.agent.name], one.departs, _natural(one.variant))


def _natural(text: str) -> list[str | float]:
    """A sort key that takes numbers as numbers: lr=1e-05 is before lr=0.001, and play-30 before play-100."""
    return [float(part) if i % 2 else part for i, part in enumerate(_NUMBER.split(text))]


def word(value: Any) -> str:
    """A value for people: 0.001, normal, 512x4 for four layers; equal values give equal texts."""
    if isinstance(value, list) and len(value) > 1 and len(set(value)) == 1:
        return f"{value[0]}x{len(value)}"
    if isinstance(value, list):
        return "-".join(map(str, value))
    return as_text(value)


def _scalar(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value


def as_text(value: Any) -> str:
    """A hyperparameter for people; equal values give equal texts, whether a file has 1 or 1.0."""
    value = _scalar(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


LEFT_OUT = "left out by hand"
GAP_COLUMNS = ["series", "group", "task", "seeds", "state", "step", "steps", "reason", "run_id", "scored", "runs"]


def find_gaps(
    runs: pd.DataFrame, series: Mapping[str, Series], apart: Collection[str] = (), left_out: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Runs that failed, are unfinished or lack evaluations, and runs that a series lacks where another has them
    (state 'absent', one row per task with all its seeds). Columns: GAP_COLUMNS; `runs` is how many a row stands for.

    apart: runs with other seeds (held-out runs of tuning). They are not counted as missing for other series, and vice
        versa.
    left_out: runs that the user excluded (`Results.left_out`).
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
    return json.dumps([run["agent"], run["group"], run["setting"]], sort_keys=True, default=_scalar)


def spans(numbers: list[int]) -> str:
    """Sorted numbers with runs of them drawn together: [0, 1, 2, 5] is '0-2, 5'."""
    parts: list[list[int]] = []
    for number in sorted(numbers):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)
