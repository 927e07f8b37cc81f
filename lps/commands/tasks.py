"""List the tasks with their observation size, step limit and reward."""

from __future__ import annotations

import argparse

HELP = "list the tasks"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    pass


def run(arguments: argparse.Namespace) -> int:
    from lps.tasks.table import TASKS

    for task in TASKS.values():
        reward = {"none": "dense"}.get(task.reward, task.reward)  # 'none' is the transform: the environment's own
        print(f"{task.name:44s} obs {task.observation_dim:3d}  steps {task.max_episode_steps:4d}  reward {reward}")
    return 0
