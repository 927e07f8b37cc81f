"""The driver of a sweep: from planned runs to finished results.

The driver gives packs of unfinished runs (`feed.py`) to Ray Tune, each as one trial (`pack.py`). It shows their
progress (`watch/console.py`) and mirrors the results to MLflow (`watch/mlflow.py`). The driver keeps no state. The
results store knows the finished runs, so the same command resumes an interrupted sweep.
"""

import contextlib
import os
import re
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TextIO

from lps.errors import UserError, last_line, printable
from lps.runs.intent import Planned, write_intent
from lps.runs.lease import Lease
from lps.runs.provenance import short_commit, trained_by_other_commits, versions
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.suites import load_dataset
from lps.training.options import check_precision
from sweeps.launcher import connection as cluster
from sweeps.launcher.feed import Feed, FixedFeed, Pack, finished, unfinished
from sweeps.launcher.plan import Plan, mark_failed
from sweeps.launcher.resources import Limits, PackResources
from sweeps.watch.console import Console, title
from sweeps.watch.mlflow import Follower

TUNE_RESTARTS = 3
"""Number of attempts with a new Tune, which fails itself if the system kills a trial for memory."""

HEAD_CHECK_SECONDS = 10.0
"""Seconds between two checks that the head node is alive."""


def launch(
    planned: Sequence[Planned],
    plan: Plan,
    *,
    limits: Limits | None = None,
    address: str | None = None,
    mlflow: bool = True,
    verbose: bool = False,
    if_busy: str = "wait",
) -> int:
    """Train all unfinished runs. Return 0, or 1 if a run failed.

    Args:
        plan: results folder, name and options of the sweep.
        limits: resources of a pack.
        address: the Ray cluster; default as in `sweeps.launcher.connection.find`.
        mlflow: whether to mirror to MLflow, at MLFLOW_TRACKING_URI or else in a file beside the results.
        verbose: show the output of Ray and its workers.
        if_busy: what to do about runs that another process trains, from lps.training.options.IF_BUSY.

    Raises UserError for invalid input, and KeyboardInterrupt after cleaning up.
    """
    runs = list({one.run.id: one.run for one in planned}.values())
    if not runs:
        raise UserError("no run matches the filters. Check --agents, --groups, --tasks and --seeds")
    check_name(plan.sweep)
    store = Store(plan.results)
    write_intent(store, plan.sweep, planned)
    return drive(
        FixedFeed(runs, plan), plan, limits=limits, address=address, mlflow=mlflow, verbose=verbose, if_busy=if_busy
    )


def drive(
    feed: Feed,
    plan: Plan,
    *,
    limits: Limits | None = None,
    address: str | None = None,
    mlflow: bool = True,
    verbose: bool = False,
    if_busy: str = "wait",
    parent: str = "",
) -> int:
    """Train the packs of a feed to its end. Return 0, or 1 if a run failed. Arguments and errors as in `launch`.

    parent: owner of a lease of this process.
    """
    store = Store(plan.results)
    done = finished(store)
    if before := [done[run.id] for run in feed.runs if run.id in done]:
        print(f"{len(before)} of {len(feed.runs)} runs are finished already", flush=True)
        _warn_of_other_commits(before)
    address, limits = cluster.find(address), limits or Limits()
    wanted, trained = feed.claims(done), set[str]()
    mirror = None
    try:
        with Lease(store, parent) as lease:
            plan = replace(plan, results=store.path, driver=lease.owner)
            for turn in lease.turns(wanted, if_busy, partial(_unfinished, store), say):
                trained |= set(turn)
                if address == "local":
                    _prepare_data(feed.ahead(done), plan.options.data_dir)
                mirror = mirror or (Follower(store) if mlflow else None)
                _train(store.fenced(lease.check), feed, plan, limits, address, verbose, lease)
        mirror = mirror or (Follower(store) if mlflow else None)  # earlier commands may have left it incomplete
    except KeyboardInterrupt:
        print("\nStopped. The same command resumes.", flush=True)
        raise
    finally:
        if mirror:
            mirror.close()
    skipped = wanted.keys() - trained if if_busy == "skip" else set()
    return _conclude(store, [run for run in feed.runs if run.id not in skipped], mirror)


def _unfinished(store: Store, claims: Iterable[str]) -> list[str]:
    done = finished(store)
    return [claim for claim in claims if claim not in done]


def say(text: str) -> None:
    """Print a line at once."""
    print(printable(text), flush=True)


