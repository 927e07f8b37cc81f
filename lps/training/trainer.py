"""The training loop: a pack of runs, from the dataset to rows in the result store.

`train` is a plain function for the command line, tests and a sweep's worker. Progress leaves through a callback and
evaluation through an Evaluator, so that both can be placed elsewhere.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NoReturn

import torch

from lps.agents import AGENTS
from lps.agents.base import Agent
from lps.data.batches import Batches
from lps.data.episodes import Dataset
from lps.data.scale import ActionScale
from lps.errors import UserError
from lps.evaluation.evaluators import Evaluator, InlineEvaluator
from lps.evaluation.heldout import HeldOut
from lps.policy.policy import Policy
from lps.runs.checkpoint import Checkpoint, checkpoint_path
from lps.runs.intent import Planned, write_intent
from lps.runs.lease import Lease, LeaseLost
from lps.runs.record import Status
from lps.runs.run import Run
from lps.runs.store import Store
from lps.spaces import stacked
from lps.tasks.suites import load_dataset
from lps.training.ledger import Callback, Ledger
from lps.training.memory import check_fits, image_room, members_that_fit
from lps.training.options import TrainOptions
from lps.training.packs import Member, one_per_slot, pack, packs_to_train
from lps.training.program import Program, chosen_device

URGENT_SECONDS = 60.0
"""Seconds for which a training that must stop waits for its evaluations, so that it can store a checkpoint."""


class Stopped(Exception):
    """The training stopped because `stop` said so."""


def train(
    runs: Sequence[Run],
    store: Store,
    options: TrainOptions = TrainOptions(),
    *,
    sweep: str = "",
    evaluator: Evaluator | None = None,
    callback: Callback | None = None,
    stop: Callable[[], bool] | None = None,
    driver: str = "",
    if_busy: str = "wait",
    tell: Callable[[str], None] | None = None,
) -> dict[str, str]:
    """Train runs to their last step and evaluate them on the way; return "done", "failed" or "skipped" for each by run
    id.

    Finished runs are skipped and unfinished runs resume from their checkpoint, so the same call again resumes. A run
    whose loss or parameters are no longer finite is marked as failed; the other runs are not affected.

    Args:
        runs: any runs. Runs that can train together do (lps.training.packs), as many at once as fit the device.
        store: the results store.
        options: device, precision and intervals. Not part of a run's id; the run's document records the precision. A
            finished run is not trained again in another precision.
        sweep: name of the sweep that the runs belong to, stored with the runs. A sweep writes its intent
            (lps.runs.intent) by itself; without a sweep, this function does.
        evaluator: evaluates snapshots; in this process if None.
        callback: called with a Progress at every log line, evaluation, checkpoint and end.
        stop: called at every step; True stores a checkpoint and ends the training with Stopped.
        driver: owner of the lease under which a sweep's driver holds the runs.
        if_busy: "wait", "skip" or "stop", if another process trains some runs (lps.runs.lease.Lease.turns).
        tell: is called with sentences about such runs.
    Raises:
        Stopped: see `stop`. The runs stay unfinished.
        Busy, LeaseLost: another process trains some of the runs (lps.runs.lease).
        UserError: for a mistake of the caller, such as an unavailable device. Any other exception marks the unfinished
            runs as failed, with its traceback, and is raised again.
    """
    options = replace(options, device=chosen_device(options.device))
    if not sweep:
        write_intent(store, "train", list(map(Planned, runs)))
    left = {run.id: run for run in runs if not store.finished(run.id)}
    status: dict[str, str] = {}
    with Lease(store, driver) as lease:
        own = store.fenced(lease.check)
        for turn in lease.turns({key: run.title for key, run in left.items()}, if_busy, tell=tell):
            status |= _train([left[key] for key in turn], own, options, sweep, evaluator, callback, stop)
    others = {run.id: "done" if store.finished(run.id) else "skipped" for run in runs if run.id not in status}
    return status | others


def _train(
    runs: Sequence[Run],
    store: Store,
    options: TrainOptions,
    sweep: str,
    evaluator: Evaluator | None,
    callback: Callback | None,
    stop: Callable[[], bool] | None,
) -> dict[str, str]:
    """Train unfinished runs that this process holds. Arguments, result and errors as in `train`."""
    for same_shape in pack(runs):
        check_fits(same_shape[0], options.device)
    status: dict[str, str] = {}

    def room(run: Run) -> int | None:
        task = run.resolved_task
        images = load_dataset([task], dataset=run.dataset, data_dir=options.data_dir) if task.has_images else None
        size = images.image_bytes if images else 0
        return members_that_fit(run, options.device, options.precision, options.device_share, size)

    for members in packs_to_train(runs, store, room):
        ledger = Ledger(members, store, options, sweep, evaluator or InlineEvaluator(), callback)
        try:
            status |= Trainer(members, store, options, ledger, stop).fit()
        except (Stopped, LeaseLost):
            raise
        except Exception as problem:
            ledger.fail(members, str(problem) if isinstance(problem, UserError) else traceback.format_exc())
            raise
    return status


class Trainer:
    """Trains one pack from the step of its checkpoints to the last step."""

    agent: Agent
    scale: ActionScale
    checks: HeldOut | None = None
    """Checks on held-out episodes, where the dataset has them."""

    def __init__(
        self,
        members: Sequence[Member],
        store: Store,
        options: TrainOptions,
        ledger: Ledger,
        stop: Callable[[], bool] | None = None,
    ):
        self.members, self.store, self.options, self.ledger = members, store, options, ledger
        self.stop = stop
        self.trained = one_per_slot(members)
        self.run = members[0].run
        """Any run of the pack: agent, dataset, protocol and steps are the same for all."""
        self.eval_steps = set(self.run.eval_steps)

    def fit(self) -> dict[str, str]:
        """Train to the last step; return the status of each run by id."""
        for member in self.members:
            self.ledger.write_document(member.run, Status.RUNNING)
        dataset = self.load()
        self.agent = self.build(dataset)
        self.resume(dataset)
        program = self.program(dataset)
        self.ledger.report("start")
        # The evaluation at the checkpoint's step may not have come back; checks are stored before the checkpoint.
        if self.ledger.start in self.eval_steps:
            self.evaluate(check=False)
        self.loop(range(self.ledger.start + 1, self.run.steps + 1), program)
        return self.finish()

    # --- from runs to a program --------------------------------------------------------------------------------------

    def load(self) -> Dataset:
        dataset = load_dataset(
            list({member.run.task: member.task for member in self.members}.values()),
            dataset=self.run.dataset,
            data_dir=self.options.data_dir,
        )
        self.ledger.fingerprint, self.scale = dataset.fingerprint, dataset.scale
        return dataset

    def build(self, dataset: Dataset) -> Agent:
        configs, seeds = [member.config for member in self.trained], [member.seed for member in self.trained]
        spaces = stacked(self.members[0].task.observation, configs[0].frame_stack)
        action_dim = dataset.actions.shape[1]
        return AGENTS[self.run.agent](configs, seeds, spaces, action_dim, self.options.device)

    def resume(self, dataset: Dataset) -> None:
        """Restore the checkpoints. UserError if the dataset is not the one that a run was trained on."""
        for member in self.members:
            if member.checkpoint:
                if member.checkpoint.fingerprint != dataset.fingerprint:
                    raise UserError(
                        f"the content of dataset {dataset.name} has changed since run {member.run.id} was trained on "
                        "it; restore the old file, or use another results folder"
                    )
                member.checkpoint.restore(self.agent, member.slot)
            self.store.drop_metrics(member.run.id, self.ledger.start + 1)

    def program(self, dataset: Dataset) -> Program:
        seeds = [member.seed for member in self.trained]
        batches = self.batches(dataset)
        if dataset.held_out:
            discounts = [member.config.discount for member in self.trained]
            self.checks = HeldOut(dataset.held_out, self.batches(dataset.held_out), discounts)
        return Program(self.agent, batches, seeds, self.options.compile, self.options.precision)

    def batches(self, dataset: Dataset) -> Batches:
        configs = [member.config for member in self.trained]
        return Batches(
            dataset,
            [member.run.task for member in self.trained],
            [config.discount for config in configs],
            configs[0].horizon,
            self.options.device,
            frame_stack=configs[0].frame_stack,
            seeds=[member.seed for member in self.trained],
            room=image_room(self.options.device, self.options.device_share),
        )

    # --- updates -----------------------------------------------------------------------------------------------------

    def loop(self, steps: range, program: Program) -> None:
        """Make the updates `steps` of a program; log, evaluate and checkpoint on the way. A phase of training is one
        call: a program holds the agent and the source of its batches."""
        ledger, saved = self.ledger, time.monotonic()
        for step in steps:
            if not ledger.alive():
                return
            ledger.step = step
            info = program.update(step)
            if step % self.options.log_interval == 0 or step == self.run.steps:
                ledger.log(info)
                ledger.collect()
            due = time.monotonic() - saved > self.options.checkpoint_seconds
            if step in self.eval_steps:
                if due:  # a learner faster than its evaluators would never have all evaluations, nor a checkpoint
                    ledger.collect(wait=True)
                self.evaluate()
            if due and ledger.may_checkpoint() and step < self.run.steps:
                self.checkpoint()
                saved = time.monotonic()
            if self.stop and step < self.run.steps and self.stop():
                self.leave()

    def finish(self) -> dict[str, str]:
        """Wait for the evaluations and store the end of every run; return the status of each by id."""
        self.ledger.collect(wait=True)
        self.ledger.flush()
        for member in self.ledger.alive():
            self.save(member)
            self.ledger.write_document(member.run, Status.DONE)
        self.ledger.report("done" if self.ledger.alive() else "failed")
        return self.ledger.statuses()

    def evaluate(self, check: bool = True) -> None:
        """Submit a snapshot of every living member with an environment whose evaluation is not in the store.  With
        `check`, check the members on the held-out episodes, if there are any."""
        with self.ledger.timed_evaluation():
            self.drop_diverged()
            if self.checks and check:
                self.ledger.record(self.checks(self.agent))
            for member in self.ledger.unevaluated():
                policy = Policy.of_member(self.agent, member.slot, member.run, self.ledger.step, self.scale)
                self.ledger.submit(member, policy)
        self.ledger.collect()

    def checkpoint(self) -> None:
        """Store the state of every living member."""
        self.drop_diverged()
        self.ledger.flush()
        for member in self.ledger.alive():
            self.save(member)
            self.ledger.write_document(member.run, Status.RUNNING)
        self.ledger.report("checkpoint")

    def leave(self) -> NoReturn:
        """Store a checkpoint, if the evaluations come back in time, and raise Stopped."""
        deadline = time.monotonic() + URGENT_SECONDS
        while not self.ledger.may_checkpoint() and time.monotonic() < deadline:
            time.sleep(0.1)
            self.ledger.collect()
        if self.ledger.may_checkpoint():
            self.checkpoint()
        raise Stopped(f"stopped at step {self.ledger.step}")

    def save(self, member: Member) -> None:
        step, fingerprint = self.ledger.step, self.ledger.fingerprint
        state = Checkpoint.of(self.agent, member.slot, member.run, step, fingerprint, self.scale)
        self.store.write_bytes(checkpoint_path(member.run), state.to_bytes())

    def drop_diverged(self) -> None:
        """Fail the members whose parameters are not finite, before they are evaluated or stored. The losses show
        divergence too, but only at the next log line."""
        finite = torch.stack([p.isfinite().flatten(1).all(1) for p in self.agent.trained_tensors()]).all(0).tolist()
        for member in self.ledger.alive():
            if not finite[member.slot]:
                self.ledger.fail([member], f"diverged: parameters not finite at step {self.ledger.step}")
