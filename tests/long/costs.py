"""What a run costs outside of its training, counted and timed: the figures of docs/scale.md.

    python tests/long/costs.py sizes              bytes of a run in the results store
    python tests/long/costs.py requests           requests to S3, as a bucket in memory counts them
    python tests/long/costs.py looks --runs 10000 one look at all documents, as status, resume and the mirror take it
    python tests/long/costs.py mlflow --runs 20   the mirror's rate, and its memory; with --server, through a server
    python tests/long/costs.py environments       memory of the environments that an evaluation plays side by side

The run is one of the paper's comparison: a million updates, ten evaluations of 50 episodes, METRICS numbers logged a
thousand times. All but its checkpoint are made up here: nothing is trained but a few steps on the ring.
"""

import argparse
import http.server
import io
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partialmethod
from pathlib import Path
from typing import Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import ray  # noqa: F401  psutil comes with it
from small import small_hyperparameters

from lps.evaluation.rollout import EPISODES_PER_QUERY
from lps.runs.checkpoint import checkpoint_path
from lps.runs.provenance import versions
from lps.runs.record import Episode
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.ogbench import make_env
from lps.tasks.ring import RING
from lps.tasks.suites import get_task
from lps.training.options import TrainOptions
from lps.training.trainer import train
from sweeps.watch.mlflow import _Sweep

import psutil  # isort: skip

TASK = "cube-double-play-singletask-task2-v0"
METRICS = ["latent/loss", "base/loss", "critic/loss", "critic/q_mean", "critic/q_min", "critic/q_max"]
LOGGED = 1000
FLUSHES = 50
"""Files that a run's metrics come in: one at each checkpoint."""


def run(seed: int) -> Run:
    return Run.create("lps", TASK, seed)


def document(run: Run, status: str = "done") -> dict[str, Any]:
    return {
        "id": run.id, "sweep": "costs", "run": run.to_dict(), "status": status, "step": run.steps,
        "versions": versions(), "host": "a-host", "device": "NVIDIA H100 80GB HBM3", "wall_time_s": 12345.678,
        "started": "2026-01-01T00:00:00+00:00", "updated": "2026-01-01T04:00:00+00:00", "error": None,
        "dataset_fingerprint": "0" * 64, "checkpoint": checkpoint_path(run),
    }  # fmt: skip


def fill(store: Store, run: Run) -> None:
    """All that a run leaves but its checkpoint."""
    for step in run.eval_steps:
        store.write_episodes(run.id, step, [Episode(i, step + i, i % 2 == 0, -i / 3, 100 + i) for i in range(50)])
    each, every = LOGGED // FLUSHES, run.steps // LOGGED
    for first in range(0, LOGGED, each):
        steps = [every * (first + i + 1) for i in range(each)]
        rows = [{"step": s, "metric": name, "value": (s % 977) / 977} for s in steps for name in METRICS]
        store.write_metrics(run.id, steps[0] - every + 1, rows)
    store.write_run(document(run))


def sizes(folder: Path) -> None:
    store = Store(folder / "results")
    fill(store, run(0))
    print("what                 files     bytes")
    for name in ("runs", "episodes", "metrics"):
        found = [file for file in (folder / "results" / name).rglob("*") if file.is_file()]
        print(f"{name:18} {len(found):7} {sum(file.stat().st_size for file in found):9}")


# --- S3 ---


