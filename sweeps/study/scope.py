"""The scope of a study: its tasks, seeds and protocol as a value, and the options of the command line for them."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from lps.agents import AGENTS
from lps.agents.variants import resolve
from lps.errors import UserError, check_known, suggest
from lps.runs.hyperparameters import hyperparameters, parse_settings
from lps.runs.intent import Planned, Role, planned
from lps.tasks.ring import RING
from lps.tasks.suites import groups
from lps.tasks.task import Task


@dataclass(frozen=True)
class Scope:
    """Tasks, seeds and protocol of a study. The study itself chooses the agents."""

    groups: Sequence[str]
    tasks: Sequence[int | str] | None
    """Tasks of each group, by number (1 is the first) or by name; None: all tasks."""
    seeds: Sequence[int]
    steps: int
    eval_interval: int
    eval_episodes: int = 50
    dataset: str | None = None
    """Name of a dataset; None: the task's default."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    """Values for the agents that have these hyperparameters; values of a variant have priority."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Values of --set, with the highest priority."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the suite, such as success_timing in OGBench."""
    suite: str | None = None
    """Suite of the groups; None: the built-in ones."""

    def runs(self, agent: str, role: Role = MappingProxyType({}), **varied: Any) -> list[Planned]:
        """Plans an agent or variant ("dsrl:matched"), with its own settings, on all tasks with all seeds.

        role: the reason for these runs (lps.runs.intent). varied: the hyperparameters or the dataset that the role
        changes. UserError for unknown names, and where --set names a hyperparameter that the variant or role changes.
        """
        known, (_, variant) = hyperparameters(agent), resolve(agent, AGENTS)
        if taken := sorted(set(self.settings) & {*variant, *varied}):
            by = agent if taken[0] in variant else "this study"
            raise UserError(f"--set {taken[0]} conflicts with {by}, which varies {taken[0]}. Remove --set {taken[0]}")
        defaults = {key: value for key, value in self.hyperparameters.items() if key in known}
        by_hand = {key: value for key, value in self.settings.items() if key in known}
        protocol = {
            key: getattr(self, key) for key in ("steps", "eval_interval", "eval_episodes", "dataset", "options")
        }
        return [
            planned(agent, task, seed, role, varied, defaults, **protocol, **by_hand)
            for task in self.task_names()
            for seed in self.seeds
        ]

    def task_names(self) -> list[str]:
        """Return the names of all tasks. UserError for an unknown group, number or name."""
        known = groups(self.suite)
        for group in self.groups:
            if group not in known:
                raise UserError(suggest(group, known, "group"))
        chosen = [task for group in self.groups for task in _chosen(group, known[group], self.tasks)]
        names = [name for task in chosen for name in _names(task)]
        for one in self.tasks or ():
            if isinstance(one, str) and one not in names:
                every = [_names(task)[-1] for group in self.groups for task in known[group]]
                raise UserError(suggest(one, every, f"task of {', '.join(self.groups)}"))
        return [task.name for task in chosen]


# The preset quick: the ring bandit with small networks, minutes on two CPU cores.
RING_SCOPE = Scope(
    groups=[RING.group],
    tasks=[1],
    seeds=[0, 1],
    steps=3000,
    eval_interval=750,
    eval_episodes=100,
    hyperparameters={
        "lr": 1e-3,  # few updates want larger steps
        "flow_steps": 5,
        "num_samples": 8,
        "base_hidden": [64, 64, 64],
        "critic_hidden": [64, 64],
        "actor_hidden": [64, 64, 64],
        "latent_actor_hidden": [32, 32],
    },
)
# The paper's five groups and protocol. The tasks of a group are members of one program: five cost little more than one.
PAPER_SCOPE = Scope(
    groups=["cube-single", "cube-double", "scene", "puzzle-3x3", "puzzle-4x4"],
    tasks=[1, 2, 3, 4, 5],
    seeds=[0, 1, 2, 3],
    steps=1_000_000,
    eval_interval=100_000,
)
STUDY_SCOPES: Mapping[str, Scope] = {"paper": PAPER_SCOPE, "quick": RING_SCOPE}
"""The presets of the studies of sensitivity and ablations."""


