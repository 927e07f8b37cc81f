"""The hyperparameters that all agents have, and the words in which a page annotates its own.

    alpha: Annotated[float, Range(0), PER_MEMBER] = 1.0  # weight of the distillation loss

A Range bounds a number; PER_MEMBER lets the members of a pack differ in it, and makes it a tensor (M,) on the agent.  A
Literal lists choices.  The comment is the description that `lps agents` prints.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal, get_type_hints


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`; with `open_low` or `open_high` without the bound itself.  Never nan or infinite."""

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False

    def __contains__(self, value: float) -> bool:
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return math.isfinite(value) and above and below

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import AfterValidator  # a policy does without it

        def check(value: float) -> float:
            if value not in self:
                raise ValueError("out of range")
            return value

        return AfterValidator(check).__get_pydantic_core_schema__(source, handler)

    def describe(self, name: str) -> str:
        """The range as people write it: '0 < discount <= 1', 'lr > 0'."""
        low, high = ("<" if is_open else "<=" for is_open in (self.open_low, self.open_high))
        if self.high < math.inf:
            return f"{self.low:g} {low} {name} {high} {self.high:g}"
        return f"{name} {low.replace('<', '>')} {self.low:g}" if self.low > -math.inf else f"{name} finite"


@dataclass(frozen=True)
class PerMember:
    """Marks a number that may differ between the members of a pack.  All other hyperparameters shape the program and
    must be equal."""

    exact: bool = False
    """Keep it in float64 on the device, for example because rows are counted by it."""


PER_MEMBER = PerMember()

Positive = Annotated[float, Range(0, open_low=True), PER_MEMBER]
Count = Annotated[int, Range(1)]
Widths = tuple[Annotated[int, Range(1)], ...]
Aggregation = Literal["min", "mean", "pessimistic"]
"""Rule that makes one value of K critics' values; "pessimistic" is mean - rho sd (Agent.aggregate)."""
Rho = Annotated[float, Range(0), PER_MEMBER]
"""Type of `rho`, the weight of the standard deviation in the pessimistic rule."""


@dataclass(frozen=True)
class AgentConfig:
    """Hyperparameters of every agent."""

    lr: Positive = 3e-4  # Adam step size of every network
    batch_size: Count = 256  # chunks per update
    horizon: Count = 5  # h, actions per chunk
    execute: Annotated[int, Range(0)] = 0  # actions of a chunk that are executed before the next decision; 0: all h
    discount: Annotated[float, Range(0, 1, open_low=True), PER_MEMBER] = 0.99  # gamma, per environment step
    network: str = "mlp"  # kind of every network, see lps.nets
    base_network: str = "same"  # kind of the base policy's network; "same": as the others
    encoder: str = "impala_small"  # kind of the encoder of images, see lps.nets
    encoder_width: Annotated[float, Range(0, open_low=True)] = 1.0  # factor on the widths of the encoder's layers
    p_aug: Annotated[float, Range(0, 1), PER_MEMBER] = 0.5  # probability that a batch has its images cropped at random
    frame_stack: Count = 1  # frames of an image that are stacked along its channels
    policy_tau: Annotated[float, Range(0, 1)] = 0.0  # rate of averages of the networks that act; 0: policies use none
    weight_decay: Annotated[float, Range(0)] = 0.0  # of AdamW
    warmup_steps: Annotated[int, Range(0)] = 0  # updates in which the step size grows from 0
    decay_steps: Annotated[int, Range(0)] = 0  # updates until the step size has fallen to a tenth by a cosine; 0: never
    clip_norm: Annotated[float, Range(0)] = 0.0  # largest norm of a member's gradient; 0: any


@functools.cache
def field_types(config: Any) -> dict[str, Any]:
    """Type of each field of a Config, with its annotations."""
    hints = get_type_hints(config, include_extras=True)
    return {spec.name: hints[spec.name] for spec in fields(config)}


def marks(hint: Any, kind: type) -> list[Any]:
    """Return the annotations of a field that are of one kind."""
    return [mark for mark in getattr(hint, "__metadata__", ()) if isinstance(mark, kind)]


@functools.cache
def member_scalars(config: Any) -> tuple[str, ...]:
    """The fields that may differ between the members of a pack."""
    return tuple(name for name, hint in field_types(config).items() if marks(hint, PerMember))
