"""The door of the results store: every stored document is validated here, once, before other code sees it.

A document may be damaged or hostile. After `check`, ids are safe in file names and every key that is read has its type
(lps.runs.values). A document may have further keys.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any, Literal, NotRequired, get_type_hints

from pydantic import Field, FiniteFloat, StringConstraints, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from lps.runs.record import RunRecord
from lps.runs.values import Id, Measured, Name, Plain, Positive, Seed, Setting, StoredRun, Text
from lps.tasks.task import Metric


class _Planned(TypedDict):
    agent: Name
    task: Name
    seed: Seed


class _Role(TypedDict, total=False):
    axis: Name
    value: Plain
    variant: Name
    trial: int
    held_out: Name
    point: int


class _PlannedWithRoles(_Planned):
    roles: list[_Role]


class _Agent(TypedDict):
    title: Name
    colour: Annotated[str, StringConstraints(pattern=r"^(#[0-9A-Fa-f]{6})?$")]
    imitation: bool
    alpha_without_effect: bool
    defaults: Setting
    tuned: dict[Name, Setting]
    variants: dict[Name, Setting]


class _Task(TypedDict):
    suite: Name
    group: Name
    title: Name
    dataset: Text
    max_episode_steps: Positive | None
    metric: Metric
    return_range: Annotated[list[FiniteFloat], Field(min_length=2, max_length=2)] | None


class _SweepOfVersion1(TypedDict):
    command: Text
    runs: dict[Id, _Planned]


class _Sweep(TypedDict):
    command: Text
    runs: dict[Id, _PlannedWithRoles]
    usual: dict[Name, dict[Name, Setting]]
    agents: dict[Name, _Agent]
    tasks: dict[Name, _Task]


class _FinishedTrial(TypedDict):
    state: Literal["COMPLETE"]
    value: FiniteFloat
    params: Setting


class _OtherTrial(TypedDict):
    state: Literal["PRUNED", "FAIL", "RUNNING", "WAITING"]


class _Row(TypedDict):
    agent: Name


class _Study(TypedDict):
    study: Name
    agent: NotRequired[Name]
    rows: NotRequired[list[_Row]]


class _Tuning(TypedDict):
    agent: Name
    trials: list[Annotated[_FinishedTrial | _OtherTrial, Field(discriminator="state")]]
    held_out: dict[Name, list[Id]]
    importances: NotRequired[dict[Name, Annotated[FiniteFloat, Field(ge=0, le=1 + 1e-6)]]]


class _Play(TypedDict):
    group: Name
    episodes: Positive
    noise: FiniteFloat


class _DataScaling(TypedDict):
    datasets: dict[Name, _Play]


class _Cost(TypedDict):
    agent: Name
    update_ms: Measured
    memory_mib: Measured
    decision_ms: Measured


class _Flops(TypedDict):
    gflop: dict[Id, Annotated[FiniteFloat, Field(gt=0)]]


class _Compute(TypedDict):
    rows: list[_Cost]
    device: Text
    torch: Text
    threads: int | Text  # a text as compute.py reads it from a CSV


@functools.cache
def _record() -> Any:
    """The fields of RunRecord as the keys of a document."""
    required = ("id", "run", "status")
    hints = get_type_hints(RunRecord, include_extras=True) | {"run": StoredRun}
    fields = {name: hint if name in required else NotRequired[hint] for name, hint in hints.items()}
    return TypedDict("RunRecord", fields)  # type: ignore[operator]


def _shapes(kind: str, document: Mapping[str, Any]) -> list[Any]:
    """The types that a document has to have, all of them."""
    if kind == "runs":
        return [_record()]
    if kind == "sweeps":
        return [_Sweep if {"usual", "agents", "tasks"} & document.keys() else _SweepOfVersion1]
    known = {"compute": _Compute, "data-scaling": _DataScaling, "flops": _Flops}.get(str(document.get("study")))
    tuning = {"trials", "held_out", "importances"} & document.keys()
    return [_Study, *([known] if known else []), *([_Tuning] if tuning else [])]


@functools.cache
def _adapter(shape: Any) -> TypeAdapter:
    return TypeAdapter(shape)


def check(kind: str, name: str, document: Any) -> None:
    """Validate the document KIND/NAME.json of a results folder; kind: runs, sweeps or studies.  ValueError, in a few
    words, if it is damaged or is another one."""
    if not isinstance(document, dict):
        raise ValueError("not a JSON object")
    try:
        for shape in _shapes(kind, document):
            _adapter(shape).validate_python(document, strict=True)
    except ValidationError as error:
        raise ValueError(_in_words(error)) from None
    stated = {"runs": "id", "studies": "study"}.get(kind)
    if stated and document[stated] != name:
        raise ValueError(f"its {stated} is {document[stated]!r}, not the name of the file")


def _in_words(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    if missing := [_place(one) for one in problems if one["type"] == "missing"]:
        return f"does not say {', '.join(missing)}"
    message = problems[0]["msg"].removeprefix("Value error, ").replace("Input ", "")
    return f"{_place(problems[0])}: {message}"[:300]


def _place(problem: Any) -> str:
    return ".".join(map(str, problem["loc"]))
