"""Display of a running sweep: a live table on a terminal, occasional lines elsewhere."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, TextIO

from rich.console import Console as Terminal
from rich.live import Live
from rich.table import Table

from lps.runs.run import Run
from lps.tasks.task import Task

News = Mapping[int, Mapping[str, Any]]
"""Pack number -> state, step, steps, rate (steps/s), eta (s), success (mean score of its runs), starts, as known."""
ROWS = 20
"""Most packs in the table; beyond it only those at work are shown."""
EVERY = 15.0
"""Seconds between two lines about the same pack where there is no terminal."""

WIDEST = 80
"""Letters of a pack's title."""


def title(runs: Sequence[Run]) -> str:
    """A pack in a few words, such as 'lps cube-single task 1 seeds 0-3'."""
    tasks = [run.resolved_task for run in runs]
    return f"{runs[0].agent} {_tasks(tasks)} {numbered('seed', [run.seed for run in runs])}"


def titles(packs: Sequence[Sequence[Run]]) -> list[str]:
    """The titles of packs. Packs of one title are told apart by their settings: 'lps ring-bandit seed 0 alpha=3.0'."""
    alike: dict[str, list[dict[str, str]]] = {}
    for pack in packs:
        alike.setdefault(title(pack), []).append(_settings(pack))
    found = {text: iter(_apart(text, settings)) for text, settings in alike.items()}
    return [next(found[title(pack)]) for pack in packs]


def _settings(pack: Sequence[Run]) -> dict[str, str]:
    """The values of every setting in a pack."""
    values = [{**run.to_dict(), **run.hyperparameters} for run in pack]
    names = values[0].keys() - {"agent", "task", "seed", "hyperparameters"}
    return {name: ",".join(dict.fromkeys(str(own.get(name)) for own in values)) for name in sorted(names)}


def _apart(text: str, settings: Sequence[dict[str, str]]) -> list[str]:
    """The title with the settings that differ between packs of this title."""
    differing = [name for name in settings[0] if len({own.get(name) for own in settings}) > 1]
    return [" ".join([text, *(f"{name}={own[name]}" for name in differing)])[:WIDEST] for own in settings]


def _tasks(tasks: Sequence[Task]) -> str:
    """The titles of tasks; of several of one group that end in a number, the group and the numbers."""
    titles = list(dict.fromkeys(task.title for task in tasks))
    numbers = [int(title.rpartition(" ")[2]) for title in titles if title.rpartition(" ")[2].isdigit()]
    if len(titles) == 1 or len(numbers) < len(titles):
        return ", ".join(titles)
    return f"{tasks[0].group} {numbered('task', numbers)}"


def numbered(word: str, numbers: Sequence[int]) -> str:
    """Numbers with their noun: 'seed 3', 'seeds 0-3', 'seeds 0,2'."""
    found = sorted(set(numbers))
    if len(found) == 1:
        return f"{word} {found[0]}"
    if found == list(range(found[0], found[-1] + 1)):
        return f"{word}s {found[0]}-{found[-1]}"
    return f"{word}s {','.join(map(str, found))}"


class Console:
    """Shows the progress of packs, given by their titles, from `follow` on until it is left. The list may grow.

    >>> with Console(["lps ...", "dsrl ..."]) as console:
    ...     console.follow(read)
    """

    def __init__(self, titles: Sequence[str], out: TextIO | None = None):
        self.titles = titles
        self._news: News = {}
        self._terminal = Terminal(file=out or sys.stdout, highlight=False)
        self._live = Live(get_renderable=self._table, console=self._terminal, auto_refresh=False, redirect_stdout=False)
        self._said: dict[int, tuple[float, Any]] = {}  # pack -> when, and what that was new
        self._read: Callable[[], News] | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True, name="console")

    def __enter__(self) -> "Console":
        if self._terminal.is_terminal:
            self._live.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=10)
        self._look()
        self._read = None
        if self._terminal.is_terminal:
            self._live.stop()

    def follow(self, read: Callable[[], News]) -> None:
        """From now on the news comes from `read`. It may fail: then the last news stands."""
        self._read = read

    def print_line(self, text: str) -> None:
        self._terminal.print(text, markup=False, soft_wrap=True)

    def _loop(self) -> None:
        while not self._stop.wait(1.0):
            self._look()

    def _look(self) -> None:
        try:
            self._news = self._read() if self._read else self._news
        except Exception:  # the cluster is gone or slow, which is for others to handle
            pass
        if self._terminal.is_terminal:
            self._live.refresh()
        else:
            self._lines()

    # --- lines -----------------------------------------------------------------------------------------------------

    def _lines(self) -> None:
        for number, news in sorted(self._news.items()):
            now, event = time.monotonic(), (news.get("state"), news.get("success"), news.get("starts"))
            then, said = self._said.get(number, (0.0, None))
            if event != said or (news.get("state") == "training" and now - then >= EVERY):
                self._said[number] = now, event
                cells = [cell for cell in self._cells(number)[1:] if cell]
                self.print_line(f"{time.strftime('%H:%M:%S')} {self.titles[number]:<40} {'  '.join(cells)}")

    # --- the table -------------------------------------------------------------------------------------------------

    def _table(self) -> Table:
        table = Table(
            "pack", "state", "step", "steps/s", "score", "ETA", box=None, pad_edge=False, title_justify="left"
        )
        for column in table.columns[2:]:
            column.justify = "right"
        states = {number: self._state(number) for number in range(len(self.titles))}
        busy = [number for number, state in states.items() if state in BUSY]
        for number in states if len(states) <= ROWS else busy[:ROWS]:
            table.add_row(*self._cells(number, words=False))
        counts = Counter(states.values())
        table.caption = "packs: " + ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        table.caption_justify = "left"
        return table

    def _state(self, number: int) -> str:
        return self._news.get(number, {}).get("state", "waiting")

    def _cells(self, number: int, words: bool = True) -> list[str]:
        """Title, state, step, steps/s, score and ETA of a pack; with `words` each says what it is."""
        news = self._news.get(number, {})
        state, starts = self._state(number), news.get("starts", 0)
        if starts > 1:
            state += f" (restarted{f' {starts - 1} times' if starts > 2 else ''})"
        step, rate, success, eta = (news.get(name) for name in ("step", "rate", "success", "eta"))
        if news.get("state") != "training" or not rate:
            rate = eta = None
        return [
            self.titles[number],
            state,
            "" if step is None else f"{'step ' if words else ''}{step}/{news.get('steps')}",
            "" if rate is None else f"{rate:.{0 if rate >= 10 else 1}f}{' steps/s' if words else ''}",
            "" if success is None else f"{'score ' if words else ''}{success:.2f}",
            "" if eta is None else f"{'ETA ' if words else ''}{duration(eta)}",
        ]


BUSY = ("starting", "training", "evaluating")
STATES = ("done", "failed", *BUSY, "waiting")


def duration(seconds: float) -> str:
    """Seconds as 1:02:03."""
    return str(timedelta(seconds=round(seconds)))
