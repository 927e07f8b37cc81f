"""Send a dataset's observations through a policy server and compare its actions with the dataset's."""

from __future__ import annotations

import argparse

from lps.commands.serve import add_token_argument, token_of
from lps.errors import at_least

HELP = "compare a policy server's actions with a dataset's"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="address of the server, such as ws://127.0.0.1:8000")
    parser.add_argument("--task", help="task whose dataset is read (default: the policy's task)")
    parser.add_argument("--dataset", help="name of a dataset (default: the one that the policy was trained on)")
    parser.add_argument("--data-dir", help="directory of the datasets (default: $LPS_DATA_DIR or ~/.ogbench/data)")
    parser.add_argument(
        "--count", type=at_least(1, 10_000_000), default=500, help="observations, evenly spaced (default: 500)"
    )
    add_token_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    import numpy as np

    from lps.commands.policies import ServedPolicy, task_of
    from lps.policy.client import Client
    from lps.spaces import FrameStack
    from lps.tasks.suites import load_dataset

    with Client(arguments.url, token_of(arguments)) as client:
        policy = ServedPolicy(client)
        task = task_of(policy, arguments.task)
        dataset = load_dataset([task], dataset=arguments.dataset or policy.run.dataset, data_dir=arguments.data_dir)
        length = int(client.metadata["execute"])
        starts = dataset.starts(length)
        rows = starts[np.unique(np.linspace(0, len(starts) - 1, arguments.count).astype(int))]
        first, stack = dataset.first_rows(), FrameStack(task.observation, policy.frame_stack)
        answers = []
        for row in rows.tolist():
            stack.reset()
            seen = range(max(first[row], row - policy.frame_stack + 1), row + 1)
            *_, observation = (stack({name: array[i] for name, array in dataset.observations.items()}) for i in seen)
            answers.append(client.infer(observation, reset=True)["actions"])
    given = np.stack(answers)
    recorded = dataset.scale.to_env(dataset.actions[rows[:, None] + np.arange(length)])
    error = np.abs(given - recorded).mean((0, 1))
    of_mean = np.abs(recorded - recorded.mean((0, 1))).mean((0, 1))
    print("dimension  mean error  error of the mean action  smallest  largest")
    for i, (ours, mean) in enumerate(zip(error, of_mean, strict=True)):
        low, high = recorded[..., i].min(), recorded[..., i].max()
        print(f"{i:9d}  {ours:10.4f}  {mean:24.4f}  {low:8.3f}  {high:7.3f}")
    print(f"{len(rows)} observations of {dataset.name}, {length} actions each, in the environment's units")
    return 0
