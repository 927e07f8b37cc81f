"""Where a study is run and for how long, as a value, with the options of the command line that change it."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lps.agents import AGENTS
from lps.agents.variants import resolve
from lps.errors import UserError, check_known, suggest
from lps.runs.hyperparameters import hyperparameters, parse_settings
from lps.runs.run import Run
from lps.tasks.ring import RING
from lps.tasks.suites import groups
from lps.tasks.task import Task


@dataclass(frozen=True)
class Scale:
    """Tasks, seeds and protocol of a study; which agents it runs there is the study's own."""

    groups: Sequence[str]
    tasks: Sequence[int]
    """Numbers within each group."""
    seeds: Sequence[int]
    steps: int
    eval_interval: int
    eval_episodes: int = 50
    dataset: str | None = None
    """None: the task's own."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    """Given to the agents that have them, where their variant says nothing else."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """The same, and before all else: what was asked for by hand."""

    def runs(self, agent: str, **settings: Any) -> list[Run]:
        """An agent or variant ("dsrl:matched"), with its own settings, on all tasks with all seeds. UserError for
        unknown names, and where what was set by hand is what the variant or the study is about."""
        known, (_, variant) = hyperparameters(agent), resolve(agent, AGENTS)
        if taken := sorted(set(self.settings) & {*variant, *settings}):
            by = agent if taken[0] in variant else "this study"
            raise UserError(
                f"{by} gives {taken[0]} its values: --set {taken[0]} would hide them; leave one of them out"
            )
        usual = {key: value for key, value in self.hyperparameters.items() if key in known and key not in variant}
        by_hand = {key: value for key, value in self.settings.items() if key in known}
        protocol = {key: getattr(self, key) for key in ("steps", "eval_interval", "eval_episodes", "dataset")}
        return [
            Run.create(agent, task, seed, **protocol, **(usual | settings | by_hand))
            for task in self.task_names()
            for seed in self.seeds
        ]

    def task_names(self) -> list[str]:
        """The names of all tasks. UserError for an unknown group or number."""
        return [task.name for group in self.groups for task in _chosen(group, self.tasks)]


# What a first look at a study takes: the ring bandit, small networks, minutes on two CPU cores.
RING_SCALE = Scale(
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
PAPER_SCALE = Scale(
    groups=["cube-single", "cube-double", "scene", "puzzle-3x3", "puzzle-4x4"],
    tasks=[1, 2, 3, 4, 5],
    seeds=[0, 1, 2, 3],
    steps=1_000_000,
    eval_interval=100_000,
)
STUDY_SCALES: Mapping[str, Scale] = {"paper": PAPER_SCALE, "quick": RING_SCALE}
"""The presets of every study of sensitivity and ablation."""


def add_arguments(parser: argparse.ArgumentParser, presets: Mapping[str, Any]) -> None:
    """`--preset` and what may be said instead of each of its parts."""
    parser.add_argument("--preset", default="paper", help=f"one of {', '.join(presets)} (default: paper)")
    what = parser.add_argument_group("what to run of it, or instead")
    what.add_argument(
        "--agents", nargs="+", metavar="AGENT", help=f"{', '.join(AGENTS)}; or a variant, as in dsrl:matched"
    )
    what.add_argument("--groups", nargs="+", metavar="GROUP", help=", ".join(groups("ogbench")))
    what.add_argument("--tasks", nargs="+", type=int, metavar="N", help="1 to 5, in each group")
    what.add_argument("--seeds", nargs="+", type=int, metavar="N")
    what.add_argument("--steps", type=int, metavar="N", help="updates")
    what.add_argument("--eval-interval", type=int, metavar="N", help="updates between evaluations")
    what.add_argument("--eval-episodes", type=int, metavar="N")
    what.add_argument("--dataset", help="name of a dataset file in the data folder (default: OGBench's of the task)")
    what.add_argument(
        "--set", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
        help="hyperparameters, for the agents that have them",
    )  # fmt: skip


def asked_for(arguments: argparse.Namespace, presets: Mapping[str, Scale]) -> Scale:
    """The preset that the command line names, with what it says instead. UserError for an unknown preset."""
    check_known([arguments.preset], presets, "preset")
    names = ("groups", "tasks", "seeds", "steps", "eval_interval", "eval_episodes", "dataset")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    given |= {name: list(dict.fromkeys(given[name])) for name in ("groups", "tasks", "seeds") if name in given}
    arguments.agents = arguments.agents and list(dict.fromkeys(arguments.agents))  # said twice is meant once
    if set(given.get("groups", ())) == {RING.group} and "tasks" not in given:
        given["tasks"] = [1]
    return replace(presets[arguments.preset], **given, settings=parse_settings(arguments.set))


def check_settings(scale: Scale, agents: Sequence[str]) -> None:
    """UserError for a setting asked for by hand that none of the agents has."""
    check_known(scale.settings, sorted(set().union(*map(hyperparameters, agents))), "hyperparameter")


def _chosen(group: str, wanted: Sequence[int]) -> list[Task]:
    known = dict(enumerate(groups().get(group, ()), 1))
    if not known:
        raise UserError(suggest(group, groups(), "group"))
    for index in wanted:
        if index not in known:
            raise UserError(f"there is no task {index} in {group}; known: {', '.join(map(str, known))}")
    return [known[index] for index in wanted]
