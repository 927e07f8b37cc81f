"""What the analysis knows about agents and groups: titles, colours, order, defaults, and their names in
published tables.

An agent that is not in the table is shown all the same: under its own name, in the next spare colour.
"""

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import lps
from lps.agents.variants import ALPHA_WITHOUT_EFFECT


@dataclass(frozen=True)
class Agent:
    """How one agent is shown."""

    name: str  # in the results
    title: str  # in figures and tables
    colour: str
    marker: str  # of its learning curve: colours are not the only cue
    published: str | None = None  # its method name in reference/*.csv
    imitation: bool = False  # a behaviour-cloning baseline: the others are compared against it


# Order is that of the bars: imitation, baselines, LPS last as in its paper. The colours are told apart with
# deuteranopia and protanopia too (tested).
_TABLE = [
    Agent("flow_bc", "Flow BC", "#BDBDBD", "s", imitation=True),
    Agent("meanflow_bc", "MeanFlow BC", "#6F6F6F", "D", imitation=True),
    Agent("cfgrl", "CFGRL", "#E8D44D", "v", published="CFGRL"),
    Agent("qcfql", "QC-FQL", "#7FC8F0", "^", published="QC-FQL"),
    Agent("qcmfql", "QC-MFQL", "#D75FC4", "<", published="QC-MFQL"),
    Agent("best_of_n", "QC best-of-N", "#6B3A0A", ">", published="QC"),
    Agent("dsrl", "DSRL", "#E38B1E", "P", published="DSRL"),
    Agent("fm_lps", "FM-LPS", "#3E9B4F", "X"),
    Agent("lps", "LPS", "#1F4FA3", "o", published="LPS"),
]
AGENTS = {agent.name: agent for agent in _TABLE}
SUBJECT = "lps"  # the agent that claims are about unless told otherwise
SPARE_COLOURS = ["#101830", "#C9B97E", "#8FA3E8", "#E0523C"]
SPARE_MARKERS = ["h", "p", "*", "d"]


def agents_of(names: Iterable[str]) -> dict[str, Agent]:
    """The agents of the given names in showing order; unknown ones follow, by name, in spare colours."""
    present = set(names)
    known = {name: agent for name, agent in AGENTS.items() if name in present}
    for i, name in enumerate(sorted(present - known.keys())):
        colour, marker = SPARE_COLOURS[i % len(SPARE_COLOURS)], SPARE_MARKERS[i % len(SPARE_MARKERS)]
        known[name] = Agent(name, name, colour, marker, imitation=name.endswith("_bc"))
    return known


def alpha_without_effect(names: Iterable[str]) -> str:
    """The titles of those agents whose alpha does nothing (lps.agents.variants), 'DSRL, LPS'; '' if there are none."""
    return ", ".join(agent.title for agent in agents_of(set(names) & set(ALPHA_WITHOUT_EFFECT)).values())


@cache
def declared(agent: str) -> Mapping[str, Any]:
    """The defaults in the Config of an agent's page; empty for an agent that has none there.

    Read from the text: importing it would import torch, which no analysis needs.
    """
    page = Path(lps.__file__).parent / "agents" / f"{agent}.py"
    if not page.is_file():
        return {}
    tree = ast.parse(page.read_text(encoding="utf-8"))
    body = [
        field for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Config" for field in node.body
    ]
    values = {
        field.target.id: ast.literal_eval(field.value)
        for field in body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and field.value
    }
    return {key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}


# Groups in the order of LPS's main figure, then by size.
GROUP_ORDER = [
    "cube-single",
    "cube-double",
    "scene",
    "puzzle-3x3",
    "puzzle-4x4",
    "cube-triple",
    "cube-quadruple",
    "puzzle-4x5",
    "puzzle-4x6",
]
# Our tasks of these groups carry the sparse reward; published tables say so in the name.
PUBLISHED_GROUPS = {"scene": "scene-sparse", "puzzle-3x3": "puzzle-3x3-sparse"}
AVERAGE = "average"  # the pseudo-group: the mean over groups

_TASK_NAME = re.compile(r"(?P<group>.+?)-(?:(?:play|noisy|navigate)-singletask-(?P<task>task\d+)|bandit)-v\d+")


def split_task(name: str) -> tuple[str, str]:
    """Group and short name of a task: cube-single-play-singletask-task1-v0 is ('cube-single', 'task1').

    A bandit, and a name of another form, is a group of its own.
    """
    match = _TASK_NAME.fullmatch(name)
    return (match["group"], match["task"] or match["group"]) if match else (name, name)


def group_key(group: str) -> tuple[int, str]:
    """Sort key of groups: the known order, then unknown ones by name, the average last."""
    if group in GROUP_ORDER:
        return GROUP_ORDER.index(group), group
    return len(GROUP_ORDER) + (group == AVERAGE), group
