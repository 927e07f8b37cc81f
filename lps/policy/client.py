"""The robot's side of a policy server: `Client` asks, `ChunkBroker` hands out one action per control step.

Needs numpy, msgpack and websockets alone, so that it runs beside a robot's drivers without torch.

    with Client("ws://127.0.0.1:8000") as client:
        robot = ChunkBroker(client, execute=5)
        while True:
            action = robot.act({"state": state})
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI
from websockets.sync.client import ClientConnection, connect

from lps.errors import UserError
from lps.policy.wire import BadMessage, decode, encode
from lps.spaces import FrameStack, Space

FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
"""Seconds between two attempts to connect: the first, doubled up to the longest."""
SAME = ("observation", "action_dim", "action_low", "action_high")
"""Entries of the metadata that a robot's code relies on: a restarted server must say the same."""


class Client:
    """A connection to a policy server, made again whenever it is lost.

    Args:
        url: such as "ws://127.0.0.1:8000".
        token: the server's token; default: the environment variable LPS_TOKEN.
        timeout: seconds to wait for one answer before the connection counts as lost.
        patience: seconds in which a lost connection must come back.
    Attributes:
        metadata: what the server says about its policy.
        reconnects: number of connections after the first.
    Raises:
        UserError: no server within `patience`, a wrong token, or the server's own sentence about a request.
    """

    def __init__(self, url: str, token: str | None = None, *, timeout: float = 10.0, patience: float = 30.0):
        self.url, self.timeout, self.patience = url, timeout, patience
        self._token = os.environ.get("LPS_TOKEN", "") if token is None else token
        self._connection: ClientConnection | None = None
        self._closing = contextlib.ExitStack()
        self.metadata: dict[str, Any] = {}
        self.reconnects = -1
        self._patiently(self._connect)

    @property
    def noise_dim(self) -> int:
        """Number of standard normal draws of one decision; 0 where the policy takes none."""
        return int(self.metadata.get("noise_dim", 0))

    def infer(self, observation: Mapping[str, Any], **request: Any) -> dict[str, Any]:
        """Return the server's answer: "actions" (k, act), "server_timing", and what it echoes.  A request that is lost
        with its connection is sent again.

        request: timestep, request_id, noise (noise_dim,), seed, reset; see docs/robots.md.
        """
        return self._patiently(self._ask, encode({**observation, **request}))

    def act_batch(
        self, observations: Mapping[str, np.ndarray], noise: np.ndarray | None, reset: bool = False
    ) -> np.ndarray:
        """Return (B, k, act): the actions for each of B observations, one after the other (lps.evaluation).  With
        `reset`, an episode begins."""
        rows = range(len(next(iter(observations.values()))))
        draws = [{"reset": reset} | ({} if noise is None else {"noise": noise[row]}) for row in rows]
        seen = [{name: array[row] for name, array in observations.items()} for row in rows]
        return np.stack([self.infer(s, **e)["actions"] for s, e in zip(seen, draws, strict=True)])

    def close(self) -> None:
        """Close the connection.  The next request opens a new one."""
        self._connection = None
        with contextlib.suppress(OSError):
            self._closing.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _patiently(self, attempt: Any, *arguments: Any) -> Any:
        """Repeat an attempt until it succeeds."""
        until, pause = time.monotonic() + self.patience, FIRST_PAUSE
        while True:
            try:
                return attempt(*arguments)
            except (InvalidURI, InvalidStatus, InvalidHandshake, ConnectionClosed, OSError, EOFError) as error:
                self.close()
                self._check_hopeless(error)
                if time.monotonic() + pause > until:
                    raise UserError(
                        f"no answer from {self.url} in {self.patience:g} seconds: {type(error).__name__}, {error}. "
                        "Start the server with lps serve, or correct the address"
                    ) from None
            time.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _check_hopeless(self, error: Exception) -> None:
        """UserError for an error that the next attempt would meet again."""
        if isinstance(error, InvalidURI):
            raise UserError(f"{self.url!r:.100} is no address of a server. Use ws://HOST:PORT") from None
        if isinstance(error, InvalidStatus) and error.response.status_code in (401, 403, 404):
            said = (error.response.body or b"").decode(errors="replace").strip()
            raise UserError(f"{self.url} refuses the connection: {error}. {said}") from None
        if isinstance(error, ConnectionClosed) and error.rcvd is not None and error.rcvd.code == 1009:
            most = self.metadata.get("largest_request", "its limit")
            raise UserError(f"the request is larger than the {most} bytes of {self.url}. Send smaller arrays") from None

    def _connect(self) -> ClientConnection:
        if self._connection is None:
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
            opening = connect(
                self.url, additional_headers=headers, compression=None, max_size=None, open_timeout=self.timeout
            )
            connection = self._connection = self._closing.enter_context(opening)
            about = _answer(connection.recv(self.timeout))
            if self.metadata and any(about.get(key) != self.metadata.get(key) for key in SAME):
                self.close()
                raise UserError(f"{self.url} serves a policy with other observations or actions now. Connect anew")
            self.metadata = about
            self.reconnects += 1
        return self._connection

    def _ask(self, message: bytes) -> dict[str, Any]:
        connection = self._connect()
        connection.send(message)
        return _answer(connection.recv(self.timeout))


