"""Reads result stores into two tables: runs and their evaluations.

What cannot be read is passed over and named in `Results.problems`, so that nothing is dropped silently.
"""

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.progress import progress
from analysis.results import version1
from analysis.results.agents import Agent, agents_of
from lps.agents.variants import OLD_VALUES
from lps.errors import UserError
from lps.files import local_path
from lps.runs.provenance import short_commit
from lps.runs.scores import measure
from lps.runs.store import Store

MANY = 20
"""Problems that an error lists."""
_IDENTITY = ("agent", "task", "seed", "steps")
# Protocol fields of a run, with what they were when a document does not say.
_PROTOCOL = {
    "dataset": "",
    "eval_interval": 100_000,
    "eval_episodes": 50,
    "success_timing": "post",
    "reward_timing": "pre",
}
_NO_SETTING = ("agent", "task", "seed", "hyperparameters")


@dataclass(frozen=True)
class Results:
    """One or more stores in memory.

    paths: the folders that were read.
    runs: one row per run document, index `run_id`: agent, task, suite, group, short (the task's title inside its
        group), metric, return_range, percent (whether scores are fractions of 1), bandit, standard (the task's
        dataset), seed, steps, dataset, eval_interval, eval_episodes, success_timing, reward_timing, setting (dict: all
        that can change the result but agent, task and seed), hyperparameters (dict), status, step, error, updated,
        device, wall_time_s, fingerprint, versions (dict), sweep, results (the folder it lies in).
    evaluations: one row per evaluation, sorted by run and step: run_id, step, value (by the metric of its task, see
        lps.runs.scores.measure), mean_return, episodes (their number).
    actions: one row per action that the last policy of a run chose on the ring bandit: run_id, x, y.
    about: {agent: title, colour, defaults, ...} (see lps.runs.store.Store.write_sweep).
    sweeps, studies: the documents of the sweeps that made the runs, and of what studies found (see
        lps.runs.store.Store).
    problems: one line for each file that was passed over, and why.
    left_out: the rows of `runs` that were left out by hand (see analysis.results.select).
    notes: sentences that belong beside every number: what was left out, and where folders disagree.
    """

    paths: tuple[str, ...]
    runs: pd.DataFrame
    evaluations: pd.DataFrame
    actions: pd.DataFrame
    about: Mapping[str, Mapping[str, Any]]
    sweeps: list[dict[str, Any]]
    studies: list[dict[str, Any]]
    problems: list[str]
    left_out: pd.DataFrame = field(default_factory=pd.DataFrame)
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        return " and ".join(self.paths)

    @property
    def name(self) -> str:
        """Title of a page about the results."""
        return " + ".join(Path(path).name or path for path in self.paths)

    def only(self, run_ids: Collection[str]) -> "Results":
        """Return the results of the given runs only."""
        kept = list(run_ids)
        if self.runs.index.isin(kept).all():
            return self
        evaluations, actions = (
            table[table["run_id"].isin(kept)].reset_index(drop=True) for table in (self.evaluations, self.actions)
        )
        return replace(self, runs=self.runs[self.runs.index.isin(kept)], evaluations=evaluations, actions=actions)

    def agents(self, names: Iterable[str]) -> dict[str, Agent]:
        """The agents of these names in showing order."""
        return agents_of(names, self.about)

    def defaults(self, agent: str, group: str) -> dict[str, Any]:
        """The hyperparameters that an agent has on a group by itself: its Config's, and those tuned for the group."""
        about = self.about.get(agent, {})
        return {**OLD_VALUES, **about.get("defaults", {}), **about.get("tuned", {}).get(group, {})}


