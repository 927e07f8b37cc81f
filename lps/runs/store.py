"""The results of runs on disk: one schema, for any filesystem that pyarrow knows (a local folder, `s3://bucket/...`).

    RESULTS/schema.json                              {"schema": 1}
    RESULTS/sweeps/<name>.json                       the intent of a sweep (see `Store.write_sweep`)
    RESULTS/runs/<run_id>.json                       one document per run (see lps.runs.record.RunRecord)
    RESULTS/episodes/<run_id>/<step:09d>.parquet     one row per evaluation episode: EPISODES
    RESULTS/metrics/<run_id>/<step:09d>.parquet      one row per logged number: METRICS; named by its first step
    RESULTS/studies/<name>.json                      what a study found beyond its runs (see `Store.write_study`)
    RESULTS/checkpoints/<run_id>.pt                  what a run goes on from
    RESULTS/actions/<run_id>.parquet                 what a run's last policy does on the ring bandit: RING_ACTIONS
    RESULTS/leases/<owner>.json                      the runs that a process trains at this moment (lps.runs.lease)

A run has one writer at a time (lps.runs.lease). Every file is written whole or not at all, and writing it again
replaces it, so whatever was interrupted can be repeated. Readers pass over part files, and over files that cannot be
read or are not valid (lps.runs.documents): these are named in `Store.problems`. No file outside of the folder is read,
written or deleted, whatever the documents say and wherever links lead.
"""

from __future__ import annotations

import contextlib
import copy
import errno
import functools
import json
import logging
import os
import posixpath
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from lps.errors import printable
from lps.files import FileError, open_filesystem, reason, write_durably
from lps.runs import documents
from lps.runs.record import Episode, RunRecord, Status

if TYPE_CHECKING:
    from lps.runs.run import Run

SCHEMA = 1
EPISODES = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.int64()),  # updates done when the policy was evaluated
        ("episode", pa.int32()),  # 0, 1, ... within one evaluation
        ("env_seed", pa.int64()),  # what the environment was reset with
        ("success", pa.bool_()),  # at the last step of the episode; null where the task has none
        ("return", pa.float64()),  # undiscounted sum of the task's rewards
        ("length", pa.int32()),  # environment steps
    ]
)
METRICS = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.int64()),
        ("metric", pa.string()),  # such as 'critic/loss'
        ("value", pa.float64()),
    ]
)
RING_ACTIONS = pa.schema(
    [
        ("run_id", pa.string()),
        ("step", pa.int64()),  # updates done
        ("x", pa.float32()),  # of an action in the plane, both in [-1, 1]
        ("y", pa.float32()),
    ]
)
OBJECT_STORES = {"s3", "gcs", "abfs"}  # a put is atomic, and folders do not exist
PAUSES = (1, 2, 4, 8, 15, 30, 60)
"""Retry delays in seconds. Short outages recover within minutes; longer ones need a person."""
PERMANENT = {
    getattr(errno, name)
    for name in "EACCES EEXIST EISDIR ELOOP ENAMETOOLONG ENOTDIR ENOTEMPTY EPERM EROFS".split()
}  # fmt: skip
"""Errors of writing that waiting does not cure."""
FOLDERS = ("sweeps", "runs", "episodes", "metrics", "studies", "checkpoints", "actions", "leases")
log = logging.getLogger(__name__)


class StoreError(FileError):
    """A results folder that cannot be read or written. The message names the file, the reason and the remedy."""


class NoResults(StoreError):
    """There are none at this place yet."""


