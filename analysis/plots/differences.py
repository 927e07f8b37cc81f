"""Differences of success from imitation, with intervals, one panel per baseline."""

import numpy as np
from matplotlib.figure import Figure

from analysis.numbers import summaries
from analysis.plots import style
from analysis.results.study import Study

ROW, GROUP_GAP = 0.21, 0.6  # inches per row; rows left free between groups


def draw(study: Study) -> style.Plot | None:
    data = summaries.differences(study)
    data, unit = data[data["group"].isin(study.comparable)], study.unit()
    if data.empty:
        return None
    baselines = [key for key in study.series if key in set(data["versus"])]
    groups = list(dict.fromkeys(data["group"]))
    largest = data.sort_values("difference", ascending=False, kind="stable").drop_duplicates(["group", "series"])
    pairs = sorted(zip(largest["group"], largest["series"], strict=True), key=lambda pair: groups.index(pair[0]))
    places = {pair: i + GROUP_GAP * groups.index(pair[0]) for i, pair in enumerate(pairs)}
    depth = max(places.values())
    page = style.COLUMN if len(baselines) == 1 else style.PAGE
    figure = Figure(figsize=(page, 0.8 + ROW * (depth + 1)))
    grid = figure.subplots(1, len(baselines), squeeze=False, sharex=True, sharey=True)
    for axes, versus in zip(grid.flat, baselines, strict=True):
        axes.axvline(0, color=style.INK, linewidth=0.8, zorder=2)
        for row in data[data["versus"] == versus].to_dict("records"):
            y, colour = places[row["group"], row["series"]], style.colour(study, study.series[row["series"]])
            if np.isfinite(row["low"]):
                axes.hlines(y, unit.scale * row["low"], unit.scale * row["high"], color=colour, linewidth=2.2, zorder=3)
            axes.plot(
                unit.scale * row["difference"], y, marker="o", color=colour, ms=5.5, mec=style.PAPER, mew=0.7, zorder=4
            )
        axes.set_title(f"against {study.series[versus].title}", pad=4)
        axes.set_xlabel(f"difference ({unit.points})")
        axes.grid(visible=True, axis="x")
        axes.grid(visible=False, axis="y")
        axes.spines["left"].set_visible(False)
        names = [
            summaries.marked_title(study, study.series[key], [group]) + (f", {group}" if len(groups) > 1 else "")
            for group, key in pairs
        ]
        axes.set_yticks(list(places.values()), names)
        axes.set_ylim(depth + 0.6, -0.6)
    caption = (
        f"{unit.title} of an agent minus that of an imitation agent, on the tasks both were run on, in {unit.points}. "
        "Lines: 95 % bootstrap intervals, seeds resampled independently on both sides; none for a single seed."
    )
    notes = [*summaries.small_print(study), *summaries.interval_notes(data, "n_seeds", "n_seeds_versus")]
    return style.Plot(figure, data, "Difference from imitation", caption, notes)
