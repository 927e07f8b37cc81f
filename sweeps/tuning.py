"""Tune every agent with the same budget by Optuna's TPE, and rank its hyperparameters by importance.

    python sweeps/tuning.py --preset quick
    python sweeps/tuning.py --agents lps dsrl qcfql --groups cube-double --tasks 2 --trials 32
    python sweeps/tuning.py --storage postgresql://head/optuna --results s3://bucket/tuning

A trial is one configuration from sweeps/study/spaces.py. Its value is the mean score (the last three evaluations of a
run) over all tasks and tuning seeds. The trials of a round train in one program. With `--asha` only the best third is
promoted from each rung of the budget (sweeps/study/halving.py). At the end the best and the default configuration train
with seeds that no trial has used (`--held-out`): report only these numbers. Hyperparameters of `--set` are not tuned.
The Optuna study is in a database beside the results, or in `--storage`, which may also hold other studies. The same
command again resumes. The preset quick uses the ring bandit. It tests the code and says nothing about robots.
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

from lps.errors import UserError, command_line
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
"""Preset -> (number of trials per agent, trials per round)."""
STARTUP = 8
"""Number of random trials before TPE starts."""


def open_study(storage: str, agent: str, digest: str) -> optuna.Study:
    """Open or create the agent's Optuna study with this digest (`study_digest`); the database may hold others too.
    UserError if the database cannot be opened."""
    try:
        return optuna.create_study(
            study_name=f"{agent}-{digest}", storage=storage, direction="maximize", load_if_exists=True
        )
    except Exception as error:
        raise UserError(
            f"cannot open the Optuna database {storage} ({str(error).splitlines()[0]}). Check --storage"
        ) from None


def study_digest(scope: Scope, rungs: Sequence[int]) -> str:
    """Return a digest of the values that all trials of a study share: tasks, seeds, protocol and settings."""
    values = {name: value for name, value in asdict(scope).items() if value or name not in ("suite", "options")}
    return hashlib.sha256(json.dumps([values, list(rungs)], sort_keys=True).encode()).hexdigest()[:8]


def space_of(agent: str, scope: Scope) -> dict[str, FloatDistribution]:
    """Return the tuned ranges of an agent: all of sweeps/study/spaces.py without those of --set."""
    return {name: known for name, known in spaces.ranges(agent).items() if name not in scope.settings}


def next_round(
    study: optuna.Study, space: Mapping[str, FloatDistribution], trials: int, at_once: int
) -> list[tuple[int, dict[str, Any]]]:
    """Return (number, settings) of the next trials: those of an interrupted round, or new ones. Empty if the study has
    `trials` finished trials."""
    known = study.get_trials(deepcopy=False)
    left_open = [(trial.number, dict(trial.params)) for trial in known if trial.state == TrialState.RUNNING]
    if left_open:
        return left_open
    finished = sum(trial.state.is_finished() for trial in known)
    # A new sampler for each round: its suggestions do not depend on interruptions.
    study.sampler = optuna.samplers.TPESampler(
        seed=len(known), n_startup_trials=STARTUP, constant_liar=True, multivariate=True
    )
    asked = []
    for _ in range(min(at_once, trials - finished)):
        trial = study.ask(dict(space))
        asked.append((trial.number, dict(trial.params)))
    return asked


def tell_score(study: optuna.Study, number: int, runs: Sequence[Planned], known: Mapping[str, float]) -> None:
    """Set the value of a trial to the mean score of its runs. The trial fails if a run has no score."""
    value = _mean(runs, known)
    study.tell(number, value, state=TrialState.FAIL if value is None else TrialState.COMPLETE)


def promoted(study: optuna.Study, numbers: Sequence[int], rung: int, eta: int) -> list[int]:
    """Return the trials among the best 1 / eta (at least one) of all trials on a rung, and prune the others. Their
    scores must be reported already."""
    known = {trial.number: trial.intermediate_values.get(rung) for trial in study.get_trials(deepcopy=False)}
    ranked = sorted((-value, number) for number, value in known.items() if value is not None)
    best = {number for _, number in ranked[: math.ceil(len(ranked) / eta)]}
    for number in numbers:
        if number not in best:
            study.tell(number, state=TrialState.PRUNED)
    return [number for number in numbers if number in best]


def report_rung(
    study: optuna.Study, number: int, rung: int, runs: Sequence[Planned], known: Mapping[str, float]
) -> bool:
    """Report the mean score of a trial's runs on a rung. Return False if a run has no score; the trial then fails."""
    value = _mean(runs, known)
    if value is None:
        study.tell(number, state=TrialState.FAIL)
        return False
    (trial,) = (trial for trial in study.get_trials(deepcopy=False) if trial.number == number)
    if rung not in trial.intermediate_values:
        optuna.trial.Trial(study, trial._trial_id).report(value, rung)
    return True


def _mean(runs: Sequence[Planned], known: Mapping[str, float]) -> float | None:
    """Return the mean score of the runs; None if a run has no score."""
    found = [known[one.run.id] for one in runs if one.run.id in known]
    return sum(found) / len(found) if len(found) == len(runs) else None


def importances(study: optuna.Study) -> dict[str, float]:
    """Return the share of the variance of success that each hyperparameter explains (fANOVA: Hutter, Hoos and
    Leyton-Brown, ICML 2014). Empty with fewer than four finished trials or with equal values."""
    values = [trial.value for trial in study.get_trials(states=[TrialState.COMPLETE])]
    if len(values) < 4 or len(set(values)) == 1:
        return {}
    found = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    return {name: float(value) for name, value in found.items()}


