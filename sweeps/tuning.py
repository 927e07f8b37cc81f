"""Tuning: what Optuna's TPE makes of every agent with the same budget, and what matters in it.

    python sweeps/tuning.py --preset quick
    python sweeps/tuning.py --agents lps dsrl qcfql --groups cube-double --tasks 2 --trials 32
    python sweeps/tuning.py --storage postgresql://head/optuna --results s3://bucket/tuning

A trial is one configuration from sweeps/study/spaces.py; its value is the mean score (the last three evaluations of a
run) on all tasks and tuning seeds. Trials are asked for in rounds, so that the configurations of a round train in one
program; with `--asha` only the best third of them goes on from each rung of the budget (sweeps/study/halving.py). At
the end the best configuration and the default train with seeds that no trial has seen (`--held-out`): only these
numbers may be reported. What is given by `--set` is not tuned. The study lives in a database beside the results, or in
`--storage`, which may hold those of other tasks too; run again, the same command goes on with what is left. quick is
the ring bandit: machinery, no evidence about robots.
"""

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState

from lps.errors import UserError, guarded
from lps.runs.intent import Planned
from lps.runs.scores import scores
from lps.runs.store import NoResults, Store
from sweeps.launcher import cli
from sweeps.ogbench_all import EVERYONE
from sweeps.sensitivity import PRESETS as SENSITIVITY_PRESETS
from sweeps.study import halving, spaces
from sweeps.study import scope as scopes
from sweeps.study.scope import Scope

PRESETS = {name: replace(scope, seeds=[0, 1]) for name, scope in SENSITIVITY_PRESETS.items()}
HELD_OUT = {"paper": [100, 101, 102, 103], "quick": [100, 101]}
TRIALS = {"paper": (32, 8), "quick": (12, 6)}
"""Trials of an agent, and how many are asked for at once."""
STARTUP = 8
"""Trials at random before TPE has something to go by."""


def open_study(storage: str, agent: str, digest: str) -> optuna.Study:
    """The agent's study in the database, for trials of the one kind that `digest` stands for (`what_a_trial_is`): a
    database may hold tunings on other tasks too. UserError where there is no such database."""
    try:
        return optuna.create_study(
            study_name=f"{agent}-{digest}", storage=storage, direction="maximize", load_if_exists=True
        )
    except Exception as error:
        raise UserError(f"cannot open the study database {storage}: {str(error).splitlines()[0]}") from None


def what_a_trial_is(scope: Scope, rungs: Sequence[int]) -> str:
    """A digest of all that must be the same for the trials of one study: tasks, seeds, protocol and settings."""
    values = {name: value for name, value in asdict(scope).items() if value or name not in ("suite", "options")}
    return hashlib.sha256(json.dumps([values, list(rungs)], sort_keys=True).encode()).hexdigest()[:8]


def space_of(agent: str, scope: Scope) -> dict[str, FloatDistribution]:
    """What is tuned of an agent: all of sweeps/study/spaces.py that was not set by hand."""
    return {name: known for name, known in spaces.ranges(agent).items() if name not in scope.settings}


def next_round(
    study: optuna.Study, space: Mapping[str, FloatDistribution], trials: int, at_once: int
) -> list[tuple[int, dict[str, Any]]]:
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
        trial = study.ask(dict(space))
        asked.append((trial.number, dict(trial.params)))
    return asked


def tell(study: optuna.Study, number: int, runs: Sequence[Planned], known: Mapping[str, float]) -> None:
    """Gives a trial the mean score of its runs; it has failed if one of them has none."""
    value = _mean(runs, known)
    study.tell(number, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)


def survivors(study: optuna.Study, numbers: Sequence[int], rung: int, eta: int) -> list[int]:
    """Those of the trials that are among the best 1 / eta of all that the study has seen on a rung, at least one; the
    others are told to be pruned. What they scored there has been reported."""
    known = {trial.number: trial.intermediate_values.get(rung) for trial in study.get_trials(deepcopy=False)}
    ranked = sorted((-value, number) for number, value in known.items() if value is not None)
    best = {number for _, number in ranked[: math.ceil(len(ranked) / eta)]}
    for number in numbers:
        if number not in best:
            study.tell(number, state=TrialState.PRUNED)
    return [number for number in numbers if number in best]


