"""Probability of improvement, a matrix: that a run of the row's agent scores above one of the column's."""

from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from analysis.numbers import comparisons, summaries
from analysis.plots import style
from analysis.results.study import Study

CELL = 0.62  # inches
COLOURS = "PuOr"  # two hues that everyone tells apart, white where neither agent is ahead


def draw(study: Study) -> style.Plot | None:
    data = comparisons.improvements(study)
    if data.empty:
        return None
    field = comparisons.shared_tasks(study)
    shown = [study.series[key] for key in field.scores][::-1]  # LPS, the last one, on top
    values = data.set_index(["series", "versus"])
    size = len(shown)
    wide = style.PAGE if 1.2 + CELL * size > style.COLUMN else style.COLUMN
    figure = Figure(figsize=(wide, 0.5 + 0.62 * CELL * size + 0.4))
    axes = figure.subplots()
    paint = matplotlib.colormaps[COLOURS]
    for y, row in enumerate(shown):
        for x, column in enumerate(shown):
            if row is column:
                axes.text(x, y, "–", ha="center", va="center", color=style.MUTED)
                continue
            cell = values.loc[(row.key, column.key)]
            colour = paint(float(cell["probability"]))
            axes.fill_between([x - 0.5, x + 0.5], y - 0.5, y + 0.5, color=colour, linewidth=0, zorder=1)
            ink = style.ON_DARK if np.dot(colour[:3], [0.3, 0.6, 0.1]) < 0.5 else style.ON_LIGHT
            where: dict[str, Any] = {"ha": "center", "color": ink, "zorder": 2}
            some = np.isfinite(cell["low"])
            axes.text(x, y, f"{cell['probability']:.2f}", va="bottom" if some else "center", fontsize=7.5, **where)
            if some:
                interval = f"[{cell['low']:.2f}, {cell['high']:.2f}]"
                axes.text(x, y + 0.06, interval, va="top", fontsize=5 if size > 6 else 5.8, **where)
    names = [summaries.marked_title(study, series, study.groups) for series in shown]
    axes.set_yticks(range(size), names)
    turned = size > 4 or max(map(len, names)) * style.LETTER > wide / (size + 1)
    axes.set_xticks(range(size), names, rotation=30 if turned else 0, ha="left" if turned else "center")
    axes.xaxis.tick_top()
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.set_xlim(-0.5, size - 0.5)
    axes.set_ylim(size - 0.5, -0.5)
    caption = (
        "Probability that a run of the row's agent scores above a run of the column's on the same task, ties counting "
        f"half, on average over tasks. {field.note(study)} 0.5: neither is ahead. Intervals: 95 % bootstrap, "
        "seeds resampled independently on both sides; none for a single seed."
    )
    notes = [*summaries.small_print(study), *summaries.interval_notes(data, "n_seeds", "n_seeds_versus")]
    return style.Plot(figure, data, "Probability of improvement", caption, notes)
