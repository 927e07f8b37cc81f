"""The intent of a sweep, written before its first update: the role of each run, and the facts about its agents and
tasks that figures and tables need. Analysis reads them from the results and imports no agent."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from lps.agents import AGENTS
from lps.agents.variants import ALPHA_WITHOUT_EFFECT, VARIANTS, group_settings, resolve
from lps.runs.hyperparameters import plain
from lps.runs.run import Run
from lps.runs.store import Store
from lps.tasks.task import Task

Role = Mapping[str, Any]
"""The reason why a sweep has a run. {} is the agent's usual setting. Keys:

variant              a variant of lps.agents.variants
axis, value          one thing is varied: a hyperparameter, or 'episodes' or 'noise' of the dataset
point                number in a joint design of several hyperparameters
trial                number in a tuning study
held_out             'best' or 'default': the final comparison of a tuning study, with seeds that no trial has used
"""


class Planned(NamedTuple):
    """A run of a sweep, with its role there."""

    run: Run
    role: Role = MappingProxyType({})
    usual: Run | None = None
    """The same with the usual setting of its agent in this sweep, without variant and role; default: the run itself."""


def planned(
    agent: str,
    task: str,
    seed: int,
    role: Role = MappingProxyType({}),
    varied: Mapping[str, Any] = MappingProxyType({}),
    defaults: Mapping[str, Any] = MappingProxyType({}),
    **settings: Any,
) -> Planned:
    """Plans `Run.create(agent, task, seed, **settings)`, with the name of the agent's variant in its role.

    varied: the settings that the role changes. defaults: hyperparameters that give way to the variant's.
    """
    name, variant = resolve(agent, AGENTS)
    below = {key: value for key, value in defaults.items() if key not in variant}
    run = Run.create(agent, task, seed, **{**below, **settings, **varied})
    usual = Run.create(name, task, seed, **{**defaults, **settings})
    own = {"variant": agent.partition(":")[2]} if ":" in agent else {}
    return Planned(run, {**own, **role}, usual)


def write_intent(store: Store, sweep: str, runs: Sequence[Planned], digest: str | None = None) -> None:
    """Writes the document of a sweep (see `Store.write_sweep`).

    There is one document for each set of runs: two sweeps of one name do not overwrite each other. A document that
    is there already stays as it is. A sweep whose runs become more and more names its document by its own `digest`, and
    replaces it.
    """
    ids = sorted({one.run.id for one in runs})
    digest = digest or hashlib.sha256(" ".join(ids).encode()).hexdigest()[:8]
    wanted: dict[str, dict[str, Any]] = {}
    usual: dict[str, dict[str, Any]] = {}
    for run, role, base in runs:
        entry = wanted.setdefault(run.id, {"agent": run.agent, "task": run.task, "seed": run.seed, "roles": []})
        entry["roles"] += [] if role in entry["roles"] else [dict(role)]
        usual.setdefault(run.agent, {}).setdefault(run.resolved_task.group, _setting(base or run))
    document = {
        "sweep": sweep,
        "command": shlex.join(sys.orig_argv),
        "runs": wanted,
        "usual": usual,
        "agents": {name: _about_agent(name, runs) for name in usual},
        "tasks": {one.run.task: _about_task(one.run.resolved_task) for one in runs},
    }
    document = json.loads(json.dumps(document))
    if not any(document.items() <= {**known, "command": document["command"]}.items() for known in store.sweeps()):
        store.write_sweep(f"{sweep}-{digest}", document)


def _setting(run: Run) -> dict[str, Any]:
    """All that can change a run's result but agent, task and seed."""
    values = run.to_dict()
    return {**{key: values[key] for key in values if key not in ("agent", "task", "seed", "hyperparameters")},
            **values["hyperparameters"]}  # fmt: skip


def _about_agent(name: str, runs: Sequence[Planned]) -> dict[str, Any]:
    agent = AGENTS[name]
    tasks = {task.group: task for task in (one.run.resolved_task for one in runs if one.run.agent == name)}
    return {
        "title": agent.title,
        "colour": agent.colour,
        "imitation": agent.reward_free,
        "alpha_without_effect": name in ALPHA_WITHOUT_EFFECT,
        "defaults": plain(dataclasses.asdict(agent.Config())),
        "tuned": {
            group: {"horizon": task.horizon, **plain(group_settings(name, group))} for group, task in tasks.items()
        },
        "variants": {variant: plain(settings) for variant, settings in VARIANTS.get(name, {}).items()},
    }


def _about_task(task: Task) -> dict[str, Any]:
    names = ("suite", "group", "title", "dataset", "horizon", "max_episode_steps", "metric", "return_range")
    return {key: getattr(task, key) for key in names}