class Store:
    """The results folder at `path`: a local path or a URI of a filesystem that pyarrow knows.

    With `create` it is made where it is not there yet, and must be writable; without it must exist already.
    Unreadable files are noted in `problems` and, with `warn`, logged at once.
    Raises StoreError where it is not a results folder, has another schema version, or cannot be read or written.
    """

    def __init__(self, path: str | os.PathLike[str], create: bool = True, warn: bool = True):
        self._warn = warn
        self.path, self.fs, self.root = open_filesystem(path)
        self.local = isinstance(self.fs, pafs.LocalFileSystem)
        self._real = os.path.realpath(self.root).rstrip("/") + "/" if self.local else ""
        self._inside: set[str] = set()  # folders without links that lead out
        self.problems: list[str] = []  # one line per file that a reader had to pass over
        self._fence: Callable[[], None] | None = None
        self._check(create)

    def __repr__(self) -> str:
        return f"Store({self.path!r})"

    def fenced(self, check: Callable[[], None]) -> Store:
        """The same results, but every write and every deletion calls `check` first, which may raise."""
        store = copy.copy(self)
        store._fence = check
        return store

    # -- runs ---------------------------------------------------------------------------------------------------

    def write_run(self, record: RunRecord | Mapping[str, Any]) -> None:
        """Writes the document of a run. The key `schema` is added here."""
        doc = record.to_document() if isinstance(record, RunRecord) else record
        self.write_bytes(f"runs/{doc['id']}.json", json.dumps({"schema": SCHEMA, **doc}, indent=1).encode())

    def read_run(self, run_id: str) -> dict[str, Any] | None:
        """The document of a run; None where there is none, or where it is damaged (which is noted in `problems`)."""
        rel = f"runs/{run_id}.json"
        return self._read_document(rel) if self.exists(rel) else None

    def record(self, run: Run, sweep: str = "") -> RunRecord:
        """The record of a run; a first one where there is none, or where it is damaged."""
        document = self.read_run(run.id)
        return RunRecord.from_document(document) if document else RunRecord.of(run, sweep)

    def runs(self) -> list[dict[str, Any]]:
        """The documents of all runs, ordered by id."""
        return self._read_documents("runs")

    def finished(self, run_id: str) -> bool:
        document = self.read_run(run_id)
        return document is not None and document.get("status") == Status.DONE

    # -- sweeps -------------------------------------------------------------------------------------------------

    def write_sweep(self, name: str, doc: Mapping[str, Any]) -> None:
        """Writes the intent of a sweep (`lps.runs.intent.write_intent`), a JSON object with these keys:

        sweep, command (starts the sweep again), runs {id: {agent, task, seed, roles}}, usual {agent: {group: setting}},
        agents {agent: {title, colour, imitation, alpha_without_effect, defaults, tuned, variants}}, tasks {task:
        {suite, group, title, dataset, horizon, max_episode_steps, metric, return_range}}. Sweeps of version 1 have the
        first three keys, and no roles.
        """
        self.write_bytes(f"sweeps/{name}.json", json.dumps({"schema": SCHEMA, **doc}).encode())

    def sweeps(self) -> list[dict[str, Any]]:
        """The documents of all sweeps."""
        return self._read_documents("sweeps")

    # -- studies ------------------------------------------------------------------------------------------------

    def write_study(self, name: str, doc: Mapping[str, Any]) -> None:
        """Writes what a study found that is no episode and no metric of a run; the key `study` is added here."""
        text = json.dumps({"schema": SCHEMA, "study": name, **doc}, indent=1)
        self.write_bytes(f"studies/{name}.json", text.encode())

    def studies(self) -> list[dict[str, Any]]:
        """The documents of all studies, ordered by name."""
        return self._read_documents("studies")

    # -- evaluation episodes ------------------------------------------------------------------------------------

    def write_episodes(self, run_id: str, step: int, rows: Iterable[Episode | Mapping[str, Any]]) -> None:
        """Writes the evaluation of a run after `step` updates: all its episodes at once, as Episodes or as mappings
        with the columns of EPISODES (`run_id` and `step` are filled in)."""
        mappings = [row.row() if isinstance(row, Episode) else row for row in rows]
        filled = [{**row, "run_id": run_id, "step": step} for row in mappings]
        self._write_table(f"episodes/{run_id}/{step:09d}.parquet", filled, EPISODES)

    def episode_steps(self, run_id: str) -> set[int]:
        """The steps at which a run has been evaluated, as far as their files can be read."""
        rels = self._files(f"episodes/{run_id}", ".parquet")
        rows = self._map(functools.partial(self._read_table, schema=EPISODES), rels)
        return {_step(rel) for rel, table in zip(rels, rows, strict=True) if table is not None}

    def episodes(self, run_id: str) -> dict[int, list[Episode]]:
        """The evaluation episodes of a run by step."""
        found: dict[int, list[Episode]] = {}
        for row in self.read_episodes(run_id).to_pylist():
            found.setdefault(row["step"], []).append(Episode.of_row(row))
        return found

    def read_episodes(self, run_id: str | None = None) -> pa.Table:
        """All evaluation episodes of all runs, or of one, ordered by run, step and episode: a table with the schema
        EPISODES."""
        return self._read_tables(f"episodes/{run_id}" if run_id else "episodes", EPISODES)

    # -- training metrics ---------------------------------------------------------------------------------------

    def write_metrics(self, run_id: str, first_step: int, rows: Iterable[Mapping[str, Any]]) -> None:
        """Writes logged numbers of a run, mappings with `step`, `metric` and `value`, as one file that is named by
        `first_step`: no row is earlier. Many rows per file keep reading quick."""
        filled = [{**row, "run_id": run_id} for row in rows]
        self._write_table(f"metrics/{run_id}/{first_step:09d}.parquet", filled, METRICS)

    def drop_metrics(self, run_id: str, from_step: int) -> None:
        """Removes what a run logged at `from_step` and later: a resumed run logs it again."""
        for rel in self._files(f"metrics/{run_id}", ".parquet"):
            if _step(rel) >= from_step:
                self.delete(rel)
            elif (table := self._read_table(rel, METRICS)) is not None:
                kept = [row for row in table.to_pylist() if row["step"] < from_step]
                if len(kept) < table.num_rows:
                    self._write_table(rel, kept, METRICS)

    def read_metrics(self, run_id: str | None = None) -> pa.Table:
        """All logged numbers of all runs, or of one, ordered by run and step: a table with the schema METRICS."""
        return self._read_tables(f"metrics/{run_id}" if run_id else "metrics", METRICS)

    # -- actions ------------------------------------------------------------------------------------------------

    def write_actions(self, run_id: str, step: int, actions: Iterable[tuple[float, float]]) -> None:
        """Writes actions (x, y) that a run's policy chose after `step` updates; they replace those of earlier steps."""
        rows = [{"run_id": run_id, "step": step, "x": x, "y": y} for x, y in actions]
        self._write_table(f"actions/{run_id}.parquet", rows, RING_ACTIONS)

    def read_actions(self) -> pa.Table:
        """The actions of all runs that have any, ordered by run: a table with the schema RING_ACTIONS."""
        return self._read_tables("actions", RING_ACTIONS)

    # -- files: `rel` is a path inside the results folder --------------------------------------------------------

    def read_bytes(self, rel: str) -> bytes:
        try:
            with self.fs.open_input_file(self._full(rel)) as file:
                return file.read()
        except OSError as error:
            raise StoreError(f"cannot read {self._shown(rel)}: {reason(error)}") from error

    def read_all(self, folder: str, suffix: str) -> dict[str, bytes]:
        """The content of all files of a folder by path; files that vanish meanwhile are left out."""

        def read(rel: str) -> bytes | None:
            try:
                return self.read_bytes(rel)
            except StoreError as error:
                if isinstance(error.__cause__, FileNotFoundError):
                    return None
                raise

        rels = self._files(folder, suffix)
        return {rel: data for rel, data in zip(rels, self._map(read, rels), strict=True) if data is not None}

    def write_bytes(self, rel: str, data: bytes, patient: bool = True) -> None:
        """Writes a file whole or not at all: it never exists half written under its own name.

        After an error that may pass, it tries again for two minutes (PAUSES) if `patient`, then raises a StoreError.
        """
        for pause in (*(PAUSES if patient else ()), None):
            if self._fence:
                self._fence()
            try:
                return self._write_bytes(rel, data)
            except OSError as error:
                if pause is None or error.errno in PERMANENT:
                    raise StoreError(
                        f"cannot write {self._shown(rel)}: {reason(error)}. Nothing that was written before is lost: "
                        "repair the folder, make room or give write permission, and run the same command again"
                    ) from error
                log.warning("cannot write %s: %s; trying again in %g s", self._shown(rel), reason(error), pause)
                time.sleep(pause)

    def exists(self, rel: str) -> bool:
        try:
            return self.fs.get_file_info(self._full(rel)).type != pafs.FileType.NotFound
        except OSError as error:
            raise StoreError(f"cannot read {self._shown(rel)}: {reason(error)}") from error

    def delete(self, rel: str) -> None:
        """Removes a file; one that is not there is fine."""
        if self._fence:
            self._fence()
        try:
            if self.exists(rel):
                self.fs.delete_file(self._full(rel))
        except FileNotFoundError:
            pass  # another process was faster
        except OSError as error:
            raise StoreError(f"cannot delete {self._shown(rel)}: {reason(error)}") from error

    # -- inside -------------------------------------------------------------------------------------------------

    def _write_bytes(self, rel: str, data: bytes) -> None:
        full = self._full(rel)
        if self.fs.type_name in OBJECT_STORES:
            with self.fs.open_output_stream(full) as file:
                file.write(data)
            return
        folder, name = posixpath.split(full)
        self.fs.create_dir(folder, recursive=True)
        if self.local:
            write_durably(full, data)
            return
        part = posixpath.join(folder, f".{name}.{uuid.uuid4().hex[:8]}.part")
        try:
            with self.fs.open_output_stream(part) as file:
                file.write(data)
            self.fs.move(part, full)
        except BaseException:
            with contextlib.suppress(OSError):
                self.fs.delete_file(part)
            raise

    def _check(self, create: bool) -> None:
        try:
            infos = self.fs.get_file_info(pafs.FileSelector(self.root, allow_not_found=True))
        except OSError as error:
            raise StoreError(f"cannot read the results in {self.path}: {reason(error)}") from error
        names = {info.base_name for info in infos if not info.base_name.endswith(".part")}
        for name in sorted(info.base_name for info in infos if info.is_file and info.base_name in FOLDERS):
            if create:
                raise StoreError(f"{self._shown(name)} is a file and not a folder. Remove or rename it")
            self.note(name, NotADirectoryError(errno.ENOTDIR, ""))
        if "schema.json" in names:
            document = self._read_document("schema.json")
            schema = document.get("schema", "unknown") if isinstance(document, dict) else "unknown"
            if schema != SCHEMA:
                raise StoreError(
                    f"{self.path} holds results of schema {schema!r:.50}, and this version reads "
                    f"and writes schema {SCHEMA}: use the version that wrote them, or another results folder"
                )
            if create and self.local:  # find out now, not at the first evaluation hours later
                probe = f".writable.{uuid.uuid4().hex[:8]}.part"
                self._claim(probe, b"")
                self.delete(probe)
        elif names:
            raise StoreError(
                f"{self.path} is not a results folder: it holds {', '.join(sorted(names)[:3])}"
                f"{', ...' if len(names) > 3 else ''} but no schema.json. Choose an empty or a new folder"
            )
        elif create:
            self._claim("schema.json", json.dumps({"schema": SCHEMA}).encode())
        else:
            raise NoResults(f"there are no results in {self.path}: check the path, or run something first")

    def _claim(self, rel: str, data: bytes) -> None:
        """Writes at once or not at all: a person is waiting to hear whether it works."""
        try:
            self._write_bytes(rel, data)
        except OSError as error:
            raise StoreError(
                f"cannot write results to {self.path}: {reason(error)}. "
                "Choose another folder, or get write permission there"
            ) from error

    def _full(self, rel: str) -> str:
        """The path of a file of these results.  StoreError if it leads out of the folder, by its name or by links."""
        parts = rel.split("/")
        if rel.startswith("/") or ".." in parts or (self.local and not self._leads_inside(parts)):
            raise StoreError(f"{self._shown(rel)} is outside of the results folder. Remove the link or the document")
        return posixpath.join(self.root, rel)

    def _leads_inside(self, parts: list[str]) -> bool:
        path = self.root
        for number, part in enumerate(parts, 1):
            path = f"{path}/{part}"
            if path not in self._inside:
                if os.path.islink(path) and not f"{os.path.realpath(path)}/".startswith(self._real):
                    return False
                if number < len(parts):
                    self._inside.add(path)
        return True

    def _shown(self, rel: str) -> str:
        """A file as people know it; a URI's options, such as its endpoint, would only hide the name."""
        return f"{self.path.partition('?')[0].rstrip('/')}/{rel}"

    def note(self, rel: str, error: BaseException) -> None:
        """Note a file that a reader passes over."""
        line = printable(f"{self._shown(rel)}: {reason(error)}")
        if line not in self.problems:
            self.problems.append(line)
            if self._warn:
                log.warning("passing over %s", line)

    def _files(self, folder: str, suffix: str) -> list[str]:
        try:
            infos = self.fs.get_file_info(pafs.FileSelector(self._full(folder), allow_not_found=True, recursive=True))
        except (NotADirectoryError, StoreError) as error:
            self.note(folder, error)
            return []
        except OSError as error:
            raise StoreError(f"cannot list {self._shown(folder)}: {reason(error)}") from error
        paths = [info.path for info in infos if info.is_file and info.path.endswith(suffix)]
        return sorted(path[len(self.root) :].lstrip("/") for path in paths)

    def _map(self, read: Callable[[str], Any], rels: list[str]) -> list[Any]:
        if len(rels) < 2:
            return [read(rel) for rel in rels]
        with ThreadPoolExecutor(8 if self.local else 32) as pool:
            return list(pool.map(read, rels))

    def _read_document(self, rel: str) -> dict[str, Any] | None:
        kind, _, name = rel.removesuffix(".json").partition("/")
        try:
            document = json.loads(self.read_bytes(rel))
            if kind in ("runs", "sweeps", "studies"):
                documents.check(kind, name, document)
                if (schema := document.get("schema", SCHEMA)) != SCHEMA:
                    raise ValueError(f"written with schema {schema!r:.50}, not {SCHEMA}")
            return document
        except (ValueError, RecursionError) as error:
            self.note(rel, error)
            return None

    def _read_documents(self, folder: str) -> list[dict[str, Any]]:
        def read(rel: str) -> dict[str, Any] | None:
            try:
                return self._read_document(rel)
            except StoreError as error:
                self.note(rel, error.__cause__ or error)
                return None

        found = self._map(read, self._files(folder, ".json"))
        return [document for document in found if document is not None]

    def _read_table(self, rel: str, schema: pa.Schema) -> pa.Table | None:
        try:
            with self.fs.open_input_file(self._full(rel)) as file:
                data = file.read()  # small, and over a network one request is quicker than several
            table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
            if not table.schema.equals(schema):
                raise ValueError(f"has the columns {', '.join(table.schema.names)} and not those of its schema")
            return table
        except FileNotFoundError:
            return None  # its writer has removed it since it was listed
        except (OSError, ValueError, StoreError, pa.ArrowException) as error:
            self.note(rel, error)
            return None

    def _read_tables(self, folder: str, schema: pa.Schema) -> pa.Table:
        tables = self._map(functools.partial(self._read_table, schema=schema), self._files(folder, ".parquet"))
        return pa.concat_tables([schema.empty_table(), *(table for table in tables if table is not None)])

    def _write_table(self, rel: str, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
        for row in rows:
            if set(row) != set(schema.names):
                raise ValueError(f"{rel}: a row has the columns {sorted(row)}, not {sorted(schema.names)}")
        buffer = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
        self.write_bytes(rel, buffer.getvalue().to_pybytes())


def _step(rel: str) -> int:
    stem = posixpath.basename(rel).removesuffix(".parquet")
    return int(stem) if stem.isdigit() else -1
