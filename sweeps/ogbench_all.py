"""OGBench's manipulation tasks, by every agent: the paper's comparison, or a demonstration of it in minutes.

    python sweeps/ogbench_all.py --preset demo
    python sweeps/ogbench_all.py --preset paper --agents lps dsrl --groups cube-double --results s3://bucket/results
    python sweeps/ogbench_all.py --dry-run

Run again, the same command goes on with what is left.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lps.agents import AGENTS
from lps.errors import UserError, guarded, suggest
from lps.run import Run, parse_settings
from lps.tasks import GROUPS
from sweeps import cli

PRESETS: dict[str, dict[str, Any]] = {
    # On a small dataset that `make demo` collects, with smaller networks and a shorter flow: minutes on two CPU cores.
    "demo": {
        "groups": ["cube-single"],
        "tasks": [1],
        "agents": ["lps", "dsrl", "meanflow_bc", "flow_bc"],
        "seeds": [0],
        "steps": 4000,
        "eval_interval": 1000,
        "eval_episodes": 25,
        "dataset": "cube-single-play-demo",
        "hyperparameters": {
            "lr": 1e-3,  # few updates want larger steps
            "flow_steps": 5,
            "base_hidden": [512, 512, 512],
            "critic_hidden": [256, 256],
            "latent_actor_hidden": [256, 256],
        },
    },
    # Every agent at the paper's defaults on one task and a quarter of its data: the smallest run that can tell them
    # apart. Hours on a GPU, a day on two CPU cores. First:
    #   python -m lps collect cube-single-play --episodes 250 --seed 0 --name cube-single-play-250
    "small": {
        "groups": ["cube-single"],
        "tasks": [1],
        "agents": ["lps", "dsrl", "qcfql", "qcmfql", "best_of_n", "cfgrl", "meanflow_bc", "flow_bc"],
        "seeds": [0, 1, 2],
        "steps": 30_000,
        "eval_interval": 5000,
        "eval_episodes": 50,
        "dataset": "cube-single-play-250",
        "hyperparameters": {},
    },
    # The state-based main comparison of LPS, with the strongest published competitor that it leaves out (best_of_n).
    "paper": {
        "groups": ["cube-single", "cube-double", "scene", "puzzle-3x3", "puzzle-4x4"],
        "tasks": [1, 2, 3, 4, 5],
        "agents": ["lps", "dsrl", "qcfql", "qcmfql", "best_of_n", "cfgrl", "meanflow_bc", "flow_bc"],
        "seeds": list(range(8)),
        "steps": 1_000_000,
        "eval_interval": 100_000,
        "eval_episodes": 50,
        "dataset": None,
        "hyperparameters": {},
    },
}
"""Sweeps by name. `tasks` are numbers within a group; `hyperparameters` are given to the agents that have them;
`dataset` None is the task's own."""


def build(preset: Mapping[str, Any]) -> list[Run]:
    """The runs of a sweep as in PRESETS: groups x tasks x agents x seeds. UserError for unknown names."""
    for group in preset["groups"]:
        if group not in GROUPS:
            raise UserError(suggest(group, GROUPS, "group"))
    names = [task for group in preset["groups"] for task in _tasks(group, preset["tasks"])]
    settings = _by_agent(preset["agents"], preset["hyperparameters"])
    protocol = {key: preset[key] for key in ("steps", "eval_interval", "eval_episodes", "dataset")}
    return [
        Run.create(agent, task, seed, **protocol, **settings[agent])
        for agent in preset["agents"]
        for task in names
        for seed in preset["seeds"]
    ]


def _tasks(group: str, wanted: Sequence[int]) -> list[str]:
    known = {task.index: task.name for task in GROUPS[group]}
    for index in wanted:
        if index not in known:
            raise UserError(f"there is no task {index} in {group}; known: {', '.join(map(str, known))}")
    return [known[index] for index in wanted]


def _by_agent(agents: Sequence[str], settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Each agent's part of the settings; what no agent has is an error."""
    known = {agent: cli.hyperparameters(agent) for agent in agents}
    for name in settings:
        if not any(name in names for names in known.values()):
            raise UserError(suggest(name, sorted(set().union(*known.values())), "hyperparameter"))
    return {agent: {name: settings[name] for name in settings if name in known[agent]} for agent in agents}


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, prog="ogbench_all.py", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default="paper", help=f"one of {', '.join(PRESETS)} (default: paper)")
    what = parser.add_argument_group("what to run of it, or instead")
    what.add_argument(
        "--agents", nargs="+", metavar="AGENT", help=f"{', '.join(AGENTS)}; or a variant, as in dsrl:matched"
    )
    what.add_argument("--groups", nargs="+", metavar="GROUP", help=", ".join(GROUPS))
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
    cli.add_arguments(parser)
    arguments = parser.parse_args(argv)

    if arguments.preset not in PRESETS:
        raise UserError(suggest(arguments.preset, PRESETS, "preset"))
    preset = dict(PRESETS[arguments.preset])
    for name in ("agents", "groups", "tasks", "seeds", "steps", "eval_interval", "eval_episodes", "dataset"):
        if getattr(arguments, name) is not None:
            preset[name] = getattr(arguments, name)
    # The preset's own settings are for those agents that are left; what was asked for by name has to exist.
    left = set().union(*(cli.hyperparameters(agent) for agent in preset["agents"]))
    own = {name: value for name, value in preset["hyperparameters"].items() if name in left}
    preset["hyperparameters"] = own | parse_settings(arguments.set)
    arguments.sweep = arguments.sweep or arguments.preset
    return cli.go(build(preset), arguments)


if __name__ == "__main__":
    sys.exit(main())
