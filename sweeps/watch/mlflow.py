"""MLflow as a mirror of a results folder: a parent run per sweep, a child per run, with parameters, metrics by step,
versions and git commit.

    python -m sweeps.watch.mlflow RESULTS             # bring MLflow up to the results, and stop
    python -m sweeps.watch.mlflow RESULTS --follow    # until all runs are done or failed

It may run at any time and on any machine that reads the results. The results are the truth. The mirror finds its runs
in MLflow by their tags and logs only the missing values, so nothing is logged twice. A lease in the results folder
keeps two mirrors apart. A sweep starts a mirror as a process of its own (`Follower`). An MLflow that is away, slow or
broken therefore costs the sweep nothing.
"""

import argparse
import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from lps.errors import UserError, at_least, command_line, printable
from lps.runs.lease import Lease
from lps.runs.store import Store

EXPERIMENT = "lps"
EVERY = 5.0
"""Seconds between two looks at the results; more where a look takes long."""
PATIENCE = 60.0
"""Seconds without any progress after which a mirror gives up at its end."""
BATCH = 1000
"""Metrics in one request: MLflow's limit."""
LEASE = "mlflow"
"""The name under which a mirror holds the lease of a results folder."""
STATUS = {"queued": "RUNNING", "running": "RUNNING", "done": "FINISHED", "failed": "FAILED"}
ENDED = ("done", "failed")
ENVIRONMENT = {
    # MLflow would try for minutes otherwise.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    # A line for every run that ends.
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def tracking_uri(store: Store) -> str:
    """$MLFLOW_TRACKING_URI, else a database file beside local results, else one in the current folder."""
    folder = store.path if store.local else os.getcwd()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db"


class Follower:
    """A mirror in a process of its own, which follows this process and the results `store`."""

    def __init__(self, store: Store):
        self.uri = tracking_uri(store)
        self.problem: str | None = None
        """After `close`: a sentence that tells why MLflow is incomplete; None: it is complete."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", __spec__.name, store.path, "--beside-sweep"],
            stdin=subprocess.PIPE,  # closes with this process, however it ends
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,  # Ctrl-C is for the sweep
        )

    def close(self) -> None:
        """End the mirror after its last look at the results, which it repeats as long as it makes progress."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(EVERY)
        if self._process.poll() is None:
            print("MLflow is catching up with the results (Ctrl-C: in the background)", flush=True)
        said = self._process.stdout.read().splitlines()
        if self._process.wait():
            self.problem = (
                said[-1] if said else f"MLflow is incomplete (its mirror ended with {self._process.returncode})"
            )


class Mirror:
    """Mirrors all sweeps of a results folder to MLflow."""

    def __init__(self, store: Store, uri: str):
        self.store, self.uri = store, uri
        self.problem: str | None = None
        """The reason why MLflow is incomplete; None: it is complete."""
        self.moved = time.monotonic()
        """Time of the last progress."""
        self.over = False
        """Whether all runs of all sweeps are done or failed."""
        self._sweeps: dict[str, _Sweep] = {}

    def look(self, last: bool = False) -> float:
        """Bring MLflow up to the results; last: and end the sweeps that are not complete. Return the seconds that
        reading the documents took."""
        start = time.monotonic()
        try:
            docs = {doc["id"]: doc for doc in self.store.runs()}
            sweeps = _sweeps(self.store.sweeps(), docs.values())
            took, refused = time.monotonic() - start, list[str]()
            for name, (runs, tasks) in sweeps.items():
                if name not in self._sweeps:
                    self._sweeps[name] = _Sweep(self.uri, self.store, name)
                for refusal in self._sweeps[name].update(runs, tasks, docs, last):
                    self.moved = time.monotonic()
                    refused += [refusal] if refusal else []
            states = [docs[run]["status"] if run in docs else "" for runs, _ in sweeps.values() for run in runs]
            self.over = all(state in ENDED for state in states)
            self.problem = refused[0] if refused else None
            return took
        except ImportError as error:
            self.problem = f"MLflow is not installed: {error}"
        except Exception as error:  # whatever it is, the results are complete without MLflow
            self._sweeps.clear()  # what was logged is unknown now, so ask again
            self.problem = _line(error)
        return time.monotonic() - start


Runs = Collection[str]
Tasks = Mapping[str, Mapping[str, Any]]


def _sweeps(intents: Iterable[Mapping[str, Any]], docs: Iterable[Mapping[str, Any]]) -> dict[str, tuple[Runs, Tasks]]:
    """Return the run ids and the facts about the tasks of each sweep, by name. Sweeps of one name are one sweep."""
    runs: dict[str, dict[str, None]] = {}
    tasks: dict[str, dict[str, Any]] = {}
    for intent in intents:
        name = str(intent.get("sweep") or "sweep")
        runs.setdefault(name, {}).update(dict.fromkeys(intent["runs"]))
        tasks.setdefault(name, {}).update(intent.get("tasks", {}))
    known = {run for ids in runs.values() for run in ids}
    for doc in docs:
        if doc["id"] not in known:  # its intent was not copied
            runs.setdefault(str(doc.get("sweep") or "runs"), {})[doc["id"]] = None
    return {name: (list(ids), tasks.get(name, {})) for name, ids in runs.items()}


class _Sweep:
    """The parent run of a sweep in MLflow, and what is known to be there. Anything may raise; then begin anew."""

    def __init__(self, uri: str, store: Store, sweep: str):
        for name, value in ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        for name in ("mlflow", "alembic", "urllib3"):
            logging.getLogger(name).setLevel(logging.ERROR)
        from mlflow.tracking import MlflowClient

        _make_database(uri)
        self.client, self.store = MlflowClient(uri), store
        self.experiment = self._experiment(f"{store.path}/mlflow-artifacts" if store.local else None)
        self.parent = self._parent(sweep)
        self.children = {run.data.tags["run_id"]: run for run in self._search("mlflow.parentRunId", self.parent)}
        self.logged: dict[str, set[tuple[str, int]]] = {}  # run id -> (metric, step)
        self.seen: dict[str, set[tuple[str, int, int]]] = {}  # run id -> files read: path, size, time
        self.status = {i: run.info.status for i, run in self.children.items()}
        self.told: Any = None  # status and counts of the parent
        self.settled = {i: run.data.tags.get("updated") for i, run in self.children.items()}

    def update(self, runs: Runs, tasks: Tasks, docs: Mapping[str, dict[str, Any]], last: bool) -> Iterator[str]:
        """Bring MLflow up to the documents, by run id, and the files of the runs in the store. Yield after each run the
        reason why MLflow refuses its values, or ""."""
        from mlflow.exceptions import MlflowException

        for run in runs:
            doc = docs.get(run)
            if doc and self.settled.get(run) != doc.get("updated", ""):
                refusal = ""
                try:
                    self._child(doc, tasks)
                    self._metrics(run)
                    self._settle(run, doc)
                except MlflowException as error:
                    if error.error_code != "INVALID_PARAMETER_VALUE":
                        raise
                    refusal = f"run {run}: {_line(error)}"
                yield refusal
        states = [docs[run]["status"] if run in docs else "waiting" for run in runs]
        counts = {state: states.count(state) for state in ENDED}
        ended = sum(counts.values()) == len(states)
        status = ("FAILED" if counts["failed"] else "FINISHED") if ended else "KILLED" if last else "RUNNING"
        if self.told != (status, counts):
            for state, number in counts.items():
                self.client.set_tag(self.parent, f"runs_{state}", number)
            if status == "RUNNING":
                self.client.update_run(self.parent, status)
            else:
                self._end(self.parent, status)
            self.told = status, counts

    # --- finding and making runs -----------------------------------------------------------------------------------

    def _experiment(self, artifacts: str | None) -> str:
        found = self.client.get_experiment_by_name(EXPERIMENT)
        return found.experiment_id if found else self.client.create_experiment(EXPERIMENT, artifacts)

    def _search(self, tag: str, value: str, also: str = "") -> Iterable[Any]:
        token = None
        while True:
            page = self.client.search_runs(
                [self.experiment], f"tags.`{tag}` = '{value}'{also}", max_results=1000, page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _parent(self, sweep: str) -> str:
        sweep, results = _unquoted(sweep), _unquoted(self.store.path)
        for run in self._search("sweep", sweep, f" and tags.results = '{results}'"):
            counts = {state: int(run.data.tags.get(f"runs_{state}", -1)) for state in ENDED}
            self.told = run.info.status, counts
            return run.info.run_id
        tags = {"sweep": sweep, "results": results}
        return self.client.create_run(self.experiment, tags=tags, run_name=sweep).info.run_id

    def _child(self, doc: Mapping[str, Any], tasks: Tasks) -> None:
        """Make the child of a run if there is none, and learn which metrics it has."""
        from mlflow.entities import Param

        run_id, run = doc["id"], doc["run"]
        if run_id not in self.children:
            about = tasks.get(run["task"], {})
            versions = doc.get("versions", {})
            tags = {"mlflow.parentRunId": self.parent, "run_id": run_id}
            tags |= {f"version.{name}": version for name, version in versions.items() if name != "git_commit"}
            tags["mlflow.source.git.commit"] = versions.get("git_commit", "unknown")
            name = f"{run['agent']} {about.get('title', run['task'])} seed {run['seed']}"
            start = _milliseconds(doc["started"]) if doc.get("started") else None
            made = self.client.create_run(self.experiment, start_time=start, tags=tags, run_name=name)
            self.children[run_id], self.logged[run_id], self.status[run_id] = made, set(), "RUNNING"
            params = {**run, "group": about.get("group", "")}
            params |= params.pop("hyperparameters", {})
            batch = [Param(key, str(value)) for key, value in params.items()]
            for first in range(0, len(batch), 100):
                self.client.log_batch(made.info.run_id, params=batch[first : first + 100])
        elif run_id not in self.logged:
            child = self.children[run_id].info.run_id
            self.logged[run_id] = {
                (key, metric.step)
                for key in self.client.get_run(child).data.metrics
                for metric in self.client.get_metric_history(child, key)
            }

    # --- metrics ---------------------------------------------------------------------------------------------------

    def _metrics(self, run_id: str) -> None:
        """Logs what the store has of a run and MLflow has not."""
        from mlflow.entities import Metric

        logged, batch = self.logged[run_id], []
        seen = self.seen.setdefault(run_id, set())
        files = [file for file in self._files(run_id) if _mark(file) not in seen]
        for file in files:
            when = (file.mtime_ns or time.time_ns()) // 1_000_000
            for key, step, value in self._rows(file.path):
                if (key, step) not in logged:
                    logged.add((key, step))
                    batch.append(Metric(key, value, when, step))
        for first in range(0, len(batch), BATCH):
            self.client.log_batch(self.children[run_id].info.run_id, metrics=batch[first : first + BATCH])
        seen.update(map(_mark, files))

    def _files(self, run_id: str) -> list[pafs.FileInfo]:
        infos = []
        for folder in ("metrics", "episodes"):
            selector = pafs.FileSelector(f"{self.store.root}/{folder}/{run_id}", allow_not_found=True)
            infos += self.store.fs.get_file_info(selector)
        return sorted((info for info in infos if info.path.endswith(".parquet")), key=lambda info: info.path)

    def _rows(self, path: str) -> Iterable[tuple[str, int, float]]:
        """(metric, step, value) of a file of metrics, or the means over a file of episodes."""
        with self.store.fs.open_input_file(path) as file:
            table = pq.ParquetFile(file).read(use_threads=False).to_pydict()
        if "metric" in table:
            yield from zip(table["metric"], table["step"], table["value"], strict=True)
        elif table["step"]:
            for key in ("success", "return", "length"):
                if values := [value for value in table[key] if value is not None]:
                    yield f"eval/{key}", table["step"][0], sum(values) / len(values)

    # --- ends ------------------------------------------------------------------------------------------------------

    def _settle(self, run_id: str, doc: dict[str, Any]) -> None:
        """Says how a run stands. One that has ended is not looked at again until its document changes."""
        child, status = self.children[run_id].info.run_id, STATUS[doc["status"]]
        if status == "RUNNING":
            if self.status[run_id] != status:
                self.client.update_run(child, status)
        else:
            self.client.set_tag(child, "error", (doc.get("error") or "")[-4000:])
            updated = doc.get("updated", "")
            self._end(child, status, _milliseconds(updated) if updated else None)
            self.client.set_tag(child, "updated", updated)  # last: whatever was cut off before is done again
            self.settled[run_id] = updated
            # Of ten thousand runs this would be gigabytes. Should the run go on after all, MLflow is asked.
            self.logged.pop(run_id, None)
            self.seen.pop(run_id, None)
        self.status[run_id] = status

    def _end(self, run: str, status: str, when: int | None = None) -> None:
        self.client.set_terminated(run, status, when or time.time_ns() // 1_000_000)


def _make_database(uri: str) -> None:
    """Create MLflow's sqlite file if `uri` names one that does not exist.

    MLflow cannot open a database whose creation was interrupted, so it is created under another name and renamed."""
    path = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:///") or path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for left in path.parent.glob(f".{path.name}-*"):
        left.unlink()
    new = path.with_name(f".{path.name}-{os.getpid()}")
    SqlAlchemyStore(f"sqlite:///{new}", str(path.parent / "mlflow-artifacts")).engine.dispose()
    os.replace(new, path)


def _mark(file: pafs.FileInfo) -> tuple[str, int, int]:
    return file.path, file.size, file.mtime_ns or 0


def _unquoted(text: str) -> str:
    """The text for a search in MLflow, whose language cannot escape quotes."""
    return text.replace("'", "_")


def _line(error: Exception) -> str:
    return printable((str(error).strip() or type(error).__name__).splitlines()[0][:160])


def _milliseconds(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1000)


def follow(mirror: Mirror, lease: Lease, every: float, ended: threading.Event) -> None:
    """Look at the results until all runs are done or failed, or until `ended`, and then a last time. A problem is
    printed once. Nothing is done while another process mirrors the results."""
    told: set[str] = set()
    while not ended.is_set():
        took = 0.0 if lease.take([LEASE]) else mirror.look()
        if mirror.over and not mirror.problem:
            return
        if mirror.problem and mirror.problem not in told:
            _say(f"MLflow: {mirror.problem}. The mirror keeps trying")
            told.add(mirror.problem)
        ended.wait(max(every, 10 * took))
    if not lease.take([LEASE]):
        mirror.look(last=True)


def _follow_sweep(mirror: Mirror, ended: threading.Event) -> None:
    """Wait for the end of the sweep, whose process has the other end of standard input. Then end this process if MLflow
    takes nothing for PATIENCE seconds."""
    sys.stdin.read()
    ended.set()
    mirror.moved = time.monotonic()
    while time.monotonic() - mirror.moved < PATIENCE:
        time.sleep(0.2)
    _say(f"MLflow is incomplete (it has taken nothing for {PATIENCE:g} s). The same command completes it")
    os._exit(1)


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the sweep was killed
        print(text, flush=True)


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m sweeps.watch.mlflow",
        description="Mirror a results folder to MLflow, at $MLFLOW_TRACKING_URI or else in a file beside the results.",
    )
    parser.add_argument("results", help="folder or s3://bucket/folder")
    parser.add_argument(
        "--follow", action="store_true", help="mirror until all runs are done or failed (default: once)"
    )
    parser.add_argument(
        "--every",
        type=at_least(0.1),
        default=EVERY,
        metavar="S",
        help=f"seconds between two looks (default: {EVERY:g})",
    )
    parser.add_argument("--beside-sweep", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    store = Store(arguments.results, create=False, warn=False)
    mirror, ended = Mirror(store, tracking_uri(store)), threading.Event()
    with Lease(store) as lease:
        if arguments.beside_sweep:
            threading.Thread(target=_follow_sweep, args=(mirror, ended), daemon=True).start()
        if arguments.follow or arguments.beside_sweep:
            follow(mirror, lease, arguments.every, ended)
        elif busy := lease.take([LEASE]):
            raise UserError(f"{busy[LEASE]} mirrors {store.path} already. Wait for its end, or stop it")
        else:
            mirror.look()
    if mirror.problem:
        _say(f"MLflow is incomplete ({mirror.problem}). The same command completes it")
        return 1
    if not arguments.beside_sweep:
        print(f"MLflow is complete: {mirror.uri}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
