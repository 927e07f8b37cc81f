"""Options and checks of the commands that load a policy."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from lps.errors import UserError, at_least

if TYPE_CHECKING:
    from lps.policy.policy import Policy
    from lps.tasks.table import Task


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="path or URI of a checkpoint")
    parser.add_argument("--seed", type=at_least(0), help="evaluation seed (default: the seed of the run)")
    parser.add_argument("--task", help="another task with the same observations and actions (default: the run's task)")


def task_of(policy: Policy, name: str | None) -> Task:
    """Return the task `name`, or the task that the policy was trained on. UserError if its sizes do not fit."""
    from lps.tasks.table import get_task

    task = get_task(name or policy.run.task)
    if task.observation_dim != policy.observation_dim:
        raise UserError(
            f"--task {task.name} has observations of {task.observation_dim} numbers; the policy was trained on "
            f"{policy.run.task} with {policy.observation_dim}. Choose a task of the same group"
        )
    return task
