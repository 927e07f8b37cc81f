"""Mutations of plain values, such as JSON documents and the content of checkpoints, for tests of hostile input."""

from __future__ import annotations

import copy
import random
from typing import Any

NASTY: list[Any] = [
    *(None, True, [], {}, [[]], [None], {"": None}, "", " ", "\x1b[2J\x1b]0;owned\x07", "\u202egnp.exe", "$\\frac$"),
    *("../../victim/model", "/etc/passwd", "..", "a/b", "x" * 5000, "=HYPERLINK(1)", "<script>alert(1)</script>"),
    *("[bold red]", "{{7*7}}", "NaN", "\ud800", "\x00", "0001-01-01", "2026-01-02T00:00:00+23:59", "done", "running"),
    *(0, 1, -1, 7, 10**9, 10**18, 10**30, -(10**30), 1e308, 1e-320, -0.5, float("nan"), float("inf"), float("-inf")),
]


def places(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values inside a nest of dictionaries and lists."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, inner in items for path in ((*at, key), *places(inner, (*at, key)))]


def mutated(value: Any, rng: random.Random, nasty: list[Any] = NASTY) -> Any:
    """A copy with one to three changes: a value replaced, removed, doubled, or taken from elsewhere."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        found = places(value)
        if not found:
            break
        *way, key = rng.choice(found)
        holder = value
        for step in way:
            holder = holder[step]
        match rng.randrange(6):
            case 0:
                del holder[key]
            case 1 if isinstance(holder, dict):
                holder[rng.choice([one for one in nasty if isinstance(one, str)])] = holder.pop(key)
            case 2 if len(found) < 5000:
                other = value
                for step in rng.choice(found):
                    other = other[step] if isinstance(other, dict | list) and step in _keys(other) else other
                holder[key] = copy.deepcopy(other)
            case _:
                holder[key] = copy.deepcopy(rng.choice(nasty))
    return value


def _keys(holder: Any) -> Any:
    return holder.keys() if isinstance(holder, dict) else range(len(holder))
