"""The checks of hyperparameters, and their description for people."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lps.agents import AGENTS
from lps.agents.flows import MEANFLOW_FORMS
from lps.agents.latents import LATENTS
from lps.agents.variants import resolve
from lps.errors import UserError, suggest
from lps.tasks.table import SuccessTiming

CHOICES = {
    "critic_agg": ("min", "mean"),
    "latent_dist": LATENTS,
    "meanflow_form": MEANFLOW_FORMS,
    **dict.fromkeys(("success_timing", "reward_timing"), get_args(SuccessTiming)),
}
"""Hyperparameters and settings that take one of a few words."""


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; with `open_low` or `open_high` without the bound itself. Never nan or infinite."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def of(self, name: str) -> str:
        """As people write it: '0 < discount <= 1', 'lr > 0'."""
        low, high = ("<" if is_open else "<=" for is_open in (self.open_low, self.open_high))
        if self.high < math.inf:
            return f"{self.low:g} {low} {name} {high} {self.high:g}"
        return f"{name} {low.replace('<', '>')} {self.low:g}" if self.low > -math.inf else f"{name} finite"


RANGES = {
    "lr": Range(0, open_low=True),
    "discount": Range(0, 1, open_low=True),
    "tau": Range(0, 1, open_low=True),
    "alpha": Range(0),
    "flow_ratio": Range(0, 1),
    "expectile": Range(0, 1, open_low=True, open_high=True),
    "guidance": Range(0),
}
"""Hyperparameters that are fractions or weights. Others that are whole numbers are counts, of at least 1."""


def make_config(agent: str, hyperparameters: Mapping[str, Any]) -> Any:
    """The agent's Config with the given values; unknown names, wrong types and senseless numbers are a UserError."""
    cls = AGENTS[agent].Config
    defaults = {f.name: f.default for f in dataclasses.fields(cls)}
    values = {}
    for name, value in hyperparameters.items():
        if name not in defaults:
            raise UserError(suggest(name, defaults, f"hyperparameter of {agent}"))
        values[name] = _as_type_of(defaults[name], value, f"{agent}'s {name}")
        _check_choice(name, values[name])
        allowed = range_of(name, defaults[name])
        if allowed and values[name] not in allowed:
            finite = "" if math.isfinite(value) or allowed.high < math.inf else "a finite "
            raise UserError(f"{agent}'s {name} cannot be {value!r}; allowed: {finite}{allowed.of(name)}")
    return cls(**values)


def range_of(name: str, default: Any) -> Range | None:
    """What a hyperparameter with this default may be, where it is a number."""
    if isinstance(default, bool) or not isinstance(default, int | float):
        return None
    return RANGES.get(name, Range() if isinstance(default, float) else Range(1))


@dataclass(frozen=True)
class Hyperparameter:
    """One of an agent's, for people."""

    name: str
    default: Any
    allowed: str
    """Its range or its choices."""
    meaning: str
    """The comment beside it in the agent's Config."""


def explain(agent: str, settings: Mapping[str, Any] | None = None) -> list[Hyperparameter]:
    """The hyperparameters of an agent, with defaults as they are under these settings."""
    config = make_config(agent, settings or {})
    try:
        source = inspect.getsource(type(config))
    except (OSError, TypeError):  # an agent that was made at a prompt
        source = ""
    comments = dict(re.findall(r"^ +(\w+): [^#\n]*# (.*)$", source, re.MULTILINE))
    rows = []
    for spec in dataclasses.fields(config):
        allowed = range_of(spec.name, spec.default)
        if allowed:
            shown = allowed.of(spec.name)
        elif isinstance(spec.default, tuple):
            shown = "widths >= 1"
        else:
            choices = (False, True) if isinstance(spec.default, bool) else CHOICES.get(spec.name, ())
            shown = ", ".join(map(str, choices))
        rows.append(Hyperparameter(spec.name, getattr(config, spec.name), shown, comments.get(spec.name, "")))
    return rows


def parse_settings(texts: Sequence[str]) -> dict[str, Any]:
    """{'lr': 3e-4} from ['lr=3e-4']: the values of a command line's --set."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"--set takes name=value, for example lr=3e-4, not {text!r}")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            values[name] = value
    return values


def _check_choice(name: str, value: Any) -> None:
    if name in CHOICES and value not in CHOICES[name]:
        raise UserError(suggest(str(value), CHOICES[name], name))


def _as_type_of(default: Any, value: Any, what: str) -> Any:
    """`value` as the type of `default`; tuples of widths may come as lists or as a single number."""
    wrong = UserError(f"{what} must be like {default!r}, not {value!r}")
    if isinstance(default, bool) or isinstance(value, bool):
        if not (isinstance(default, bool) and isinstance(value, bool)):
            raise wrong
        return value
    if isinstance(default, tuple):
        widths = tuple(value) if isinstance(value, list | tuple) else (value,)
        if not widths or not all(type(width) is int and width > 0 for width in widths):
            raise UserError(f"{what} must be the widths of one layer or more, like {list(default)!r}, not {value!r}")
        return widths
    if isinstance(default, float) and isinstance(value, int | float):
        try:
            return float(value)
        except OverflowError:
            raise wrong from None
    if not isinstance(value, type(default)):
        raise wrong
    return value


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def hyperparameters(agent: str) -> set[str]:
    """The names of an agent's hyperparameters; `agent` may be a variant. UserError for an unknown one."""
    return {spec.name for spec in dataclasses.fields(AGENTS[resolve(agent, AGENTS)[0]].Config)}
