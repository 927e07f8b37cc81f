"""Requests and answers of a policy server as files: one npz file per episode, written whole or not at all.

| key | shape, type |
| --- | --- |
| observations/NAME | (n, *shape), as the policy's |
| actions | (n, act) float32: the first action of each answer, in the environment's units |
| chunks | (n, k, act) float32: each whole answer |
| terminals | (n,) bool: false; nobody tells the server how an episode ended |
| timeouts | (n,) bool: true in the last row |
| times | (n,) float64: time of the answer, seconds since 1970 |
| timesteps | (n,) int64: of the client, else the number of the request |

A row is a request: a robot that executes k actions of each answer has one row in k steps.  There are no rewards.  The
keys are D4RL's (lps.data.npz).
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lps.errors import UserError
from lps.files import reason, replacing

LARGEST_FILE = 32 << 20
"""Bytes after which an episode goes on in the next file."""
ARRAY_OVERHEAD = 512
"""Most bytes of an npz file for one array beside its content."""
MOST_UNWRITTEN = 8
"""Most files that wait for the disk."""


@dataclass
class _Episode:
    rows: list[dict[str, Any]] = field(default_factory=list)
    size: int = 0


class Recorder:
    """Writes episodes into a folder until they take `most` bytes there; then it stops and says so.

    UserError if the folder cannot be written to.
    """

    def __init__(self, folder: Path, most: int):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self.used = sum(path.stat().st_size for path in folder.glob("*.npz"))
            with replacing(folder / "test", shared=True) as part:
                part.touch()
            (folder / "test").unlink()
        except OSError as error:
            raise UserError(f"cannot write to {folder}: {reason(error)}. Choose another --record") from None
        self.folder, self.most, self.stopped = folder, most, False
        self._episodes: dict[int, _Episode] = {}
        self._writer = ThreadPoolExecutor(1, "recorder")
        self._unwritten: list[Future[None]] = []

    def add(self, episode: int, arrays: Mapping[str, np.ndarray], actions: np.ndarray, timestep: Any = None) -> None:
        """Add a request and its answer (k, act) to an episode."""
        if self.stopped:
            return
        open_ = self._episodes.setdefault(episode, _Episode())
        if not isinstance(timestep, int):
            timestep = len(open_.rows)
        row: dict[str, Any] = {f"observations/{name}": array for name, array in arrays.items()}
        row |= {"actions": actions[0], "chunks": actions}
        row |= {"times": np.float64(time.time()), "timesteps": np.int64(timestep)}
        open_.rows.append(row)
        open_.size += sum(value.nbytes for value in row.values()) + 1
        if open_.size >= LARGEST_FILE:
            self.end(episode)

    def end(self, episode: int) -> None:
        """Write an episode, if it has rows, beside the caller's thread."""
        done = self._episodes.pop(episode, None)
        if done is None or self.stopped:
            return
        self._unwritten = [file for file in self._unwritten if not file.done()]
        size = done.size + ARRAY_OVERHEAD * (len(done.rows[0]) + 1)
        if self.used + size > self.most:
            self._stop(f"{self.folder} holds {self.used / 1e9:.2f} GB, the limit of --record-gb")
        elif len(self._unwritten) > MOST_UNWRITTEN:
            self._stop(f"{self.folder} is too slow for the recording")
        else:
            self.used += size
            self._unwritten.append(self._writer.submit(self._write, done.rows))

    def close(self) -> None:
        """Write all episodes and wait for them."""
        for episode in list(self._episodes):
            self.end(episode)
        self._writer.shutdown()

    def _stop(self, why: str) -> None:
        self.stopped = True
        self._episodes.clear()
        print(f"the recording ends, the server goes on: {why}", file=sys.stderr)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        arrays: dict[str, Any] = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        arrays["timeouts"] = np.arange(len(rows)) == len(rows) - 1
        arrays["terminals"] = np.zeros(len(rows), bool)
        name = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{uuid.uuid4().hex[:8]}.npz"
        try:
            with replacing(self.folder / name, shared=True) as part, open(part, "wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            self._stop(f"cannot write to {self.folder}: {reason(error)}")