def refuse_other_study(results: str, agents: Sequence[str], digest: str) -> None:
    """UserError if the results hold another tuning of one of the agents, because a report shows one per agent."""
    try:
        found = Store(results, create=False).studies()
    except NoResults:
        return
    for doc in found:
        if doc.get("agent") in agents and doc.get("of", digest) != digest:
            raise UserError(
                f"{results} holds a tuning of {doc['agent']} with other tasks, seeds or protocol. "
                "Choose another --results"
            )


def document(study: optuna.Study, agent: str, held_out: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return the document of a study for the results store; `held_out`: run ids of the 'best' and 'default' setting."""
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


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="tuning.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    scopes.add_arguments(parser, PRESETS)
    parser.add_argument("--trials", type=int, metavar="N", help="number of trials per agent (default: 32; quick: 12)")
    parser.add_argument("--at-once", type=int, metavar="N", help="number of trials per round (default: 8; quick: 6)")
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
        "--storage", metavar="URL", help="Optuna storage URL (default: a sqlite file beside the results)"
    )
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
        raise UserError("--asha must be at least 2 (one of every ETA trials is promoted)")
    rungs = halving.rungs(scope.steps, scope.eval_interval, arguments.asha) if arguments.asha else []
    held_out = replace(scope, seeds=arguments.held_out or HELD_OUT[arguments.preset])
    if shared := set(held_out.seeds) & set(scope.seeds):
        raise UserError(f"--held-out has tuning seeds: {', '.join(map(str, sorted(shared)))}. Choose other seeds")
    sweep = f"tuning-{arguments.preset}"
    results = cli.results_of(arguments, sweep)

    if arguments.dry_run:
        print(f"{trials} trials per agent in rounds of {at_once}, and the final comparison:")
        if rungs:
            at = ", ".join(f"{rung:,}" for rung in rungs)
            print(f"(upper bound: --asha promotes one of {arguments.asha} trials after {at} updates)")
        every_trial = [run for agent in agents for run in scope.runs(agent)] * trials
        return cli.launch_or_describe(
            [*every_trial, *(run for agent in agents for run in held_out.runs(agent) * 2)], arguments, sweep
        )
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage = arguments.storage or _default_storage(results)
    digest = study_digest(scope, rungs)
    refuse_other_study(results, agents, digest)
    studies = {agent: open_study(storage, agent, digest) for agent in agents}

    def go(runs: Sequence[Planned], results: str) -> int:
        return cli.launch_or_describe(runs, arguments, sweep, results)

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
    """Train rounds until every study has its trials. Return 1 if a run failed, else 0.

    rungs: budgets after which trials are pruned. Their runs have a results folder of their own, because they are
    shorter than the others.
    """
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
                    halving.continue_from_rung(one.run, before, rung, store)
            code = max(code, go(every, here))
            known = scores(Store(here, create=False), [one.run for one in every])
            if steps < scope.steps:
                asked = prune(studies, asked, runs, known, steps, eta)
            else:
                for (agent, number), found in runs.items():
                    tell_score(studies[agent], number, found, known)
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
    """Report the scores of the trials on a rung. Return the promoted trials."""
    left: Trials = {}
    for agent, study in studies.items():
        own = [number for of, number in asked if of == agent]
        scored = [number for number in own if report_rung(study, number, rung, runs[agent, number], known)]
        left |= {(agent, number): asked[agent, number] for number in promoted(study, scored, rung, eta)}
    return left


def compare(studies: Mapping[str, optuna.Study], held_out: Scope, go: Go, results: str) -> int:
    """Train the best and the default setting of every study with the held-out seeds, and store the studies."""
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
    print("on held-out seeds:")
    for agent in studies:
        means = {name: [known[run_id] for run_id in of_name if run_id in known] for name, of_name in ids[agent].items()}
        shown = (f"{name} {100 * sum(found) / len(found):.0f} %" for name, found in means.items() if found)
        print(f"  {agent}: {', '.join(shown)}; best: {json.dumps(best[agent])}")
    return code


def write_down(
    studies: Mapping[str, optuna.Study], store: Store, held_out: Mapping[str, Mapping[str, Sequence[str]]] | None = None
) -> None:
    """Store the documents of the studies; without `held_out`, with the run ids that are stored already."""
    before = {doc["study"]: doc.get("held_out", {}) for doc in store.studies()}
    for agent, study in studies.items():
        name = f"tuning-{agent.replace(':', '-')}"
        ids = before.get(name, {}) if held_out is None else held_out[agent]
        store.write_study(name, document(study, agent, ids))


def _best(study: optuna.Study) -> dict[str, Any] | None:
    """Return the settings of the best trial; None if no trial has finished."""
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return dict(max(finished, key=lambda trial: trial.value or 0.0).params) if finished else None


def _default_storage(results: str) -> str:
    """Return the URL of a sqlite database in the results folder. UserError if the folder is not on this machine."""
    if "://" in results:
        raise UserError(
            f"{results} is not on this machine. Give a database for the study with --storage (sqlite:///PATH)"
        )
    Store(results)  # makes the folder, or raises an error
    return f"sqlite:///{Path(results).resolve()}/tuning.db"


if __name__ == "__main__":
    sys.exit(main())
