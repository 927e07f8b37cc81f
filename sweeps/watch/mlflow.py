"""MLflow as a mirror of the results store: a parent run per sweep, a child per run, with parameters, metrics by step,
versions and git commit.

The store is the truth and is read again and again, so MLflow may be away at any time, and catches up when it is back,
if only when the same command is run again. One thread of the driver is the only writer. It finds runs again by their
tags and asks MLflow what it has already, so nothing is logged twice; and nothing waits for it.
"""

import logging
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from lps.runs.run import Run
from lps.runs.store import Store

EXPERIMENT = "lps"
EVERY = 5.0
"""Seconds between two looks at the store; more where a look takes long."""
BATCH = 1000
"""Metrics in one request: MLflow's limit."""
STATUS = {"queued": "RUNNING", "running": "RUNNING", "done": "FINISHED", "failed": "FAILED"}


def tracking_uri(store: Store) -> str:
    """$MLFLOW_TRACKING_URI, else a database file beside local results, else one in the current folder."""
    folder = store.path if store.local else os.getcwd()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder}/mlflow.db"


class Mirror:
    """Mirrors `runs` of `store` from `start` until `close`, as the sweep called `sweep`."""

    def __init__(self, store: Store, sweep: str, runs: Sequence[Run]):
        self.uri = tracking_uri(store)
        self.problem: str | None = None
        """Why MLflow does not have everything; None when it has."""
        self._store, self._sweep, self._runs = store, sweep, list(runs)
        self._mlflow: _Mlflow | None = None
        self._stop = threading.Event()
        self._moved = time.monotonic()
        # MLflow would try for minutes otherwise.
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        # A line for every run that ends, in the middle of the console's table.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        try:
            import mlflow.tracking  # noqa: F401  here and not in the thread: imports of two threads can meet

            for name in ("mlflow", "alembic", "urllib3"):
                logging.getLogger(name).setLevel(logging.ERROR)
        except ImportError as error:
            self.problem = f"MLflow is not installed ({error})"
        self._thread = threading.Thread(target=self._loop, daemon=True, name="mlflow")

    def start(self) -> None:
        """Begins to look, if it has not begun already.

        Call it when nothing is left to be put into os.environ: the threads of pyarrow's S3 client read the environment
        at each connection, and in the C library reading it while it grows ends the process (getenv, setenv).
        """
        if not self.problem and not self._thread.ident:
            self._thread.start()

    def close(self, patience: float = 60.0) -> None:
        """Has a last look at the store and ends; gives up on an MLflow that has taken no run for `patience` seconds."""
        self._stop.set()
        self._moved = time.monotonic()
        self.start()
        if self._thread.ident:
            self._thread.join(min(EVERY, patience))
            if self._thread.is_alive():
                print("MLflow is catching up with the results", flush=True)
            while self._thread.is_alive() and time.monotonic() - self._moved < patience:
                self._thread.join(0.1)
            if self._thread.is_alive():
                self.problem = f"MLflow has taken nothing for {patience:g} s"

    def _loop(self) -> None:
        pause = 0.0
        while not self._stop.wait(pause):
            pause = max(EVERY, 10 * self._look())
        self._look(last=True)

    def _look(self, last: bool = False) -> float:
        """Seconds that the documents took, which are many requests where the store is far away."""
        start = time.monotonic()
        try:
            docs = {doc["id"]: doc for doc in self._store.runs()}
            took = time.monotonic() - start
            self._mlflow = self._mlflow or _Mlflow(self.uri, self._store, self._sweep)
            for _ in self._mlflow.update(self._runs, docs, last):
                self._moved = time.monotonic()
            self.problem = None
            return took
        except Exception as error:  # whatever it is, the sweep has nothing to do with it
            self._mlflow = None  # what was logged is unknown now, so ask again
            self.problem = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        return time.monotonic() - start


class _Mlflow:
    """A connection to MLflow, and what is known to be there. Anything may raise; then begin anew."""

    def __init__(self, uri: str, store: Store, sweep: str):
        from mlflow.tracking import MlflowClient

        _make_database(uri)
        self.client, self.store = MlflowClient(uri), store
        self.experiment = self._experiment(f"{store.path}/mlflow-artifacts" if store.local else None)
        self.parent = self._parent(sweep)
        self.children = {run.data.tags["run_id"]: run for run in self._search("mlflow.parentRunId", self.parent)}
        self.logged: dict[str, set[tuple[str, int]]] = {}  # run id -> (metric, step)
        self.seen: dict[str, set[tuple[str, int, int]]] = {}  # run id -> files read: path, size, time
        self.status = {i: run.info.status for i, run in self.children.items()}
        self.settled = {i: run.data.tags.get("updated") for i, run in self.children.items()}

    def update(self, runs: Sequence[Run], docs: Mapping[str, dict[str, Any]], last: bool) -> Iterator[None]:
        """Brings MLflow up to the documents, by run id, and what the store has beside them; yields after each run."""
        for run in runs:
            doc = docs.get(run.id)
            if doc and self.settled.get(run.id) != doc["updated"]:
                self._child(run, doc)
                self._metrics(run.id)
                self._settle(run.id, doc)
                yield
        if last:
            states = [docs[run.id]["status"] if run.id in docs else "waiting" for run in runs]
            for state in ("done", "failed"):
                self.client.set_tag(self.parent, f"runs_{state}", states.count(state))
            over = "FAILED" if "failed" in states else "FINISHED"
            self._end(self.parent, over if set(states) <= {"done", "failed"} else "KILLED")

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
        for run in self._search("sweep", sweep, f" and tags.results = '{self.store.path}'"):
            self.client.update_run(run.info.run_id, status="RUNNING")
            return run.info.run_id
        tags = {"sweep": sweep, "results": self.store.path}
        return self.client.create_run(self.experiment, tags=tags, run_name=sweep).info.run_id

    def _child(self, run: Run, doc: dict[str, Any]) -> None:
        """Makes the child of a run where there is none, and learns which metrics it has."""
        from mlflow.entities import Param

        if run.id not in self.children:
            task = run.resolved_task
            tags = {"mlflow.parentRunId": self.parent, "run_id": run.id}
            tags |= {f"version.{name}": version for name, version in doc["versions"].items() if name != "git_commit"}
            tags["mlflow.source.git.commit"] = doc["versions"].get("git_commit", "unknown")
            name = f"{run.agent} {task.title} seed {run.seed}"
            start = _milliseconds(doc["started"])
            made = self.client.create_run(self.experiment, start_time=start, tags=tags, run_name=name)
            self.children[run.id], self.logged[run.id], self.status[run.id] = made, set(), "RUNNING"
            params = {**run.to_dict(), "group": task.group}
            params |= params.pop("hyperparameters")
            batch = [Param(key, str(value)) for key, value in params.items()]
            for first in range(0, len(batch), 100):
                self.client.log_batch(made.info.run_id, params=batch[first : first + 100])
        elif run.id not in self.logged:
            child = self.children[run.id].info.run_id
            self.logged[run.id] = {
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
            self._end(child, status, _milliseconds(doc["updated"]))
            self.client.set_tag(child, "updated", doc["updated"])  # last: whatever was cut off before is done again
            self.settled[run_id] = doc["updated"]
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


def _milliseconds(iso: str) -> int:
    return int(datetime.fromisoformat(iso).timestamp() * 1000)
