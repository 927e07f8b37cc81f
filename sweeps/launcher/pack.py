"""One pack on the cluster: the Tune trial `run_pack` starts a Ray Train worker, which calls `lps.training.trainer`.

Trial and worker are on the same machine (`placement.py`). If the worker's process dies, Ray Train restarts it. If the
trial's process or the machine dies, Ray Tune restarts the trial, perhaps elsewhere. In both cases the trainer resumes
from its checkpoint in the results store. Packs report their progress to the `ProgressBoard`, a small actor that the
console reads.
"""

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import ray

from lps.errors import UserError
from lps.runs.run import Run
from lps.runs.store import Store
from lps.workers import spin_briefly
from sweeps.launcher.connection import HEAD, apply_environment
from sweeps.launcher.placement import PackTrainer, forget_starts, learner, record_start
from sweeps.launcher.plan import mark_failed
from sweeps.launcher.resources import PackResources

if TYPE_CHECKING:
    from lps.training.ledger import Progress
    from sweeps.launcher.plan import Plan

TRIAL_RESTARTS = 1000
"""Restarts of a trial by Ray Tune. Lost machines are not counted against a pack; see `run_pack` for killed trials."""
PATIENCE = 2
"""Restarts of the worker of several runs before the pack is halved. A single run has the plan's `max_failures`."""


# --- the Tune trial ---


class PackTooLarge(Exception):
    """A worker died repeatedly or ran out of memory. A smaller pack may succeed."""


class Reclaimed(Exception):
    """The machine is about to be taken away. The pack resumes elsewhere, from the checkpoint that was just stored."""


def run_pack(
    number: int, runs: Sequence[Run], plan: "Plan", share: PackResources, board: Any, scratch: str
) -> dict[str, Any]:
    """Train a pack to its end. Runs that cannot be trained are marked as failed.

    A pack whose worker dies repeatedly continues as two halves, one after the other. The usual reason is memory, and
    this isolates the run that fails. The same holds for the trial, this process. `scratch` is a folder for the files of
    Ray Train. Return whether a run failed, and in "error" the reason why the pack was given up, or None.
    """
    apply_environment()  # this process may be on another machine than the one that launched the sweep
    killed = record_start(scratch, number)
    if killed > plan.max_failures:
        reason = f"The process of this pack's trial was killed {killed} times, on machines that are still alive. Check "
        return {"failed": True, "error": reason + "their memory and Ray's logs, then repeat the command"}
    store, failed = Store(plan.results, create=False), False
    parts = _halves(runs) if killed > PATIENCE else [list(runs)]
    while parts:
        part = parts.pop(0)
        error: str | None
        try:
            error = _run_worker(number, part, plan, share, board, scratch)
        except PackTooLarge as death:
            if len(part) > 1:
                parts[:0] = _halves(part)
                continue
            error = str(death)
        except Reclaimed:
            forget_starts(scratch, number)
            raise  # Ray Tune restarts the trial, and Ray starts nothing more on this machine
        if error:
            failed = True
            mark_failed(store, part, plan.sweep, error, plan.driver)
    forget_starts(scratch, number)
    board.update.remote(number, state="failed" if failed else "done")
    return {"failed": failed, "error": None}


def _halves(runs: Sequence[Run]) -> list[list[Run]]:
    middle = (len(runs) + 1) // 2
    return [list(half) for half in (runs[:middle], runs[middle:]) if half]


