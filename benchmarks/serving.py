"""How long a robot waits for a policy server: the answer times of LPS with every kind of network, for one client and
for four.

    python benchmarks/serving.py

Server and clients are processes of this machine, and the clients ask without pause, each after its answer. Networks are
the paper's. One answer is a chunk of 5 actions. `rest_ms` is the answer time without inference and queue: the work of
the server and the client beside the policy, and the way between them. Writes a CSV. No Ray.
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from common import device_name, save, table

from lps import nets
from lps.agents import AGENTS
from lps.errors import at_least, check_known, command_line
from lps.policy.client import Client
from lps.policy.file import save_policy
from lps.policy.policy import Policy
from lps.runs.run import Run
from lps.spaces import Space
from lps.training.program import chosen_device

TASK = "cube-single-play-singletask-task1-v0"
STATE, ACTIONS = {"state": Space((28,))}, 5
PIXELS = {"pixels": Space((64, 64, 3), "uint8")}

CASES: dict[str, tuple[Mapping[str, Any], Mapping[str, Space]]] = {"mlp": ({}, STATE)}
"""Name -> (hyperparameters of LPS, observation): each network on a state, each encoder on an image."""
CASES |= {kind: ({"encoder": kind}, PIXELS) for kind in nets.ENCODERS}
CASES |= {kind: ({"base_network": kind}, STATE) for kind in nets.NETWORKS if kind != "mlp"}
USUAL = ["mlp", "impala_small", "impala", "dit_small"]


def measure(name: str, clients: int, calls: int, device: str) -> dict[str, Any]:
    """One row of the table: milliseconds."""
    settings, observation = CASES[name]
    run = Run.create("lps", TASK, **settings)
    agent = AGENTS["lps"]([run.config], [0], observation, ACTIONS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.safetensors"
        save_policy(Policy.of_member(agent, 0, run, 0), path)
        command = [sys.executable, "-m", "lps", "serve", str(path), "--port", "0", "--device", device]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            url = server.stdout.readline().split()[-1]
            rows: list[tuple[float, float, float]] = []
            start = threading.Barrier(clients)
            threads = [threading.Thread(target=_ask, args=(url, calls // clients, start, rows)) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            server.kill()
            server.wait()
    answer, infer, queue = np.array(rows).T
    median, p99 = np.percentile(answer, [50, 99])
    return {
        "network": name,
        "clients": clients,
        "median_ms": median,
        "p99_ms": p99,
        "infer_ms": float(np.median(infer)),
        "queue_ms": float(np.median(queue)),
        "rest_ms": float(np.median(answer - infer - queue)),
        "rest_p99_ms": float(np.percentile(answer - infer - queue, 99)),
    }


def _ask(url: str, calls: int, start: threading.Barrier, rows: list[tuple[float, float, float]]) -> None:
    with Client(url) as client:
        rng = np.random.default_rng(0)
        seen = {
            name: rng.integers(0, 256, shape).astype(dtype)
            for name, (shape, dtype) in client.metadata["observation"].items()
        }
        start.wait()
        for _ in range(calls):
            started = time.perf_counter()
            timing = client.infer(seen)["server_timing"]
            rows.append(((time.perf_counter() - started) * 1e3, timing["infer_ms"], timing["queue_ms"]))


@command_line
def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=USUAL, metavar="NETWORK", help=", ".join(CASES))
    parser.add_argument("--clients", nargs="+", type=at_least(1, 32), default=[1, 4], help="(default: 1 4)")
    parser.add_argument("--calls", type=at_least(32), default=2000, help="requests of each row (default: 2000)")
    parser.add_argument("--device", default="cpu", choices=["auto", "cpu", "cuda"], help="(default: cpu)")
    parser.add_argument("--out", default=str(Path(__file__).parent / "results"), help="folder for the CSV")
    arguments = parser.parse_args()
    device = chosen_device(arguments.device)
    check_known(arguments.networks, CASES, "network")
    print(f"{device_name(device)}, one thread of inference")
    rows: list[dict[str, Any]] = []
    for name in arguments.networks:
        for clients in arguments.clients:
            rows.append(measure(name, clients, arguments.calls, device))
            print(table(rows[-1:], header=len(rows) == 1), flush=True)
    for path in save(rows, Path(arguments.out), "serving", device):
        print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