def add_arguments(parser: argparse.ArgumentParser, presets: Mapping[str, Any]) -> None:
    """Add --preset, and an option for each part of a preset."""
    parser.add_argument("--preset", default="paper", help=f"one of {', '.join(presets)} (default: paper)")
    what = parser.add_argument_group("parts of the preset to replace")
    what.add_argument(
        "--agents", nargs="+", metavar="AGENT", help=f"agents: {', '.join(AGENTS)}; or variants such as dsrl:matched"
    )
    what.add_argument("--groups", nargs="+", metavar="GROUP", help=f"groups of tasks: {', '.join(groups('ogbench'))}")
    what.add_argument(
        "--suite", help="import path of a suite, such as my_package.my_suite (default: the built-in ones)"
    )
    what.add_argument(
        "--tasks", nargs="+", metavar="TASK", help="tasks of each group, by number (1 is the first) or name"
    )
    what.add_argument("--seeds", nargs="+", type=int, metavar="N", help="seeds of the runs")
    what.add_argument("--steps", type=int, metavar="N", help="number of updates")
    what.add_argument("--eval-interval", type=int, metavar="N", help="updates between evaluations")
    what.add_argument("--eval-episodes", type=int, metavar="N", help="episodes per evaluation")
    what.add_argument("--dataset", help="name of a dataset (default: the dataset of the task)")
    what.add_argument(
        "--option", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="settings of the suite, such as success_timing=pre",
    )  # fmt: skip
    what.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="hyperparameters of the agents that have them",
    )  # fmt: skip


def scope_from_arguments(arguments: argparse.Namespace, presets: Mapping[str, Scope]) -> Scope:
    """Return the preset with the parts that other options replace. UserError for an unknown preset."""
    check_known([arguments.preset], presets, "preset")
    names = ("suite", "groups", "tasks", "seeds", "steps", "eval_interval", "eval_episodes", "dataset")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    given |= {name: list(dict.fromkeys(given[name])) for name in ("groups", "tasks", "seeds") if name in given}
    if "tasks" in given:
        given["tasks"] = [int(one) if one.isdigit() else one for one in given["tasks"]]
    preset = presets[arguments.preset]
    known = groups(arguments.suite)
    if arguments.suite:  # by default all tasks of the suite with their own datasets
        given = {"groups": list(known), "tasks": None, "dataset": None, **given}
    if "groups" in given and "tasks" not in given:  # the tasks of the preset, as far as these groups have them
        of_groups = [known.get(group, ()) for group in given["groups"]]
        numbers = [task for task in preset.tasks or () if isinstance(task, int)]
        theirs = {name for tasks in of_groups for task in tasks for name in _names(task)}
        if named := [task for task in preset.tasks or () if isinstance(task, str)]:
            given["tasks"] = [task for task in named if task in theirs] or None
        elif any(len(tasks) < max(numbers, default=0) for tasks in of_groups if tasks):
            given["tasks"] = None
    options = parse_settings(arguments.option, "--option")
    return replace(preset, **given, settings=parse_settings(arguments.set), options={**preset.options, **options})


def agents_from_arguments(arguments: argparse.Namespace, default: Sequence[str]) -> list[str]:
    """Return the values of --agents without duplicates, or the default."""
    return list(dict.fromkeys(arguments.agents or default))


def check_settings(scope: Scope, agents: Sequence[str]) -> None:
    """UserError for a hyperparameter of --set that no agent has."""
    check_known(scope.settings, sorted(set().union(*map(hyperparameters, agents))), "hyperparameter")


def _chosen(group: str, tasks: Sequence[Task], wanted: Sequence[int | str] | None) -> list[Task]:
    if wanted is None:
        return list(tasks)
    found = []
    for one in wanted:
        if isinstance(one, str):
            found += [task for task in tasks if one in _names(task)]
        elif 1 <= one <= len(tasks):
            found.append(tasks[one - 1])
        else:
            raise UserError(f"{group} has no task {one}. Use a number from 1 to {len(tasks)}, or a name")
    return found


def _names(task: Task) -> tuple[str, str]:
    """Return the full name of a task and its name inside the suite."""
    return task.name, task.key
