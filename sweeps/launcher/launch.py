"""From a list of runs to finished results.

The driver packs the runs that are not finished, gives each pack to Ray Tune as one trial (`pack.py`), shows how they do
(`console.py`) and mirrors the results to MLflow (`mirror.py`). It keeps no state: the results store says what is done,
so a sweep that was interrupted, however, goes on when the same command is run again.
"""

import contextlib
import os
import re
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, TextIO

from lps.errors import UserError, last_line
from lps.runs.intent import Planned, write_intent
from lps.runs.provenance import other_code, short_commit, versions
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import get_task, load_dataset
from lps.training.options import check_precision
from sweeps.launcher import connection as cluster
from sweeps.launcher.plan import Plan, mark_failed
from sweeps.launcher.resources import Limits, Share, split
from sweeps.watch.console import Console, title
from sweeps.watch.mlflow import Mirror

ATTEMPTS = 3
"""How often Ray is started over when Tune itself breaks, as it does when the system kills a trial for memory."""

LOOK = 10.0
"""Seconds between two looks at whether the head node lives."""


def launch(
    planned: Sequence[Planned],
    plan: Plan,
    *,
    limits: Limits | None = None,
    address: str | None = None,
    mlflow: bool = True,
    verbose: bool = False,
) -> int:
    """Trains all the runs that are not finished, and returns 0; or 1 if any of them failed.

    Args:
        plan: results folder, name and options of the sweep.
        limits: the part of the cluster for a pack.
        address: the Ray cluster; default as in `sweeps.launcher.connection.find`.
        mlflow: whether to mirror to MLflow, at MLFLOW_TRACKING_URI or else in a file beside the results.
        verbose: shows what Ray and the workers print.

    Raises UserError for what the user can put right, and KeyboardInterrupt after having put everything away.
    """
    runs = list({one.run.id: one.run for one in planned}.values())
    if not runs:
        raise UserError("there is nothing to run: the filters leave no run")
    check_name(plan.sweep)
    store = Store(plan.results)
    plan = replace(plan, results=store.path)
    done = finished(store)
    todo = [run for run in runs if run.id not in done]
    write_intent(store, plan.sweep, planned)
    if len(todo) < len(runs):
        print(f"{len(runs) - len(todo)} of {len(runs)} runs are finished already", flush=True)
        _tell_of_other_code([done[run.id] for run in runs if run.id in done])
    address = cluster.find(address)
    if todo and address == "local":
        _prepare_data(todo, plan.options.data_dir)
    mirror = Mirror(store, plan.sweep, runs) if mlflow else None
    try:
        if todo:
            _train(store, todo, plan, limits or Limits(), address, verbose, mirror)
    except KeyboardInterrupt:
        print("\nStopped. Nothing that was finished is lost: the same command goes on from here.", flush=True)
        raise
    finally:
        if mirror:
            mirror.close()
    return _conclude(store, runs, mirror)


