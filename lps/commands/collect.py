"""Collect a dataset with the scripted oracles of a suite. The same command again resumes."""

from __future__ import annotations

import argparse
import os

from lps.errors import WORKERS, UserError, at_least

HELP = "collect a dataset with OGBench's oracles"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dataset", help="kind of dataset, such as cube-single-play or pointmaze-medium-navigate")
    parser.add_argument("--suite", default="ogbench", help="suite that collects it (default: ogbench)")
    parser.add_argument(
        "--episodes",
        type=at_least(1, 1_000_000),
        default=1000,
        help="number of episodes (default: 1000); validation gets 10 %% more",
    )
    parser.add_argument(
        "--workers",
        type=at_least(1, WORKERS),
        default=os.cpu_count() or 1,
        help="number of processes (default: all CPUs)",
    )
    parser.add_argument("--seed", type=at_least(0), default=0, help="random seed (default: 0)")
    parser.add_argument(
        "--noise", type=at_least(0.0), help="standard deviation of the oracle's noise (default: OGBench's for the kind)"
    )
    parser.add_argument("--name", help="name of the dataset, for train --dataset (default: DATASET-EPISODES)")
    parser.add_argument("--data-dir", help="directory of the datasets (default: $LPS_DATA_DIR or ~/.ogbench/data)")


def run(arguments: argparse.Namespace) -> int:
    from lps.tasks.suites import get_suite

    collect = getattr(get_suite(arguments.suite), "collect", None)
    if collect is None:
        raise UserError(f"the suite {arguments.suite} collects no data. Use a suite with `collect`, such as ogbench")
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
