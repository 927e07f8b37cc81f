"""The notice that a machine is about to be taken away: AWS gives two minutes, Ray's drain a deadline.

`Notice` runs beside a learner. Where neither AWS's metadata service nor a drain exists, it costs one failed request.
"""

import json
import os
import threading
import time
import urllib.error
import urllib.request
from datetime import datetime

import ray
from ray.core.generated.autoscaler_pb2 import DrainNodeReason

URL = "LPS_METADATA_URL"
"""Variable with the URL of the metadata service; default: AWS's."""
AWS = "http://169.254.169.254"
EVERY = 5.0
"""Seconds between two looks."""
TIMEOUT = 2.0
"""Seconds for an answer of the metadata service."""
DEADLINE = 120.0
"""Seconds until the machine is lost, where the notice has no time."""


class Notice:
    """Whether this machine is about to be taken away: `notice()` is False until then. Looks every EVERY seconds, in a
    thread, until `close`.

    AWS's notice is passed on to Ray, which then starts nothing more on this machine.
    """

    def __init__(self) -> None:
        self._given, self._closed = threading.Event(), threading.Event()
        self._node = ray.get_runtime_context().get_node_id()
        self._metadata: _Metadata | None = _Metadata()
        threading.Thread(target=self._watch, name="notice", daemon=True).start()

    def __call__(self) -> bool:
        return self._given.is_set()

    def close(self) -> None:
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.is_set():
            if self._look():
                self._given.set()
                return
            self._closed.wait(EVERY)

    def _look(self) -> bool:
        if self._metadata:
            try:
                if when := self._metadata.reclaimed_at():
                    _drain(self._node, when)
                    return True
            except OSError:
                if not self._metadata.answered:
                    self._metadata = None  # not on AWS
        try:
            return self._node in ray._private.state.state.get_draining_nodes()
        except Exception:  # the head is away; the next look may find it
            return False


class _Metadata:
    """AWS's instance metadata service, version 2: a token first, then requests with it."""

    def __init__(self) -> None:
        self._url = os.environ.get(URL) or AWS
        self._token = ""
        self.answered = False

    def reclaimed_at(self) -> float | None:
        """Return the time (seconds since 1970) at which this spot machine will be taken away, None without a notice.
        OSError if the service does not answer."""
        if not self._token:
            self._token = self._ask("PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "21600"})
            self.answered = True
        try:
            notice = self._ask("GET", "meta-data/spot/instance-action", {"X-aws-ec2-metadata-token": self._token})
        except urllib.error.HTTPError as error:
            if error.code == 401:  # the token is too old
                self._token = ""
            return None  # 404: there is no notice
        try:
            return datetime.fromisoformat(json.loads(notice)["time"]).timestamp()
        except (KeyError, TypeError, ValueError):
            return time.time() + DEADLINE

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(f"{self._url}/latest/{path}", headers=headers, method=method)
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with direct.open(request, timeout=TIMEOUT) as answer:
            return str(answer.read().decode())


def _drain(node: str, deadline: float) -> None:
    """Tell Ray that the machine will be lost at `deadline` (seconds since 1970)."""
    client = ray._raylet.GcsClient(address=ray.get_runtime_context().gcs_address)
    client.drain_node(
        node,
        DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "AWS reclaims this spot instance",
        int(deadline * 1000),
    )
