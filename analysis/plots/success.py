"""Success by group, one bar per agent: the form of LPS's main figure, with the published means as hollow diamonds."""

from collections.abc import Hashable, Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis.numbers import summaries
from analysis.plots import style
from analysis.results.agents import AVERAGE
from analysis.results.study import DAGGER, Study, Unit

GROUP_GAP = 0.9  # bars left free between groups
MIN_BAR, MAX_BAR = 0.24, 0.45  # inches per bar: below the first the figure takes the whole page
FEW_BARS = 14  # up to here the bars carry their numbers
FEW_RUNS = 6  # up to here, per bar, the runs are shown as dots


def draw(study: Study) -> style.Plot | None:
    data = summaries.of_shown(study, summaries.by_group(study))
    if data.empty:
        return None
    groups = list(dict.fromkeys(data["group"]))
    shown = [series for key, series in study.series.items() if key in set(data["series"])]
    # Percentages share an axis; returns have one for each group.
    panels = [[group for group in groups if study.unit(group).sign], *([g] for g in groups if not study.unit(g).sign)]
    panels = [panel for panel in panels if panel]
    slots = len(groups) * (len(shown) + GROUP_GAP)
    wide = slots * MIN_BAR + 0.6 * len(panels) > style.COLUMN
    page = style.PAGE if wide else style.COLUMN
    figure = Figure(figsize=(page, 2.5))
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=list(map(len, panels)))[0]
    width = 1 / (len(shown) + GROUP_GAP)
    margin = max(0.0, (page - 0.6 - slots * MAX_BAR) / MAX_BAR / 2 * width)  # few bars stay slim
    for axes, panel in zip(grid, panels, strict=True):
        unit = study.unit(*panel)
        for (i, series), (j, group) in product(enumerate(shown), enumerate(panel)):
            row = data[(data["series"] == series.key) & (data["group"] == group)]
            if len(row):
                x, values = j + (i - (len(shown) - 1) / 2) * width, row.iloc[0].to_dict()
                _bar(axes, x, width, style.colour(study, series), values, unit, labelled=len(data) <= FEW_BARS)
                _runs(axes, x, width, values, study)
        if AVERAGE in panel:
            axes.axvline(len(panel) - 1.5, color=style.GRID, linewidth=1.0)
        axes.set_xticks(range(len(panel)), panel)
        axes.tick_params(axis="x", length=0)
        axes.set_xlim(-0.5 - margin, len(panel) - 0.5 + margin)
        style.score_axis(axes, unit)
    handles: list[Patch | Line2D] = [
        Patch(color=style.colour(study, series), label=study.series[series.key].title) for series in shown
    ]
    if data["published_mean"].notna().any():
        handles.append(Line2D([], [], color=style.INK, lw=0.8, marker="D", mfc="white", ms=4, label="published"))
    style.legend(figure, handles, columns=min(len(handles), 6 if wide else 3))
    return style.Plot(
        figure,
        data,
        f"{study.unit(*study.groups).title} by group",
        _caption(data),
        [*_notes(study, data), *summaries.interval_notes(data), *summaries.others_note(study)],
    )


def _bar(
    axes: Axes, x: float, width: float, colour: str, row: Mapping[Hashable, Any], unit: Unit, labelled: bool
) -> None:
    """One bar with its interval, its number and marks, and the published value beside its middle."""
    mean, low, high = (unit.scale * row[key] for key in ("mean", "low", "high"))
    axes.bar(x, mean, 0.88 * width, color=colour, zorder=2)
    if np.isfinite(low):
        style.whisker(axes, x, low, high, zorder=4)
    theirs, their_low, their_high = (100 * row[f"published_{key}"] for key in ("mean", "low", "high"))
    beside = x + 0.27 * width
    if np.isfinite(theirs):
        if np.isfinite(their_low):
            style.whisker(axes, beside, their_low, their_high, caps=0, zorder=5)
        axes.plot(beside, theirs, marker="D", color=style.INK, markerfacecolor=style.PAPER, ms=3.4, mew=0.8, zorder=6)
    number = (f"{mean:.0f}" if unit.sign or abs(mean) >= 100 else f"{mean:.3g}") if labelled else ""
    dagger = DAGGER if row["runs_scored"] < row["runs_planned"] else ""
    alone = "\nn=1" if row["n_seeds_min"] == 1 else ""
    top = np.nanmax([mean, high])
    span = [value for value in (theirs, their_low, their_high) if np.isfinite(value)]
    crowded = bool(span) and min(span) < top + 13 and max(span) > top - 3
    where, shift, align = (beside, -4, "right") if crowded else (x, 0, "center")
    text = f"{number}{dagger}{alone}".strip()
    axes.annotate(
        text, (where, top), (shift, 3.2), textcoords="offset points", ha=align, va="bottom", fontsize=6.5, zorder=7
    )


def _runs(axes: Axes, x: float, width: float, row: Mapping[Hashable, Any], study: Study) -> None:
    """The scores of single runs as dots on the left half of their bar, where they are few."""
    if row["group"] == AVERAGE or not 1 < row["runs_scored"] <= FEW_RUNS:
        return
    runs = study.unit(row["group"]).scale * study.cell(row["series"], row["group"])["score"].sort_values()
    across = x + np.linspace(-0.36, -0.14, len(runs)) * width
    axes.scatter(across, runs, s=7, color=style.PAPER, edgecolors=style.INK, linewidths=0.5, zorder=3, clip_on=False)


def _notes(study: Study, data: pd.DataFrame) -> list[str]:
    lines = summaries.small_print(study)
    if (data["n_seeds_min"] == 1).any():
        lines.append("n=1: a task with a single seed, so there is no interval.")
    known = data[data["published_mean"].notna() & (data["group"] != AVERAGE)]
    if len(known):
        theirs = "; ".join(f"{source} ({protocol})" for source, protocol in summaries.sources(known))
        cells = zip(known["series"], known["group"], strict=True)
        ours = dict.fromkeys(text for cell in cells for text in summaries.protocol_differences(study, *cell))
        lines.append(f"Published: {theirs}." + (f" Ours differ: {'; '.join(ours)}." if ours else ""))
    return lines


def _caption(data: pd.DataFrame) -> str:
    text = (
        "Mean over tasks of the mean over seeds; the score of a run is the mean of its last three evaluations. Error "
        "bars: 95 % stratified bootstrap intervals over seeds within tasks. Dots: single runs, where there are few."
    )
    if data["published_mean"].notna().any():
        text += " Hollow diamonds: published means with their published error bars, where there is one."
    return text
