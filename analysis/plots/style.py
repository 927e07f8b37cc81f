"""Style of all figures, and their files.

Figures are made without pyplot, so that no display, backend or global state is involved. Widths are those of a
two-column paper page, in inches: a figure is saved at exactly that width, so that a paper need not scale it. A plot
returns a `Plot`; `save` writes it as PNG, PDF, CSV and, for the caption, text.
"""

import io
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import LogFormatter

from analysis.results import settings
from analysis.results.files import write_csv
from analysis.results.study import SUCCESS, Series, Study, Unit

COLUMN, PAGE = 3.5, 7.16
DPI = 220
SUFFIXES = ("png", "pdf", "csv", "txt")
"""Suffixes of the files of a figure."""
LETTER, LINE = 0.058, 0.145  # inches that a letter and a line of a legend take
INK, MUTED, GRID, PAPER = "#1A1A1A", "#5C5C5C", "#E4E4E4", "#FFFFFF"
ON_LIGHT, ON_DARK = "#111111", "#FAFAFA"
"""Letters on a coloured field: the same in both schemes of the page."""
DARK = {INK: "#E9EAEC", MUTED: "#A3A8B0", GRID: "#31363F", PAPER: "#15181D"}
"""The colours above in the dark scheme of the page."""
CONTRAST = 4.0  # that a colour must have to the dark paper: more than 3, which WCAG 2 asks of graphics

_RC: dict[Any, Any] = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same everywhere
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "ytick.major.size": 0,
    "text.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.5,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,  # text stays text
    "ps.fonttype": 42,
    "svg.hashsalt": "lps",  # the same data make the same bytes
    "savefig.dpi": DPI,
    "figure.constrained_layout.use": True,
}


@dataclass(frozen=True)
class Plot:
    """A figure with the numbers in it and the words under it."""

    figure: Figure
    data: pd.DataFrame
    title: str
    caption: str  # what is shown and how it was computed: one paragraph
    notes: Sequence[str] = ()  # what to keep in mind, a paragraph each


def panels(
    count: int, head: float, height: float, *, across: int = 3, sharey: bool = False, **figure: Any
) -> tuple[Figure, Any]:
    """A figure with `count` panels, at most `across` in a row, and their axes (rows, columns). `head` is the height
    above the panels and `height` that of a row, in inches; further arguments are matplotlib's."""
    columns = min(across, count)
    rows = math.ceil(count / columns)
    made = Figure(figsize=(COLUMN if columns == 1 else PAGE, head + height * rows), **figure)
    grid = made.subplots(rows, columns, squeeze=False, sharey=sharey)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    return made, grid


@contextmanager
def styled() -> Iterator[None]:
    """Figures made and saved in this context look like ours; the caller's matplotlib settings stay as they were."""
    with matplotlib.rc_context(_RC):
        yield


def colour(study: Study, series: Series) -> str:
    """The colour of a series: its agent's, the lighter the more of the agent's series come before it, those that are
    shown (`settings.plotted_series`) before all others."""
    shown = settings.plotted_series(study)
    own = [key for key, other in study.series.items() if other.agent == series.agent]
    place = sorted(own, key=lambda key: key not in shown).index(series.key)
    return lighter(series.agent.colour, 0.75 * place / (1 + place))


def lighter(colour: str, mix: float) -> str:
    """A colour mixed with white: 0 is the colour itself, 1 is white."""
    red, green, blue = to_rgb(colour)
    return to_hex((red + (1 - red) * mix, green + (1 - green) * mix, blue + (1 - blue) * mix))


def line(axes: Axes, x: pd.Series, data: pd.DataFrame, colour: str, marker: str | None, unit: Unit) -> None:
    """A line of means with a band from `low` to `high`, all of them scores and drawn in their unit; no band where
    there is none. An empty line is left out: matplotlib would give it room, at the figure's corner."""
    if data.empty:
        return
    axes.plot(x, unit.scale * data["mean"], color=colour, marker=marker, mew=0, clip_on=False, zorder=3)
    if data["low"].notna().any():
        low, high = unit.scale * data["low"], unit.scale * data["high"]
        axes.fill_between(x, low, high, color=colour, alpha=0.17, linewidth=0)


def score_axis(axes: Axes, unit: Unit, labelled: bool = True) -> None:
    """A y axis of scores: from 0 to 100 for success rates."""
    if unit == SUCCESS:
        success_axis(axes, unit.label if labelled else "")
    else:
        axes.set_ylabel(unit.label if labelled else "")


def success_axis(axes: Axes, label: str = "success rate (%)") -> None:
    """A y axis of percentages from 0 to 100, with room for a mark above the top."""
    axes.set_ylim(0, 106)
    axes.set_yticks(range(0, 101, 20))
    axes.spines["left"].set_bounds(0, 100)
    axes.set_ylabel(label)


