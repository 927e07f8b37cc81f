"""The tuning of one agent (sweeps/tuning.py): its search, the runs of its trials, and its stored document."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import fmean
from typing import Any

from lps.errors import UserError, last_line
from lps.runs.intent import Planned, write_intent
from lps.runs.scores import scores
from lps.runs.store import NoResults, Store
from sweeps.launcher.plan import Plan
from sweeps.study import halving, spaces, tpe
from sweeps.study.scope import Scope
from sweeps.study.search import COMPLETE, FAIL, RUNNING, Search, Trial

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


def refuse_other_study(results: str, agents: Sequence[str], digest: str) -> None:
    """UserError if the results hold another tuning of one of the agents, because a report shows one per agent."""
    for agent in agents:
        if stored_study(results, agent).get("of", digest) != digest:
            raise UserError(
                f"{results} holds a tuning of {agent} with other tasks, seeds or protocol. Choose another --results"
            )
