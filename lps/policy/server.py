"""A policy behind openpi's websocket protocol: metadata first, then an answer of actions for every observation.

Every client has its own stream of draws, which begins anew with its connection, with `reset` and with `seed`, as
`Policy.reset` does.  Requests of several clients that arrive together are one call of `Policy.act_batch`, whose rows
are bitwise the same in any company.
"""

from __future__ import annotations

import asyncio
import hmac
import http
import logging
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from lps.errors import UserError
from lps.policy.policy import Policy
from lps.policy.recorder import Recorder
from lps.policy.wire import PROTOCOL, BadMessage, decode, encode
from lps.spaces import as_observation

MOST_CONNECTIONS = 32
MOST_ROWS = 64
"""Most requests in one call of the policy."""
MESSAGE_ROOM = 1 << 17
"""Bytes of a request beside its observation: names, a prompt, request keys."""
LONGEST_ID = 128
ECHOED = ("timestep", "request_id")
"""Keys of a request whose values are in its answer."""
REQUEST_KEYS = (*ECHOED, "noise", "seed", "reset")
"""Keys of a request beside the arrays of the observation.  An array of the observation goes before a key of its
name."""
WARM_UP = 3
"""Calls of the policy before the server is ready."""


@dataclass
class _Client:
    """State of one connection."""

    seed: int | None = None
    queries: int = 0
    previous_ms: float | None = None
    episode: int = 0


@dataclass
class _Job:
    """One observation that waits for its actions."""

    arrays: Mapping[str, np.ndarray]
    noise: Callable[[], np.ndarray] | None
    echo: Mapping[str, Any]
    arrived: float = field(default_factory=time.perf_counter)
    done: asyncio.Future[tuple[np.ndarray, float, float]] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )
    """(actions (k, act), milliseconds in the queue, milliseconds of inference)."""


