"""The varied hyperparameters and their values, the same for every agent that has them.

The ranges are wide enough to break an agent at both ends, because a range of good values says nothing about robustness.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import FloatDistribution

from lps.agents import AGENTS
from lps.agents.config import member_scalars
from lps.agents.variants import ALPHA_WITHOUT_EFFECT
from lps.runs.hyperparameters import hyperparameters

ALPHAS = [0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0]
"""The grid of LPS's alpha figure."""

AXES: Mapping[str, Sequence[Any]] = {
    "lr": [3e-5, 1e-4, 3e-4, 1e-3, 3e-3],
    "tau": [5e-4, 5e-3, 2e-2, 1e-1],
    "discount": [0.97, 0.98, 0.99, 0.995, 0.999],
    "flow_ratio": [0.0, 0.1, 0.25, 0.5, 1.0],
    "horizon": [1, 3, 5, 10],
    "critic_agg": ["min", "mean", "pessimistic"],
    "num_critics": [1, 2, 4, 10],
    "noise_scale": [0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 2.0],
    "batch_size": [64, 256, 1024],
    "flow_steps": [1, 5, 10, 20],
    "base_hidden": [[128] * 4, [256] * 4, [512] * 4, [1024] * 4],
    "critic_hidden": [[64] * 4, [128] * 4, [256] * 4, [512] * 4],
    "latent_actor_hidden": [[64] * 2, [256] * 2, [512] * 4],
    "actor_hidden": [[64] * 4, [256] * 4, [512] * 4],
}
"""Values of one hyperparameter at a time, with the others at their defaults."""

SEARCHED: Mapping[str, FloatDistribution] = {
    "lr": FloatDistribution(3e-5, 3e-3, log=True),
    "tau": FloatDistribution(5e-4, 1e-1, log=True),
    "discount": FloatDistribution(0.97, 0.999),
    "flow_ratio": FloatDistribution(0.0, 1.0),
    "alpha": FloatDistribution(0.03, 300.0, log=True),
    "noise_scale": FloatDistribution(0.1, 3.0, log=True),
    "expectile": FloatDistribution(0.5, 0.99),
    "guidance": FloatDistribution(1.0, 5.0),
}
"""Ranges for all hyperparameters at once. All are scalars of a member, so an agent's configurations share a program."""


def axes(agent: str) -> dict[str, Sequence[Any]]:
    """Return the axes of AXES that an agent or variant has."""
    known = hyperparameters(agent)
    return {name: values for name, values in AXES.items() if name in known}


def ranges(agent: str) -> dict[str, FloatDistribution]:
    """Return the ranges of SEARCHED that an agent or variant has, without an alpha that has no effect."""
    known = hyperparameters(agent) & set(member_scalars(AGENTS[agent.partition(":")[0]].Config))
    if agent.partition(":")[0] in ALPHA_WITHOUT_EFFECT:
        known -= {"alpha"}
    return {name: known_range for name, known_range in SEARCHED.items() if name in known}
