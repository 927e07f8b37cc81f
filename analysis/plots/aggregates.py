"""Aggregates over all tasks: interquartile mean, median, mean and optimality gap, one panel each, with intervals."""

import numpy as np
from matplotlib.figure import Figure

from analysis.numbers import comparisons, summaries
from analysis.plots import style
from analysis.results.study import Study

ROW = 0.21  # inches


def draw(study: Study) -> style.Plot | None:
    data = comparisons.aggregates(study)
    if data.empty:
        return None
    field, unit, statistics = comparisons.shared_tasks(study), study.unit(), comparisons.statistics(study)
    first = data[data["statistic"] == next(iter(statistics))].sort_values("value", ascending=False, kind="stable")
    shown = [study.series[key] for key in first["series"]]
    figure = Figure(figsize=(style.PAGE, 0.74 + ROW * len(shown)))
    grid = figure.subplots(1, len(statistics), squeeze=False, sharey=True)
    for axes, (name, (title, _)) in zip(grid.flat, statistics.items(), strict=True):
        here = data[data["statistic"] == name].set_index("series")
        for y, series in enumerate(shown):
            value, low, high = (unit.scale * here.loc[series.key, column] for column in ("value", "low", "high"))
            colour = style.colour(study, series)
            if np.isfinite(low):
                axes.hlines(y, low, high, color=colour, linewidth=5, alpha=0.45, zorder=3)
            axes.plot(value, y, marker="|", color=colour, ms=9, mew=2.2, zorder=4, clip_on=False)
        axes.set_title(title + ("\n(lower is better)" if name == "optimality_gap" else ""), pad=4)
        axes.set_xlabel(unit.sign or unit.name)
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        axes.set_yticks(range(len(shown)), [summaries.marked_title(study, series, study.groups) for series in shown])
        axes.set_ylim(len(shown) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=4)
    gap = "; optimality gap: how far runs are below 100 %, on average" if "optimality_gap" in statistics else ""
    caption = (
        f"{unit.title} over all tasks. {field.note(study)} IQM: mean of the middle half of all runs; median: over "
        f"tasks, of the mean over seeds{gap}. Bars: 95 % stratified "
        f"bootstrap intervals over seeds within tasks."
    )
    notes = [*summaries.small_print(study), *summaries.interval_notes(data)]
    return style.Plot(figure, data, "Aggregates over all tasks", caption, notes)
