"""Titles, colours and order of agents and groups.

Titles and colours come from the results (lps.runs.intent). An agent without a colour gets a spare one. The colours of
the agents and the spare ones are told apart with deuteranopia and protanopia too (tested).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Agent:
    """Title, colour and place of one agent."""

    name: str  # in the results
    title: str  # in figures and tables
    colour: str
    marker: str  # of its learning curve: colours are not the only cue
    published: str | None = None  # its method name in reference/*.csv
    imitation: bool = False  # a behaviour-cloning baseline: the others are compared against it
    alpha_without_effect: bool = False  # its alpha scales a loss and nothing else, and Adam's steps ignore the scale


# name: marker and name in published tables. Order is that of the bars: imitation, baselines, LPS last as in its paper.
_KNOWN = {
    "flow_bc": ("s", None),
    "meanflow_bc": ("D", None),
    "cfgrl": ("v", "CFGRL"),
    "qcfql": ("^", "QC-FQL"),
    "qcmfql": ("<", "QC-MFQL"),
    "best_of_n": (">", "QC"),
    "meanflow_best_of_n": ("H", None),
    "dsrl": ("P", "DSRL"),
    "dsrl_sac": ("p", "DSRL (QAM)"),
    "fm_lps": ("X", None),
    "quantile_lps": ("*", None),
    "lps": ("o", "LPS"),
}
SUBJECT = "lps"  # the agent that claims are about unless told otherwise
SPARE_COLOURS = ["#101830", "#C9B97E", "#8FA3E8", "#0F2200"]
SPARE_MARKERS = ["h", "8", "d"]


def agents_of(names: Iterable[str], about: Mapping[str, Mapping[str, Any]]) -> dict[str, Agent]:
    """Return the agents of the given names in the order of display: the paper's, then the others by name.

    about: stored facts on each agent, by its name.
    """
    present = set(names)
    others = sorted(present - _KNOWN.keys())
    found = {}
    for name in [*(name for name in _KNOWN if name in present), *others]:
        known, place = about.get(name, {}), others.index(name) if name in others else 0
        marker, published = _KNOWN.get(name, (SPARE_MARKERS[place % len(SPARE_MARKERS)], None))
        found[name] = Agent(
            name,
            known.get("title") or name,
            known.get("colour") or SPARE_COLOURS[place % len(SPARE_COLOURS)],
            marker,
            published,
            bool(known.get("imitation", name.endswith("_bc"))),
            bool(known.get("alpha_without_effect")),
        )
    return found


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
    "visual-cube-single",
    "visual-cube-double",
    "visual-scene",
    "visual-puzzle-3x3",
    "visual-puzzle-4x4",
]
# Our tasks of these groups carry the sparse reward; published tables say so in the name.
PUBLISHED_GROUPS = {group: f"{group}-sparse" for group in ("scene", "puzzle-3x3", "visual-scene", "visual-puzzle-3x3")}
AVERAGE = "average"  # the pseudo-group: the mean over groups


def group_key(group: str) -> tuple[int, str]:
    """Sort key of groups: the known order, then unknown ones by name, the average last."""
    if group in GROUP_ORDER:
        return GROUP_ORDER.index(group), group
    return len(GROUP_ORDER) + (group == AVERAGE), group