def check_name(sweep: str) -> None:
    """UserError for a name of a sweep that file names and MLflow do not take."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", sweep):
        raise UserError(
            f"the sweep's name {sweep!r:.60} is not valid: use letters, digits, dots, dashes and underscores"
        )


def finished(store: Store) -> dict[str, dict[str, Any]]:
    """The documents of the runs that are done, by their ids."""
    return {doc["id"]: doc for doc in store.runs() if doc["status"] == "done"}


def unfinished(store: Store, runs: Sequence[Run]) -> list[Run]:
    """The runs that are not done, those included that failed in an earlier attempt."""
    done = finished(store)
    return [run for run in runs if run.id not in done]


def _tell_of_other_code(done: Sequence[Mapping[str, Any]]) -> None:
    if others := Counter(other_code(done).values()):
        commits = ", ".join(f"{count} with commit {commit}" for commit, count in others.items())
        print(
            f"  ({commits}; this is {short_commit(versions())}: to train them with this code, take another --results)",
            flush=True,
        )


def _prepare_data(runs: Sequence[Run], data_dir: str | None) -> None:
    """Finds, downloads, checks and converts the datasets once, before packs ask for them all at the same time. On a
    cluster each machine does so for itself, for what it trains on."""
    for dataset, group in dict.fromkeys((run.dataset, get_task(run.task).group) for run in runs):
        task = next(get_task(run.task) for run in runs if get_task(run.task).group == group)
        load_dataset([task], dataset=dataset, data_dir=data_dir)


def _train(
    store: Store, runs: Sequence[Run], plan: Plan, limits: Limits, address: str, verbose: bool, mirror: Mirror | None
) -> None:
    cluster.apply_environment()  # which Ray reads when it is imported
    out = sys.stdout
    for attempt in range(1, ATTEMPTS + 1):
        try:
            with contextlib.ExitStack() as stack:
                if not verbose:  # Ray prints warnings about itself into the table
                    stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
                if address == "local" and attempt == 1:
                    print("starting Ray on this machine", file=out, flush=True)
                address = stack.enter_context(cluster.connected(address, verbose))
                packs, share = split(unfinished(store, runs), cluster.nodes(), limits)
                check_precision(plan.options.precision, share.device)
                where = f"this machine's {share.device}" if address == "local" else f"{share.device} of {address}"
                what = f"{_count(sum(map(len, packs)), 'run')} in {_count(len(packs), 'pack')}"
                print(f"{what}, {share.at_once} at a time, on {where}", file=out, flush=True)
                _tune(store, packs, plan, share, out, mirror)
            return
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            if attempt < ATTEMPTS:
                print(f"Ray Tune broke ({last_line(str(error))}): starting over with what is left", flush=True)
            else:
                reason = f"Ray Tune broke {ATTEMPTS} times:\n{traceback.format_exc()}"
                mark_failed(store, unfinished(store, runs), plan.sweep, reason)


def _tune(
    store: Store, packs: Sequence[Sequence[Run]], plan: Plan, share: Share, out: TextIO, mirror: Mirror | None
) -> None:
    """Runs every pack as a trial of Ray Tune, and shows it."""
    import ray
    from ray import tune

    from sweeps.launcher.pack import ON_HEAD, Board, drive
    from sweeps.launcher.placement import release

    board: Any = Board.remote()  # type: ignore[attr-defined]
    scratch = cluster.scratch(store, plan.sweep)

    def pack(config: dict[str, Any]) -> dict[str, Any]:
        return drive(config["pack"], packs[config["pack"]], plan, share, board, scratch)

    class Watch(tune.Callback):
        looked = 0.0

        def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
            if time.monotonic() - self.looked > LOOK:
                self.looked = time.monotonic()
                if not cluster.has_head():  # Tune would wait for its trials' machine for ever
                    raise ConnectionError("the head node of Ray is gone")

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            release(scratch, trial.config["pack"])

    class Silent(tune.ProgressReporter):
        def should_report(self, trials: list[Any], done: bool = False) -> bool:
            return False

        def report(self, trials: list[Any], done: bool, *sys_info: Any) -> None:
            pass

    tuner = tune.Tuner(
        tune.with_resources(pack, ON_HEAD),  # a trial only watches, so it must not take a CPU from a learner
        param_space={"pack": tune.grid_search(list(range(len(packs))))},
        tune_config=tune.TuneConfig(max_concurrent_trials=share.at_once, reuse_actors=True),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=scratch,
            verbose=0,
            progress_reporter=Silent(),
            callbacks=[Watch()],
            failure_config=tune.FailureConfig(max_failures=2),
        ),
    )
    if mirror:
        mirror.start()  # only now, for Ray sets environment variables when it is imported and when it connects
    try:
        with Console([title(pack) for pack in packs], out) as console:
            console.follow(lambda: ray.get(board.read.remote(), timeout=10))
            trials = tuner.fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    for trial in trials:
        if trial.error and trial.config:
            mark_failed(store, packs[trial.config["pack"]], plan.sweep, f"The trial of this pack died: {trial.error}")


def _conclude(store: Store, runs: Sequence[Run], mirror: Mirror | None) -> int:
    """Says how it went; the exit code."""
    docs = {doc["id"]: doc for doc in store.runs()}
    states = {run.id: docs[run.id]["status"] if run.id in docs else "missing" for run in runs}
    failed = [run for run in runs if states[run.id] != "done"]
    print(f"{len(runs) - len(failed)} of {len(runs)} runs are done; results in {store.path}")
    for run in failed:
        reason = last_line((docs.get(run.id) or {}).get("error") or states[run.id])
        print(f"  failed: {title([run])}: {reason}\n          all of it: {store.path}/runs/{run.id}.json")
    if failed:
        print("The same command tries these again, and only these.")
        print(f"How the runs stand at any time: python -m sweeps status {store.path}")
    if mirror:
        if mirror.problem:
            print(f"MLflow does not have everything ({mirror.problem}): the same command catches up.")
        local = mirror.uri.startswith("sqlite:")
        print(f"MLflow: {f'mlflow ui --backend-store-uri {mirror.uri}' if local else mirror.uri}")
    return 1 if failed else 0


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
