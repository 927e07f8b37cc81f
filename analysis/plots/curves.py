"""Learning curves: success against updates, one panel per group."""

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
    groups = [group for group in study.groups if group in set(data["group"])]
    shown = [series for key, series in study.series.items() if key in set(data["series"])]
    shared = len({study.unit(group) for group in groups}) == 1
    layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.05)
    figure, grid = style.panels(len(groups), 0.45, 1.9, sharey=shared, layout=layout)
    columns = grid.shape[1]
    for i, (axes, group) in enumerate(zip(grid.flat, groups, strict=False)):
        here, unit = data[data["group"] == group], study.unit(group)
        for series in shown:
            line = here[here["series"] == series.key]
            marker = series.agent.marker if len(line) <= MANY_POINTS else None
            style.line(axes, line["step"], line, style.colour(study, series), marker, unit)
        style.score_axis(axes, unit, i % columns == 0 or not shared)
        axes.set_title(group, pad=2)
        axes.set_xlim(0, here["step"].max() * 1.02)
        axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(FuncFormatter(updates))
        if i >= len(groups) - columns:
            axes.set_xlabel("updates")
    handles = [
        Line2D(
            [], [], color=style.colour(study, s), marker=s.agent.marker, mew=0,
            label=summaries.marked_title(study, s, groups),
        )
        for s in shown
    ]  # fmt: skip
    style.note(figure, summaries.small_print(study))
    style.legend(figure, handles, columns=min(len(shown), 6 if columns > 1 else 3))
    caption = (
        f"{study.unit(*groups).title} at every evaluation: mean over tasks of the mean over seeds. Bands: pointwise "
        "95 % stratified bootstrap intervals over seeds within tasks; a series with a single seed has none."
    )
    return style.Plot(figure, data, "Learning curves", f"{caption} {summaries.others_note(study)}".strip())


def updates(step: float, _: int) -> str:
    """A number of updates as it stands on an axis: 500, 20k, 1M."""
    if step >= 1e6:
        return f"{step / 1e6:g}M"
    return f"{step / 1e3:g}k" if step >= 1e3 else f"{step:g}"
