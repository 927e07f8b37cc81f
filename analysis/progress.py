"""Progress bars for the slow parts of a report on large results."""

from typing import Any

from tqdm import tqdm

SLOW = 2.0
"""Seconds after which a bar appears."""


def progress(items: Any = None, *, what: str, unit: str, total: int | None = None) -> Any:
    """Return `items` with a bar on stderr, which appears if they take long and goes away at their end. Only a terminal
    gets it: elsewhere it could not go away."""
    return tqdm(items, desc=what, unit=unit, total=total, delay=SLOW, leave=False, disable=None)
