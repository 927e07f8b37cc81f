"""A run: everything that can change one training's result, as a plain value."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lps.agents import AGENTS
from lps.agents.variants import ADDED
from lps.errors import UserError
from lps.tasks.suites import get_task
from lps.tasks.task import Task


@dataclass(frozen=True)
class Run:
    """One training of one agent on one task with one seed.

    Device, paths and log intervals are not part of it.  Two runs with equal `id` give the same result.  Build one with
    `Run.create`, which fills in defaults and checks every value.
    """

    agent: str
    task: str
    """Unique name of the task (lps.tasks.suites.get_task)."""
    seed: int
    steps: int
    """Number of updates."""
    hyperparameters: Mapping[str, Any]
    """The agent's whole Config as plain values."""
    dataset: str
    """Name of the dataset."""
    eval_interval: int
    """Updates between evaluations; the last update is always evaluated."""
    eval_episodes: int
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the task's suite that change the result (its OPTIONS)."""

    id: str = field(init=False, compare=False, repr=False)
    """16 hex digits, a hash of all the fields above (but for lps.agents.variants.ADDED)."""

    def __post_init__(self) -> None:
        known = {k: v for k, v in self.hyperparameters.items() if k not in ADDED or v != ADDED[k]}
        text = json.dumps(self.to_dict() | {"hyperparameters": known}, sort_keys=True)
        object.__setattr__(self, "id", hashlib.sha256(text.encode()).hexdigest()[:16])

    @staticmethod
    def create(agent: str, task: str, seed: int = 0, **settings: Any) -> Run:
        """Build a checked run; see lps.runs.create.create."""
        from lps.runs.create import create  # the agents' pages, and with them torch

        return create(agent, task, seed, **settings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as stored; `Run.from_dict` takes them back.  Options stand beside the other fields."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        del values["options"]
        return values | {"hyperparameters": dict(self.hyperparameters)} | dict(self.options)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Run:
        """Return the run of a plain dict, without checks: it may be of a task or an agent that is not installed here.
        UserError for missing fields."""
        names = {f.name for f in dataclasses.fields(Run) if f.init} - {"options"}
        if missing := names - set(values):
            raise UserError(
                f"a stored run lacks {', '.join(sorted(missing))}: another version wrote it. Use that version"
            )
        options = {name: value for name, value in values.items() if name not in names}
        return Run(**{name: values[name] for name in names}, options=options)

    @property
    def resolved_task(self) -> Task:
        """The task, with the run's options.  UserError if it is not installed here."""
        return get_task(self.task, self.options)

    @property
    def config(self) -> Any:
        """The agent's Config."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in self.hyperparameters.items()}
        return AGENTS[self.agent].Config(**values)

    @property
    def eval_steps(self) -> list[int]:
        """The updates after which the run is evaluated."""
        return [*range(self.eval_interval, self.steps, self.eval_interval), self.steps]
