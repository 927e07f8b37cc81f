"""Tuning: what Optuna's TPE makes of every agent with the same budget, and what matters in it.

    python sweeps/tuning.py --preset quick
    python sweeps/tuning.py --agents lps dsrl qcfql --groups cube-double --tasks 2 --trials 32
    python sweeps/tuning.py --storage postgresql://head/optuna --results s3://bucket/tuning

A trial is one configuration from sweeps/spaces.py; its value is the mean score (the last three evaluations of a run) on
all tasks and tuning seeds. Trials are asked for in rounds, so that the configurations of a round train in one program.
At the end the best configuration and the default train with seeds that no trial has seen (`--held-out`): only these
numbers may be reported. The study lives in a database beside the results, or in `--storage`; run again, the same
command goes on with what is left. quick is the ring bandit: machinery, no evidence about robots.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from lps.errors import UserError, guarded
from lps.results import Store
from lps.run import Run
from lps.scores import scores
from sweeps import cli, scale, spaces
from sweeps.ogbench_all import EVERYONE
from sweeps.scale import Scale
from sweeps.sensitivity import PRESETS as SENSITIVITY_PRESETS

PRESETS = {name: replace(where, seeds=[0, 1]) for name, where in SENSITIVITY_PRESETS.items()}
HELD_OUT = {"paper": [100, 101, 102, 103], "quick": [100, 101]}
TRIALS = {"paper": (32, 8), "quick": (12, 6)}
"""Trials of an agent, and how many are asked for at once."""
STARTUP = 8
"""Trials at random before TPE has something to go by."""


def open_study(storage: str, agent: str) -> optuna.Study:
    """The agent's study in the database. UserError where there is no such database."""
    try:
        return optuna.create_study(study_name=agent, storage=storage, direction="maximize", load_if_exists=True)
    except Exception as error:
        raise UserError(f"cannot open the study database {storage}: {str(error).splitlines()[0]}") from None


def next_round(study: optuna.Study, agent: str, trials: int, at_once: int) -> list[tuple[int, dict[str, Any]]]:
    """(number, settings) of the trials to be trained now: those that an interrupted sweep left open, or new ones;
    none where the study has `trials` finished ones."""
    known = study.get_trials(deepcopy=False)
    left_open = [(trial.number, dict(trial.params)) for trial in known if trial.state == TrialState.RUNNING]
    if left_open:
        return left_open
    finished = sum(trial.state.is_finished() for trial in known)
    # A sampler of its own for each round: what it suggests does not depend on how often the sweep was interrupted.
    study.sampler = optuna.samplers.TPESampler(
        seed=len(known), n_startup_trials=STARTUP, constant_liar=True, multivariate=True
    )
    asked = []
    for _ in range(min(at_once, trials - finished)):
        trial = study.ask(spaces.ranges(agent))
        asked.append((trial.number, dict(trial.params)))
    return asked


