"""The checks of hyperparameters, and their description for people."""

from __future__ import annotations

import ast
import functools
import inspect
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter, ValidationError

from lps.agents import AGENTS
from lps.agents.config import Range, field_types, marks
from lps.agents.variants import resolve
from lps.errors import UserError, suggest
from lps.nets import ENCODERS, NETWORKS

TABLES = {"network": NETWORKS, "base_network": NETWORKS, "encoder": ENCODERS}
"""Hyperparameters that name an entry of a table."""


def make_config(agent: str, hyperparameters: Mapping[str, Any]) -> Any:
    """Build the agent's Config.  UserError for unknown names, wrong types and values out of range."""
    cls = AGENTS[agent].Config
    hints = field_types(cls)
    values = {}
    for name, value in hyperparameters.items():
        if name not in hints:
            raise UserError(suggest(name, hints, f"hyperparameter of {agent}"))
        values[name] = _checked(agent, name, hints[name], value)
    config = cls(**values)
    if config.execute > config.horizon:
        raise UserError(
            f"{agent}'s execute cannot be {config.execute}: a chunk has {config.horizon} actions (horizon). "
            "Set execute to at most that"
        )
    return config


def _checked(agent: str, name: str, hint: Any, value: Any) -> Any:
    """`value` as the type of its field.  Widths may come as a list or as a single number."""
    choices = _choices(name, hint)
    if choices and isinstance(value, str) and value not in choices and value not in TABLES.get(name, ()):
        raise UserError(suggest(value, choices, name))
    given = value
    if get_origin(hint) is tuple:
        given = tuple(value) if isinstance(value, list | tuple) and value else (value,)
    try:
        checked = _adapter(hint).validate_python(given)
    except (ValidationError, OverflowError):
        raise UserError(f"{agent}'s {name} cannot be {value!r:.100}; allowed: {_allowed(name, hint, value)}") from None
    if any(isinstance(one, int) and one >= 2**31 for one in (checked if isinstance(checked, tuple) else (checked,))):
        raise UserError(f"{agent}'s {name} cannot be {value!r:.100}: whole numbers are below 2^31")
    return checked


@functools.cache
def _adapter(hint: Any) -> TypeAdapter:
    return TypeAdapter(hint, config=ConfigDict(strict=True, allow_inf_nan=False))


def _choices(name: str, hint: Any) -> tuple[Any, ...]:
    if name in TABLES:
        return ("same", *NETWORKS) if name == "base_network" else tuple(TABLES[name])
    return get_args(hint) if get_origin(hint) is Literal else (False, True) if hint is bool else ()


def _allowed(name: str, hint: Any, value: Any = 0) -> str:
    """The values that a field takes."""
    for allowed in marks(hint, Range):
        unbounded = isinstance(value, float) and not math.isfinite(value) and allowed.high == math.inf
        return ("a finite " if unbounded else "") + allowed.describe(name)
    return "widths >= 1" if get_origin(hint) is tuple else ", ".join(map(str, _choices(name, hint)))


@dataclass(frozen=True)
class Hyperparameter:
    """One hyperparameter as `lps agents` prints it."""

    name: str
    default: Any
    allowed: str
    """Its range or its choices."""
    meaning: str
    """The comment beside it in the agent's Config."""


def explain(agent: str, settings: Mapping[str, Any] | None = None) -> list[Hyperparameter]:
    """Describe the hyperparameters of an agent, with its defaults under these settings."""
    config = make_config(agent, settings or {})
    comments: dict[str, str] = {}
    for cls in reversed(type(config).__mro__[:-1]):
        try:
            comments |= re.findall(r"^ +(\w+): [^#\n]*# (.*)$", inspect.getsource(cls), re.MULTILINE)
        except (OSError, TypeError):  # a class without a source file
            continue
    return [
        Hyperparameter(name, getattr(config, name), _allowed(name, hint), comments.get(name, ""))
        for name, hint in field_types(AGENTS[agent].Config).items()
    ]


def parse_settings(texts: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """{'lr': 3e-4} from ['lr=3e-4']: the values of an option of the command line."""
    values: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise UserError(f"{option} takes name=value, for example lr=3e-4, not {text!r}")
        try:
            values[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            values[name] = value
    return values


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same values as JSON has them: tuples as lists."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def hyperparameters(agent: str) -> set[str]:
    """Return the names of an agent's hyperparameters; `agent` may be a variant.  UserError for an unknown one."""
    return set(field_types(AGENTS[resolve(agent, AGENTS)[0]].Config))
