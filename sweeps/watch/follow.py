"""A live view of a results folder, from any machine that reads it: `python -m sweeps watch RESULTS`."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from statistics import fmean
from typing import Any, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lps.runs.store import Store
from sweeps.watch.console import duration
from sweeps.watch.status import STATES, Standing, standings

ROWS, REASONS = 20, 5
"""Most running runs and most failures that are shown."""


def follow(store: Store, every: float, out: TextIO | None = None) -> None:
    """Show the runs of a results folder until all are done or failed, or until Ctrl-C.

    every: seconds between two readings.  Without a terminal, every change is printed below the last one.
    """
    console = Console(file=out or sys.stdout, highlight=False)
    view = View(store)
    with Live(console=console, auto_refresh=False) as live:
        last: Sequence[Standing] = ()
        while True:
            runs = standings(store)
            if console.is_terminal:
                live.update(view(runs), refresh=True)
            elif runs != last:
                console.print(view(runs))
            last = runs
            if all(run.state in ("done", "failed") for run in runs):
                return
            try:
                time.sleep(every)
            except KeyboardInterrupt:
                return


class View:
    """Draws the standings of a store's runs."""

    def __init__(self, store: Store):
        self.store = store
        self._scores: dict[tuple[str, int], float] = {}

    def __call__(self, runs: Sequence[Standing]) -> Group:
        counts = Counter(run.state for run in runs)
        summary = f"{len(runs)} runs: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        running = [run for run in runs if run.state == "running"]
        failed = [run for run in runs if run.state == "failed"]
        parts: list[Any] = [_progress(runs), Text(summary)]
        if running:
            parts += [Text(), self._running(running[:ROWS])]
        parts += _more(len(running) - ROWS, "running")
        parts += [Text(f"failed: {run.title}: {run.reason}", style="red") for run in failed[-REASONS:]]
        parts += _more(len(failed) - REASONS, "failed")
        return Group(*parts)

    def _running(self, runs: Sequence[Standing]) -> Table:
        table = _table("running", "step", "steps/s", "ETA", "score")
        for run in runs:
            document = self.store.read_run(run.id) or {}
            seconds = document.get("wall_time_s") or 0.0
            rate = run.step / seconds if seconds else 0.0
            table.add_row(
                Text(run.title),
                f"{run.step:,} / {run.steps:,}",
                f"{rate:.0f}" if rate else "",
                duration((run.steps - run.step) / rate) if rate else "",
                self._score(run.id, document),
            )
        return table

    def _score(self, run_id: str, document: dict[str, Any]) -> str:
        """Success rate or, without successes, mean return of the latest evaluation; '' if there is none."""
        if not (steps := self.store.episode_steps(run_id)):
            return ""
        key = run_id, max(steps)
        if key not in self._scores:
            episodes = self.store.episodes(run_id).get(key[1], [])
            successes = [episode.success for episode in episodes if episode.success is not None]
            values: list[float] = [*successes] or [episode.return_ for episode in episodes]
            if not values:
                return ""
            self._scores[key] = fmean(values)
        return f"{self._scores[key]:.2f}"


def _progress(runs: Sequence[Standing]) -> Table:
    """A bar of updates for each agent and group."""
    table = _table("agent", "group", "done", "updates")
    rows: dict[tuple[str, str], list[Standing]] = {}
    for run in runs:
        rows.setdefault((run.agent, run.group), []).append(run)
    for (agent, group), members in rows.items():
        done = sum(run.state == "done" for run in members)
        longest = max(run.steps for run in members)  # a plan does not say how long a run is
        completed = sum(run.steps if run.state == "done" else run.step for run in members)
        bar = ProgressBar(sum(run.steps or longest for run in members) or 1, completed, width=30)
        table.add_row(Text(agent), Text(group), f"{done} / {len(members)}", bar)
    return table


def _table(*columns: str) -> Table:
    table = Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in table.columns[2:]:
        column.justify = "right"
    return table


def _more(count: int, state: str) -> list[Text]:
    return [Text(f"and {count} more {state}")] if count > 0 else []
