"""Learning curves: success against updates, one panel per group."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.numbers import summaries
from analysis.plots import style
from analysis.results.study import Study

MANY_POINTS = 25  # beyond it, markers would hide the line


def draw(study: Study) -> style.Plot | None:
    data = summaries.of_shown(study, summaries.curves(study))
    if data.empty:
        return None
    figure = lines(study, data, ["group"], 1.9)
    unit = study.unit(*set(data["group"]))
    caption = (
        f"{unit.title} at every evaluation: mean over tasks of the mean over seeds. Bands: pointwise "
        "95 % stratified bootstrap intervals over seeds within tasks; a series with a single seed has none."
    )
    notes = [*summaries.small_print(study), *summaries.others_note(study)]
    return style.Plot(figure, data, "Learning curves", caption, notes)


def lines(study: Study, data: pd.DataFrame, places: list[str], height: float, **options: Any) -> Figure:
    """A figure with one panel for each value of the columns `places`, the first of which is the group, `height` inches
    high; `options` are those of `style.panels`. `data` is that of `summaries.curves`."""
    panels = list(dict.fromkeys(data[places].itertuples(index=False, name=None)))
    groups = list(dict.fromkeys(data["group"]))
    shown = [study.series[key] for key in style.by_end(data, "series", *places)]
    shared = len({study.unit(group) for group in groups}) == 1
    layout = ConstrainedLayoutEngine(w_pad=0.05, h_pad=0.05)
    figure, grid = style.panels(len(panels), 0.45, height, sharey=shared, layout=layout, **options)
    columns = grid.shape[1]
    for i, (axes, place) in enumerate(zip(grid.flat, panels, strict=False)):
        here, unit = data[(data[places] == list(place)).all(axis=1)], study.unit(place[0])
        for series in reversed(shown):
            line = here[here["series"] == series.key]
            marker = series.agent.marker if len(line) <= MANY_POINTS and columns <= 3 else None
            style.line(axes, line["step"], line, style.colour(study, series), marker, unit)
        style.score_axis(axes, unit, i % columns == 0 or not shared)
        axes.set_title(" ".join(dict.fromkeys(place)), pad=2)
        axes.set_xlim(0, here["step"].max() * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5 if columns <= 3 else 2, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(updates))
        if i >= len(panels) - columns:
            axes.set_xlabel("updates")
    handles = [
        Line2D(
            [], [], color=style.colour(study, s), marker=s.agent.marker if columns <= 3 else None, mew=0,
            label=summaries.marked_title(study, s, groups),
        )
        for s in shown
    ]  # fmt: skip
    style.legend(figure, handles, columns=min(len(shown), 6 if columns > 1 else 3))
    return figure


def updates(step: float, _: int) -> str:
    """A number of updates as it stands on an axis: 500, 20k, 1M."""
    if step >= 1e6:
        return f"{step / 1e6:g}M"
    return f"{step / 1e3:g}k" if step >= 1e3 else f"{step:g}"
