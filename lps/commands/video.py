"""Film the policy of a checkpoint, one episode after the other, as an MP4 file."""

from __future__ import annotations

import argparse

from lps.commands.policies import add_policy_arguments, task_of
from lps.errors import at_least
from lps.files import local_path

HELP = "film the policy of a checkpoint"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_policy_arguments(parser)
    parser.add_argument("output", metavar="FILE.mp4", help="video file to write")
    parser.add_argument("--episodes", type=at_least(1, 1000), default=1, help="number of episodes (default: 1)")


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from lps.evaluation.video import record
    from lps.policy.file import load_policy

    policy = load_policy(arguments.checkpoint)
    task = task_of(policy, arguments.task)
    with tqdm(unit="frame", desc="filming") as bar:

        def progress(frames: int) -> None:
            bar.update(frames - bar.n)

        episodes = record(
            policy,
            task,
            arguments.output,
            seed=policy.run.seed if arguments.seed is None else arguments.seed,
            step=policy.step,
            episodes=arguments.episodes,
            progress=progress,
        )
    for row in episodes:
        print(f"episode {row.episode}: {'success' if row.success else 'no success'} after {row.length} steps")
    print(f"wrote {local_path(arguments.output).resolve()}")
    return 0