class Bucket(http.server.BaseHTTPRequestHandler):
    """As much of S3 as the store uses, in memory, counting."""

    protocol_version = "HTTP/1.1"
    objects: dict[str, bytes] = {}
    parts: dict[str, dict[int, bytes]] = {}
    requests: Counter = Counter()

    def answer(self, name: str) -> None:
        path, _, query = self.path.partition("?")
        key, asked = urllib.parse.unquote(path).lstrip("/"), dict(urllib.parse.parse_qsl(query, True))
        body, status, xml = self.body(), 200, ""
        if name == "GET" and "list-type" in asked:
            name, xml = "LIST", self.listing(key.split("/")[0], asked)
        elif name == "POST" and "uploads" in asked:
            self.parts[key] = {}
            xml = (
                f"<InitiateMultipartUploadResult><UploadId>{len(self.parts)}</UploadId></InitiateMultipartUploadResult>"
            )
        elif name == "POST":
            self.objects[key] = b"".join(part for _, part in sorted(self.parts.pop(key).items()))
            xml = '<CompleteMultipartUploadResult><ETag>"e"</ETag></CompleteMultipartUploadResult>'
        elif name == "PUT" and "partNumber" in asked:
            self.parts[key][int(asked["partNumber"])] = body
        elif name == "PUT":
            self.objects[key] = body
        elif name == "DELETE":
            status = 204
            self.objects.pop(key, None)
        elif key not in self.objects:
            status = 404
        content = xml.encode() or (self.objects.get(key, b"") if name in ("GET", "HEAD") else b"")
        if status == 200 and name == "GET" and (span := self.headers["Range"]):
            first, last = span.removeprefix("bytes=").split("-")
            status, content = 206, content[int(first) : int(last) + 1]
        self.requests[name] += 1
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"e"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        self.end_headers()
        if name != "HEAD":
            self.wfile.write(content)

    def body(self) -> bytes:
        """What was sent: whole, or in HTTP's chunks, which hold S3's chunks."""
        if self.headers["Transfer-Encoding"] != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"] or 0))
        sent = unchunked(self.rfile)
        return unchunked(io.BytesIO(sent)) if self.headers["Content-Encoding"] == "aws-chunked" else sent

    def listing(self, bucket: str, asked: dict[str, str]) -> str:
        prefix, folders, xml = asked.get("prefix", ""), set[str](), ""
        for key in sorted(self.objects):
            name = key.removeprefix(f"{bucket}/")
            rest = name.removeprefix(prefix)
            if name.startswith(prefix) and "delimiter" in asked and "/" in rest:
                folders.add(prefix + rest.split("/")[0] + "/")
            elif name.startswith(prefix):
                time = "<LastModified>2026-01-01T00:00:00.000Z</LastModified>"
                xml += f"<Contents><Key>{name}</Key><Size>{len(self.objects[key])}</Size>{time}</Contents>"
        xml += "".join(f"<CommonPrefixes><Prefix>{folder}</Prefix></CommonPrefixes>" for folder in sorted(folders))
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{xml}</ListBucketResult>"

    do_GET = partialmethod(answer, "GET")
    do_PUT = partialmethod(answer, "PUT")
    do_POST = partialmethod(answer, "POST")
    do_HEAD = partialmethod(answer, "HEAD")
    do_DELETE = partialmethod(answer, "DELETE")

    def log_message(self, *_: object) -> None:
        pass


def unchunked(stream: BinaryIO) -> bytes:
    """Chunks, each with its length in hex in a line before it; the last one is empty, and trailers may follow."""
    content = b""
    while length := int(stream.readline().split(b";")[0], 16):
        content += stream.read(length)
        stream.readline()
    while stream.readline().strip():
        pass
    return content


def requests() -> None:
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "a", "AWS_EC2_METADATA_DISABLED": "true"}
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Bucket)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_address[1]}"

    def since(what: str, each: int = 1) -> None:
        kinds, total = sorted(Bucket.requests.items()), sum(Bucket.requests.values())
        print(f"{what:46} {total / each:8g}   {', '.join(f'{count / each:g} {name}' for name, count in kinds)}")
        Bucket.requests.clear()

    print(f"{'what':46} requests")
    store = Store(f"s3://bucket/results?endpoint_override={address}&scheme=http&region=us-east-1")
    since("a new store")
    for seed, (what, evaluations, seconds) in enumerate(
        (
            ("a run: 1 evaluation, no checkpoint on the way", 1, 1e9),
            ("a run: 10 evaluations, no checkpoint", 10, 1e9),
            ("a run: 1 evaluation, 19 checkpoints", 1, 0.0),
        )
    ):
        train([ring_run(20, evaluations, seed)], store, TrainOptions("cpu", checkpoint_seconds=seconds, log_interval=1))
        since(what)
    done = [ring_run(20, 1, seed) for seed in range(100, 120)]
    for one in done:
        store.write_run(document(one))
    since("writing a document", len(done))
    documents = len(store.runs())
    since(f"looking at {documents} documents, each", documents)
    store.read_episodes()
    since("reading the 12 files of episodes, each", 12)


