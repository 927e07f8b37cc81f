"""The door of the results store: every stored document is validated here, once, before other code sees it.

A document may be damaged or hostile. After `check`, ids are safe in file names, names are printable, numbers are finite
and fit 64 bits, and every key that is read has its type. A document may have further keys.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal, NotRequired, get_type_hints

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    FiniteFloat,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from typing_extensions import TypedDict

from lps.runs.run import LARGEST, MOST_EPISODES, MOST_EVALUATIONS
from lps.tasks.task import Metric


def _text(text: str) -> str:
    text.encode()  # no lone surrogates
    return text


def _plain(value: Any) -> Any:
    """Check a value of a setting: a text, a number, a bool, None, or a list of these."""
    if isinstance(value, str):
        _text(value)
    elif isinstance(value, list):
        for one in value:
            if isinstance(one, list):
                raise ValueError("lists in lists are not allowed")
            _plain(one)
    elif value is not None and not (isinstance(value, int | float) and abs(value) < 2**63):  # NaN is not, either
        raise ValueError("must be a text, a finite number of 64 bits, a bool, null, or a list of these")
    return value


def _options(run: Any) -> Any:
    """Check those settings of a run that are its suite's."""
    for name, value in run.items() if isinstance(run, dict) else ():
        if name != "hyperparameters":
            _plain(name), _plain(value)
    return run


def _countable(run: Any) -> Any:
    if run["steps"] / run.get("eval_interval", run["steps"]) > MOST_EVALUATIONS:
        raise ValueError(f"more than {MOST_EVALUATIONS} evaluations")
    return run


def _time(text: str) -> str:
    if text:
        datetime.fromisoformat(text)
    return text


def _not_infinite(value: float) -> float:
    if math.isinf(value):
        raise ValueError("must not be infinite")
    return value


Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,99}$")]
"""Id of a run: safe as a part of a file name."""
Name = Annotated[str, StringConstraints(pattern=r"^\P{C}{1,200}$")]
"""Printable name of an agent, a task, a group, a dataset or a hyperparameter."""
Text = Annotated[str, AfterValidator(_text)]
Time = Annotated[str, AfterValidator(_time)]
"""ISO 8601; '' if unknown."""
Plain = Annotated[Any, AfterValidator(_plain)]
Count = Annotated[int, Field(ge=0, le=LARGEST)]
Positive = Annotated[int, Field(ge=1, le=LARGEST)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Measured = Annotated[float, AfterValidator(_not_infinite)] | None
"""A figure of a measurement; NaN or null if it was not measured."""
Setting = dict[Name, Plain]
"""Hyperparameters or other settings by name."""


class _Run(TypedDict):
    agent: Name
    task: Name
    seed: Seed
    steps: Positive
    hyperparameters: NotRequired[Setting]
    dataset: NotRequired[Annotated[str, StringConstraints(max_length=200, pattern=r"^\P{C}*$")]]
    eval_interval: NotRequired[Positive]
    eval_episodes: NotRequired[Annotated[int, Field(ge=1, le=MOST_EPISODES)]]
    success_timing: NotRequired[Text]
    reward_timing: NotRequired[Text]


StoredRun = Annotated[_Run, BeforeValidator(_options), AfterValidator(_countable)]
"""A Run as plain values, of any version; the options of its suite are further keys."""


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
    importances: NotRequired[dict[Name, FiniteFloat]]


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


class _Compute(TypedDict):
    rows: list[_Cost]
    device: Text
    torch: Text
    threads: int


@functools.cache
def _record() -> Any:
    """The fields of RunRecord as the keys of a document."""
    from lps.runs.record import RunRecord

    required = ("id", "run", "status")
    hints = get_type_hints(RunRecord, include_extras=True)
    return TypedDict("RunRecord", {k: v if k in required else NotRequired[v] for k, v in hints.items()})


def _shapes(kind: str, document: Mapping[str, Any]) -> list[Any]:
    """The types that a document has to have, all of them."""
    if kind == "runs":
        return [_record()]
    if kind == "sweeps":
        return [_Sweep if {"usual", "agents", "tasks"} & document.keys() else _SweepOfVersion1]
    known = {"compute": _Compute, "data-scaling": _DataScaling}.get(str(document.get("study")))
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
