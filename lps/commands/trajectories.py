"""Write the trajectories of policies in a maze, and their critics' values, for `python -m analysis maze`."""

from __future__ import annotations

import argparse

from lps.errors import at_least

HELP = "write trajectories in a maze, the data of a picture"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoints", nargs="+", metavar="CHECKPOINT", help="checkpoint, or results folder: all its finished runs"
    )
    parser.add_argument("output", metavar="FILE.npz", help="file to write")
    parser.add_argument("--episodes", type=at_least(1), default=10, help="episodes per policy (default: 10)")


def run(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from tqdm import tqdm

    from lps.commands.policies import checkpoints_of
    from lps.evaluation.trajectories import write_trajectories
    from lps.files import read_file
    from lps.policy.file import policy_of
    from lps.runs.checkpoint import Checkpoint

    paths = checkpoints_of(arguments.checkpoints)
    checkpoints = [Checkpoint.from_bytes(read_file(path), path) for path in paths]
    with tqdm(total=len(paths) * arguments.episodes, unit="episode", desc="trajectories") as bar:
        episodes = write_trajectories(
            [(policy_of(checkpoint), checkpoint) for checkpoint in checkpoints],
            arguments.output,
            episodes=arguments.episodes,
            progress=lambda _: bar.update(),
        )
    for checkpoint, rows in zip(checkpoints, episodes, strict=True):
        successes = sum(bool(row.success) for row in rows)
        print(f"{checkpoint.run.agent} seed {checkpoint.run.seed}: {successes} of {len(rows)} episodes succeed")
    print(f"wrote {Path(arguments.output).expanduser().resolve()}")
    return 0
