"""A run: everything that can change one training's result, as a plain value."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lps.agents import AGENTS
from lps.agents.variants import OLD_VALUES, group_settings, resolve
from lps.data.names import plain_name
from lps.errors import UserError
from lps.tasks.suites import check_options, get_task
from lps.tasks.task import Task

LARGEST = 10**12
"""Largest number of updates."""
MOST_EVALUATIONS = 1_000_000
"""Most evaluations of a run."""
MOST_EPISODES = 1_000_000
"""Most episodes of an evaluation."""
FIELDS = {"agent": str, "task": str, "seed": int, "steps": int, "hyperparameters": dict, "dataset": str,
          "eval_interval": int, "eval_episodes": int}  # fmt: skip
"""Types of the fields of a Run, but for its options, as plain values."""


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
    """16 hex digits, a hash of all the fields above (but for lps.agents.variants.OLD_VALUES)."""

    def __post_init__(self) -> None:
        known = {k: v for k, v in self.hyperparameters.items() if k not in OLD_VALUES or v != OLD_VALUES[k]}
        text = json.dumps(self.to_dict() | {"hyperparameters": known}, sort_keys=True)
        object.__setattr__(self, "id", hashlib.sha256(text.encode()).hexdigest()[:16])

    @staticmethod
    def create(
        agent: str,
        task: str,
        seed: int = 0,
        *,
        steps: int = 1_000_000,
        dataset: str | None = None,
        eval_interval: int = 100_000,
        eval_episodes: int = 50,
        options: Mapping[str, Any] | None = None,
        **hyperparameters: Any,
    ) -> Run:
        """Build a checked run.  UserError, which names the nearest known names, for unknown names and impossible
        values.

        Args:
            agent: name in AGENTS, perhaps with a variant (lps.agents.variants).
            dataset: name of a dataset; None for the task's own.
            options: settings of the task's suite, such as success_timing in OGBench.
            hyperparameters: those not given are the variant's, those tuned for the task's group, the task's horizon,
                and the agent's defaults, in this order.
        """
        from lps.runs.hyperparameters import make_config, plain  # pydantic and the agents' pages, and so torch

        agent, variant = resolve(agent, AGENTS)
        known = get_task(task, options)
        most = {"steps": LARGEST, "eval_interval": LARGEST, "eval_episodes": MOST_EPISODES}
        for (name, high), value in zip(most.items(), (steps, eval_interval, eval_episodes), strict=True):
            if not isinstance(value, int) or not 1 <= value <= high:
                raise UserError(f"{name} must be a whole number of at least 1 and at most {high}, not {value!r}")
        if steps / eval_interval > MOST_EVALUATIONS:
            raise UserError(
                f"{steps} steps with an evaluation every {eval_interval} are more than {MOST_EVALUATIONS} evaluations. "
                "Use a larger eval_interval"
            )
        if not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise UserError(f"a seed is a whole number from 0 to 2^31 - 1, not {seed!r}")
        tuned = {"horizon": known.horizon, **group_settings(agent, known.group), **variant}
        config = make_config(agent, {**tuned, **hyperparameters})
        return Run(
            agent=agent,
            task=known.name,
            seed=seed,
            steps=steps,
            hyperparameters=plain(dataclasses.asdict(config)),
            dataset=known.dataset if dataset is None else plain_name(dataset, "--dataset"),
            eval_interval=eval_interval,
            eval_episodes=eval_episodes,
            options=check_options(known, options or {}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as stored; `Run.from_dict` takes them back.  Options stand beside the other fields."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        del values["options"]
        return values | {"hyperparameters": dict(self.hyperparameters)} | dict(self.options)

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Run:
        """Return the run of a plain dict.  Its agent and task may be missing here, so names and values are not checked.
        UserError for missing fields and wrong types."""
        if missing := FIELDS.keys() - set(values):
            raise UserError(
                f"a stored run lacks {', '.join(sorted(missing))}: another version wrote it. Use that version"
            )
        for name, kind in FIELDS.items():
            if type(values[name]) is not kind or (kind is int and not 0 <= values[name] <= LARGEST):
                raise UserError(f"a stored run has {name} {values[name]!r:.50}. Use the file of another run")
        options = {name: value for name, value in values.items() if name not in FIELDS}
        return Run(**{name: values[name] for name in FIELDS}, options=options)

    @property
    def resolved_task(self) -> Task:
        """The task, with the run's options.  UserError if it is not installed here."""
        return get_task(self.task, self.options)

    @property
    def title(self) -> str:
        """Agent, task and seed, for people."""
        return f"{self.agent} {self.resolved_task.title} seed {self.seed}"

    @property
    def config(self) -> Any:
        """The agent's Config."""
        values = {k: tuple(v) if isinstance(v, list) else v for k, v in self.hyperparameters.items()}
        return AGENTS[self.agent].Config(**values)

    @property
    def eval_steps(self) -> list[int]:
        """The updates after which the run is evaluated."""
        return [*range(self.eval_interval, self.steps, self.eval_interval), self.steps]
