"""Evaluate the policy of a checkpoint or of a server and print one row per episode."""

from __future__ import annotations

import argparse
import csv
import errno
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lps.commands.policies import ServedPolicy, add_policy_arguments, task_of
from lps.errors import WORKERS, UserError, at_least
from lps.files import csv_cell, local_path, replacing

if TYPE_CHECKING:
    from lps.policy.policy import Policy

HELP = "evaluate a checkpoint or a policy server"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_policy_arguments(parser)
    parser.add_argument("--episodes", type=at_least(1, 1_000_000), default=50, help="number of episodes (default: 50)")
    parser.add_argument(
        "--workers", type=at_least(0, WORKERS), default=0, help="number of processes (default: 0, this process)"
    )
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="other hyperparameters of acting, such as act_samples=64",
    )
    parser.add_argument("--out", metavar="FILE.csv", help="CSV file for the episodes")
    parser.add_argument("--record", metavar="FILE.npz", help="npz file for all steps, for lps data and lps train")


def run(arguments: argparse.Namespace) -> int:
    import dataclasses

    from lps.evaluation.evaluators import InlineEvaluator, PoolEvaluator
    from lps.evaluation.recorder import RecordingEvaluator
    from lps.runs.scores import describe_score

    policy: Policy | ServedPolicy
    if arguments.checkpoint.startswith(("ws://", "wss://")):
        from lps.policy.client import Client

        if arguments.set or arguments.workers:
            raise UserError(f"--set and --workers need a checkpoint, not {arguments.checkpoint}. Remove them")
        policy = ServedPolicy(Client(arguments.checkpoint))
        run_id = policy.run.id
    else:
        from lps.policy.file import load_policy

        policy = load_policy(arguments.checkpoint)
        run_id = policy.run.id
        if arguments.set:
            policy = _with_settings(policy, arguments.set)
    task = task_of(policy, arguments.task)
    out = local_path(arguments.out) if arguments.out is not None else None
    if out:
        _check_writable(out)
    seed = policy.run.seed if arguments.seed is None else arguments.seed
    run = dataclasses.replace(policy.run, task=task.name, seed=seed, eval_episodes=arguments.episodes)
    if arguments.record and arguments.workers:
        raise UserError(f"--record {arguments.record} needs --workers 0. Remove --workers")
    recorder = RecordingEvaluator() if arguments.record else None
    evaluator = PoolEvaluator(arguments.workers) if arguments.workers else recorder or InlineEvaluator()
    try:
        evaluator.submit(policy, run, policy.step)
        ((_, _, episodes),) = evaluator.poll(wait=True)
    finally:
        evaluator.close()
    print("episode  env_seed    success  return   length")
    for row in episodes:
        print(f"{row.episode:7d}  {row.env_seed:10d}  {row.success!s:7s}  {row.return_:7.1f}  {row.length:6d}")
    score = describe_score(episodes, task)
    print(f"{score} over {len(episodes)} episodes of {task.name}, {policy.run.agent} at step {policy.step}")
    if recorder:
        recorder.save(record := local_path(arguments.record))
        print(f"wrote {record.resolve()}")
    if out:
        of_run = {
            "run_id": run_id,
            "agent": policy.run.agent,
            "task": task.name,
            "run_seed": policy.run.seed,
            "step": policy.step,
        }
        _write_csv(out, [of_run | row.row() for row in episodes])
        print(f"wrote {out.resolve()}")
    return 0


def _with_settings(policy: Policy, settings: Sequence[str]) -> Policy:
    """Return the same networks acting with other hyperparameters. UserError if they do not fit the networks."""
    import dataclasses

    import numpy as np

    from lps.policy.policy import Policy
    from lps.runs.hyperparameters import make_config, parse_settings, plain

    run = policy.run
    config = make_config(run.agent, {**run.hyperparameters, **parse_settings(settings)})
    run = dataclasses.replace(run, hyperparameters=plain(dataclasses.asdict(config)))
    other = Policy(run, policy.step, policy.observation, policy.scale, policy.params, policy.provenance)
    try:
        other.act({name: np.zeros(space.shape, space.dtype) for name, space in policy.observation.items()})
    except RuntimeError as error:
        text = " ".join(settings)
        raise UserError(f"--set {text} does not fit the checkpoint's networks. Set others") from error
    return other


def _check_writable(path: Path) -> None:
    """Raise UserError if no file can be written to `path`, before the work starts."""
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another --out") from None


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows with the same columns atomically."""
    try:
        with replacing(path) as part, open(part, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows({name: csv_cell(value) for name, value in row.items()} for row in rows)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}. Choose another --out") from None
