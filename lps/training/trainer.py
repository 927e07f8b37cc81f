"""The training loop: a pack of runs, from the dataset to rows in the result store.

`train` is a plain function.  The command line, the tests and a sweep's worker all call it; progress leaves through a
callback, evaluation through an Evaluator, so that both can be put elsewhere without this file knowing.

What makes it safe to kill at any moment: a checkpoint at step c is written only when every evaluation before c is in
the store, the metrics up to c are flushed first, and every file is named by its run and step, so that repeating what
was cut off writes the same rows again.
"""

from __future__ import annotations

import functools
import logging
import math
import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import torch

from lps.agents import AGENTS
from lps.data.batches import Batches
from lps.errors import UserError
from lps.evaluation.evaluators import Evaluator, InlineEvaluator
from lps.policy.policy import Policy
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.provenance import versions
from lps.runs.run import Run
from lps.runs.scores import mean_score
from lps.runs.store import Store
from lps.tasks.suites import load_dataset
from lps.training.memory import members_that_fit
from lps.training.packs import resumable_packs, shared_members
from lps.training.program import Program, check_precision, chosen_device


@dataclass
class Progress:
    """What a callback is told; `metrics` and `success` are by run id and hold the latest known values."""

    event: str
    """'start', 'log', 'eval', 'checkpoint', 'done' or 'failed'."""
    step: int
    steps: int
    steps_per_second: float
    eta_seconds: float
    metrics: dict[str, dict[str, float]] = field(default_factory=dict)
    success: dict[str, float] = field(default_factory=dict)


log = logging.getLogger(__name__)
Callback = Callable[[Progress], None]


def train(
    runs: Sequence[Run],
    store: Store,
    *,
    sweep: str = "",
    data_dir: str | None = None,
    device: str = "auto",
    evaluator: Evaluator | None = None,
    callback: Callback | None = None,
    checkpoint_seconds: float = 120.0,
    log_interval: int = 1000,
    compiled: bool = False,
    precision: str = "float32",
    device_share: float = 1.0,
) -> dict[str, str]:
    """Train runs to their last step and evaluate them on the way; returns the status of each by run id.

    Finished runs are skipped and unfinished ones go on from their checkpoint, so calling it again resumes.  A member
    whose loss is no longer finite is marked failed and reported no more; the others are not touched by it.

    Args:
        runs: any runs; those that can train together do (lps.training.packs.pack), as many at once as the device has
        room for. store: where everything goes. sweep: name of the study the runs belong to, stored with them. data_dir:
        where datasets are; see lps.data. device: "cpu", "cuda" or "auto" (cuda where there is one). evaluator: who
        evaluates; in this process if None. callback: called with a Progress at every log line, evaluation, checkpoint
        and end. checkpoint_seconds: at most this much training is lost in a crash. log_interval: updates between logged
        metrics. compiled: let torch compile the update (lps.training.program); slow to start, faster to run. precision:
        of the updates (lps.training.program); "float32" is the reference.  No part of a run's id, as the device is
            none, but noted in its document: a finished run is finished, in whatever precision.
        device_share: the part of a GPU's memory that this training may take, where others train on it too.
    Raises:
        UserError: for what the caller can mend, such as a device that is not there.  Any other exception marks the
        unfinished runs as failed, with its traceback, and is raised again.
    """
    device = chosen_device(device)
    check_precision(precision, torch.device(device).type)
    status = {run.id: "done" for run in runs}
    unfinished = [run for run in runs if not store.finished(run.id)]
    room = functools.partial(members_that_fit, device=device, precision=precision, device_share=device_share)
    for members in resumable_packs(unfinished, store, room):
        training = _Training(
            members,
            store,
            sweep,
            data_dir,
            device,
            evaluator or InlineEvaluator(),
            callback,
            log_interval,
            compiled,
            precision,
        )
        try:
            status |= training.run(checkpoint_seconds)
        except Exception as problem:
            training.fail(training.members, str(problem) if isinstance(problem, UserError) else traceback.format_exc())
            raise
    return status