class PolicyServer:
    """Serves one policy to many clients.

    Args:
        policy: on the device that it acts on.
        about: further plain values for the metadata.
        token: what clients must send as `Authorization: Api-Key TOKEN` or `Bearer TOKEN`; "" for no check.
        window: seconds that a request waits for those of other connected clients.
        threads: CPU threads of inference.
        recorder: keeps requests and answers.
    Raises:
        UserError: for a policy whose metadata cannot be sent.
    """

    def __init__(
        self,
        policy: Policy,
        about: Mapping[str, Any] | None = None,
        *,
        token: str = "",
        window: float = 0.001,
        threads: int = 1,
        recorder: Recorder | None = None,
    ):
        self.policy, self.window, self.recorder = policy, window, recorder
        self.keys = [key for key in REQUEST_KEYS if key not in policy.observation]
        # Numbers may come as float64; frames have one byte each.
        sizes = [math.prod(s.shape) * (1 if s.dtype == "uint8" else 8) for s in policy.observation.values()]
        self.largest = sum(sizes) + 8 * policy.noise_dim + MESSAGE_ROOM
        self.metadata = {
            **policy.metadata,
            "protocol": PROTOCOL,
            "noise_dim": policy.noise_dim,
            "request_keys": self.keys,
            "largest_request": self.largest,
            "settings": policy.run.to_dict(),
            **(about or {}),
        }
        self._hello = encode(self.metadata)
        self._token = token.encode()
        self._ready = False
        self._open = 0
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._thread = ThreadPoolExecutor(1, "inference", torch.set_num_threads, (threads,))

    async def run(self, host: str, port: int, ready: Callable[[int], None] = lambda port: None) -> None:
        """Serve until cancelled.  `ready` is called with the port after the warm-up.  UserError if the address cannot
        be listened on."""
        quiet = logging.Logger("lps.serve", logging.CRITICAL)  # else every port scan is a traceback
        try:
            server = await serve(
                self._converse,
                host,
                port,
                process_request=self._admit,
                origins=[None],  # no web page that a browser on this machine shows may steer the robot
                compression=None,
                max_size=self.largest,
                max_queue=2,
                logger=quiet,
            )
        except (OSError, OverflowError) as error:
            reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
            raise UserError(f"cannot listen on {host}:{port}: {reason}. Choose another --host or --port") from None
        try:
            async with server:
                worker = asyncio.create_task(self._work())
                try:
                    for _ in range(WARM_UP):
                        job = self._job(_Client(), self._zeros())
                        self._jobs.put_nowait(job)
                        await job.done
                    self._ready = True
                    ready(next(iter(server.sockets)).getsockname()[1])
                    await worker
                finally:
                    worker.cancel()
                    self._thread.shutdown(wait=False, cancel_futures=True)
        finally:
            if self.recorder:
                self.recorder.close()

    def _zeros(self) -> dict[str, np.ndarray]:
        return {name: np.zeros(space.shape, space.dtype) for name, space in self.policy.observation.items()}

    # --- connections ---

    def _admit(self, connection: ServerConnection, request: Request) -> Response | None:
        """The answer to a plain HTTP request or to a client that may not connect; None to open a connection."""
        path = request.path.partition("?")[0]
        if path == "/healthz":
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if path == "/readyz" and self._ready:
            return connection.respond(http.HTTPStatus.OK, "OK\n")
        if path == "/readyz" or not self._ready:
            return connection.respond(http.HTTPStatus.SERVICE_UNAVAILABLE, "The policy warms up. Try again later.\n")
        if self._token and not any(map(self._is_token, request.headers.get_all("Authorization"))):
            return connection.respond(
                http.HTTPStatus.UNAUTHORIZED, "The token is missing or wrong. Send Authorization: Bearer TOKEN.\n"
            )
        if self._open >= MOST_CONNECTIONS:
            return connection.respond(
                http.HTTPStatus.SERVICE_UNAVAILABLE, f"{self._open} clients are connected. Disconnect one of them.\n"
            )
        return None

    def _is_token(self, header: str) -> bool:
        scheme, _, token = header.partition(" ")
        given = token.strip().encode(errors="surrogateescape")  # headers may hold any bytes
        return scheme.lower() in ("api-key", "bearer") and hmac.compare_digest(given, self._token)

    async def _converse(self, connection: ServerConnection) -> None:
        client = _Client()
        self._open += 1
        try:
            await connection.send(self._hello)
            async for message in connection:
                started = time.perf_counter()
                # openpi's client raises on a text frame and keeps the connection, so that an error ends no session.
                await connection.send(await self._answer(client, id(client), message))
                client.previous_ms = (time.perf_counter() - started) * 1e3
        except ConnectionClosed:
            pass
        finally:
            self._open -= 1
            if self.recorder:
                self.recorder.end(id(client))

    async def _answer(self, client: _Client, episode: int, message: str | bytes) -> bytes | str:
        """The answer to one request, or a sentence that says why there is none."""
        try:
            request = self._request(message)
            job = self._job(client, request)
            if self.recorder and client.queries == 0:
                self.recorder.end(episode)
            client.queries += 1
            self._jobs.put_nowait(job)
            actions, queue_ms, infer_ms = await job.done
        except UserError as error:
            return str(error)
        except Exception as error:  # of the policy, such as a GPU without memory: the next request may succeed
            traceback.print_exc(file=sys.stderr)
            return f"the policy failed: {type(error).__name__}. See the server's log"
        timing = {"infer_ms": infer_ms, "queue_ms": queue_ms}
        if client.previous_ms is not None:
            timing["prev_total_ms"] = client.previous_ms
        if self.recorder:
            self.recorder.add(episode, job.arrays, actions, job.echo.get("timestep"))
        return encode({"actions": actions, "server_timing": timing, **job.echo})

    # --- requests ---

    def _request(self, message: str | bytes) -> dict[str, Any]:
        request = decode(message) if isinstance(message, bytes) else message
        if not isinstance(request, dict):
            raise BadMessage(
                f"the request is a {type(request).__name__}. Send a msgpack map of the observation's arrays"
            )
        return request

    def _job(self, client: _Client, request: Mapping[str, Any]) -> _Job:
        """The checked observation and noise of a request.  UserError for anything that does not fit; then nothing has
        changed."""
        source = "the request"
        given = {key: request[key] for key in self.keys if request.get(key) is not None}
        given = {key: value.item() if isinstance(value, np.generic) else value for key, value in given.items()}
        echo = {key: given[key] for key in ECHOED if key in given}
        for key, value in echo.items():
            if type(value) not in (int, str) or len(str(value)) > LONGEST_ID:
                raise BadMessage(
                    f"{source} has a {key} of type {type(value).__name__}. Send a whole number or a short text"
                )
        for name in self.policy.observation:
            if name in request and not isinstance(request[name], np.ndarray | np.generic | int | float):
                raise BadMessage(
                    f"{source} has {name!r} of type {type(request[name]).__name__}. "
                    f"It needs an array of {self.policy.observation[name]}"
                )
        arrays = as_observation(request, self.policy.observation, source)
        for name, array in arrays.items():
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise BadMessage(f"{source} has NaN or infinity in {name!r}. Send finite numbers")
        seed, queries = client.seed, client.queries
        if "seed" in given:
            seed, queries = given["seed"], 0
            if type(seed) is not int or not 0 <= seed < 1 << 63:
                raise BadMessage(f"{source} has the seed {seed!r:.40}. Send a whole number from 0 to 2^63 - 1")
        if given.get("reset", False):
            queries = 0
        noise = self._noise(given.get("noise"), seed, queries)
        client.seed, client.queries = seed, queries
        return _Job(arrays, noise, echo)

    def _noise(self, given: Any, seed: int | None, queries: int) -> Callable[[], np.ndarray] | None:
        size = self.policy.noise_dim
        if given is None:
            return (lambda: self.policy.draw(queries, seed)) if size else None
        if not size:
            raise BadMessage("the request has noise, and this policy draws none. Leave the noise out")
        if not isinstance(given, np.ndarray) or given.shape != (size,) or given.dtype.kind != "f":
            shown = f"{given.dtype} {given.shape}" if isinstance(given, np.ndarray) else type(given).__name__
            raise BadMessage(f"the request has noise of {shown}. It needs float32 ({size},)")
        if not np.isfinite(given).all():
            raise BadMessage("the request has NaN or infinity in its noise. Send finite numbers")
        return lambda: given

    # --- inference ---

    async def _work(self) -> None:
        """Answer jobs, together where they wait together, without end."""
        loop = asyncio.get_running_loop()
        while True:
            jobs = [await self._jobs.get()]
            until = loop.time() + self.window
            while len(jobs) < min(self._open, MOST_ROWS):
                try:
                    async with asyncio.timeout_at(until):
                        jobs.append(await self._jobs.get())
                except TimeoutError:
                    break
            started = time.perf_counter()
            try:
                actions = await loop.run_in_executor(self._thread, self._act, jobs)
                infer_ms = (time.perf_counter() - started) * 1e3
                for job, chunk in zip(jobs, actions, strict=True):
                    if job.done.done():  # the client went away
                        continue
                    if np.isfinite(chunk).all():
                        job.done.set_result((chunk, (started - job.arrived) * 1e3, infer_ms))
                    else:
                        job.done.set_exception(UserError("the policy gave NaN or infinity. Stop the robot"))
            except Exception as error:
                for job in jobs:
                    if not job.done.done():
                        job.done.set_exception(error)

    def _act(self, jobs: Sequence[_Job]) -> np.ndarray:
        """Actions (B, k, act) of B jobs; runs in the inference thread."""
        observations = {name: np.stack([job.arrays[name] for job in jobs]) for name in self.policy.observation}
        draws = [job.noise() for job in jobs if job.noise]
        return self.policy.act_batch(observations, np.stack(draws).astype(np.float32) if draws else None)
