"""Collect a play dataset with OGBench's scripted oracles. The same command again resumes."""

from __future__ import annotations

import argparse
import os

from lps.errors import UserError, at_least

HELP = "collect a play dataset with OGBench's oracles"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="dataset of OGBench to imitate, such as cube-single-play")
    parser.add_argument(
        "--episodes",
        type=at_least(1),
        default=1000,
        help="number of episodes of 1001 observations (default: 1000); validation gets 10 %% more",
    )
    parser.add_argument(
        "--workers", type=at_least(1), default=os.cpu_count() or 1, help="number of processes (default: all CPUs)"
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--noise", type=at_least(0.0), default=0.1, help="noise of the oracles' plans (default: OGBench's 0.1)"
    )
    parser.add_argument("--name", help="name of the dataset, for train --dataset (default: DATASET-EPISODES)")
    parser.add_argument("--data-dir", help="directory of the datasets (default: $LPS_DATA_DIR or ~/.ogbench/data)")


def run(arguments: argparse.Namespace) -> int:
    from lps.data.names import default_name, plain_name, published
    from lps.tasks.ogbench_collect import collect

    if arguments.name is not None and published(plain_name(arguments.name, "--name")):
        raise UserError(
            f"--name {arguments.name} is reserved for OGBench's dataset. Omit --name or choose another, such as "
            f"{default_name(arguments.dataset, arguments.episodes)}"
        )
    path = collect(
        arguments.dataset,
        episodes=arguments.episodes,
        workers=arguments.workers,
        seed=arguments.seed,
        name=arguments.name,
        data_dir=arguments.data_dir,
        noise=arguments.noise,
    )
    print(f"dataset: {path}\nto train on it: --dataset {path.stem}")
    return 0
