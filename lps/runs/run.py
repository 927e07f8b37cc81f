"""A run: everything that can change one training's result, as a value; and packs of runs that train together."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lps.agents import AGENTS
from lps.agents.variants import ADDED, group_settings, resolve
from lps.data.names import plain_name
from lps.errors import UserError, suggest
from lps.runs.hyperparameters import _check_choice, _plain, make_config
from lps.tasks.table import SuccessTiming, get_task


@dataclass(frozen=True)
class Run:
    """One training of one agent on one task with one seed.

    Device, paths and log intervals are not part of it.  Two runs with equal fields have the same `id` and give the
    same result.  Build one with `Run.create`, which fills in the agent's defaults and refuses what it does not know.
    """

    agent: str
    task: str
    seed: int
    steps: int
    """Number of updates."""
    hyperparameters: Mapping[str, Any]
    """The agent's whole Config as plain values."""
    dataset: str
    """Name of the dataset file; the task's own unless another was asked for."""
    eval_interval: int
    """Updates between evaluations; the last update is always evaluated."""
    eval_episodes: int
    success_timing: SuccessTiming = "post"
    """In evaluation. 'post': a step's success is that of its next state (the papers); 'pre': of the state before it."""
    reward_timing: SuccessTiming = "pre"
    """In the dataset. 'pre': a transition's reward and mask are those of the state it starts from, as OGBench's loader
    has it and the papers trained on; 'post': of the state it leads to."""

    id: str = field(init=False, compare=False, repr=False)
    """16 hex digits, a hash of all the fields above (but for lps.agents.variants.ADDED)."""

    def __post_init__(self) -> None:
        known = {k: v for k, v in self.hyperparameters.items() if k not in ADDED or v != ADDED[k]}
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
        success_timing: SuccessTiming = "post",
        reward_timing: SuccessTiming = "pre",
        **hyperparameters: Any,
    ) -> Run:
        """A checked run; unknown names and impossible values are a UserError that names the nearest known ones.

        agent: a name of AGENTS, perhaps with a variant (lps.agents.variants).  Hyperparameters that are not given are
        the variant's, those tuned for the task's group, the task's horizon, and the agent's defaults, in this order.
        """
        agent, variant = resolve(agent, AGENTS)
        known_task = get_task(task)
        counts = {"steps": steps, "eval_interval": eval_interval, "eval_episodes": eval_episodes}
        for name, value in counts.items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{name} must be a whole number of at least 1, not {value!r}")
        if not isinstance(seed, int) or not 0 <= seed < 2**31:
            raise UserError(f"a seed is a whole number from 0 to 2^31 - 1, not {seed!r}")
        _check_choice("success_timing", success_timing)
        _check_choice("reward_timing", reward_timing)
        tuned = {"horizon": known_task.horizon, **group_settings(agent, known_task.group), **variant}
        config = make_config(agent, {**tuned, **hyperparameters})
        return Run(
            agent=agent,
            task=known_task.name,
            seed=seed,
            steps=steps,
            hyperparameters=_plain(dataclasses.asdict(config)),
            dataset=plain_name(dataset, "--dataset") if dataset else known_task.dataset,
            eval_interval=eval_interval,
            eval_episodes=eval_episodes,
            success_timing=success_timing,
            reward_timing=reward_timing,
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as stored; `Run.from_dict` takes them back."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.init}
        return values | {"hyperparameters": dict(self.hyperparameters)}

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> Run:
        """The run of a plain dict; unknown or missing keys are a UserError."""
        known = {f.name for f in dataclasses.fields(Run) if f.init}
        for name in values:
            if name not in known:
                raise UserError(suggest(name, sorted(known), "field of a run"))
        missing = known - set(values)
        if missing:
            raise UserError(f"a stored run lacks {', '.join(sorted(missing))}: it was written by another version")
        rest = dict(values)
        hyperparameters = rest.pop("hyperparameters")
        return Run.create(**rest, **hyperparameters)

    @property
    def config(self) -> Any:
        """The agent's Config."""
        return make_config(self.agent, self.hyperparameters)

    @property
    def eval_steps(self) -> list[int]:
        """The updates after which the run is evaluated."""
        return [*range(self.eval_interval, self.steps, self.eval_interval), self.steps]