def whisker(axes: Axes, x: float, low: float, high: float, *, caps: float = 2.0, zorder: float) -> None:
    """A thin dark error bar with a light rim, so that it is seen on a dark bar too; `caps` in points."""
    middle, half = (low + high) / 2, (high - low) / 2
    for ink, width in ((PAPER, 2.1), (INK, 0.9)):
        axes.errorbar(
            x, middle, half, ecolor=ink, elinewidth=width, capthick=width, capsize=caps, fmt="none", zorder=zorder
        )


def by_end(data: pd.DataFrame, key: str, *panels: str) -> list[str]:
    """The values of the column `key` as their lines end, the highest first: by the mean over the panels of the last
    `mean` of each. `panels` are the columns that make a panel."""
    ends = data.groupby([key, *panels], sort=False)["mean"].last().groupby(level=0, sort=False).mean()
    return list(ends.sort_values(ascending=False, kind="stable").index)


def legend(figure: Figure, handles: Sequence[Artist], columns: int) -> None:
    """One legend for all panels, above them: in as many columns as have room, in a figure that grows with its rows."""
    wide = 0.42 + LETTER * max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(columns, int(figure.get_figwidth() / wide)))
    rows = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + LINE * (rows - 1))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, handlelength=1.3, columnspacing=1.4)


def save(plot: Plot, folder: Path, name: str) -> list[Path]:
    """Writes NAME.png, NAME.pdf, NAME.csv (the numbers in the figure) and NAME.txt (its title, caption and notes)."""
    paths = [folder / f"{name}.{suffix}" for suffix in SUFFIXES]
    write_figure(plot.figure, folder / name)
    write_csv(plot.data, paths[2])
    paths[3].write_text("\n\n".join([plot.title, plot.caption, *plot.notes]) + "\n", encoding="utf-8")
    return paths


def write_figure(figure: Figure, out: Path) -> list[Path]:
    """Write OUT.png and OUT.pdf, and return their paths."""
    out.parent.mkdir(parents=True, exist_ok=True)
    _take_literally(figure)
    png, pdf = (out.with_name(f"{out.name}.{suffix}") for suffix in ("png", "pdf"))
    figure.savefig(png)
    figure.savefig(pdf, metadata={"CreationDate": None})  # the same data make the same bytes
    return [png, pdf]


def _take_literally(figure: Figure) -> None:
    """Show dollar signs in names as they are: only the numbers of logarithmic axes are formulas."""
    axes = [axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)]
    numbers = {
        label
        for axis in axes
        if isinstance(axis.get_major_formatter(), LogFormatter)
        for label in axis.get_ticklabels()
    }
    for text in figure.findobj(Text):
        text.set_parse_math(text in numbers)


def svg(plot: Plot, colours: Sequence[str]) -> str:
    """The figure as SVG, its letters as outlines: the same wherever it is opened. In a browser's dark scheme it is
    light on dark, and the given colours are those of `on_dark`."""
    _take_literally(plot.figure)
    buffer = io.StringIO()
    plot.figure.savefig(buffer, format="svg", metadata={"Date": None})
    dark = {light.lower(): own for light, own in {**DARK, **{colour: on_dark(colour) for colour in colours}}.items()}
    names = {light: f"--c{light[1:]}" for light in dark}

    def variable(found: re.Match[str]) -> str:
        return f"var({names[found[0]]})" if found[0] in names else found[0]

    text = re.sub(r"#[0-9a-f]{6}\b", variable, buffer.getvalue())
    # A page holds many figures. Nobody sees a tenth of a point, and nothing refers to a group.
    text = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), text)
    for waste, instead in ((r"<!--.*?-->", ""), (r'<g id="[^"]*"', "<g"), (r">\s+<", "><")):
        text = re.sub(waste, instead, text)
    schemes = [{names[light]: light for light in dark}, {names[light]: own for light, own in dark.items()}]
    light_rule, dark_rule = (":root{" + ";".join(f"{k}:{v}" for k, v in scheme.items()) + "}" for scheme in schemes)
    rules = f"<style>{light_rule}@media (prefers-color-scheme:dark){{{dark_rule}}}</style>"
    return text.replace("<defs>", f"{rules}<defs>", 1)


def on_dark(colour: str) -> str:
    """The colour for dark paper: mixed with as little white as gives it CONTRAST."""
    paper = _luminance(DARK[PAPER])
    for mix in range(0, 100, 2):
        found = lighter(colour, mix / 100)
        if (_luminance(found) + 0.05) / (paper + 0.05) >= CONTRAST:
            return found
    return PAPER


def _luminance(colour: str) -> float:
    """Relative luminance (WCAG 2), 0 for black to 1 for white."""
    parts = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in to_rgb(colour)]
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]