class _Training:
    """One pack on its way from a common step to the end."""

    def __init__(
        self,
        members: Sequence[tuple[Run, Checkpoint | None]],
        store: Store,
        sweep: str,
        data_dir: str | None,
        device: str,
        evaluator: Evaluator,
        callback: Callback | None,
        log_interval: int,
        compiled: bool,
        precision: str,
    ):
        self.members = [run for run, _ in members]
        self.member = shared_members(self.members)
        self.checkpoints = [checkpoint for _, checkpoint in members]
        self.store, self.sweep, self.data_dir, self.device = store, sweep, data_dir, device
        self.evaluator, self.callback, self.log_interval = evaluator, callback, log_interval
        self.compiled, self.precision = compiled, precision
        self.steps = self.members[0].steps
        self.step = self.start = self.checkpoints[0].step if self.checkpoints[0] else 0
        self.fingerprint = ""
        self.failed: set[str] = set()
        self.metrics: dict[str, dict[str, float]] = {}
        self.success: dict[str, float] = {}
        self.rows: list[dict[str, Any]] = []
        self.flushed = self.start
        self.waiting: set[tuple[str, int]] = set()
        self.began = time.monotonic()
        self.evaluation_s = 0.0
        self.previous = {run.id: self.store.read_run(run.id) or {} for run in self.members}

    def run(self, checkpoint_seconds: float) -> dict[str, str]:
        runs = self.members
        for run in runs:
            self.write_document(run, "running")
        dataset = load_dataset(
            list({run.task: run.resolved_task for run in runs}.values()),
            dataset=runs[0].dataset,
            data_dir=self.data_dir,
        )
        self.fingerprint = dataset.fingerprint
        first: dict[int, Run] = {}
        for run in runs:
            first.setdefault(self.member[run.id], run)
        trained = list(first.values())
        configs, seeds = [run.config for run in trained], [run.seed for run in trained]
        self.scale = dataset.scale
        spaces = runs[0].resolved_task.observation
        self.agent = AGENTS[runs[0].agent](configs, seeds, spaces, dataset.actions.shape[1], self.device)
        for run, checkpoint in zip(runs, self.checkpoints, strict=True):
            if checkpoint:
                self.check_dataset(checkpoint, dataset.name)
                checkpoint.restore(self.agent, self.member[run.id])
            self.store.drop_metrics(run.id, self.start + 1)
        batches = Batches(
            dataset,
            [run.task for run in trained],
            [c.discount for c in configs],
            configs[0].horizon,
            self.device,
        )
        program = Program(self.agent, batches, seeds, self.compiled, self.precision)
        eval_steps = set(runs[0].eval_steps)

        self.report("start")
        if self.start in eval_steps:  # the checkpoint was written, but its evaluation may not have come back
            self.evaluate()
        saved = time.monotonic()
        while self.step < self.steps and self.alive():
            self.step += 1
            info = program.update(self.step)
            if self.step % self.log_interval == 0 or self.step == self.steps:
                self.log(info)
                self.collect()
            due = time.monotonic() - saved > checkpoint_seconds
            if self.step in eval_steps:
                if due:  # a learner faster than its evaluators would never see them done, nor keep a checkpoint
                    self.collect(wait=True)
                self.evaluate()
            if due and self.may_checkpoint() and self.step < self.steps:
                self.checkpoint()
                saved = time.monotonic()
        self.collect(wait=True)
        self.flush()
        for run in self.alive():
            self.checkpoint_member(run)
            self.write_document(run, "done")
        self.report("done" if self.alive() else "failed")
        return {run.id: "failed" if run.id in self.failed else "done" for run in runs}

    # --- evaluation ------------------------------------------------------------------------------------------------

    def evaluate(self) -> None:
        """Hand a snapshot of every living member to the evaluator, unless the store has the evaluation already."""
        with self.no_update():
            self.drop_diverged()
            for run in self.alive():
                if self.step not in self.store.episode_steps(run.id):
                    self.waiting.add((run.id, self.step))
                    policy = Policy.of_member(self.agent, self.member[run.id], run, self.step, self.scale)
                    self.evaluator.submit(policy, run, self.step)
        self.collect()

    def collect(self, wait: bool = False) -> None:
        """Store the evaluations that are ready (all of them if `wait`)."""
        with self.no_update():
            for run, step, episodes in self.evaluator.poll(wait):
                self.store.write_episodes(run.id, step, episodes)
                self.waiting.discard((run.id, step))
                self.success[run.id] = mean_score(episodes, run.resolved_task)
                self.report("eval")

    @contextmanager
    def no_update(self) -> Iterator[None]:
        """Counts the seconds in which evaluation keeps the learner from its updates."""
        start = time.monotonic()
        yield
        self.evaluation_s += time.monotonic() - start

    # --- metrics -----------------------------------------------------------------------------------------------------

    def log(self, info: dict[str, torch.Tensor]) -> None:
        """Take this update's metrics to the host; find members that have diverged."""
        values = torch.stack(list(info.values())).T.tolist()
        for run in self.alive():
            self.metrics[run.id] = dict(zip(info, values[self.member[run.id]], strict=True))
            self.rows += [
                {"run_id": run.id, "step": self.step, "metric": name, "value": value}
                for name, value in self.metrics[run.id].items()
            ]
            broken = [name for name, value in self.metrics[run.id].items() if not math.isfinite(value)]
            if broken:
                self.flush()
                self.fail([run], f"diverged: {', '.join(broken)} not finite at step {self.step} (checked every "
                                 f"{self.log_interval} steps)")  # fmt: skip
        self.report("log")

    def drop_diverged(self) -> None:
        """Fail the members whose parameters are not finite, before these are evaluated or kept.

        A loss tells of it too, but only at the next log line.
        """
        finite = torch.stack([p.isfinite().flatten(1).all(1) for p in self.agent.trained_tensors()]).all(0).tolist()
        for run in self.alive():
            if not finite[self.member[run.id]]:
                self.fail([run], f"diverged: parameters not finite at step {self.step}")

    def flush(self) -> None:
        """Write the metrics logged since the last flush."""
        for run in self.members:
            rows = [row for row in self.rows if row["run_id"] == run.id]
            if rows:
                self.store.write_metrics(run.id, self.flushed + 1, rows)
        self.rows, self.flushed = [], self.step

    def report(self, event: str) -> None:
        if self.callback:
            seconds = time.monotonic() - self.began
            rate = (self.step - self.start) / seconds if seconds > 0 else 0.0
            eta = (self.steps - self.step) / rate if rate else math.inf
            self.callback(Progress(event, self.step, self.steps, rate, eta, dict(self.metrics), dict(self.success)))

    # --- what is kept ------------------------------------------------------------------------------------------------

    def alive(self) -> list[Run]:
        return [run for run in self.members if run.id not in self.failed]

    def may_checkpoint(self) -> bool:
        """Whether every evaluation before this step is in the store (the one at this step is repeated on resume)."""
        return all(step == self.step for _, step in self.waiting)

    def checkpoint(self) -> None:
        self.drop_diverged()
        self.flush()
        for run in self.alive():
            self.checkpoint_member(run)
            self.write_document(run, "running")
        self.report("checkpoint")

    def checkpoint_member(self, run: Run) -> None:
        state = Checkpoint.of(self.agent, self.member[run.id], run, self.step, self.fingerprint, self.scale)
        self.store.write_bytes(checkpoint_path(run), state.to_bytes())

    def check_dataset(self, checkpoint: Checkpoint, name: str) -> None:
        if checkpoint.fingerprint != self.fingerprint:
            raise UserError(
                f"the dataset {name} is not the one that run {checkpoint.run.id} was trained on so far: its content "
                "has changed. Bring the old file back, or start in another results folder."
            )

    def fail(self, runs: Iterable[Run], reason: str) -> None:
        for run in runs:
            if run.id not in self.failed:
                self.failed.add(run.id)
                self.write_document(run, "failed", reason)
        self.report("failed")

    def precisions(self, before: dict[str, Any]) -> str:
        """All that the run was trained in, in order: it may go on in another one than it began in."""
        earlier = before.get("precision", "float32").split(", ") if self.start else []
        return ", ".join(dict.fromkeys([*earlier, self.precision]))

    def write_document(self, run: Run, status: str, error: str | None = None) -> None:
        now = datetime.now(UTC).isoformat(timespec="seconds")
        before = self.previous[run.id]
        document = {
            "id": run.id,
            "sweep": self.sweep or before.get("sweep", ""),
            "run": run.to_dict(),
            "status": status,
            "step": self.step,
            "versions": versions(),
            "host": platform.node(),
            "precision": self.precisions(before),
            "device": torch.cuda.get_device_name() if self.device.startswith("cuda") else "cpu",
            "started": before.get("started", now),
            "updated": now,
            "wall_time_s": before.get("wall_time_s", 0.0) + time.monotonic() - self.began,
            "evaluation_s": before.get("evaluation_s", 0.0) + self.evaluation_s,
            "dataset_fingerprint": self.fingerprint or before.get("dataset_fingerprint", ""),
            "error": error,
            "checkpoint": checkpoint_path(run),
        }
        before.setdefault("started", now)
        self.store.write_run(document)
