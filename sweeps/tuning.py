"""Tune every agent with the same budget by Optuna's TPE, and rank its hyperparameters by importance.

    python sweeps/tuning.py --preset quick
    python sweeps/tuning.py --agents lps dsrl qcfql --groups cube-double --tasks 2 --trials 32
    python sweeps/tuning.py --storage postgresql://head/optuna --results s3://bucket/tuning

A trial is one configuration from sweeps/study/spaces.py. Its value is the mean score (the last three evaluations of a
run) over all tasks and tuning seeds. New trials start whenever a place is free, so no trial waits for a slower trial.
With `--asha` a trial continues from a rung of the budget only if it is in the best third (sweeps/study/search.py). The
best and the default configuration of each agent then train with seeds that no trial has used (`--held-out`): report
only these numbers. Hyperparameters of `--set` are not tuned. All trials are in the results; `--storage` has a copy.
The same command again resumes. The preset quick uses the ring bandit. It tests the code and says nothing about robots.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

import optuna

from lps.errors import UserError, command_line, last_line
from lps.files import open_filesystem
from lps.runs.intent import Planned, write_intent
from lps.runs.lease import Lease
from lps.runs.run import Run
from lps.runs.scores import scores
from lps.runs.store import NoResults, Store
from lps.tasks.suites import get_task
from lps.training.packs import pack
from sweeps.launcher import cli
from sweeps.launcher.feed import Pack, count
from sweeps.launcher.launch import drive, say
from sweeps.launcher.plan import Plan
from sweeps.launcher.resources import MAX_MEMBERS, Limits, Nodes, PackResources, divide_cluster
from sweeps.ogbench_all import EVERYONE
from sweeps.sensitivity import PRESETS as SENSITIVITY_PRESETS
from sweeps.study import halving, spaces, tpe
from sweeps.study import scope as scopes
from sweeps.study.scope import Scope
from sweeps.study.search import COMPLETE, FAIL, RUNNING, Search, Trial
from sweeps.watch.console import numbered, title

PRESETS = {name: replace(scope, seeds=[0, 1]) for name, scope in SENSITIVITY_PRESETS.items()}
HELD_OUT = {"paper": [100, 101, 102, 103], "quick": [100, 101]}
TRIALS = {"paper": (32, 8), "quick": (12, 6)}
"""Preset -> (number of trials per agent, most trials of an agent that train at the same time)."""
COMPARED = ("best", "default")
"""The configurations that train with held-out seeds."""


@dataclass(frozen=True)
class Budget:
    """Budget of the tuning of one agent."""

    trials: int
    at_once: int
    """Most trials that train at the same time."""
    levels: Sequence[int]
    """Updates of the rungs, then of the whole budget."""
    eta: int = halving.ETA


class Study:
    """The tuning of one agent: its search, the runs of its trials, and its document in the results store.

    Raises UserError for a document that is damaged, or does not fit the ranges of the hyperparameters.
    """

    def __init__(self, agent: str, scope: Scope, held_out: Scope, plan: Plan, budget: Budget):
        self.agent, self.scope, self.held_out, self.plan, self.budget = agent, scope, held_out, plan, budget
        self.digest = study_digest(scope, budget.levels[:-1])
        self.space = space_of(agent, scope)
        self.storage: tpe.Storage | None = None
        self._planned: dict[tuple[int, int], list[Planned]] = {}
        self._compared: dict[str, list[Planned]] = {}
        self._stored = stored_study(plan.results, agent)
        try:
            trials = [self._trial(document) for document in self._stored.get("trials", [])]
        except (KeyError, TypeError, ValueError) as error:
            reason = f"{plan.results}/studies/{name_of(agent)}.json does not fit ({type(error).__name__}: {error})"
            raise UserError(f"{reason}. Choose another --results") from None
        suggest = partial(tpe.suggest, self.space)
        self.search = Search(suggest, budget.trials, budget.levels, budget.eta, budget.at_once, trials)

    def _trial(self, document: Mapping[str, Any]) -> Trial:
        """Return the trial of a document. ValueError if the space does not have its hyperparameters."""
        trial = Trial.from_document(document)
        tpe.frozen(trial, self.space)
        if "due" not in document:  # of version 1
            known = {steps: self.score(trial, steps) for steps in self.budget.levels[:-1]}
            trial.rungs = {steps: score for steps, score in known.items() if score is not None}
            trial.due = self.budget.levels[0] if trial.state == RUNNING and not trial.rungs else None
        return trial

    @property
    def name(self) -> str:
        """Name in an Optuna storage."""
        return f"{self.agent}-{self.digest}"

    def results(self, steps: int) -> str:
        """Return the results folder of runs of so many updates. Runs on rungs have one of their own, because they are
        shorter than the others."""
        return self.plan.results if steps == self.scope.steps else f"{self.plan.results}/rungs"

    def planned(self, trial: Trial, steps: int) -> list[Planned]:
        """Return the runs of a trial of so many updates."""
        key = trial.number, steps
        if key not in self._planned:
            scope = replace(self.scope, steps=steps)
            self._planned[key] = scope.runs(self.agent, {"trial": trial.number}, **trial.params)
        return self._planned[key]

    def compared(self, name: str) -> list[Planned]:
        """Return the held-out runs of COMPARED; none for 'best' until the search is over, or if all trials failed."""
        best = self.search.best if name == "best" and self.search.over else None
        if name == "best" and not best:
            return []
        if name not in self._compared:
            params = best.params if best else {}
            self._compared[name] = self.held_out.runs(self.agent, {"held_out": name}, **params)
        return self._compared[name]

    def every(self, steps: int) -> list[Planned]:
        """Return the planned runs in one results folder: of all trials that got so far, and the held-out runs."""
        depth = self.budget.levels.index(steps)
        reached = [
            trial
            for trial in self.search.trials
            if len(trial.rungs) + (trial.state in (COMPLETE, FAIL) or trial.due is not None) > depth
        ]
        found = [one for trial in reached for one in self.planned(trial, steps)]
        if steps == self.scope.steps:
            found += [one for name in COMPARED for one in self.compared(name)]
        return found

    def score(self, trial: Trial, steps: int) -> float | None:
        """Return the mean score of the runs of a trial; None if a run has no score."""
        store = Store(self.results(steps))
        runs = [one.run for one in self.planned(trial, steps)]
        with ThreadPoolExecutor(8) as pool:  # over a network each run takes several requests
            found = [score for one in pool.map(lambda run: scores(store, [run]), runs) for score in one.values()]
        return fmean(found) if len(found) == len(runs) else None

    def write(self, steps: int | None = None) -> None:
        """Store the trials, and copy them to the Optuna storage. steps: store the intent of all runs of so many updates
        too."""
        document = self.document()
        changed = document != self._stored
        if changed:
            Store(self.plan.results).write_study(name_of(self.agent), document)
            self._stored = document
        if steps:
            digest = f"{self.agent.replace(':', '-')}-{self.digest}"
            write_intent(Store(self.results(steps)), self.plan.sweep, self.every(steps), digest)
        if self.storage and changed:
            self.storage.write(self.search.trials)

    def document(self) -> dict[str, Any]:
        """Return the document for the results store. Importances are computed when the search is over."""
        over = self.search.over
        same = over and self._stored.get("importances") and len(self._stored["trials"]) == len(self.search.trials)
        found = self._stored["importances"] if same else tpe.importances(self.space, self.search.trials) if over else {}
        return {
            "agent": self.agent,
            "of": self.digest,
            "trials": [trial.to_document() for trial in self.search.trials],
            "importances": found,
            "held_out": {name: [one.run.id for one in self.compared(name)] for name in COMPARED} if over else {},
        }

    def describe_failures(self) -> list[str]:
        """Return a line for each failed trial, with the reason of its first failed run."""
        lines = []
        for trial in self.search.trials:
            if trial.state == FAIL:
                steps = self.budget.levels[len(trial.rungs)]
                store = Store(self.results(steps), create=False)
                docs = [store.read_run(one.run.id) or {} for one in self.planned(trial, steps)]
                failed = next((doc for doc in docs if doc.get("error")), None)
                reason = last_line(failed["error"]) if failed else "a score is missing or not finite"
                where = f"\n          traceback: {store.path}/runs/{failed['id']}.json" if failed else ""
                lines.append(f"  failed: {self.agent} trial {trial.number}: {reason}{where}")
        return lines


def stored_study(results: str, agent: str) -> dict[str, Any]:
    """Return the document of an agent's tuning; {} if there is none. UserError if it is damaged."""
    try:
        store = Store(results, create=False)
    except NoResults:
        return {}
    found = {doc["study"]: doc for doc in store.studies()}
    if name_of(agent) not in found and store.exists(f"studies/{name_of(agent)}.json"):
        raise UserError(
            f"{store.path}/studies/{name_of(agent)}.json is damaged. Restore it, or choose another --results"
        )
    return {key: value for key, value in found.get(name_of(agent), {}).items() if key not in ("schema", "study")}


