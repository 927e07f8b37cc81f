"""The search of a tuning study: its trials, and the next ones to train. No step of it waits for a slow trial.

A trial is one configuration. Without rungs it trains once, to the end of the budget. With rungs this is asynchronous
successive halving (ASHA; Li et al., "A System for Massively Parallel Hyperparameter Tuning", arXiv 1810.05934). A trial
trains to the first rung. It continues to the next one as soon as it is among the best 1 / eta of the trials on its rung
so far. The other trials on a rung are pruned when no further trial can reach this rung.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

RUNNING, COMPLETE, PRUNED, FAIL = "RUNNING", "COMPLETE", "PRUNED", "FAIL"
"""States of a trial, with Optuna's names. RUNNING: not ended yet, whether it trains, waits on a rung or was left."""


@dataclass
class Trial:
    """One configuration: its hyperparameters and what is known about it. `Search` changes it."""

    number: int
    params: Mapping[str, Any]
    state: str = RUNNING
    value: float | None = None
    """Score at the end of the budget; of a pruned trial, the score on its last rung."""
    rungs: dict[int, float] = field(default_factory=dict)
    """Score on each rung that the trial has reached, by number of updates."""
    due: int | None = None
    """Number of updates to which the trial is to be trained now; None: it waits on a rung, or has ended."""

    def to_document(self) -> dict[str, Any]:
        return {**asdict(self), "rungs": {str(steps): score for steps, score in self.rungs.items()}}

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> "Trial":
        """Return the trial of a document. Documents of version 1 have neither rungs nor `due`."""
        known = {name: document[name] for name in ("number", "params", "state", "value", "due") if name in document}
        return Trial(**known, rungs={int(steps): score for steps, score in document.get("rungs", {}).items()})


class Search:
    """The trials of one study, and the choice of the next ones.

    Args:
        suggest: returns the hyperparameters of a new trial from all trials so far, those that are training included.
        total: number of trials.
        levels: the rungs, then the whole budget, in updates.
        eta: one of eta trials continues from a rung.
        at_once: most trials that train at the same time.
        trials: trials of earlier calls. Those that are due are the first that `next` returns.
    """

    def __init__(
        self,
        suggest: Callable[[Sequence[Trial]], Mapping[str, Any]],
        total: int,
        levels: Sequence[int],
        eta: int,
        at_once: int,
        trials: Sequence[Trial] = (),
    ):
        self.suggest, self.total, self.levels, self.eta, self.at_once = suggest, total, levels, eta, at_once
        self.trials = list(trials)
        self.training: set[int] = set()
        """Numbers of the trials that were handed out and have not ended."""

    @property
    def over(self) -> bool:
        return len(self.trials) >= self.total and all(trial.state != RUNNING for trial in self.trials)

    @property
    def best(self) -> Trial | None:
        """The trial with the best value at the end of the budget."""
        return max((t for t in self.trials if t.state == COMPLETE), key=lambda t: (t.value, -t.number), default=None)

    def next(self, most: int) -> list[Trial]:
        """Return up to `most` trials to be trained to the same number of updates, `due`; none if all have to wait.

        Trials that were left open come first, then promotions, the highest rung first, then new trials.
        """
        due = [trial for trial in self.trials if trial.due and trial.number not in self.training]
        due = due or self._promote() or self._ask(min(most, self.at_once - len(self.training)))
        chosen = [trial for trial in due if trial.due == max(one.due or 0 for one in due)][:most]
        self.training.update(trial.number for trial in chosen)
        return chosen

    def tell(self, trial: Trial, score: float | None) -> None:
        """Take the score of a trial that was trained as far as it was `due`. None or nan: the trial has failed."""
        assert trial.due and trial.state == RUNNING, "a trial is told once"
        self.training.discard(trial.number)
        steps, trial.due = trial.due, None
        if score is None or not math.isfinite(score):
            trial.state = FAIL
        elif steps == self.levels[-1]:
            trial.state, trial.value = COMPLETE, score
        else:
            trial.rungs[steps] = score

    def _ask(self, count: int) -> list[Trial]:
        asked: list[Trial] = []
        while len(asked) < count and len(self.trials) < self.total:
            asked.append(Trial(len(self.trials), self.suggest(self.trials), due=self.levels[0]))
            self.trials.append(asked[-1])
        return asked

    def _promote(self) -> list[Trial]:
        """Return the trials of one rung that can continue, now due at the next level. Prune the trials that cannot."""
        for rung, above in reversed([*zip(self.levels, self.levels[1:], strict=False)]):
            final = len(self.trials) >= self.total and all(t.state != RUNNING or rung in t.rungs for t in self.trials)
            on_rung = sorted((t for t in self.trials if rung in t.rungs), key=lambda t: (-t.rungs[rung], t.number))
            keep = math.ceil(len(on_rung) / self.eta) if final else len(on_rung) // self.eta
            waiting = [t for t in on_rung if t.state == RUNNING and t.due is None and max(t.rungs) == rung]
            promoted = [trial for trial in waiting if trial in on_rung[:keep]]
            for trial in promoted:
                trial.due = above
            pruned = [trial for trial in waiting if final and trial not in promoted]
            for trial in pruned:
                trial.state, trial.value = PRUNED, trial.rungs[rung]
            if promoted:
                return promoted
            if pruned:  # perhaps no further trial can reach a higher rung now
                return self._promote()
        return []
