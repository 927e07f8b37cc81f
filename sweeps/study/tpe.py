"""Optuna in a tuning study: suggestions by TPE, importances, and a copy of the trials in an Optuna storage."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from lps.errors import UserError
from sweeps.study.search import PRUNED, RUNNING, Trial

STARTUP = 8
"""Number of random trials before TPE starts."""
Space = Mapping[str, FloatDistribution]


def suggest(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """Return the hyperparameters of the next trial by TPE. It depends on the trials so far and on nothing else.

    Trials without a value count as bad ones (constant liar), so that trials that train at the same time differ. A trial
    that waits on a rung counts with its score there.
    """
    sampler = optuna.samplers.TPESampler(
        seed=len(trials), n_startup_trials=STARTUP, constant_liar=True, multivariate=True
    )
    study = optuna.create_study(direction="maximize", sampler=sampler)
    for trial in trials:
        study.add_trial(frozen(trial, space, PRUNED if trial.state == RUNNING and trial.rungs else trial.state))
    return dict(study.ask(dict(space)).params)


def importances(space: Space, trials: Sequence[Trial]) -> dict[str, float]:
    """Return the share of the variance of success that each hyperparameter explains (fANOVA: Hutter, Hoos and
    Leyton-Brown, ICML 2014). Empty with fewer than four complete trials or with equal values."""
    study = optuna.create_study(direction="maximize")
    for trial in trials:
        study.add_trial(frozen(trial, space))
    values = [trial.value for trial in study.get_trials(states=[TrialState.COMPLETE])]
    if len(values) < 4 or len(set(values)) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return {name: float(value) for name, value in found.items()}


def frozen(trial: Trial, space: Space, state: str | None = None) -> FrozenTrial:
    """Return a trial for Optuna; with another state, if given. ValueError if `space` does not have its values."""
    return optuna.trial.create_trial(
        state=TrialState[state or trial.state],
        value=trial.value,
        params=dict(trial.params),
        distributions={name: space[name] for name in trial.params if name in space},
        intermediate_values=trial.rungs,
    )


def check_storage(url: str) -> None:
    """UserError if an Optuna storage cannot be opened."""
    try:
        optuna.storages.get_storage(url)
    except Exception as error:
        raise UserError(f"cannot open the Optuna database {url} ({_line(error)}). Check --storage") from None


class Storage:
    """A copy of a search in an Optuna storage, for Optuna's own tools. The results store has the trials; this copy may
    be deleted at any time, and is then made again.

    Args:
        url: Optuna storage URL.
        name: name of the study. The storage may hold other studies.
    Raises UserError if the storage cannot be opened, or has other trials under this name.
    """

    def __init__(self, url: str, name: str, space: Space, trials: Sequence[Trial]):
        self.url, self.name, self.space = url, name, space
        self.problem: str | None = None
        """The reason why the copy is incomplete; None: it is complete."""
        try:
            self._study = self._open()
            there = self._study.get_trials(deepcopy=False)
        except Exception as error:
            raise UserError(f"cannot open the Optuna database {url} ({_line(error)}). Check --storage") from None
        ours = [dict(trial.params) for trial in trials]
        if [trial.params for trial in there] != ours[: len(there)]:
            raise UserError(f"{url} has other trials in the study {name} than the results. Choose another --storage")
        self.write(trials)

    def write(self, trials: Sequence[Trial]) -> None:
        """Bring the copy up to date. A storage that is away is a `problem`, and the next call repeats the attempt."""
        try:
            file = self.url.removeprefix("sqlite:///")
            if self.problem or (file != self.url and not Path(file).exists()):
                self._study = self._open()
            self._write(trials)
            self.problem = None
        except Exception as error:
            self.problem = _line(error)

    def _open(self) -> optuna.Study:
        return optuna.create_study(study_name=self.name, storage=self.url, direction="maximize", load_if_exists=True)

    def _write(self, trials: Sequence[Trial]) -> None:
        there = self._study.get_trials(deepcopy=False)
        for trial in trials[len(there) :]:
            self._study.add_trial(frozen(trial, self.space))
        for trial, copy in zip(trials, there, strict=False):
            if copy.state.is_finished():  # Optuna is told once
                continue
            for steps in trial.rungs.keys() - copy.intermediate_values.keys():
                optuna.trial.Trial(self._study, copy._trial_id).report(trial.rungs[steps], steps)
            if trial.state != RUNNING:
                value = trial.value if trial.state == "COMPLETE" else None
                self._study.tell(trial.number, value, state=TrialState[trial.state])


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
