"""Ask a policy server for actions some times; print its policy and the time of its answers."""

from __future__ import annotations

import argparse

from lps.commands.serve import add_token_argument, token_of
from lps.errors import at_least

HELP = "test a policy server and its latency"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", help="address of the server, such as ws://127.0.0.1:8000")
    add_token_argument(parser)
    parser.add_argument("--count", type=at_least(1, 1_000_000), default=20, help="number of requests (default: 20)")


def run(arguments: argparse.Namespace) -> int:
    import time

    import numpy as np

    from lps.errors import printable
    from lps.policy.client import Client

    with Client(arguments.url, token_of(arguments), patience=5.0) as client:
        for name, value in client.metadata.items():
            if not isinstance(value, dict) or name == "observation":
                print(printable(f"  {name}: {value}"))
        zeros = {name: np.zeros(shape, dtype) for name, (shape, dtype) in client.metadata["observation"].items()}
        taken, inference, shape = [], [], ()
        for _ in range(arguments.count):
            started = time.perf_counter()
            answer = client.infer(zeros)
            taken.append((time.perf_counter() - started) * 1e3)
            inference.append(answer["server_timing"]["infer_ms"])
            shape = answer["actions"].shape
    median, p99 = np.percentile(taken, [50, 99])
    print(
        f"{arguments.count} answers of actions {shape}: median {median:.2f} ms, 99th percentile "
        f"{p99:.2f} ms, inference {np.median(inference):.2f} ms"
    )
    return 0
