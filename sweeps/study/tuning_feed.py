"""The packs of a tuning (sweeps/tuning.py), of all agents: what trains next wherever a place is free."""

import math
from collections.abc import Container, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from lps.runs.intent import Planned
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import get_task
from lps.training.packs import pack
from sweeps.launcher.feed import Pack, count
from sweeps.launcher.resources import MAX_MEMBERS, Limits, Nodes, PackResources, divide_cluster
from sweeps.study.search import FAIL, RUNNING, Trial
from sweeps.study.tuning import COMPARED, Study, name_of
from sweeps.watch.console import numbered, title


@dataclass
class Job:
    """Trials that were handed out together, or a held-out comparison (without trials)."""

    study: Study
    trials: Sequence[Trial]
    left: int = 0
    """Number of packs that have not ended."""


class TuningFeed:
    """The packs of the studies (sweeps.launcher.feed.Feed). Trials come first; the held-out runs of the default
    configurations fill places that would be idle."""

    def __init__(self, studies: Sequence[Study]):
        self.studies = studies
        self.titles: list[str] = []

    @property
    def runs(self) -> list[Run]:
        """The runs of the whole budget and the held-out runs, without those of failed trials."""
        lost = {
            one.run.id
            for study in self.studies
            for trial in study.search.trials
            if trial.state == FAIL
            for one in study.planned(trial, study.scope.steps)
        }
        every = [one.run for study in self.studies for one in study.every(study.scope.steps)]
        return [run for run in every if run.id not in lost]

    def ahead(self, done: Container[str]) -> list[Run]:
        """Return the runs of all tasks with the default configuration, of the studies that are not finished."""
        return [
            one.run
            for study in self.studies
            if not study.search.over or any(one.run.id not in done for name in COMPARED for one in study.compared(name))
            for one in study.scope.runs(study.agent)
        ]

    def claims(self, done: Container[str]) -> dict[str, str]:
        """Return the names of the studies, which this process holds already. Workers claim the runs of their packs."""
        return {name_of(study.agent): study.name for study in self.studies} if self.ahead(done) else {}

    def begin(self, nodes: Nodes, limits: Limits, held: Container[str]) -> tuple[PackResources, str]:
        self.titles.clear()
        self._queue: list[Pack] = []
        self._jobs: dict[int, Job] = {}
        self._compared: set[tuple[str, str]] = set()
        for study in self.studies:
            study.search.training.clear()
        share = divide_cluster(nodes, limits)
        self._members = limits.max_members or MAX_MEMBERS[share.device]
        self._configurations, packs = self._divide(share.at_once)
        share = divide_cluster(nodes, replace(limits, at_once=min(share.at_once, packs)))
        left = sum(study.search.total - sum(t.state != RUNNING for t in study.search.trials) for study in self.studies)
        return (
            share,
            f"{count(left, 'trial')} of {count(len(self.studies), 'agent')} in packs of {self._configurations}",
        )

    def _divide(self, places: int) -> tuple[int, int]:
        """Return the number of configurations of a pack, and the number of packs that there can be at the same time.

        A pack has as many configurations as fit, but no more than are needed to fill all places."""
        study = self.studies[0]
        groups = [get_task(name).group for name in study.scope.task_names()]
        of_trial = max(map(groups.count, groups)) * len(study.scope.seeds)
        at_once = min(study.budget.at_once, study.budget.trials)
        wanted = math.ceil(at_once * len(self.studies) * len(set(groups)) / places)
        configurations = max(1, min(wanted, self._members // of_trial, at_once))
        parts = math.ceil(at_once / configurations) * math.ceil(of_trial * configurations / self._members)
        return configurations, parts * len(self.studies) * len(set(groups))

    def next(self) -> Pack | None:
        while not self._queue:
            if not self._refill():
                return None
        return self._queue.pop(0)

    def _refill(self) -> bool:
        """Queue the packs of the next trials, or of a comparison. Return False if there are none at this moment."""
        for study in sorted(self.studies, key=lambda study: len(study.search.training)):
            trials = study.search.next(self._configurations)
            if trials:
                steps = trials[0].due or 0
                runs = [one for trial in trials for one in study.planned(trial, steps)]
                what = numbered("trial", [trial.number for trial in trials])
                before = study.budget.levels[: study.budget.levels.index(steps)]
                rung = (study.results(before[-1]), before[-1]) if before else None
                self._add(
                    Job(study, trials), runs, what if steps == study.scope.steps else f"{what} to {steps:,}", rung
                )
                return True
            study.write()  # trials may have been pruned
        for study in sorted(self.studies, key=lambda study: not study.search.over):
            for name in COMPARED:
                if (study.agent, name) not in self._compared and (runs := study.compared(name)):
                    self._compared.add((study.agent, name))
                    self._add(Job(study, []), runs, name)
                    return True
        return False

    def _add(self, job: Job, planned: Sequence[Planned], what: str, rung: tuple[str, int] | None = None) -> None:
        """Queue the unfinished runs of a job. The study is stored first, so no trial is lost."""
        study, steps = job.study, planned[0].run.steps
        study.write(steps)
        plan = replace(study.plan, results=study.results(steps), rung=rung)
        store = Store(plan.results)
        with ThreadPoolExecutor(8) as pool:
            done = list(pool.map(lambda one: store.finished(one.run.id), planned))
        packs = pack([one.run for one, is_done in zip(planned, done, strict=True) if not is_done], self._members)
        job.left = len(packs)
        for runs in packs:
            number = len(self.titles)
            self.titles.append(f"{title(runs)} {what}")
            self._queue.append(Pack(number, runs, plan))
            self._jobs[number] = job
        if not packs:
            self._conclude(job)

    def end(self, pack: Pack) -> None:
        job = self._jobs.pop(pack.number)
        job.left -= 1
        if not job.left:
            self._conclude(job)

    def _conclude(self, job: Job) -> None:
        for trial in job.trials:
            job.study.search.tell(trial, job.study.score(trial, trial.due or 0))
        job.study.write()

    @property
    def over(self) -> bool:
        started = [
            (study.agent, name) in self._compared or not study.compared(name)
            for study in self.studies
            for name in COMPARED
        ]
        return not self._queue and all(study.search.over for study in self.studies) and all(started)
