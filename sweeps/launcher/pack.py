"""One pack on the cluster: `drive` is a Tune trial that has a Ray Train worker do `work`, which is
`lps.training.trainer`.

Ray Train brings the worker back where its process or its machine dies, and `lps.training.trainer` goes on from its
checkpoint in the results store. What the packs have to say on the way goes to the `Board`, a small actor that the
console reads.
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
from sweeps.launcher.placement import _Hold, release
from sweeps.launcher.plan import mark_failed
from sweeps.launcher.resources import Share

if TYPE_CHECKING:
    from lps.training.ledger import Progress
    from sweeps.launcher.plan import Plan

ON_HEAD = {HEAD: 0.001}
"""Books a place on the head node and no CPU."""
PATIENCE = 2
"""How often the worker of several runs that died is brought back before these are halved; of one run, it is the
plan's `max_failures`."""


# --- the Tune trial: on the head node ---


class TooLarge(Exception):
    """A worker died again and again, or ran out of memory: with fewer runs it may not."""


def drive(number: int, runs: Sequence[Run], plan: "Plan", share: Share, board: Any, scratch: str) -> dict[str, Any]:
    """Trains a pack to its end, whatever happens to its workers; what cannot be trained is marked as failed.

    A pack that does not live goes on as two halves, one after the other: more often than not it was memory, and the
    run that is to blame then fails alone. `scratch` is a folder for what Ray Train writes.
    """
    apply_environment()  # this process may be on another machine than the one that launched the sweep
    store, parts, failed = Store(plan.results, create=False), [list(runs)], False
    while parts:
        part = parts.pop(0)
        try:
            error = _fit(number, part, plan, share, board, scratch)
        except TooLarge as death:
            if len(part) > 1:
                middle = len(part) // 2
                parts[:0] = [part[:middle], part[middle:]]
                continue
            error = str(death)
        if error:
            failed = True
            mark_failed(store, part, plan.sweep, error)
    board.say.remote(number, state="failed" if failed else "done")
    return {"failed": failed}


def _fit(number: int, runs: Sequence[Run], plan: "Plan", share: Share, board: Any, scratch: str) -> str | None:
    """Has a worker train the runs; returns the traceback where that failed. Raises TooLarge."""
    from ray.train import FailureConfig, LoggingConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    release(scratch, number)
    resources = {"CPU": share.cpus, **({"GPU": share.gpus} if share.gpus else {})}
    trainer = TorchTrainer(
        work,
        train_loop_config={"number": number, "runs": list(runs), "plan": plan, "share": share, "board": board},
        torch_config=TorchConfig(backend="gloo"),  # one worker: nothing to exchange, and it exists everywhere
        scaling_config=ScalingConfig(num_workers=1, use_gpu=bool(share.gpus), resources_per_worker=resources),
        run_config=RunConfig(
            name=f"pack-{number}",
            storage_path=f"{scratch}/{runs[0].id}-{len(runs)}",
            # A worker that finds no place asks again every ten minutes (cluster.ENVIRONMENT) for up to a day: there
            # may be no machine to be had for a night. Machines that are taken away are not counted at all.
            failure_config=FailureConfig(
                max_failures=plan.max_failures if len(runs) == 1 else min(PATIENCE, plan.max_failures),
                controller_failure_limit=144,
            ),
            callbacks=[_Hold(number, board, scratch)],
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        error, memory = trainer.fit().return_value
    except Exception:
        trace = traceback.format_exc()
        reason = "more often than it is brought back"
        if "low on memory" in trace:  # Ray's words
            reason = "for want of memory: a smaller batch or network may fit, or a machine with more"
        raise TooLarge(f"{trace}\nThe worker of this pack died, {reason} (see above)") from None
    finally:
        release(scratch, number)
    if memory:
        raise TooLarge(error)
    return error


# --- the Ray Train worker: wherever there is room ---


def work(config: dict[str, Any]) -> tuple[str | None, bool]:
    """Trains the runs of a pack; returns the traceback where that failed, and whether for want of memory.

    Returned and not raised, for Ray Train would start the worker again to meet the same exception. Only a death of
    the process is worth another try.
    """
    import torch

    from lps.training.trainer import train
    from sweeps.launcher.evaluator import RayEvaluator

    runs, plan, share = config["runs"], config["plan"], config["share"]
    torch.set_num_threads(max(1, round(share.cpus)))
    evaluator = RayEvaluator(share.eval_cpus, share.eval_tasks, len(runs))
    try:
        train(
            runs,
            Store(plan.results, create=False),  # which every machine must see
            replace(
                plan.options, device=share.device, device_share=min(1.0, share.gpus) if share.device == "cuda" else 1.0
            ),
            sweep=plan.sweep,
            evaluator=evaluator,
            callback=_teller(config["number"], config["board"]),
        )
        return None, False
    except UserError as error:
        return str(error), False
    except Exception as problem:
        return traceback.format_exc(), _is_of_memory(problem)
    finally:
        evaluator.close()


def _is_of_memory(problem: Exception) -> bool:
    """Whether a smaller pack may do. Where a neighbour holds a GPU's memory, libraries fail in words of their own."""
    return isinstance(problem, MemoryError) or (
        isinstance(problem, RuntimeError) and any(word in str(problem) for word in ("out of memory", "ALLOC_FAILED"))
    )


def _teller(number: int, board: Any, every: float = 1.0) -> Callable[["Progress"], None]:
    """Tells the board about progress, at most once in `every` seconds unless something happened. It never waits for
    an answer: the board may be gone, and training goes on."""
    last = 0.0

    def tell(progress: "Progress") -> None:
        nonlocal last
        now = time.monotonic()
        if progress.event == "log" and now - last < every and progress.step < progress.steps:
            return
        last = now
        success = list(progress.success.values())
        board.say.remote(
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
class Board:
    """What every pack said last. If it is lost, no more than that is."""

    def __init__(self) -> None:
        self.news: dict[int, dict[str, Any]] = {}

    def say(self, number: int, **news: Any) -> None:
        self.news.setdefault(number, {}).update(news)

    def read(self) -> dict[int, dict[str, Any]]:
        return self.news

    def start(self, number: int) -> None:
        """A worker of the pack was started."""
        news = self.news.setdefault(number, {"starts": 0})
        news.update(state="starting", starts=news.get("starts", 0) + 1)
