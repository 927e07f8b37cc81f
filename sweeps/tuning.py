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
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

import optuna

from lps.errors import UserError, command_line
from lps.files import open_filesystem
from lps.runs.lease import Lease
from lps.runs.scores import scores
from lps.runs.store import Store
from sweeps.launcher import cli
from sweeps.launcher.launch import drive, say
from sweeps.launcher.plan import Plan
from sweeps.ogbench_all import EVERYONE
from sweeps.sensitivity import PRESETS as SENSITIVITY_PRESETS
from sweeps.study import halving, tpe
from sweeps.study import scope as scopes
from sweeps.study.tuning import COMPARED, Budget, Study, name_of, refuse_other_study, space_of, study_digest
from sweeps.study.tuning_feed import TuningFeed

PRESETS = {name: replace(scope, seeds=[0, 1]) for name, scope in SENSITIVITY_PRESETS.items()}
HELD_OUT = {"paper": [100, 101, 102, 103], "quick": [100, 101]}
TRIALS = {"paper": (32, 8), "quick": (12, 6)}
"""Preset -> (number of trials per agent, most trials of an agent that train at the same time)."""


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


def _default_storage(results: str) -> str | None:
    """Return the URL of a sqlite database in the results folder; None if the folder is not on this machine."""
    if "://" in results:
        return None
    store = Store(results)  # makes the folder, or raises an error
    return f"sqlite:///{store.path}/tuning.db"


if __name__ == "__main__":
    sys.exit(main())
