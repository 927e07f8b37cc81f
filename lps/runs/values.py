"""Types of stored values, for pydantic: what a document of the results store may hold.

Strings are valid Unicode, names are printable, numbers are finite and fit 64 bits.
"""

from __future__ import annotations

import math
from datetime import datetime
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints
from typing_extensions import TypedDict

from lps.runs.run import LARGEST, MOST_EPISODES, MOST_EVALUATIONS


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
    elif value is not None and not (
        abs(value) < 2**63 if isinstance(value, int) else isinstance(value, float) and math.isfinite(value)
    ):
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
