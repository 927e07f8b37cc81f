"""List the agents with their variants, or the hyperparameters of one agent."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

HELP = "list the agents and their variants, or the hyperparameters of one agent"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("agent", nargs="?", help="agent or variant whose hyperparameters to show")


def run(arguments: argparse.Namespace) -> int:
    from lps.agents import AGENTS
    from lps.agents.variants import GROUP_SETTINGS, VARIANTS, resolve
    from lps.runs.hyperparameters import explain

    if arguments.agent is None:
        for name, agent in AGENTS.items():
            print(f"{name:12s} {agent.title}")
            _print_settings({f"{name}:{variant}": settings for variant, settings in VARIANTS.get(name, {}).items()})
        return 0
    name, variant = resolve(arguments.agent, AGENTS)
    print(f"{arguments.agent}: {AGENTS[name].title}")
    for row in explain(name, variant):
        default = str(list(row.default) if isinstance(row.default, tuple) else row.default)
        print(f"  {row.name:20s} {default:22s} {row.allowed:46s} {row.meaning}".rstrip())
    print(f"default horizon of the tasks: {_horizons()}")
    if tuned := GROUP_SETTINGS.get(name, {}):
        print("defaults for groups of tasks:")
        _print_settings(tuned)
    if name == arguments.agent and (variants := VARIANTS.get(name, {})):
        print("variants:")
        _print_settings({f"{name}:{variant}": settings for variant, settings in variants.items()})
    return 0


def _horizons() -> str:
    from lps.tasks import SUITES
    from lps.tasks.suites import tasks_of

    horizons = {suite: sorted({task.horizon for task in tasks_of(suite).values()}) for suite in SUITES}
    return ", ".join(f"{' or '.join(map(str, found))} ({suite})" for suite, found in horizons.items())


def _print_settings(settings: Mapping[str, Mapping[str, Any]]) -> None:
    for name, values in settings.items():
        print(f"  {name:32s} {' '.join(f'{key}={value}' for key, value in values.items()) or 'no change'}")
