"""Tasks by name, and what their suites offer: environments and datasets.

A suite is a module (or any object) with three attributes:

    TASKS: Mapping[str, Task]                              tasks by their names inside the suite
    make_env(task, *, render=False) -> gymnasium.Env       observations as task.observation says: a dict of arrays, or
                                                           the array itself where there is one
    load(tasks, name, data_dir) -> Dataset                 dataset `name` with the rewards of each of `tasks`

and may have

    OPTIONS: Mapping[str, tuple[str, ...]]                 settings of a run that change its result: their choices, the
                                                           default first; they arrive in task.options
    STORED: tuple[str, ...]                                entries of task.options that each run of the task stores
    set_task(env, task)                                    turns an environment to another task of its group
    collect(name, **settings) -> Path                      makes a dataset (python -m lps collect)
    maze(task) -> Maze | None                              floor plan of a task in a maze, for pictures; then a state
                                                           begins with the position (x, y), or
    position(env) -> (x, y)                                says where an environment is
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from lps.errors import UserError, suggest
from lps.tasks import SUITES
from lps.tasks.task import Task

if TYPE_CHECKING:
    import os

    import gymnasium

    from lps.data.episodes import Dataset


class Suite(Protocol):
    """The attributes that every suite has; see above."""

    TASKS: Mapping[str, Task]

    def make_env(self, task: Task, *, render: bool = False) -> gymnasium.Env: ...

    def load(self, tasks: Sequence[Task], name: str, data_dir: str | os.PathLike[str] | None) -> Dataset: ...


def get_suite(name: str) -> Suite:
    """Return a suite by its name or import path.  UserError if there is none, or if it lacks an attribute."""
    try:
        suite = SUITES[name]
    except KeyError:
        hint = "give a name of this list, or the import path of a module such as my_package.my_suite"
        raise UserError(f"{suggest(name, SUITES, 'suite')}; {hint}") from None
    if missing := [part for part in ("TASKS", "make_env", "load") if not hasattr(suite, part)]:
        raise UserError(f"the suite {name} has no {', '.join(missing)}. Add it to the module (docs/adding-a-task.md)")
    return suite


@functools.cache
def tasks_of(suite: str) -> Mapping[str, Task]:
    """Return the tasks of a suite by their unique names."""
    found = get_suite(suite).TASKS.items()
    if suite in SUITES.table:
        return dict(found)
    return {f"{suite}:{key}": replace(task, name=f"{suite}:{key}", suite=suite) for key, task in found}


def all_tasks() -> dict[str, Task]:
    """Return the tasks of all built-in and installed suites by their names."""
    return {name: task for suite in SUITES for name, task in tasks_of(suite).items()}


def groups(suite: str | None = None) -> dict[str, tuple[Task, ...]]:
    """Return the tasks of each group, of one suite or of all built-in and installed ones."""
    found: dict[str, tuple[Task, ...]] = {}
    for task in (tasks_of(suite) if suite else all_tasks()).values():
        found[task.group] = (*found.get(task.group, ()), task)
    return found


def get_task(name: str, options: Mapping[str, Any] | None = None) -> Task:
    """Return a task by its name, or by the path of a robot's .toml file, with a run's `options`.  UserError with the
    nearest names if there is none."""
    suite, colon, _ = name.partition(":")
    if name.endswith(".toml") or suite == "robot":
        return get_suite("robot").task(name, options)  # type: ignore[attr-defined]
    tasks = tasks_of(suite) if colon else _builtin_tasks()
    if name not in tasks:
        raise UserError(suggest(name, tasks, "task", "list the tasks with: python -m lps tasks"))
    task = tasks[name]
    return replace(task, options={**task.options, **options}) if options else task


@functools.cache
def _builtin_tasks() -> Mapping[str, Task]:
    return {name: task for suite in SUITES.table for name, task in tasks_of(suite).items()}


def full_name(task: str, suite: str | None = None) -> str:
    """Return the unique name of a task that is named inside `suite`; None: it is unique already."""
    return task if suite is None or suite in SUITES.table else f"{suite}:{task}"


def check_options(task: Task, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run on this task: the suite's defaults, replaced by `options`.  UserError for an unknown
    setting or choice."""
    suite = get_suite(task.suite)
    choices: Mapping[str, tuple[str, ...]] = getattr(suite, "OPTIONS", {})
    stored = {name: task.options[name] for name in getattr(suite, "STORED", ())}
    for name, value in options.items():
        if name in stored:
            continue
        if name not in choices:
            raise UserError(suggest(name, choices, f"option of the suite {task.suite}"))
        if value not in choices[name]:
            raise UserError(suggest(str(value), choices[name], name))
    return {name: values[0] for name, values in choices.items()} | dict(options) | stored


def make_env(task: Task, *, render: bool = False) -> gymnasium.Env:
    """Make the environment of a task.  With `render`, `env.render()` returns frames (height, width, 3) uint8."""
    return get_suite(task.suite).make_env(task, render=render)


def load_dataset(
    tasks: Sequence[Task], *, dataset: str | None = None, data_dir: str | os.PathLike[str] | None = None
) -> Dataset:
    """Load a dataset (default: the tasks' own) with a row of rewards and masks for each of `tasks`, in their order.

    UserError: tasks of several groups; a dataset that is missing, damaged, or does not fit the tasks.
    """
    if not tasks or len({(task.suite, task.group) for task in tasks}) > 1:
        raise UserError(f"a dataset is loaded for tasks of one group, not for {[task.name for task in tasks]}")
    data = get_suite(tasks[0].suite).load(tasks, dataset or tasks[0].dataset, data_dir)
    task, rows = tasks[0], len(data.actions)
    seen = {name: array.shape for name, array in data.observations.items()}
    if (
        seen != {name: (rows, *space.shape) for name, space in task.observation.items()}
        or data.actions.shape != (rows, *task.action.shape)
        or data.terminals.shape != (rows,)
        or not data.rewards.shape == data.masks.shape == (len(tasks), rows)
    ):
        raise UserError(
            f"the arrays of the dataset {data.name} do not fit {task.group}. Remove its folder in .converted, then "
            "repeat the command"
        )
    return data