def _answer(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, str):
        raise UserError(message)
    answer = decode(message)
    if not isinstance(answer, dict):
        raise BadMessage("the server's answer is not a map. Connect to a policy server")
    return answer


class ChunkBroker:
    """One action per control step from the chunks of a policy server.  Images come as single frames, and are stacked
    here where the policy sees several.

    Args:
        client: anything with `infer`.
        execute: k, steps between two requests; default: the server's, the whole chunk.
        ensemble: m of temporal ensembling (ACT, arXiv 2304.13705): an action is the mean of all that were given for
            its step, with weights exp(-m i), i = 0 for the oldest.  None: the newest alone.  Use it with a small
            `execute`.
        ahead: steps before the next request is due at which it is sent, in the background; 0: `act` waits for it.
    """

    def __init__(self, client: Any, execute: int | None = None, *, ensemble: float | None = None, ahead: int = 0):
        about = getattr(client, "metadata", {})
        self.client, self.ensemble, self.ahead = client, ensemble, ahead
        self.execute = execute or int(about.get("execute", 1))
        spaces = {name: Space(tuple(shape), dtype) for name, (shape, dtype) in about.get("observation", {}).items()}
        self._stack = FrameStack(spaces, int(about.get("frame_stack", 1)))
        self._thread = ThreadPoolExecutor(1, "chunks") if ahead else None
        self._asked: Future[dict[str, Any]] | None = None
        self.timestep = 0
        self.reset()

    def reset(self) -> None:
        """Begin an episode.  Answers to earlier requests are dropped: timesteps never repeat."""
        self._first = self._due = self.timestep
        self._chunks: list[tuple[int, np.ndarray]] = []
        self._stack.reset()
        self.late = 0
        """Number of steps of this episode without an action."""

    def act(self, observation: Mapping[str, Any]) -> np.ndarray | None:
        """Return the action (act,) of this step, and go to the next.  None if the answer is late: hold the robot."""
        now, self.timestep = self.timestep, self.timestep + 1
        observation = self._stack(observation)
        request = {"timestep": now} | ({"reset": True} if self._due == self._first else {})
        if self._asked and self._asked.done():
            done, self._asked = self._asked, None
            self._take(done.result())
        if self._asked is None and now >= self._due - self.ahead:
            if self._thread is None:
                self._take(self.client.infer(observation, **request))
            else:
                self._asked = self._thread.submit(self.client.infer, observation, **request)
        self._chunks = [(start, chunk) for start, chunk in self._chunks if now < start + len(chunk)]
        if not self._chunks:
            self.late += 1
            return None
        given = np.stack([chunk[now - start] for start, chunk in self._chunks])
        if self.ensemble is None:
            return given[-1]
        weights = np.exp(-self.ensemble * np.arange(len(given)))
        return (weights / weights.sum() @ given).astype(given.dtype)

    def close(self) -> None:
        """End the background thread."""
        if self._thread:
            self._thread.shutdown(cancel_futures=True)

    def _take(self, answer: Mapping[str, Any]) -> None:
        """Keep a chunk of this episode."""
        start = answer["timestep"]
        if start >= self._first:
            self._chunks.append((start, np.asarray(answer["actions"])))
            self._due = start + self.execute