def tell(study: optuna.Study, number: int, runs: Sequence[Run], known: Mapping[str, float]) -> None:
    """Gives a trial the mean score of its runs; it has failed if one of them has none."""
    found = [known[run.id] for run in runs if run.id in known]
    if len(found) < len(runs):
        study.tell(number, state=TrialState.FAIL)
    else:
        study.tell(number, sum(found) / len(found))


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of the variance of success that each hyperparameter explains (fANOVA: Hutter, Hoos and Leyton-Brown, ICML
    2014); empty with fewer than four finished trials, or where all of them are equal."""
    values = [trial.value for trial in study.get_trials(states=[TrialState.COMPLETE])]
    if len(values) < 4 or len(set(values)) == 1:
        return {}
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    return {name: float(value) for name, value in found.items()}


def document(study: optuna.Study, agent: str, held_out: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What the results store keeps of a study; `held_out` are the run ids of the 'best' and the 'default' setting."""
    trials = [
        {"number": trial.number, "params": trial.params, "value": trial.value, "state": trial.state.name}
        for trial in study.get_trials(deepcopy=False)
    ]
    return {"agent": agent, "trials": trials, "importances": importances(study), "held_out": dict(held_out)}


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="tuning.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scale.add_arguments(parser, PRESETS)
    parser.add_argument("--trials", type=int, metavar="N", help="of each agent (default: 32; quick: 12)")
    parser.add_argument("--at-once", type=int, metavar="N", help="trials that are asked for together (default: 8)")
    parser.add_argument("--held-out", nargs="+", type=int, metavar="N", help="seeds for the final comparison")
    parser.add_argument("--storage", metavar="URL", help="of the study (default: a sqlite file beside the results)")
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    where = scale.asked_for(arguments, PRESETS)
    agents = arguments.agents or (["lps", "qcfql"] if arguments.preset == "quick" else EVERYONE)
    scale.check_settings(where, agents)
    default_trials, default_at_once = TRIALS[arguments.preset]
    trials = default_trials if arguments.trials is None else arguments.trials
    at_once = default_at_once if arguments.at_once is None else arguments.at_once
    if trials < 1 or at_once < 1:
        raise UserError("--trials and --at-once must be at least 1")
    held_out = replace(where, seeds=arguments.held_out or HELD_OUT[arguments.preset])
    if shared := set(held_out.seeds) & set(where.seeds):
        raise UserError(f"seeds {', '.join(map(str, sorted(shared)))} are used for tuning: they are not held out")
    arguments.sweep = arguments.sweep or f"tuning-{arguments.preset}"
    arguments.results = arguments.results or f"results/{arguments.sweep}"

    if arguments.dry_run:
        print(f"{trials} trials of each agent, {at_once} at once; one round, and the comparison at the end:")
        first = [run for agent in agents for run in where.runs(agent)] * min(at_once, trials)
        return cli.go([*first, *(run for agent in agents for run in held_out.runs(agent))], arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = arguments.storage or _beside(arguments.results)
    studies = {agent: open_study(storage, agent) for agent in agents}
    code = tune(studies, where, arguments, trials, at_once)
    return compare(studies, held_out, arguments) or code


def tune(
    studies: Mapping[str, optuna.Study], where: Scale, arguments: argparse.Namespace, trials: int, at_once: int
) -> int:
    """Rounds until every study has its trials; 1 if any run failed."""
    code = 0
    while True:
        asked = {agent: next_round(study, agent, trials, at_once) for agent, study in studies.items()}
        runs = {
            (agent, number): where.runs(agent, **settings)
            for agent, found in asked.items()
            for number, settings in found
        }
        if not runs:
            return code
        code = max(code, cli.go([run for of_trial in runs.values() for run in of_trial], arguments))
        known = scores(Store(arguments.results, create=False), [run for found in runs.values() for run in found])
        for (agent, number), of_trial in runs.items():
            tell(studies[agent], number, of_trial, known)


def compare(studies: Mapping[str, optuna.Study], held_out: Scale, arguments: argparse.Namespace) -> int:
    """Trains the best setting of every study, and the default, with the held-out seeds, and writes the studies down."""
    best = {agent: _best(study) for agent, study in studies.items()}
    settings = {agent: {"best": best[agent], "default": {}} for agent in studies}
    runs = {
        (agent, name): held_out.runs(agent, **values)
        for agent, found in settings.items()
        for name, values in found.items()
        if values is not None
    }
    code = cli.go([run for found in runs.values() for run in found], arguments)
    store = Store(arguments.results, create=False)
    known = scores(store, [run for found in runs.values() for run in found])
    print("on seeds that no trial has seen:")
    for agent, study in studies.items():
        ids = {name: [run.id for run in found] for (of, name), found in runs.items() if of == agent}
        store.write_study(f"tuning-{agent.replace(':', '-')}", document(study, agent, ids))
        means = {name: [known[run_id] for run_id in of_name if run_id in known] for name, of_name in ids.items()}
        shown = (f"{name} {100 * sum(found) / len(found):.0f} %" for name, found in means.items() if found)
        print(f"  {agent}: {', '.join(shown)}; best: {json.dumps(best[agent])}")
    return code


def _best(study: optuna.Study) -> dict[str, Any] | None:
    """The settings of the best trial, None where none was finished."""
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return dict(max(finished, key=lambda trial: trial.value or 0.0).params) if finished else None


def _beside(results: str) -> str:
    """A sqlite database in the results folder. UserError where that is no folder of this machine."""
    if "://" in results:
        raise UserError(
            f"{results} is not on this machine: say with --storage where the study is kept (sqlite:///PATH)"
        )
    Store(results)  # makes the folder, and says what is wrong with it
    return f"sqlite:///{Path(results).resolve()}/tuning.db"


if __name__ == "__main__":
    sys.exit(main())