def load(path: str) -> Results:
    """The results in `path`, a local folder or a URI such as s3://bucket/results.

    Raises:
        UserError: no result store there, one of another schema version, or one without a single readable run.
    """
    store = _open(path)
    with progress(what=f"reading {path}", unit="table", total=4) as bar:
        sweeps, studies = store.sweeps(), store.studies()
        bar.update()
        documents = store.runs()
        bar.update()
        episodes = store.read_episodes()
        bar.update()
        actions = store.read_actions().select(["run_id", "x", "y"]).to_pandas()
        bar.update()
    known = [sweep for sweep in sweeps if "tasks" in sweep]  # not those of version 1
    about = {**version1.agents(), **{name: own for sweep in known for name, own in sweep["agents"].items()}}
    tasks = {name: task for sweep in known for name, task in sweep["tasks"].items()}
    runs = _runs(documents, tasks, about).assign(results=str(path))
    evaluations = _evaluations(episodes, runs)
    orphans = sorted(set(evaluations["run_id"]) - set(runs.index))
    problems = [f"episodes/{run_id}: belongs to no readable run document, not shown" for run_id in orphans]
    evaluations = evaluations[~evaluations["run_id"].isin(orphans)].reset_index(drop=True)
    problems = [*store.problems, *(f"{path}/{problem}" for problem in problems)]
    if runs.empty:
        why = "".join(f"\n  {problem}" for problem in [*problems[:MANY], *["..."][: len(problems) > MANY]])
        raise UserError(f"no runs in {path} yet: start some, or check the path{why}")
    return Results((str(path),), runs, evaluations, actions, about, sweeps, studies, problems)


def join(parts: Sequence[Results]) -> Results:
    """The results of several folders as one; a run that lies in several of them counts once.

    Raises:
        UserError: two folders disagree about a run.
    """
    if len(parts) == 1:
        return parts[0]
    joined = reduce(_joined, parts)
    documents: list[dict[str, Any]] = []
    for document in (document for part in parts for document in part.studies):
        documents += [] if document in documents else [document]
    names = [str(document["study"]) for document in documents]
    notes = [
        f"The folders {joined.path} differ in what the study '{name}' found: a figure of one shows the first."
        for name in dict.fromkeys(names)
        if names.count(name) > 1 and name not in _UNITED
    ]
    return replace(joined, studies=documents, notes=(*joined.notes, *notes))


_UNITED = ("data-scaling", "flops")  # studies whose documents add up; the first is of version 1


def _joined(a: Results, b: Results) -> Results:
    both = a.runs.index.intersection(b.runs.index)
    known = [{run_id: rows for run_id, rows in part.evaluations.groupby("run_id")} for part in (a, b)]
    for run_id in both:
        mine, other = a.runs.loc[run_id], b.runs.loc[run_id]
        if differing := _differing(mine, other, *(own.get(run_id) for own in known)):
            raise UserError(
                f"run {run_id} ({mine['agent']}, {mine['group']} {mine['short']}, seed {mine['seed']}) is in "
                f"{mine['results']} and in {other['results']}, and is not the same there: {differing}. Show the "
                f"folders one by one, or leave the run out with --exclude {run_id}"
            )
    rest = b.only(b.runs.index.difference(both))
    return replace(
        a,
        paths=tuple(dict.fromkeys([*a.paths, *b.paths])),
        runs=pd.concat([a.runs, rest.runs]).sort_index(),
        evaluations=pd.concat([a.evaluations, rest.evaluations]).sort_values(["run_id", "step"], ignore_index=True),
        actions=pd.concat([a.actions, rest.actions], ignore_index=True),
        about={**a.about, **b.about},
        sweeps=[*a.sweeps, *b.sweeps],
        problems=[*a.problems, *(problem for problem in b.problems if problem not in a.problems)],
    )


def _differing(mine: pd.Series, other: pd.Series, *evaluations: pd.DataFrame | None) -> str:
    """In what two documents of one run, and its evaluations, do not agree; '' where they do."""
    commits = [short_commit(run["versions"]) for run in (mine, other)]
    if commits[0] != commits[1]:
        return f"git commit {commits[0]} and {commits[1]}"
    for key in ("status", "step", "fingerprint"):
        if mine[key] != other[key]:
            return f"{'dataset ' * (key == 'fingerprint')}{key} {mine[key] or '?'} and {other[key] or '?'}"
    numbers = [[] if own is None else own[["step", "value", "episodes"]].values.tolist() for own in evaluations]
    return "" if numbers[0] == numbers[1] else "its evaluations have other numbers"