def check_name(sweep: str) -> None:
    """UserError for a name of a sweep that file names or MLflow do not support."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]{0,99}", sweep):
        raise UserError(f"invalid name of a sweep {sweep!r:.60}. Use letters, digits, dots, dashes and underscores")


def _warn_of_other_commits(done: Sequence[Mapping[str, Any]]) -> None:
    if others := Counter(trained_by_other_commits(done).values()):
        commits = ", ".join(f"{count} with commit {commit}" for commit, count in others.items())
        print(
            f"  ({commits}; this is {short_commit(versions())}. To train them again, choose another --results)",
            flush=True,
        )


def _prepare_data(runs: Sequence[Run], data_dir: str | None) -> None:
    """Download, check and convert the datasets once, before the packs start. On a cluster each machine does this for
    its own packs."""
    for dataset, group in dict.fromkeys((run.dataset, run.resolved_task.group) for run in runs):
        task = next(run.resolved_task for run in runs if run.resolved_task.group == group)
        load_dataset([task], dataset=dataset, data_dir=data_dir)


def _train(store: Store, feed: Feed, plan: Plan, limits: Limits, address: str, verbose: bool, lease: Lease) -> None:
    cluster.apply_environment()  # Ray reads the environment when it is imported
    out = sys.stdout
    for attempt in range(1, TUNE_RESTARTS + 1):
        try:
            with contextlib.ExitStack() as stack:
                if not verbose:  # Ray prints warnings about itself into the table
                    stack.enter_context(contextlib.redirect_stdout(stack.enter_context(open(os.devnull, "w"))))
                if address == "local" and attempt == 1:
                    print("starting Ray on this machine", file=out, flush=True)
                address = stack.enter_context(cluster.connected(address, verbose))
                share, what = feed.begin(cluster.nodes(), limits, lease.held)
                check_precision(plan.options.precision, share.device)
                where = f"this machine's {share.device}" if address == "local" else f"{share.device} of {address}"
                print(f"{what}, {share.at_once} at a time, on {where}", file=out, flush=True)
                _tune(store, feed, plan, share, out, lease)
            return
        except (UserError, KeyboardInterrupt):
            raise
        except Exception as error:
            if attempt < TUNE_RESTARTS:
                print(f"Ray Tune failed ({last_line(str(error))}); restarting it with the unfinished runs", flush=True)
            else:
                reason = f"Ray Tune failed {TUNE_RESTARTS} times:\n{traceback.format_exc()}"
                others = feed.claims(()).keys() - lease.held
                left = [run for run in unfinished(store, feed.runs) if run.id not in others]
                mark_failed(store, left, plan.sweep, reason)


def _tune(store: Store, feed: Feed, plan: Plan, share: PackResources, out: TextIO, lease: Lease) -> None:
    """Run every pack as a trial of Ray Tune, and show its progress."""
    import ray
    from ray import tune
    from ray.tune.search import Searcher

    from sweeps.launcher.pack import TRIAL_RESTARTS, ProgressBoard, run_pack
    from sweeps.launcher.placement import reserved

    board: Any = ProgressBoard.remote()  # type: ignore[attr-defined]
    scratch = cluster.scratch(store, plan.sweep)

    def train_pack(config: dict[str, Any]) -> dict[str, Any]:
        pack: Pack = config["pack"]
        driver = plan.driver if pack.plan.results == plan.results else ""
        return run_pack(pack.number, pack.runs, replace(pack.plan, driver=driver), share, board, scratch)

    class Packs(Searcher):
        """Hands Ray Tune the packs of the feed, at most `share.at_once` at the same time."""

        def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
            if pack := feed.next():
                return {"pack": pack}
            return Searcher.FINISHED if feed.over else None

        def on_trial_complete(self, trial_id: str, result: dict | None = None, error: bool = False) -> None:
            pass  # Watch is told, together with the pack

        def save(self, checkpoint_path: str) -> None:
            pass  # the results store has the state

        def __reduce__(self) -> tuple[Any, ...]:
            return Searcher, ()  # Ray Tune writes a copy of itself that nobody reads

    class Watch(tune.Callback):
        looked = 0.0

        def __reduce__(self) -> tuple[Any, ...]:
            return tune.Callback, ()

        def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
            lease.check()
            if time.monotonic() - self.looked > HEAD_CHECK_SECONDS:
                self.looked = time.monotonic()
                if not cluster.has_head():  # Tune would wait forever for the machine of its trials
                    raise ConnectionError("the head node of Ray is gone")

        def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self.end(trial.config["pack"], trial.last_result.get("error"))

        def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **_: Any) -> None:
            self.end(trial.config["pack"], str(trial.get_pickled_error() or trial.get_error()))

        def end(self, pack: Pack, error: str | None) -> None:
            if error:
                mark_failed(Store(pack.plan.results).fenced(lease.check), pack.runs, plan.sweep, error)
            lease.release(run.id for run in pack.runs)
            feed.end(pack)

    class Silent(tune.ProgressReporter):
        def should_report(self, trials: list[Any], done: bool = False) -> bool:
            return False

        def report(self, trials: list[Any], done: bool, *sys_info: Any) -> None:
            pass

    try:
        with Console(feed.titles, out) as console:
            console.follow(lambda: ray.get(board.read.remote(), timeout=10))
            tune.Tuner(
                tune.with_resources(train_pack, reserved(share)),
                tune_config=tune.TuneConfig(
                    search_alg=Packs(), num_samples=-1, max_concurrent_trials=share.at_once, reuse_actors=True
                ),
                run_config=tune.RunConfig(
                    name="tune",
                    storage_path=scratch,
                    verbose=0,
                    progress_reporter=Silent(),
                    callbacks=[Watch()],
                    failure_config=tune.FailureConfig(max_failures=TRIAL_RESTARTS),
                ),
            ).fit()
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _conclude(store: Store, runs: Sequence[Run], mirror: Follower | None) -> int:
    """Print the outcome of the sweep. Return the exit code."""
    docs = {doc["id"]: doc for doc in store.runs()}
    states = {run.id: docs[run.id]["status"] if run.id in docs else "missing" for run in runs}
    failed = [run for run in runs if states[run.id] != "done"]
    print(f"{len(runs) - len(failed)} of {len(runs)} runs are done; results in {store.path}")
    for run in failed:
        reason = last_line((docs.get(run.id) or {}).get("error") or states[run.id])
        print(f"  failed: {title([run])}: {reason}\n          traceback: {store.path}/runs/{run.id}.json")
    if failed:
        print("The same command retries these runs only.")
        print(f"State of the runs: python -m sweeps status {store.path}")
    if mirror:
        if mirror.problem:
            print(mirror.problem)
        local = mirror.uri.startswith("sqlite:")
        print(f"MLflow: {f'mlflow ui --backend-store-uri {mirror.uri}' if local else mirror.uri}")
    return 1 if failed else 0
