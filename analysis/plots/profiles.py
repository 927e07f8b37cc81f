"""Performance profiles: the share of runs that score above a threshold. A line above another everywhere is better."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.numbers import comparisons, summaries
from analysis.plots import style
from analysis.results.study import SUCCESS, Study

MARKS = 10  # thresholds between two markers


def draw(study: Study) -> style.Plot | None:
    data = comparisons.profiles(study)
    if data.empty:
        return None
    field, unit = comparisons.shared_tasks(study), study.unit()
    shown = [study.series[key] for key in field.scores]
    figure = Figure(figsize=(style.COLUMN, 2.6 + 0.15 * (len(shown) // 3)))
    axes = figure.subplots()
    area = data.groupby("series")["share"].mean()
    shown.sort(key=lambda series: -area[series.key])  # every line ends at 0, so by what lies under it
    for i, series in enumerate(shown):
        line = data[data["series"] == series.key]
        colour, at = style.colour(study, series), unit.scale * line["threshold"]
        marks = slice(i % MARKS, None, MARKS)  # staggered, so that lines on each other are seen
        axes.plot(
            at, 100 * line["share"], color=colour, marker=series.agent.marker, markevery=marks, mew=0, zorder=3,
            drawstyle="steps-post",
        )  # fmt: skip
        if np.isfinite(line["low"]).any():
            low, high = 100 * line["low"], 100 * line["high"]
            axes.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0, step="post")
    style.success_axis(axes, "share of runs above it (%)")
    if unit == SUCCESS:
        axes.set_xlim(0, 100)
    axes.set_xlabel(unit.label)
    handles = [
        Line2D(
            [], [], color=style.colour(study, s), marker=s.agent.marker, mew=0,
            label=summaries.marked_title(study, s, study.groups),
        )
        for s in shown
    ]  # fmt: skip
    style.legend(figure, handles, columns=min(len(shown), 3))
    what = unit.label.partition(" (")[0]
    caption = (
        f"Share of runs whose score is above a {what}. {field.note(study)} Every task weighs the same. Bands: "
        "pointwise 95 % stratified bootstrap intervals over seeds within tasks; a series with a single seed on a task "
        "has none."
    )
    notes = [*summaries.small_print(study), *summaries.interval_notes(data)]
    return style.Plot(figure, data, "Performance profiles", caption, notes)
