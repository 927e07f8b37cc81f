"""The ablation panels: what each choice of LPS is worth, and the rivals with its choices."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.numbers import ablations, summaries
from analysis.plots import style
from analysis.results.study import Study
from lps.agents.variants import PANELS

WIDE = 5  # bars from which on a panel takes the place of two


def draw(study: Study) -> style.Plot | None:
    data = ablations.panels(study)
    if data.empty:
        return None
    names = list(dict.fromkeys(data["panel"]))
    sizes = [max(2, int((data["panel"] == name).sum())) for name in names]
    rows, row, room = [[names[0]]], 0, WIDE * 2 - sizes[0]
    for name, size in zip(names[1:], sizes[1:], strict=True):
        if size > room:
            rows, row, room = [*rows, []], row + 1, WIDE * 2
        rows[row].append(name)
        room -= size
    across = max(sum(sizes[names.index(name)] for name in here) for here in rows)
    figure = Figure(figsize=(style.PAGE if across > WIDE else style.COLUMN, 0.35 + 2.35 * len(rows)))
    bands = np.atleast_1d(np.array(figure.subfigures(len(rows), 1), dtype=object))
    for band, here in zip(bands, rows, strict=True):
        ratios = [sizes[names.index(name)] for name in here]
        spare = max(0, across - sum(ratios))
        grid = band.subplots(1, len(here) + bool(spare), squeeze=False, width_ratios=[*ratios, *[spare] * bool(spare)])[
            0
        ]
        for axes, name in zip(grid, here, strict=False):
            _panel(axes, study, name, data[data["panel"] == name])
            style.score_axis(axes, study.unit(), name == here[0])
        for axes in grid[len(here) :]:
            axes.set_visible(False)
    published = bool(data["published_mean"].notna().any())
    if published:
        handles = [Line2D([], [], color=style.INK, lw=0.8, marker="D", mfc="white", ms=4, label="published")]
        style.legend(figure, handles, columns=1)
    caption = (
        "Ablations: mean over groups of the mean over the tasks that all bars of a panel have. Error bars: 95 % "
        "stratified bootstrap intervals over seeds within tasks. (c) is the size of the latent, a figure of its own."
    )
    if published:
        caption += " Diamonds: LPS's ablation figure, whose tasks and seeds its page does not name."
    return style.Plot(figure, data, "Ablations", caption, summaries.interval_notes(data))


def _panel(axes: Axes, study: Study, name: str, bars: pd.DataFrame) -> None:
    agents, scale = study.agents(bars["agent"]), study.unit().scale
    for x, bar in enumerate(bars.to_dict("records")):
        axes.bar(x, scale * bar["mean"], 0.72, color=agents[bar["agent"]].colour, zorder=2)
        if np.isfinite(bar["low"]):
            style.whisker(axes, x, scale * bar["low"], scale * bar["high"], zorder=4)
        if np.isfinite(bar["published_mean"]):
            axes.plot(
                x + 0.22, scale * bar["published_mean"], marker="D", color=style.INK, mfc="white", ms=3.4, mew=0.8
            )
    pairs = zip(bars["agent"], bars["variant"], strict=True)
    labels = [label(agents[agent].title, variant, "\n") for agent, variant in pairs]
    axes.set_xticks(range(len(bars)), labels, fontsize=6.2)
    axes.tick_params(axis="x", length=0)
    axes.set_xlim(-0.6, max(2, len(bars)) - 0.4)
    axes.set_title(heading(name), fontsize=7.5, loc="left")


def heading(name: str) -> str:
    """The title of a panel, with its letter in LPS's figure where it has one."""
    return f"({name}) " * (len(name) == 1) + PANELS[name].title


def label(title: str, variant: str, between: str) -> str:
    """The name of a bar: the agent's title and the words of its variant."""
    return between.join([title, *variant.replace("_meanflow", "").split("_")]).strip()
