"""A run: everything that can change one training's result, as a value; and packs of runs that train together."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import inspect
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from lps.agents import AGENTS
from lps.agents.base import MEMBER_SCALARS
from lps.data.files import plain_name
from lps.errors import UserError, suggest
from lps.flows import MEANFLOW_FORMS
from lps.latents import LATENTS
from lps.presets import ADDED, group_settings, resolve
from lps.tasks import SuccessTiming, get_task

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
    """16 hex digits, a hash of all the fields above (but for lps.presets.ADDED)."""

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

        agent: a name of AGENTS, perhaps with a variant (lps.presets).  Hyperparameters that are not given are the
        variant's, those tuned for the task's group, the task's horizon, and the agent's defaults, in this order.
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


def pack(runs: Sequence[Run], max_members: int = 64) -> list[list[Run]]:
    """Runs that can train in one program, grouped, at most `max_members` together, in the order given.

    They share agent, group, dataset, protocol and every hyperparameter that shapes the program; seed, task and
    MEMBER_SCALARS may differ.  How runs are packed never changes a result.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        shared = run.to_dict() | {"task": get_task(run.task).group, "seed": None}
        shared["hyperparameters"] = {k: v for k, v in run.hyperparameters.items() if k not in MEMBER_SCALARS}
        groups.setdefault(json.dumps(shared, sort_keys=True), []).append(run)
    packs = []
    for group in groups.values():
        parts = -(-len(group) // max_members)
        size = -(-len(group) // parts)  # even parts: 5 runs by 4 are 3 + 2, not 4 + 1
        packs += [group[i : i + size] for i in range(0, len(group), size)]
    return packs


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