def _run_worker(
    number: int, runs: Sequence[Run], plan: "Plan", share: PackResources, board: Any, scratch: str
) -> str | None:
    """Train the runs in a worker. Return the traceback if the training failed, else None. Raises PackTooLarge and
    Reclaimed."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig

    restarts = plan.max_failures if len(runs) == 1 else min(PATIENCE, plan.max_failures)
    trainer = PackTrainer(
        train_on_worker,
        train_loop_config={"number": number, "runs": list(runs), "plan": plan, "share": share, "board": board},
        scaling_config=ScalingConfig(num_workers=1, use_gpu=bool(share.gpus), resources_per_worker=learner(share)),
        run_config=RunConfig(
            name=f"pack-{number}",
            storage_path=f"{scratch}/{runs[0].id}-{len(runs)}",
            failure_config=FailureConfig(max_failures=restarts, controller_failure_limit=restarts),
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        outcome = trainer.fit().return_value
    except Exception:
        trace = traceback.format_exc()
        reason = f"{restarts + 1} times"
        if "low on memory" in trace:  # Ray's words
            reason = "because it ran out of memory. Use a smaller batch or network, or a machine with more memory"
        raise PackTooLarge(f"{trace}\nThe worker of this pack died {reason} (see above)") from None
    if outcome.reclaimed:
        raise Reclaimed
    if outcome.too_large:
        raise PackTooLarge(outcome.error)
    return outcome.error


# --- the Ray Train worker: beside the trial ---


@dataclass(frozen=True)
class Outcome:
    """How the training of a pack ended."""

    error: str | None = None
    """The traceback, if the training failed."""
    too_large: bool = False
    """Whether it ran out of memory."""
    reclaimed: bool = False
    """Whether it stopped because its machine is about to be taken away."""


def train_on_worker(config: dict[str, Any]) -> Outcome:
    """Train the runs of a pack.

    Exceptions are returned, because Ray Train would restart the worker and meet the same exception. Only a dead
    process is worth a restart.
    """
    spin_briefly()
    import torch

    from lps.runs.lease import Lease, LeaseLost
    from lps.training.trainer import Stopped, train
    from sweeps.launcher.evaluator import RayEvaluator
    from sweeps.launcher.notice import Notice
    from sweeps.study.halving import continue_from_rungs

    runs, plan, share = config["runs"], config["plan"], config["share"]
    config["board"].start.remote(config["number"])
    torch.set_num_threads(max(1, round(share.cpus)))
    evaluator, notice = RayEvaluator(share.eval_cpus, share.eval_tasks, len(runs)), Notice()
    try:
        store = Store(plan.results, create=False)  # every machine must see it
        if plan.rung:
            with Lease(store, plan.driver) as lease:
                for turn in lease.turns({run.id: run.title for run in runs}):
                    mine = [run for run in runs if run.id in turn]
                    continue_from_rungs(mine, plan.rung, store.fenced(lease.check))
        train(
            runs,
            store,
            replace(
                plan.options, device=share.device, device_share=min(1.0, share.gpus) if share.device == "cuda" else 1.0
            ),
            sweep=plan.sweep,
            evaluator=evaluator,
            callback=_progress_callback(config["number"], config["board"]),
            stop=notice,
            driver=plan.driver,
        )
        return Outcome()
    except Stopped:
        return Outcome(reclaimed=True)
    except LeaseLost:
        raise  # this process stood still for too long; a new one takes the runs again
    except UserError as error:
        return Outcome(str(error))
    except Exception as problem:
        return Outcome(traceback.format_exc(), too_large=_is_of_memory(problem))
    finally:
        notice.close()
        evaluator.close()


def _is_of_memory(problem: Exception) -> bool:
    """Whether memory ran out. If another process holds a GPU's memory, the message depends on the library."""
    return isinstance(problem, MemoryError) or (
        isinstance(problem, RuntimeError) and any(word in str(problem) for word in ("out of memory", "ALLOC_FAILED"))
    )


def _progress_callback(number: int, board: Any, every: float = 1.0) -> Callable[["Progress"], None]:
    """Return a callback that sends progress to the board, at most once in `every` seconds between events. It does not
    wait for a reply, so training continues without a board."""
    last = 0.0

    def tell(progress: "Progress") -> None:
        nonlocal last
        now = time.monotonic()
        if progress.event == "log" and now - last < every and progress.step < progress.steps:
            return
        last = now
        success = list(progress.success.values())
        board.update.remote(
            number,
            state="training" if progress.step < progress.steps else "evaluating",
            step=progress.step,
            steps=progress.steps,
            rate=progress.steps_per_second,
            eta=progress.eta_seconds,
            success=sum(success) / len(success) if success else None,
        )

    return tell


# --- the board ---


@ray.remote(num_cpus=0, resources={HEAD: 0.001}, max_restarts=-1)
class ProgressBoard:
    """The latest progress of every pack. Losing it affects the console only."""

    def __init__(self) -> None:
        self.news: dict[int, dict[str, Any]] = {}

    def update(self, number: int, **news: Any) -> None:
        self.news.setdefault(number, {}).update(news)

    def read(self) -> dict[int, dict[str, Any]]:
        return self.news

    def start(self, number: int) -> None:
        """A worker of the pack was started."""
        news = self.news.setdefault(number, {"starts": 0})
        news.update(state="starting", starts=news.get("starts", 0) + 1)
