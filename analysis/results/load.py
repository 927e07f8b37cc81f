"""Reads result stores into two tables: runs and their evaluations.

What cannot be read is passed over and named in `Results.problems`, so that nothing is dropped silently.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from analysis.results.agents import split_task
from lps.errors import UserError
from lps.runs.provenance import short_commit
from lps.runs.store import SCHEMA, Store

# What a run's document must say to be placed; everything else is optional.
_REQUIRED = ("agent", "task", "seed", "steps")
# Protocol fields of a run, with what they were when a document does not say.
_PROTOCOL = {
    "dataset": "",
    "eval_interval": 100_000,
    "eval_episodes": 50,
    "success_timing": "post",
    "reward_timing": "pre",
}


@dataclass(frozen=True)
class Results:
    """One or more stores in memory.

    paths: the folders that were read.
    runs: one row per run document, index `run_id`: agent, task (OGBench's name), group, short ('task1'), seed, steps,
        dataset, eval_interval, eval_episodes, success_timing, reward_timing, hyperparameters (dict), status,
        step, error, updated, device, wall_time_s, fingerprint, versions (dict), sweep, results (the folder it lies in).
    evaluations: one row per evaluation, sorted by run and step: run_id, step, success (mean over its episodes, 0..1),
        episodes (their number).
    actions: one row per action that the last policy of a run chose on the ring bandit: run_id, x, y.
    sweeps, studies: the documents of the sweeps that made the runs, and of what studies found (see
    lps.runs.store.Store). problems: one line for each file that was passed over, and why. left_out: the rows of `runs`
    that were left out by hand (see analysis.results.select). notes: sentences that belong beside every number: what was
    left out, and where folders disagree.
    """

    paths: tuple[str, ...]
    runs: pd.DataFrame
    evaluations: pd.DataFrame
    actions: pd.DataFrame
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
        """What a page about them is called."""
        return " + ".join(Path(path).name or path for path in self.paths)

    def only(self, run_ids: Collection[str]) -> "Results":
        """Those of these runs, with what belongs to them."""
        kept = list(run_ids)
        if self.runs.index.isin(kept).all():
            return self
        evaluations, actions = (
            table[table["run_id"].isin(kept)].reset_index(drop=True) for table in (self.evaluations, self.actions)
        )
        return replace(self, runs=self.runs[self.runs.index.isin(kept)], evaluations=evaluations, actions=actions)

    def held_out(self, *names: str) -> set[str]:
        """The ids of the runs of tuning studies with seeds that no trial has seen: of the 'best' setting, of the
        'default', or of both."""
        kept = (document.get("held_out", {}) for document in self.studies)
        return {run_id for own in kept for name in names or own for run_id in own.get(name, ())}


def load(path: str) -> Results:
    """The results in `path`, a local folder or a URI such as s3://bucket/results.

    Raises:
        UserError: no result store there, one of another schema version, or one without a single readable run.
    """
    store = _open(path)
    problems: list[str] = []
    runs = _runs(store.runs(), problems).assign(results=str(path))
    evaluations = _evaluations(store.read_episodes())
    orphans = sorted(set(evaluations["run_id"]) - set(runs.index))
    problems += [f"episodes/{run_id}: belongs to no readable run document, not shown" for run_id in orphans]
    evaluations = evaluations[~evaluations["run_id"].isin(orphans)].reset_index(drop=True)
    actions = store.read_actions().select(["run_id", "x", "y"]).to_pandas()
    sweeps, studies = store.sweeps(), store.studies()
    problems = [*store.problems, *(f"{path}/{problem}" for problem in problems)]
    if runs.empty:
        why = "".join(f"\n  {problem}" for problem in problems)
        raise UserError(f"no runs in {path} yet: start some, or check the path{why}")
    return Results((str(path),), runs, evaluations, actions, sweeps, studies, problems)


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


_UNITED = ("data-scaling",)  # studies whose documents add up (analysis.results.plays)


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
    numbers = [[] if own is None else own[["step", "success", "episodes"]].values.tolist() for own in evaluations]
    return "" if numbers[0] == numbers[1] else "its evaluations have other numbers"


def metric(results: Results, name: str, run_ids: Iterable[str]) -> pd.DataFrame:
    """What these runs logged under a name while they trained, sorted by run and step: run_id, step, value (finite).

    Read when it is asked for: a large sweep has logged far more numbers than any figure needs.
    """
    stores = {path: _open(path) for path in results.paths}
    tables = [stores[results.runs.at[run_id, "results"]].read_metrics(run_id) for run_id in sorted(run_ids)]
    found = [problem for store in stores.values() for problem in store.problems]
    results.problems.extend(problem for problem in found if problem not in results.problems)
    if not tables:
        return pd.DataFrame({"run_id": [], "step": [], "value": []})
    table = pa.concat_tables(tables)
    frame = table.filter(pc.equal(table["metric"], name)).select(["run_id", "step", "value"]).to_pandas()
    return frame[np.isfinite(frame["value"])].reset_index(drop=True)


def _open(path: str) -> Store:
    if "://" not in path and not (Path(path) / "schema.json").exists():
        below = sorted(str(found.parent) for found in Path(path).glob("*/schema.json"))
        if below:
            raise UserError(f"{path} holds several result stores; name one of them: {', '.join(below)}")
        if Path(path).exists():
            raise UserError(f"{path} is not a results folder: it has no schema.json. Check the path")
    return Store(path, create=False, warn=False)  # whoever shows the results lists the problems, all together


def _runs(documents: Iterable[Mapping[str, Any]], problems: list[str]) -> pd.DataFrame:
    rows = []
    for document in documents:
        run = document.get("run") or {}
        missing = [key for key in _REQUIRED if key not in run]
        name = f"runs/{document.get('id', '?')}.json"
        if document.get("schema", SCHEMA) != SCHEMA:
            problems.append(f"{name}: written with schema {document['schema']}, not {SCHEMA}; not shown")
        elif missing or "id" not in document:
            problems.append(f"{name}: does not say {', '.join(missing or ['id'])}; not shown")
        else:
            rows.append(_row(document, run))
    frame = pd.DataFrame(rows, columns=None if rows else ["run_id"])
    return frame.set_index("run_id").sort_index()


def _row(document: Mapping[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    group, short = split_task(run["task"])
    return {
        "run_id": document["id"],
        **{key: run[key] for key in _REQUIRED},
        **{key: run.get(key, default) for key, default in _PROTOCOL.items()},
        "group": group,
        "short": short,
        "hyperparameters": run.get("hyperparameters") or {},
        "status": document.get("status", "running"),
        "step": document.get("step") or 0,
        "error": document.get("error") or "",
        "updated": document.get("updated") or "",
        "device": document.get("device") or "",
        "wall_time_s": document.get("wall_time_s") or 0.0,
        "fingerprint": document.get("dataset_fingerprint") or "",
        "versions": document.get("versions") or {},
        "sweep": document.get("sweep") or "",
    }


def _evaluations(episodes: pa.Table) -> pd.DataFrame:
    columns = episodes.select(["run_id", "step"]).append_column("success", episodes["success"].cast("float64"))
    grouped = columns.group_by(["run_id", "step"]).aggregate([("success", "mean"), ("success", "count")])
    frame = grouped.rename_columns(["run_id", "step", "success", "episodes"]).to_pandas()
    return frame.sort_values(["run_id", "step"], ignore_index=True)
