"""One pack on the cluster: the Tune trial `run_pack` starts a Ray Train worker, which calls `lps.training.trainer`.

If the worker's process or machine dies, Ray Train restarts the worker, and the trainer resumes from its checkpoint in
the results store. Packs report their progress to the `ProgressBoard`, a small actor that the console reads.
"""

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import ray

from lps.errors import UserError
from lps.runs.run import Run
from lps.runs.store import Store
from sweeps.launcher.connection import HEAD, apply_environment
from sweeps.launcher.placement import PlacementGroupTracker, release
from sweeps.launcher.plan import mark_failed
from sweeps.launcher.resources import PackResources

if TYPE_CHECKING:
    from lps.training.ledger import Progress
    from sweeps.launcher.plan import Plan

ON_HEAD = {HEAD: 0.001}
"""Resources that place an actor on the head node without a CPU."""
PATIENCE = 2
"""Restarts of the worker of several runs before the pack is halved. A single run has the plan's `max_failures`."""


# --- the Tune trial: on the head node ---


class PackTooLarge(Exception):
    """A worker died repeatedly or ran out of memory. A smaller pack may succeed."""


def run_pack(
    number: int, runs: Sequence[Run], plan: "Plan", share: PackResources, board: Any, scratch: str
) -> dict[str, Any]:
    """Train a pack to its end. Runs that cannot be trained are marked as failed.

    A pack whose worker dies repeatedly continues as two halves, one after the other. The usual reason is memory, and
    this isolates the run that fails. `scratch` is a folder for the files of Ray Train.
    """
    apply_environment()  # this process may be on another machine than the one that launched the sweep
    store, parts, failed = Store(plan.results, create=False), [list(runs)], False
    while parts:
        part = parts.pop(0)
        try:
            error = _run_worker(number, part, plan, share, board, scratch)
        except PackTooLarge as death:
            if len(part) > 1:
                middle = len(part) // 2
                parts[:0] = [part[:middle], part[middle:]]
                continue
            error = str(death)
        if error:
            failed = True
            mark_failed(store, part, plan.sweep, error)
    board.update.remote(number, state="failed" if failed else "done")
    return {"failed": failed}


def _run_worker(
    number: int, runs: Sequence[Run], plan: "Plan", share: PackResources, board: Any, scratch: str
) -> str | None:
    """Train the runs in a worker. Return the traceback if the training failed, else None. Raises PackTooLarge."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    release(scratch, number)
    resources = {"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})}
    trainer = TorchTrainer(
        train_on_worker,
        train_loop_config={"number": number, "runs": list(runs), "plan": plan, "share": share, "board": board},
        torch_config=TorchConfig(backend="gloo"),  # one worker exchanges nothing, and gloo is always available
        scaling_config=ScalingConfig(num_workers=1, use_gpu=bool(share.gpus), resources_per_worker=resources),
        run_config=RunConfig(
            name=f"pack-{number}",
            storage_path=f"{scratch}/{runs[0].id}-{len(runs)}",
            # A worker without a machine asks again every ten minutes (connection.ENVIRONMENT) for up to a day, because
            # spot machines can be unavailable for a night. Reclaimed machines are not counted.
            failure_config=FailureConfig(
                max_failures=plan.max_failures if len(runs) == 1 else min(PATIENCE, plan.max_failures),
                controller_failure_limit=144,
            ),
            callbacks=[PlacementGroupTracker(number, board, scratch)],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        error, memory = trainer.fit().return_value
    except Exception:
        trace = traceback.format_exc()
        reason = "too often"
        if "low on memory" in trace:  # Ray's words
            reason = "because it ran out of memory. Use a smaller batch or network, or a machine with more memory"
        raise PackTooLarge(f"{trace}\nThe worker of this pack died {reason} (see above)") from None
    finally:
        release(scratch, number)
    if memory:
        raise PackTooLarge(error)
    return error


# --- the Ray Train worker: wherever there is room ---


def train_on_worker(config: dict[str, Any]) -> tuple[str | None, bool]:
    """Train the runs of a pack. Return the traceback if the training failed, and whether it ran out of memory.

    Exceptions are returned, because Ray Train would restart the worker and meet the same exception. Only a dead
    process is worth a restart.
    """
    import torch

    from lps.training.trainer import train
    from sweeps.launcher.evaluator import RayEvaluator
    from sweeps.study.halving import continue_from_rungs

    runs, plan, share = config["runs"], config["plan"], config["share"]
    torch.set_num_threads(max(1, round(share.cpus)))
    evaluator = RayEvaluator(share.eval_cpus, share.eval_tasks, len(runs))
    try:
        store = Store(plan.results, create=False)  # every machine must see it
        if plan.rung:
            continue_from_rungs(runs, plan.rung, store)
        train(
            runs,
            store,
            replace(
                plan.options, device=share.device, device_share=min(1.0, share.gpus) if share.device == "cuda" else 1.0
            ),
            sweep=plan.sweep,
            evaluator=evaluator,
            callback=_progress_callback(config["number"], config["board"]),
        )
        return None, False
    except UserError as error:
        return str(error), False
    except Exception as problem:
        return traceback.format_exc(), _is_of_memory(problem)
    finally:
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


@ray.remote(num_cpus=0, resources=ON_HEAD, max_restarts=-1)
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
