"""Options and checks of the commands that load a policy."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lps.errors import UserError, at_least

if TYPE_CHECKING:
    import numpy as np

    from lps.policy.client import Client
    from lps.policy.policy import Policy
    from lps.tasks.task import Task


class ServedPolicy:
    """The policy behind a server, as evaluation runs it (lps.evaluation.rollout.ChunkPolicy).

    Attributes:
        run, step, observation, action_dim, noise_dim, frame_stack: as of lps.policy.policy.Policy.
    Raises:
        UserError: for a server that does not say which run its policy is of.
    """

    def __init__(self, client: Client):
        from lps.runs.run import Run
        from lps.spaces import Space

        about, self.client = client.metadata, client
        try:
            self.run, self.step, self.action_dim = Run.from_dict(about["settings"]), about["step"], about["action_dim"]
            self.observation = {
                name: Space(tuple(shape), dtype) for name, (shape, dtype) in about["observation"].items()
            }
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{client.url} serves no policy of lps: {error!r}. Use the address of lps serve") from None
        self.noise_dim, self.frame_stack = client.noise_dim, int(about.get("frame_stack", 1))
        self._reset = False

    def begin(self) -> None:
        """Tell the server with the next request that an episode begins: its recordings are files of one episode."""
        self._reset = True

    def act_batch(self, observations: Mapping[str, np.ndarray], noise: np.ndarray | None) -> np.ndarray:
        reset, self._reset = self._reset, False
        return self.client.act_batch(observations, noise, reset)


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="path or URI of a checkpoint")
    parser.add_argument("--seed", type=at_least(0), help="evaluation seed (default: the seed of the run)")
    parser.add_argument("--task", help="another task with the same observations and actions (default: the run's task)")


def task_of(policy: Policy | ServedPolicy, name: str | None) -> Task:
    """Return the task `name`, or the task that the policy was trained on. UserError if its sizes do not fit."""
    from lps.spaces import describe, stacked
    from lps.tasks.suites import get_task

    task = get_task(name or policy.run.task, policy.run.options if name is None else None)
    if stacked(task.observation, policy.frame_stack) != policy.observation:
        raise UserError(
            f"--task {task.name} has the observation {describe(task.observation)}; the policy was trained on "
            f"{policy.run.task} with {describe(policy.observation)}. Choose a task of the same group"
        )
    if task.action.shape != (policy.action_dim,):
        raise UserError(
            f"--task {task.name} has actions {task.action.shape}; those of the policy are ({policy.action_dim},). "
            "Choose a task of the same group"
        )
    return task


def checkpoints_of(paths: Sequence[str]) -> list[str]:
    """Return paths or URIs of checkpoints.  A results folder stands for those of its finished runs, in the order of its
    sweeps.  UserError for a results folder without a finished run."""
    from lps.runs.checkpoint import checkpoint_path
    from lps.runs.run import Run
    from lps.runs.store import Store

    found = []
    for path in paths:
        if path.endswith((".pt", ".safetensors")) or Path(path).is_file():
            found.append(path)
            continue
        store = Store(path, create=False)
        plan = [run_id for sweep in store.sweeps() for run_id in sweep["runs"]]
        order = {run_id: place for place, run_id in enumerate(plan)}
        done = [Run.from_dict(document["run"]) for document in store.runs() if document["status"] == "done"]
        if not done:
            raise UserError(f"{store.path} has no finished run. Train first, or give a checkpoint")
        done.sort(key=lambda run: (order.get(run.id, len(order)), run.agent, run.seed))
        found += [f"{store.path}/{checkpoint_path(run)}" for run in done]
    return found
