"""Worker processes that end with their parent, and threads that share a machine with other work."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing.connection import Connection
from typing import Any

SPIN_BRIEFLY = {"GOMP_SPINCOUNT": "1000"}
"""Environment variables for PyTorch's OpenMP threads (GNU OpenMP): at a barrier they spin for 1000 turns, then sleep.
By default they spin longer, and two threads beside other work then take many times as long (benchmarks/threads.py)."""


def spin_briefly() -> None:
    """Let PyTorch's threads sleep when they wait long for each other, unless the user has chosen otherwise.

    It has an effect only before torch is imported."""
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ.update(SPIN_BRIEFLY)


class WorkerPool(ProcessPoolExecutor):
    """A pool of spawned processes that end at once when the pool is closed or when its process is killed. Workers of
    other pools finish their tasks first and then wait for more.

    Workers import the main module again, so a script needs `if __name__ == "__main__":`.

    Args:
        workers: number of processes.
        setup: called in every process before its first task.  An error in it breaks the pool without a reason.
    """

    def __init__(self, workers: int, setup: Callable[[], None] | None = None):
        spawn = multiprocessing.get_context("spawn")
        watched, self._alive = spawn.Pipe(duplex=False)
        super().__init__(workers, spawn, _start, (watched, setup))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future:
        """Like the executor's. The processes that it starts ignore Ctrl-C from their first import on."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # new processes inherit it
        try:
            return super().submit(fn, *args, **kwargs)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def close(self) -> None:
        """End the workers, in the middle of a task if they have one; drop all tasks that wait."""
        self._alive.close()
        self.shutdown(cancel_futures=True)


def _start(parent: Connection, setup: Callable[[], None] | None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends the workers

    def follow() -> None:
        with contextlib.suppress(EOFError):
            parent.recv()  # nothing is ever sent: the pipe closes with the pool or with the parent's process
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    if setup:
        setup()
