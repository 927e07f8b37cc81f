"""The values that the results store keeps: the record of a run, and its evaluation episodes."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, FiniteFloat, NonNegativeFloat

from lps.runs.provenance import versions
from lps.runs.values import Count, Id, Text, Time

if TYPE_CHECKING:
    from lps.runs.run import Run


class Status(StrEnum):
    """State of a run."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


Seconds = Annotated[FiniteFloat, NonNegativeFloat]


@dataclass(frozen=True)
class RunRecord:
    """The document of a run, RESULTS/runs/<id>.json. `update` makes the next one. The store checks the types
    (lps.runs.documents)."""

    id: Id
    run: Mapping[str, Any]
    """The Run as plain values."""
    status: Annotated[Status, BeforeValidator(Status)] = Status.QUEUED
    sweep: Text = ""
    """Name of the last sweep that trained the run."""
    step: Count = 0
    """Updates done."""
    versions: Mapping[Text, Text] = field(default_factory=dict)
    """See `lps.runs.provenance.versions`."""
    host: Text = ""
    device: Text = ""
    precision: Text = "float32"
    """All precisions that the run was trained in, in order, with commas."""
    started: Time = ""
    """UTC; `updated` too."""
    updated: Time = ""
    wall_time_s: Seconds = 0.0
    evaluation_s: Seconds = 0.0
    """Part of the wall time in which evaluation kept the learner from its updates."""
    dataset_fingerprint: Text = ""
    error: Text | None = None
    """Reason or traceback of a failed run."""
    checkpoint: Text = ""
    """Path inside the results folder."""

    @staticmethod
    def of(run: Run, sweep: str = "") -> RunRecord:
        """The first record of a run: queued."""
        return RunRecord(run.id, run.to_dict(), sweep=sweep, versions=versions(), host=platform.node(), started=_now())

    def update(self, status: Status, **changes: Any) -> RunRecord:
        """The next record: a new status at this moment, with other changes; without an error unless one is given."""
        return replace(self, **{"status": status, "error": None, "updated": _now(), **changes})

    def failed(self, reason: str) -> RunRecord:
        return self.update(Status.FAILED, error=reason)

    def queued(self) -> RunRecord:
        return self.update(Status.QUEUED)

    def to_document(self) -> dict[str, Any]:
        """Plain values for JSON; `from_document` takes them back."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @staticmethod
    def from_document(document: Mapping[str, Any]) -> RunRecord:
        """The record in a document of the store; keys that are missing have their defaults."""
        known = {f.name for f in dataclasses.fields(RunRecord)} & document.keys()
        values = {name: document[name] for name in known}
        return RunRecord(**{"run": {}, **values, "status": Status(document["status"])})


@dataclass(frozen=True)
class Episode:
    """One evaluation episode: a row of EPISODES, less its run and step."""

    episode: int
    env_seed: int
    success: bool | None
    """None where the task has no success."""
    return_: float
    length: int

    @staticmethod
    def of_row(row: Mapping[str, Any]) -> Episode:
        """The episode of a row of the results store."""
        return Episode(row["episode"], row["env_seed"], row["success"], row["return"], row["length"])

    def row(self) -> dict[str, Any]:
        return {name.rstrip("_"): value for name, value in vars(self).items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
