"""Policy servers for tests: in a thread of this process, or in a process of their own."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lps.policy.policy import Policy
from lps.policy.server import PolicyServer


@contextlib.contextmanager
def served(policy: Policy, port: int = 0, **options: Any) -> Iterator[str]:
    """Yield the address of a server in a thread."""
    ready: queue.Queue[int] = queue.Queue()
    with running(PolicyServer(policy, **options), port, ready.put):
        yield f"ws://127.0.0.1:{ready.get(timeout=60)}"


@contextlib.contextmanager
def running(server: PolicyServer, port: int, ready: Any) -> Iterator[None]:
    """Run a server in a thread; `ready` is called with its port."""
    started: queue.Queue[tuple[asyncio.AbstractEventLoop, Any]] = queue.Queue()

    async def run() -> None:
        task = asyncio.current_task()
        started.put((asyncio.get_running_loop(), task))
        with contextlib.suppress(asyncio.CancelledError):
            await server.run("127.0.0.1", port, ready)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    loop, task = started.get(timeout=60)
    try:
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(60)
        assert not thread.is_alive()


class Process:
    """`lps serve` in a process of its own.  url: its address."""

    def __init__(self, policy: Path, *options: str, port: int = 0):
        command = [sys.executable, "-m", "lps", "serve", str(policy), "--port", str(port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("serving "), line
        self.url = line.split()[-1]
        self.port = int(self.url.rpartition(":")[2])

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