def report(study: optuna.Study, number: int, rung: int, runs: Sequence[Planned], known: Mapping[str, float]) -> bool:
    """Gives a trial the mean score of its runs on a rung. False if one of them has none: then the trial has failed."""
    value = _mean(runs, known)
    if value is None:
        study.tell(number, state=TrialState.FAIL)
        return False
    (trial,) = (trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    if rung not in trial.intermediate_values:
        optuna.trial.Trial(study, trial._trial_id).report(value, rung)
    return True


def _mean(runs: Sequence[Planned], known: Mapping[str, float]) -> float | None:
    """The mean score of the runs; None where one has none."""
    found = [known[one.run.id] for one in runs if one.run.id in known]
    return sum(found) / len(found) if len(found) == len(runs) else None


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


def check_own(results: str, agents: Sequence[str], digest: str) -> None:
    """UserError where the results hold a tuning of one of the agents that was another: a report shows one of each."""
    try:
        found = Store(results, create=False).studies()
    except NoResults:
        return
    for doc in found:
        if doc.get("agent") in agents and doc.get("of", digest) != digest:
            raise UserError(
                f"{results} holds a tuning of {doc['agent']} on other tasks or seeds, or with another protocol: "
                "take another --results"
            )


def document(study: optuna.Study, agent: str, held_out: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What the results store keeps of a study; `held_out` are the run ids of the 'best' and the 'default' setting."""
    trials = [
        {"number": trial.number, "params": trial.params, "value": trial.value, "state": trial.state.name}
        for trial in study.get_trials(deepcopy=False)
    ]
    return {
        "agent": agent,
        "of": study.study_name.removeprefix(f"{agent}-"),
        "trials": trials,
        "importances": importances(study),
        "held_out": dict(held_out),
    }


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="tuning.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scopes.add_arguments(parser, PRESETS)
    parser.add_argument("--trials", type=int, metavar="N", help="of each agent (default: 32; quick: 12)")
    parser.add_argument("--at-once", type=int, metavar="N", help="trials that are asked for together (default: 8)")
    parser.add_argument(
        "--asha",
        nargs="?",
        type=int,
        const=halving.ETA,
        metavar="ETA",
        help=f"successive halving: only one trial of ETA goes on from each rung (default: {halving.ETA})",
    )
    parser.add_argument("--held-out", nargs="+", type=int, metavar="N", help="seeds for the final comparison")
    parser.add_argument("--storage", metavar="URL", help="of the study (default: a sqlite file beside the results)")
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)
    cli.checked(arguments)
    scope = scopes.scope_from_arguments(arguments, PRESETS)
    agents = scopes.agents_from_arguments(arguments, ["lps", "qcfql"] if arguments.preset == "quick" else EVERYONE)
    scopes.check_settings(scope, agents)
    default_trials, default_at_once = TRIALS[arguments.preset]
    trials = default_trials if arguments.trials is None else arguments.trials
    at_once = default_at_once if arguments.at_once is None else arguments.at_once
    if not 1 <= trials <= 100_000 or not 1 <= at_once <= 100_000:
        raise UserError("--trials and --at-once must be at least 1 and at most 100000")
    if arguments.asha is not None and arguments.asha < 2:
        raise UserError("--asha must be at least 2: of so many trials one goes on")
    rungs = halving.rungs(scope.steps, scope.eval_interval, arguments.asha) if arguments.asha else []
    held_out = replace(scope, seeds=arguments.held_out or HELD_OUT[arguments.preset])
    if shared := set(held_out.seeds) & set(scope.seeds):
        raise UserError(f"seeds {', '.join(map(str, sorted(shared)))} are used for tuning: they are not held out")
    sweep = f"tuning-{arguments.preset}"
    results = cli.results_of(arguments, sweep)

    if arguments.dry_run:
        print(f"{trials} trials of each agent, {at_once} at once, and the comparison at the end:")
        if rungs:
            at = ", ".join(f"{rung:,}" for rung in rungs)
            print(f"(without what --asha saves: of the trials, one in {arguments.asha} goes on after {at} updates)")
        every_trial = [run for agent in agents for run in scope.runs(agent)] * trials
        return cli.go([*every_trial, *(run for agent in agents for run in held_out.runs(agent) * 2)], arguments, sweep)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = arguments.storage or _beside(results)
    digest = what_a_trial_is(scope, rungs)
    check_own(results, agents, digest)
    studies = {agent: open_study(storage, agent, digest) for agent in agents}

    def go(runs: Sequence[Planned], results: str) -> int:
        return cli.go(runs, arguments, sweep, results)

    code = tune(studies, scope, go, results, trials, at_once, rungs, arguments.asha or halving.ETA)
    return compare(studies, held_out, go, results) or code


Trials = dict[tuple[str, int], Mapping[str, Any]]  # {(agent, number): settings}
Go = Callable[[Sequence[Planned], str], int]  # trains runs into a results folder, and returns the exit code


def tune(
    studies: Mapping[str, optuna.Study],
    scope: Scope,
    go: Go,
    results: str,
    trials: int,
    at_once: int,
    rungs: Sequence[int] = (),
    eta: int = halving.ETA,
) -> int:
    """Rounds until every study has its trials; 1 if any run failed. `rungs` are the budgets after which trials are
    pruned; their runs have a results folder of their own, so that no figure takes them for whole ones."""
    code = 0
    beside = f"{results.rstrip('/')}/rungs"
    while True:
        asked: Trials = {
            (agent, number): settings
            for agent, study in studies.items()
            for number, settings in next_round(study, space_of(agent, scope), trials, at_once)
        }
        if not asked:
            return code
        write_down(studies, Store(results))
        for steps, before in zip([*rungs, scope.steps], [None, *rungs], strict=True):
            here = results if steps == scope.steps else beside
            at = replace(scope, steps=steps)
            runs = {(agent, n): at.runs(agent, {"trial": n}, **own) for (agent, n), own in asked.items()}
            every = [run for found in runs.values() for run in found]
            if before:
                store, rung = Store(here), Store(beside, create=False)
                for one in every:
                    halving.go_on(one.run, before, rung, store)
            code = max(code, go(every, here))
            known = scores(Store(here, create=False), [one.run for one in every])
            if steps < scope.steps:
                asked = prune(studies, asked, runs, known, steps, eta)
            else:
                for (agent, number), found in runs.items():
                    tell(studies[agent], number, found, known)
            if not asked:
                break


def prune(
    studies: Mapping[str, optuna.Study],
    asked: Trials,
    runs: Mapping[tuple[str, int], Sequence[Planned]],
    known: Mapping[str, float],
    rung: int,
    eta: int,
) -> Trials:
    """Tells the studies what the trials scored on a rung; those that go on."""
    left: Trials = {}
    for agent, study in studies.items():
        own = [number for of, number in asked if of == agent]
        scored = [number for number in own if report(study, number, rung, runs[agent, number], known)]
        left |= {(agent, number): asked[agent, number] for number in survivors(study, scored, rung, eta)}
    return left


def compare(studies: Mapping[str, optuna.Study], held_out: Scope, go: Go, results: str) -> int:
    """Trains the best setting of every study, and the default, with the held-out seeds, and writes the studies down."""
    best = {agent: _best(study) for agent, study in studies.items()}
    settings = {agent: {"best": best[agent], "default": {}} for agent in studies}
    runs = {
        (agent, name): held_out.runs(agent, {"held_out": name}, **values)
        for agent, found in settings.items()
        for name, values in found.items()
        if values is not None
    }
    every = [one for found in runs.values() for one in found]
    code, store = go(every, results), Store(results, create=False)
    known = scores(store, [one.run for one in every])
    ids = {
        agent: {name: [one.run.id for one in runs[agent, name]] for name in settings[agent] if (agent, name) in runs}
        for agent in studies
    }
    write_down(studies, store, ids)
    print("on seeds that no trial has seen:")
    for agent in studies:
        means = {name: [known[run_id] for run_id in of_name if run_id in known] for name, of_name in ids[agent].items()}
        shown = (f"{name} {100 * sum(found) / len(found):.0f} %" for name, found in means.items() if found)
        print(f"  {agent}: {', '.join(shown)}; best: {json.dumps(best[agent])}")
    return code


def write_down(
    studies: Mapping[str, optuna.Study], store: Store, held_out: Mapping[str, Mapping[str, Sequence[str]]] | None = None
) -> None:
    """The documents of the studies, into the results store; without `held_out` with what was held out before."""
    before = {doc["study"]: doc.get("held_out", {}) for doc in store.studies()}
    for agent, study in studies.items():
        name = f"tuning-{agent.replace(':', '-')}"
        ids = before.get(name, {}) if held_out is None else held_out[agent]
        store.write_study(name, document(study, agent, ids))


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
