"""Tables of named things that are imported on first use, and that other packages can extend."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from lps.errors import UserError


class Registry(Mapping[str, Any]):
    """Resolve a name: an entry of the table, an entry point of another package, or an import path.

    Args:
        group: entry point group, such as "lps.agents".  An installed package adds names through it.
        table: {name: "package.module" or "package.module:attribute"}.
        modules: whether entries are modules.

    Another name is taken as an import path, "package.module" or "package.module.attribute".  It needs a dot unless
    `modules` says that entries are modules.
    Iteration gives the names of the table, then those of the entry points.
    """

    def __init__(self, group: str, table: Mapping[str, str], modules: bool = False):
        self.group, self.modules = group, modules
        self.table = dict(table)

    def __getitem__(self, name: str) -> Any:
        if (path := self._paths.get(name)) is not None:
            return _load(path)
        if ("." in name or self.modules) and (found := _find(name)) is not None:
            return found
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._paths)

    def __len__(self) -> int:
        return len(self._paths)

    @property
    def _paths(self) -> dict[str, str]:
        return {**_entry_points(self.group), **self.table}


@functools.cache
def _entry_points(group: str) -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=group)}


@functools.cache
def _load(path: str) -> Any:
    module, _, attribute = path.partition(":")
    return getattr(import_module(module), attribute) if attribute else import_module(module)


@functools.cache
def _find(path: str) -> Any:
    """Return the object of an import path, or None.  UserError if a module that it imports is missing."""
    if not all(part.isidentifier() for part in path.split(".")):
        return None
    parent, _, last = path.rpartition(".")
    for module, attribute in [(path, ""), (parent, last)][: 2 if parent else 1]:
        try:
            found = import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
                continue
            raise UserError(f"cannot import {path}: {error}. Install what is missing or set PYTHONPATH") from error
        if not attribute:
            return found
        if hasattr(found, attribute):
            return getattr(found, attribute)
    return None