def ring_run(steps: int, evaluations: int, seed: int = 0) -> Run:
    settings: dict[str, Any] = {**small_hyperparameters("flow_bc"), "horizon": RING.horizon}
    every = steps // evaluations
    return Run.create("flow_bc", RING.name, seed, steps=steps, eval_interval=every, eval_episodes=1, **settings)


# --- looks ---


def looks(folder: Path, runs: int) -> None:
    store, before = Store(folder / "results"), memory()
    (folder / "results" / "runs").mkdir()
    for seed in range(runs):
        one = run(seed)
        (folder / "results" / "runs" / f"{one.id}.json").write_text(json.dumps(document(one)))
    for _ in range(2):
        began = time.monotonic()
        cpu = time.process_time()
        docs = store.runs()
        print(f"{len(docs)} documents in {time.monotonic() - began:.2f} s, {time.process_time() - cpu:.2f} s of a core")
    print(f"memory: {memory() - before:.0f} MB more")


# --- MLflow ---


def mlflow(folder: Path, runs: int, server: bool) -> None:
    store, database = Store(folder / "results"), f"sqlite:///{folder}/mlflow.db"
    some = [run(seed) for seed in range(runs)]
    for one in some:
        fill(store, one)
    if not server:
        return mirror(store, database, some, folder)
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", database, "--port", str(port)]
    with served([*command, "--host", "127.0.0.1", "--workers", "1"], folder / "log", f"http://127.0.0.1:{port}/health"):
        mirror(store, f"http://127.0.0.1:{port}", some, folder)


def mirror(store: Store, uri: str, runs: list[Run], folder: Path) -> None:
    connection, ids = _Sweep(uri, store, "costs"), [run.id for run in runs]
    docs = {doc["id"]: doc for doc in store.runs()}
    list(connection.update(ids[:1], {}, docs, last=False))  # what is loaded once
    before, began, cpu = memory(), time.monotonic(), time.process_time()
    list(connection.update(ids, {}, docs, last=True))
    seconds, count = time.monotonic() - began, len(runs) - 1
    each = len(METRICS) * LOGGED + 3 * len(runs[0].eval_steps)
    print(f"{count} runs of {each} numbers: {seconds:.1f} s, {time.process_time() - cpu:.1f} s of a core here")
    print(f"{count / seconds:.2f} runs a second, {count * each / seconds:.0f} numbers a second")
    print(f"memory of the mirror: {(memory() - before) / count:.2f} MB a run")
    print(f"database: {(folder / 'mlflow.db').stat().st_size / len(runs) / 1e6:.2f} MB a run")


def environments() -> None:
    """One number after each environment that is made and used, in a process with torch and a policy's code."""
    kept = []
    for number in range(1, EPISODES_PER_QUERY + 1):
        kept.append(make_env(get_task(TASK)))
        kept[-1].reset(seed=0)
        for _ in range(50):
            kept[-1].step(kept[-1].action_space.sample())
        print(f"{number} environments of {TASK}: {memory():.0f} MB", flush=True)


def memory() -> float:
    return psutil.Process().memory_info().rss / 1e6


# --- servers ---


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@contextmanager
def served(command: list[str], log: Path, url: str, patience: float = 300.0) -> Iterator[None]:
    """Runs a server until the block ends, from when it answers at `url`."""
    with log.open("w") as file:
        process = psutil.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + patience
        while True:
            try:
                urllib.request.urlopen(url, timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"{command[0]} does not start: {log.read_text()[-2000:]}")
                time.sleep(0.5)
        yield
    finally:
        family = [*process.children(recursive=True), process]
        for member in family:
            member.terminate()
        psutil.wait_procs(family, timeout=20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sizes", "requests", "looks", "mlflow", "environments"))
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--server", action="store_true", help="mlflow: through a server, its database in sqlite")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        match arguments.what:
            case "sizes":
                sizes(folder)
            case "requests":
                requests()
            case "looks":
                looks(folder, arguments.runs)
            case "environments":
                environments()
            case _:
                mlflow(folder, arguments.runs, arguments.server)


if __name__ == "__main__":
    main()
