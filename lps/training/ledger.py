"""The ledger of a pack: evaluations, metrics and documents for the result store, and progress for a callback.

Training may be killed at any moment. Three rules make a repetition write the same rows again: a checkpoint at step c is
written only if every evaluation before c is in the store; the metrics up to c are written before; every file is named
by its run and step.
"""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from lps.evaluation.evaluators import Evaluator
from lps.policy.policy import Policy
from lps.runs.checkpoint import checkpoint_path
from lps.runs.provenance import versions
from lps.runs.record import RunRecord, Status
from lps.runs.run import Run
from lps.runs.scores import mean_score
from lps.runs.store import Store
from lps.training.options import TrainOptions
from lps.training.packs import Member


@dataclass
class Progress:
    """The argument of a callback. `metrics` and `success` are by run id and hold the latest known values."""

    event: str
    """'start', 'log', 'eval', 'checkpoint', 'done' or 'failed'."""
    step: int
    steps: int
    steps_per_second: float
    eta_seconds: float
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    success: dict[str, float] = field(default_factory=dict)


Callback = Callable[[Progress], None]


class Ledger:
    """Records the training of one pack.

    Args:
        members: the pack; all members stand at the same step.
        options: with the device's real name, "cpu" or "cuda".
        sweep: name of the sweep that the runs belong to; "" keeps the stored name.

    Attributes:
        step: number of updates made; the trainer sets it.
        fingerprint: SHA-256 of the dataset; the trainer sets it.
    """

    def __init__(
        self,
        members: Sequence[Member],
        store: Store,
        options: TrainOptions,
        sweep: str,
        evaluator: Evaluator,
        callback: Callback | None,
    ):
        self.members, self.store, self.options, self.sweep = members, store, options, sweep
        self.evaluator, self.callback = evaluator, callback
        checkpoint = members[0].checkpoint
        self.step = self.start = checkpoint.step if checkpoint else 0
        self.fingerprint = ""
        self._failed: set[str] = set()
        self._metrics: dict[str, dict[str, float]] = {}
        self._success: dict[str, float] = {}
        self._rows: list[dict[str, Any]] = []
        self._flushed = self.start
        self._waiting: set[tuple[str, int]] = set()
        self._began = time.monotonic()
        self._evaluation_s = 0.0
        self._previous = {member.run.id: store.record(member.run) for member in members}

    def alive(self) -> list[Member]:
        """Return the members that have not failed."""
        return [member for member in self.members if member.run.id not in self._failed]

    # --- evaluations -------------------------------------------------------------------------------------------------

    def unevaluated(self) -> list[Member]:
        """Return the living members with an environment whose evaluation at this step is not in the store."""
        return [
            member
            for member in self.alive()
            if member.task.metric != "none" and self.step not in self.store.episode_steps(member.run.id)
        ]

    def submit(self, member: Member, policy: Policy) -> None:
        """Give the member's policy at this step to the evaluator."""
        self._waiting.add((member.run.id, self.step))
        self.evaluator.submit(policy, member.run, self.step)

    def collect(self, wait: bool = False) -> None:
        """Store the finished evaluations; with `wait`, wait for all of them."""
        with self.timed_evaluation():
            for run, step, episodes in self.evaluator.poll(wait):
                self.store.write_episodes(run.id, step, episodes)
                self._waiting.discard((run.id, step))
                self._success[run.id] = mean_score(episodes, run.resolved_task)
                self.report("eval")

    def may_checkpoint(self) -> bool:
        """Whether every evaluation before this step is in the store. A resume repeats the evaluation at this step."""
        return all(step == self.step for _, step in self._waiting)

    @contextmanager
    def timed_evaluation(self) -> Iterator[None]:
        """Count the seconds in which evaluation keeps the learner from its updates."""
        start = time.monotonic()
        yield
        self._evaluation_s += time.monotonic() - start

    # --- metrics -----------------------------------------------------------------------------------------------------

    def log(self, info: dict[str, torch.Tensor]) -> None:
        """Record the metrics of this update; fail the members that have diverged. `info`: (slots,) for each name."""
        for member, metrics in self._add(info):
            run_id = member.run.id
            self._metrics[run_id] = metrics
            broken = [name for name, value in self._metrics[run_id].items() if not math.isfinite(value)]
            if broken:
                self.flush()
                self.fail([member], f"diverged: {', '.join(broken)} not finite at step {self.step} (checked every "
                                    f"{self.options.log_interval} steps)")  # fmt: skip
        self.report("log")

    def record(self, checks: dict[str, torch.Tensor]) -> None:
        """Record the held-out checks of this step, (slots,) for each name."""
        for member, metrics in self._add(checks):
            self._metrics[member.run.id] = {**self._metrics.get(member.run.id, {}), **metrics}
        self.report("eval")

    def _add(self, info: dict[str, torch.Tensor]) -> list[tuple[Member, dict[str, float]]]:
        """Add the metrics of this step to the rows; return them by member."""
        values = torch.stack([value.double() for value in info.values()]).T.tolist()
        found = [(member, dict(zip(info, values[member.slot], strict=True))) for member in self.alive()]
        self._rows += [
            {"run_id": member.run.id, "step": self.step, "metric": name, "value": value}
            for member, metrics in found
            for name, value in metrics.items()
        ]
        return found

    def flush(self) -> None:
        """Write the metrics recorded since the last flush."""
        for member in self.members:
            rows = [row for row in self._rows if row["run_id"] == member.run.id]
            if rows:
                self.store.write_metrics(member.run.id, self._flushed + 1, rows)
        self._rows, self._flushed = [], self.step

    def report(self, event: str) -> None:
        """Call the callback."""
        if self.callback:
            seconds = time.monotonic() - self._began
            rate = (self.step - self.start) / seconds if seconds > 0 else 0.0
            steps = self.members[0].run.steps
            eta = (steps - self.step) / rate if rate else math.inf
            self.callback(Progress(event, self.step, steps, rate, eta, dict(self._metrics), dict(self._success)))

    # --- documents ---------------------------------------------------------------------------------------------------

    def statuses(self) -> dict[str, str]:
        """Return "done" or "failed" for each run by id, after the last step."""
        return {member.run.id: "failed" if member.run.id in self._failed else "done" for member in self.members}

    def fail(self, members: Iterable[Member], reason: str) -> None:
        """Mark members as failed, unless they have failed already."""
        for member in members:
            if member.run.id not in self._failed:
                self._failed.add(member.run.id)
                self.write_document(member.run, Status.FAILED, reason)
        self.report("failed")

    def write_document(self, run: Run, status: Status, error: str | None = None) -> None:
        """Write a run's document as of this step."""
        before = self._previous[run.id]
        record = before.update(
            status,
            error=error,
            step=self.step,
            sweep=self.sweep or before.sweep,
            versions=versions(),
            host=platform.node(),
            precision=self._precisions(before),
            device=torch.cuda.get_device_name() if self.options.device == "cuda" else "cpu",
            wall_time_s=before.wall_time_s + time.monotonic() - self._began,
            evaluation_s=before.evaluation_s + self._evaluation_s,
            dataset_fingerprint=self.fingerprint or before.dataset_fingerprint,
            checkpoint=checkpoint_path(run),
        )
        self.store.write_run(record)

    def _precisions(self, before: RunRecord) -> str:
        """The precisions of the run's training in their order: a run may resume in another precision."""
        earlier = before.precision.split(", ") if self.start else []
        return ", ".join(dict.fromkeys([*earlier, self.options.precision]))
