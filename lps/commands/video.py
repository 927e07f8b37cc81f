"""Film policies: one checkpoint, or several side by side, as an MP4 or GIF file."""

from __future__ import annotations

import argparse

from lps.errors import at_least
from lps.files import local_path

HELP = "film policies, side by side"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoint, or results folder: all its finished runs"
    )
    parser.add_argument("output", metavar="FILE", help="video file to write, .mp4 or .gif")
    parser.add_argument("--episodes", type=at_least(1, 1000), default=1, help="episodes per policy (default: 1)")
    parser.add_argument("--seed", type=at_least(0), help="evaluation seed (default: the seed of each run)")
    parser.add_argument("--task", help="another task with the same observations and actions (default: the run's task)")


def run(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from lps.commands.policies import checkpoints_of, task_of
    from lps.evaluation.video import Actor, record
    from lps.policy.file import load_policy

    policies = [load_policy(path) for path in checkpoints_of(arguments.checkpoints)]
    task = task_of(policies[0], arguments.task)
    for policy in policies[1:]:
        task_of(policy, task.name)
    actors = [
        Actor(policy, policy.run.seed if arguments.seed is None else arguments.seed, policy.step) for policy in policies
    ]
    longest, count = task.max_episode_steps + 1, len(actors) * arguments.episodes
    with tqdm(total=(count + 1) * longest, unit="frame", desc="filming") as bar:

        def progress(episodes: int, frames: int) -> None:
            part = f"episode {episodes + 1} of {count}" if episodes < count else "writing the file"
            bar.set_postfix_str(part, refresh=False)
            bar.update(episodes * longest + frames - bar.n)

        films = record(actors, task, arguments.output, episodes=arguments.episodes, progress=progress)
    for policy, episodes in zip(policies, films, strict=True):
        for row in episodes:
            end = "success" if row.success else "no success"
            print(f"{policy.run.agent} seed {policy.run.seed} episode {row.episode}: {end} after {row.length} steps")
    print(f"wrote {local_path(arguments.output).resolve()}")
    return 0
