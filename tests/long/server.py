"""A policy server for a day: 100,000 requests, and a robot that loses its connection every ten seconds of 24 hours.

    make test-long

Among the requests are wrong and hostile ones, and connections that end without a word. The memory of the server's
process after the first tenth and at the end must be the same to 16 MB.
"""

import contextlib
import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
from serving import Process
from test_serve import HOSTILE

from lps.errors import UserError
from lps.policy.client import Client

REQUESTS = int(os.environ.get("LPS_LONG_REQUESTS", 100_000))
RECONNECTS = int(os.environ.get("LPS_LONG_RECONNECTS", 24 * 360))
POLICY = Path(__file__).parents[1] / "version1" / "policy.safetensors"
GROWTH = 16.0
"""MB."""


def resident(pid: int) -> float:
    """MB of a process in memory."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1024


def hold(server: Process, count: int, what: str, once) -> None:
    """Call `once(i)` for i below count; the server's memory must not grow after the first tenth."""
    for i in range(count):
        once(i)
        if i == count // 10:
            before = resident(server.process.pid)
    after = resident(server.process.pid)
    print(f"{count} {what}: {before:.1f} MB after the first tenth, {after:.1f} MB at the end")
    assert after - before < GROWTH


def test_memory_does_not_grow_with_requests():
    state = np.linspace(-1, 1, 28, dtype=np.float32)
    with Process(POLICY) as server, Client(server.url) as client:
        first = client.infer({"state": state})["actions"]

        def ask(i: int) -> None:
            if i % 100 == 0:
                with contextlib.suppress(UserError):
                    client._ask(HOSTILE[i // 100 % len(HOSTILE)])
            assert (client.infer({"state": state}, timestep=i)["actions"] == first).all()

        hold(server, REQUESTS, "requests", ask)


def test_memory_does_not_grow_with_connections():
    state = np.linspace(-1, 1, 28, dtype=np.float32)
    with Process(POLICY) as server, Client(server.url) as client:
        first = client.infer({"state": state})["actions"]

        def lose(i: int) -> None:
            if i % 2:
                client.close()
            else:
                client._connection.socket.close()
            assert (client.infer({"state": state}, timestep=i)["actions"] == first).all()

        hold(server, RECONNECTS, "reconnections", lose)
        assert client.reconnects == RECONNECTS
