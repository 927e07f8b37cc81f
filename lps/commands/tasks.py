"""List the tasks with their observation, action, step limit and metric."""

from __future__ import annotations

import argparse

HELP = "list the tasks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--suite", help="name or import path of a suite, for example my_package.my_suite")


def run(arguments: argparse.Namespace) -> int:
    from lps.spaces import describe
    from lps.tasks.suites import all_tasks, tasks_of

    for task in (tasks_of(arguments.suite) if arguments.suite else all_tasks()).values():
        shapes = f"{describe(task.observation)}, action {task.action}"
        print(f"{task.name:48s} {shapes}, {task.max_episode_steps} steps, {task.metric}")
    return 0
