"""New runs, with every value checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lps.agents import AGENTS
from lps.agents.variants import group_settings, resolve
from lps.data.names import plain_name
from lps.errors import UserError
from lps.runs.hyperparameters import make_config, plain
from lps.runs.run import Run
from lps.tasks.suites import check_options, get_task


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
    """Build a checked run.  UserError, which names the nearest known names, for unknown names and impossible values.

    Args:
        agent: name in AGENTS, perhaps with a variant (lps.agents.variants).
        dataset: name of a dataset; None for the task's own.
        options: settings of the task's suite, such as success_timing in OGBench.
        hyperparameters: those not given are the variant's, those tuned for the task's group, the task's horizon, and
            the agent's defaults, in this order.
    """
    agent, variant = resolve(agent, AGENTS)
    known = get_task(task)
    for name, value in {"steps": steps, "eval_interval": eval_interval, "eval_episodes": eval_episodes}.items():
        if not isinstance(value, int) or value < 1:
            raise UserError(f"{name} must be a whole number of at least 1, not {value!r}")
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
        dataset=plain_name(dataset, "--dataset") if dataset else known.dataset,
        eval_interval=eval_interval,
        eval_episodes=eval_episodes,
        options=check_options(known, options or {}),
    )