def metric(results: Results, name: str, run_ids: Iterable[str]) -> pd.DataFrame:
    """Return the logged values of a metric, sorted by run and step: run_id, step, value (finite).

    Read when it is asked for: a large sweep has logged far more numbers than any figure needs.
    """
    stores = {path: _open(path) for path in results.paths}
    tables = [stores[results.runs.at[run_id, "results"]].read_metrics(run_id) for run_id in sorted(run_ids)]
    found = [problem for store in stores.values() for problem in store.problems]
    if not tables:
        return pd.DataFrame({"run_id": [], "step": [], "value": []})
    table = pa.concat_tables(tables)
    frame = table.filter(pc.equal(table["metric"], name)).select(["run_id", "step", "value"]).to_pandas()
    if double := sorted(set(frame["run_id"][frame.duplicated(["run_id", "step"])])):
        frame = frame.drop_duplicates(["run_id", "step"], keep="last")
        found.append(
            f"metrics/{double[0]}{f' and of {len(double) - 1} more runs' if double[1:] else ''}: some steps are stored "
            "twice, because two processes trained the run at once; the later file counts"
        )
    for problem in dict.fromkeys(found):
        if problem not in results.problems:
            results.problems.append(problem)
    return frame[np.isfinite(frame["value"])].reset_index(drop=True)


def _open(path: str) -> Store:
    folder = local_path(path)
    if "://" not in path and os.path.isdir(folder) and not (folder / "schema.json").exists():
        below = sorted(str(found.parent) for found in folder.glob("*/schema.json"))
        if below:
            raise UserError(f"{path} holds several result stores; name one of them: {', '.join(below)}")
        raise UserError(f"{path} is not a results folder: it has no schema.json. Check the path")
    return Store(path, create=False, warn=False)  # whoever shows the results lists the problems, all together


def _runs(
    documents: Iterable[Mapping[str, Any]],
    tasks: Mapping[str, Mapping[str, Any]],
    about: Mapping[str, Mapping[str, Any]],
) -> pd.DataFrame:
    rows = []
    for document in documents:
        run = document["run"]
        known = tasks.get(run["task"]) or version1.task(run["task"])
        rows.append(_row(document, run, known, about.get(run["agent"], {}).get("defaults", {})))
    frame = pd.DataFrame(rows, columns=None if rows else ["run_id"])
    return frame.set_index("run_id").sort_index()


def _row(
    document: Mapping[str, Any], run: Mapping[str, Any], task: Mapping[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    own = run.get("hyperparameters") or {}
    hyperparameters = {**{key: value for key, value in OLD_VALUES.items() if key in defaults}, **own}
    old = _PROTOCOL if task["suite"] == "ogbench" else {}  # of documents that do not say
    protocol = {**old, **{key: value for key, value in run.items() if key not in _NO_SETTING}}
    title = task["title"].removeprefix(task["group"]).strip() or task["title"]
    return {
        "run_id": document["id"],
        **{key: run[key] for key in _IDENTITY},
        **{key: protocol.get(key, "") for key in _PROTOCOL},
        "suite": task["suite"],
        "group": task["group"],
        "short": title.replace("task ", "task"),  # 'task1', as in published tables
        "metric": task["metric"],
        "return_range": task["return_range"],
        "percent": task["metric"] != "return" or task["return_range"] is not None,
        "bandit": task["max_episode_steps"] == 1,
        "standard": task["dataset"],
        "setting": {**protocol, **hyperparameters},
        "hyperparameters": hyperparameters,
        "status": document["status"],
        "step": document.get("step") or 0,
        "error": document.get("error") or "",
        "updated": document.get("updated") or "",
        "device": document.get("device") or "",
        "wall_time_s": document.get("wall_time_s") or 0.0,
        "fingerprint": document.get("dataset_fingerprint") or "",
        "versions": document.get("versions") or {},
        "sweep": document.get("sweep") or "",
    }


def _evaluations(episodes: pa.Table, runs: pd.DataFrame) -> pd.DataFrame:
    columns = episodes.select(["run_id", "step", "return"])
    columns = columns.append_column("success", episodes["success"].cast("float64"))
    grouped = columns.group_by(["run_id", "step"]).aggregate(
        [("success", "mean"), ("return", "mean"), ("step", "count")]
    )
    frame = grouped.rename_columns(["run_id", "step", "success", "return", "episodes"]).to_pandas()
    rules = runs[["metric", "return_range"]].to_dict("index") if len(runs) else {}
    frame["value"] = [
        measure(**rules.get(run_id, {"metric": "success", "return_range": None}), success=success, return_=return_)
        for run_id, success, return_ in zip(frame["run_id"], frame["success"], frame["return"], strict=True)
    ]
    frame = frame.rename(columns={"return": "mean_return"})[["run_id", "step", "value", "mean_return", "episodes"]]
    return frame.sort_values(["run_id", "step"], ignore_index=True)
