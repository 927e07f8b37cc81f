"""The source of a sweep's packs: Ray Tune asks it for one pack whenever there is room for one more."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lps.runs.run import Run
from lps.runs.store import Store
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import Limits, Nodes, PackResources, plan_packs
from sweeps.watch.console import titles


@dataclass(frozen=True)
class Pack:
    """Runs that train together as one trial of Ray Tune."""

    number: int
    """0, 1, 2, ... in the order of the packs."""
    runs: Sequence[Run]
    plan: Plan

    def __str__(self) -> str:
        return f"{self.number}"  # Ray Tune names folders after it

    def __deepcopy__(self, _: Any) -> "Pack":
        return self  # Ray Tune copies the configuration of a trial several times


class Feed(Protocol):
    """Chooses the packs of a sweep. Its driver calls all methods from one thread."""

    @property
    def runs(self) -> Sequence[Run]:
        """All runs of the sweep that are known so far, including finished runs."""

    def ahead(self, done: Container[str]) -> Sequence[Run]:
        """Return the runs that are still to come, or other runs with the same datasets; none if there is nothing left
        to train. done: ids of the finished runs."""

    @property
    def titles(self) -> Sequence[str]:
        """Titles of all packs that are known so far, by number."""

    def claims(self, done: Container[str]) -> Mapping[str, str]:
        """Return what the driver has to hold (lps.runs.lease) and its description. done: ids of the finished runs."""

    def begin(self, nodes: Nodes, limits: Limits, held: Container[str]) -> tuple[PackResources, str]:
        """Return the resources of a pack, and the work in a few words. Called again for further `held` claims, or if
        Ray Tune had to be restarted: nothing is training then."""

    def next(self) -> Pack | None:
        """Return the next pack; None if there is none at this moment or `over`."""

    def end(self, pack: Pack) -> None:
        """Take notice that a pack has ended. All its runs are done or failed in the results store."""

    @property
    def over(self) -> bool:
        """Whether there is no further pack."""


class FixedFeed:
    """The packs of runs that are all known at the start, the most expensive pack first."""

    def __init__(self, runs: Sequence[Run], plan: Plan):
        self.runs, self.plan = runs, plan
        self.titles: Sequence[str] = []
        self._packs: list[Pack] = []

    def ahead(self, done: Container[str]) -> Sequence[Run]:
        return [run for run in self.runs if run.id not in done]

    def claims(self, done: Container[str]) -> Mapping[str, str]:
        return {run.id: run.title for run in self.runs if run.id not in done}

    def begin(self, nodes: Nodes, limits: Limits, held: Container[str]) -> tuple[PackResources, str]:
        left = [run for run in unfinished(Store(self.plan.results, create=False), self.runs) if run.id in held]
        packs, share = plan_packs(left, nodes, limits)
        self.titles = titles(packs)
        self._packs = [Pack(number, runs, self.plan) for number, runs in enumerate(packs)]
        return share, f"{count(len(left), 'run')} in {count(len(packs), 'pack')}"

    def next(self) -> Pack | None:
        return self._packs.pop(0) if self._packs else None

    def end(self, pack: Pack) -> None:
        pass

    @property
    def over(self) -> bool:
        return not self._packs


def finished(store: Store) -> dict[str, dict[str, Any]]:
    """Return the documents of the finished runs, by id."""
    return {doc["id"]: doc for doc in store.runs() if doc["status"] == "done"}


def unfinished(store: Store, runs: Sequence[Run]) -> list[Run]:
    """Return the runs that are not finished, including failed runs."""
    done = finished(store)
    return [run for run in runs if run.id not in done]


def count(number: int, what: str) -> str:
    """Return a number with its noun: '1 run', '2 runs'."""
    return f"{number} {what}{'s' if number != 1 else ''}"
