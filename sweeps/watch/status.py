"""States of the runs of a results store; failed runs can be queued again."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from rich.console import Console
from rich.table import Table

from lps.errors import UserError, last_line, printable, suggest
from lps.runs.lease import Lease, claims
from lps.runs.record import RunRecord, Status
from lps.runs.store import Store

STATES = ("done", "running", "interrupted", "queued", "failed", "missing")
SILENCE = timedelta(minutes=30)
"""A run says that it lives with every checkpoint. One that has been silent for so long was interrupted."""


@dataclass(frozen=True)
class Standing:
    """State of one run."""

    id: str
    agent: str
    task: str
    seed: int
    state: str
    """One of STATES; 'missing' is planned and has not begun."""
    step: int = 0
    steps: int = 0
    reason: str = ""
    """Why it failed, in a line."""

    group: str = ""
    title: str = ""
    """Agent, task and seed."""


def standings(store: Store, now: datetime | None = None) -> list[Standing]:
    """Every run that the store knows of: begun, or planned by a sweep."""
    now, sweeps = now or datetime.now(UTC), store.sweeps()
    planned = {run_id: run for sweep in sweeps for run_id, run in sweep["runs"].items()}
    tasks = {name: task for sweep in sweeps for name, task in sweep.get("tasks", {}).items()}
    found = {doc["id"]: _standing(doc, now, tasks) for doc in store.runs()}
    for run_id, run in planned.items():
        found.setdefault(run_id, _standing({"id": run_id, "run": run, "status": "missing"}, now, tasks))
    order = {run_id: number for number, run_id in enumerate(planned)}
    return sorted(found.values(), key=lambda run: (order.get(run.id, len(order)), run.agent, run.task, run.seed))


def _standing(doc: dict[str, Any], now: datetime, tasks: Mapping[str, Mapping[str, str]]) -> Standing:
    run, state = doc["run"], doc["status"]
    if state == Status.RUNNING and now - _time(doc.get("updated")) > SILENCE:
        state = "interrupted"
    reason = last_line(doc.get("error") or "") if state == Status.FAILED else ""
    task = tasks.get(run["task"], {"group": run["task"], "title": run["task"]})
    return Standing(
        doc["id"],
        run["agent"],
        run["task"],
        run["seed"],
        state,
        doc.get("step", 0),
        run.get("steps", 0),
        reason,
        task["group"],
        f"{run['agent']} {task['title']} seed {run['seed']}",
    )


def _time(text: str | None) -> datetime:
    """A stored time; the earliest one if a document has none."""
    time = datetime.fromisoformat(text) if text else datetime.min
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def show(store: Store) -> None:
    """Prints a table by agent and group, a line for every run that failed, and how to go on."""
    runs = standings(store)
    states = [state for state in STATES if state in ("done", "failed") or any(run.state == state for run in runs)]
    table = Table("agent", "group", *states, box=None, pad_edge=False)
    for column in table.columns[2:]:
        column.justify = "right"
    rows: dict[tuple[str, str], Counter[str]] = {}
    for run in runs:
        rows.setdefault((run.agent, run.group), Counter())[run.state] += 1
    for (agent, group), counts in rows.items():
        table.add_row(agent, group, *(str(counts[state] or "-") for state in states))
    Console(highlight=False, markup=False).print(table)
    total = Counter(run.state for run in runs)
    print(f"{len(runs)} runs: " + ", ".join(f"{total[state]} {state}" for state in STATES if total[state]))
    for line in _holders(store):
        print(line)
    for run in runs:
        if run.state == "failed":
            print(printable(f"failed: {run.title} (run {run.id}, step {run.step} of {run.steps}): {run.reason}"))
    for problem in store.problems:
        print(printable(f"cannot be read: {problem}"))
    left = {run.id for run in runs if run.state != "done"}
    if commands := _commands(store, left):
        print("To go on with what is left, if it is not running:", *commands, sep="\n  ")


def _holders(store: Store) -> list[str]:
    """Say which processes hold how many runs. A worker holds a part of its driver's runs, so it counts without one."""
    found = claims(store)
    owners = {claim.owner for claim in found}
    return [
        f"{len(claim.held)} held by {claim}"
        + (": this process has ended, and its runs are free" if claim.gone() else "")
        for claim in sorted(found, key=lambda claim: claim.since)
        if claim.held and claim.parent not in owners
    ]


def retry(store: Store, ids: Collection[str] = (), from_start: bool = False) -> list[Standing]:
    """Puts failed runs back into the queue, those in `ids` or all, and returns them as they stood.

    They go on from their last checkpoint, or `from_start`: then what they have trained and evaluated is deleted.
    Raises Busy if another process trains one of them.
    """
    runs = {run.id: run for run in standings(store)}
    for run_id in ids:
        if run_id not in runs:
            raise UserError(suggest(run_id, runs, "run"))
        if runs[run_id].state != "failed":
            raise UserError(f"run {run_id} ({runs[run_id].title}) has not failed: it is {runs[run_id].state}")
    failed = {run.id: run for run in runs.values() if run.state == "failed" and (not ids or run.id in ids)}
    with Lease(store) as lease:
        for turn in lease.turns({run.id: run.title for run in failed.values()}, "stop"):
            for run_id in turn:
                _queue(store.fenced(lease.check), run_id, from_start)
    return list(failed.values())


def _queue(store: Store, run_id: str, from_start: bool) -> None:
    if not (document := store.read_run(run_id)):  # it was removed just now
        return
    record = RunRecord.from_document(document)
    if from_start:
        _forget(store, run_id)
        record = replace(record, step=0)
    store.write_run(record.queued())


def _forget(store: Store, run_id: str) -> None:
    store.delete(f"checkpoints/{run_id}.pt")
    store.drop_metrics(run_id, 0)
    for step in store.episode_steps(run_id):
        store.delete(f"episodes/{run_id}/{step:09d}.parquet")


def _commands(store: Store, runs: Collection[str]) -> list[str]:
    """The commands of the sweeps that have some of the runs."""
    found = dict.fromkeys(sweep["command"] for sweep in store.sweeps() if sweep["runs"].keys() & runs)
    return list(map(printable, found))


def say_retry(runs: Sequence[Standing], store: Store) -> None:
    """Prints what `retry` did."""
    for run in runs:
        about = f"{run.title} (run {run.id}), which failed at step {run.step} of {run.steps}: {run.reason}"
        print(printable(f"queued: {about}"))
    if not runs:
        print(f"no run has failed in {store.path}")
        return
    if any(run.reason.startswith("diverged") for run in runs):
        print("A run that diverged will diverge again: it needs other hyperparameters, and that is another run.")
    if commands := _commands(store, {run.id for run in runs}):
        print("They are trained by the same command again:", *commands, sep="\n  ")
    else:
        print("No sweep on record for these runs. Rerun the command that started them.")