def name_of(agent: str) -> str:
    """Return the name of an agent's study in the results store."""
    return f"tuning-{agent.replace(':', '-')}"


def study_digest(scope: Scope, rungs: Sequence[int]) -> str:
    """Return a digest of the values that all trials of a study share: tasks, seeds, protocol and settings."""
    values = {name: value for name, value in asdict(scope).items() if value or name not in ("suite", "options")}
    return hashlib.sha256(json.dumps([values, list(rungs)], sort_keys=True).encode()).hexdigest()[:8]


def space_of(agent: str, scope: Scope) -> tpe.Space:
    """Return the tuned ranges of an agent: all of sweeps/study/spaces.py without those of --set. UserError if there is
    none."""
    found = {name: known for name, known in spaces.ranges(agent).items() if name not in scope.settings}
    if not found:
        raise UserError(f"--set has all hyperparameters of {agent} that could be tuned. Remove one of them")
    return found


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


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="tuning.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scopes.add_arguments(parser, PRESETS)
    parser.add_argument("--trials", type=int, metavar="N", help="number of trials per agent (default: 32; quick: 12)")
    parser.add_argument(
        "--at-once",
        type=int,
        metavar="N",
        help="most trials of an agent that train at the same time (default: 8; quick: 6)",
    )
    parser.add_argument(
        "--asha",
        nargs="?",
        type=int,
        const=halving.ETA,
        metavar="ETA",
        help=f"successive halving: one of ETA trials is promoted from each rung (default: {halving.ETA})",
    )
    parser.add_argument("--held-out", nargs="+", type=int, metavar="N", help="seeds for the final comparison")
    parser.add_argument(
        "--storage",
        metavar="URL",
        help="Optuna storage URL for a copy of the trials (default: a sqlite file beside local results)",
    )
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    cli.checked(arguments)
    scope = scopes.scope_from_arguments(arguments, PRESETS)
    agents = scopes.agents_from_arguments(arguments, ["lps", "qcfql"] if arguments.preset == "quick" else EVERYONE)
    scopes.check_settings(scope, agents)
    for agent in agents:
        space_of(agent, scope)
    default_trials, default_at_once = TRIALS[arguments.preset]
    trials = default_trials if arguments.trials is None else arguments.trials
    at_once = default_at_once if arguments.at_once is None else arguments.at_once
    if not 1 <= trials <= 100_000 or not 1 <= at_once <= 100_000:
        raise UserError("--trials and --at-once must be at least 1 and at most 100000")
    if arguments.asha is not None and arguments.asha < 2:
        raise UserError("--asha must be at least 2 (one of every ETA trials is promoted)")
    rungs = halving.rungs(scope.steps, scope.eval_interval, arguments.asha) if arguments.asha else []
    budget = Budget(trials, at_once, [*rungs, scope.steps], arguments.asha or halving.ETA)
    held_out = replace(scope, seeds=arguments.held_out or HELD_OUT[arguments.preset])
    if shared := set(held_out.seeds) & set(scope.seeds):
        raise UserError(f"--held-out has tuning seeds: {', '.join(map(str, sorted(shared)))}. Choose other seeds")
    sweep = f"tuning-{arguments.preset}"
    results = cli.results_of(arguments, sweep)

    if arguments.dry_run:
        print(f"{trials} trials per agent, at most {at_once} at the same time, and the final comparison:")
        if rungs:
            at = ", ".join(f"{rung:,}" for rung in rungs)
            print(f"(upper bound: --asha promotes one of {arguments.asha} trials after {at} updates)")
        every_trial = [run for agent in agents for run in scope.runs(agent)] * trials
        return cli.launch_or_describe(
            [*every_trial, *(run for agent in agents for run in held_out.runs(agent) * 2)], arguments, sweep
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if arguments.storage:
        tpe.check_storage(arguments.storage)
    refuse_other_study(results, agents, study_digest(scope, rungs))
    plan = cli.plan_from_arguments(arguments, sweep, open_filesystem(results)[0], scope.steps)
    storage, code = arguments.storage or _default_storage(results), 0
    wanted = {name_of(agent): f"tuning of {agent}" for agent in agents}
    with Lease(Store(results)) as lease:
        for turn in lease.turns(wanted, arguments.if_busy, list, say):
            mine = [agent for agent in agents if name_of(agent) in turn]
            refuse_other_study(results, mine, study_digest(scope, rungs))
            studies = [Study(agent, scope, held_out, plan, budget) for agent in mine]
            for study in studies if storage else ():
                study.storage = tpe.Storage(str(storage), study.name, study.space, study.search.trials)
            code = max(code, tune(studies, plan, parent=lease.owner, **cli.driver_options(arguments)))
    return code


def tune(studies: Sequence[Study], plan: Plan, **options: Any) -> int:
    """Train all trials and the held-out runs, and print the comparison. Return 1 if a run failed, else 0.

    options: of `sweeps.launcher.launch.drive`.
    """
    before = [line for study in studies for line in study.describe_failures()]
    code = drive(TuningFeed(studies), plan, **options)
    failures = [line for study in studies for line in study.describe_failures()]
    for line in failures:
        print(line)
    if failures:
        print("Failed trials are not repeated. They count as tried.")
    for study in studies:
        if study.storage:
            study.storage.write(study.search.trials)
            if study.storage.problem:
                print(f"{study.storage.url} is incomplete ({study.storage.problem}). The same command completes it.")
    print("on held-out seeds:")
    store = Store(plan.results, create=False)
    for study in studies:
        shown = []
        for name in COMPARED:
            runs = [one.run for one in study.compared(name)]
            if found := scores(store, runs).values():
                shown.append(f"{name} {100 * fmean(found):.0f} %")
        best = study.search.best
        print(f"  {study.agent}: {', '.join(shown)}; best: {json.dumps(best.params if best else None)}")
    return 1 if len(failures) > len(before) else code


def refuse_other_study(results: str, agents: Sequence[str], digest: str) -> None:
    """UserError if the results hold another tuning of one of the agents, because a report shows one per agent."""
    for agent in agents:
        if stored_study(results, agent).get("of", digest) != digest:
            raise UserError(
                f"{results} holds a tuning of {agent} with other tasks, seeds or protocol. Choose another --results"
            )


def _default_storage(results: str) -> str | None:
    """Return the URL of a sqlite database in the results folder; None if the folder is not on this machine."""
    if "://" in results:
        return None
    store = Store(results)  # makes the folder, or raises an error
    return f"sqlite:///{store.path}/tuning.db"


if __name__ == "__main__":
    sys.exit(main())
