"""Success against the floating-point operations of training, one panel per group."""

import pandas as pd
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from analysis.numbers import summaries
from analysis.plots import style
from analysis.results.study import Study


def draw(study: Study) -> style.Plot | None:
    data = _costs(study)
    if data.empty:
        return None
    groups = [group for group in study.groups if group in set(data["group"])]
    shown = [study.series[key] for key in style.by_end(data, "series", "group")]
    shared = len({study.unit(group) for group in groups}) == 1
    layout = ConstrainedLayoutEngine(w_pad=0.07, h_pad=0.05)
    figure, grid = style.panels(len(groups), 0.45, 1.9, sharey=shared, layout=layout)
    for i, (axes, group) in enumerate(zip(grid.flat, groups, strict=False)):
        here, unit = data[data["group"] == group], study.unit(group)
        for series in shown:
            line = here[here["series"] == series.key]
            style.line(axes, line["tflop"], line, style.colour(study, series), series.agent.marker, unit)
        style.score_axis(axes, unit, i % grid.shape[1] == 0 or not shared)
        axes.set_title(group, pad=2)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda tflop, _: f"{tflop:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        if i >= len(groups) - grid.shape[1]:
            axes.set_xlabel("TFLOP of training")
    handles = [
        Line2D(
            [], [], color=style.colour(study, s), marker=s.agent.marker, mew=0,
            label=summaries.marked_title(study, s, groups),
        )
        for s in shown
    ]  # fmt: skip
    style.legend(figure, handles, columns=min(len(shown), 6 if grid.shape[1] > 1 else 3))
    caption = (
        f"{study.unit(*groups).title} at every evaluation against the floating-point operations of the updates until "
        "then: matrix products and convolutions of one run, in the losses and their gradients; acting is not counted. "
        "Mean over tasks of the mean over seeds. Bands: pointwise 95 % stratified bootstrap intervals over seeds "
        "within tasks; a series with a single seed has none."
    )
    title = f"{study.unit(*groups).title} against FLOPs"
    notes = [*summaries.small_print(study), *summaries.others_note(study)]
    return style.Plot(figure, data, title, caption, notes)


def _costs(study: Study) -> pd.DataFrame:
    """The learning curves of runs with known FLOPs (study "flops"). Further columns: gflop_per_update, tflop."""
    documents = [doc["gflop"] for doc in study.results.studies if doc["study"] == "flops"]
    gflop = {run: cost for document in documents for run, cost in document.items()}
    data = summaries.of_shown(study, summaries.curves(study))
    cells = zip(data["series"], data["group"], strict=True)
    costs = [study.cell(*cell).index.map(gflop).to_numpy(float).mean() for cell in cells]
    data = data.assign(gflop_per_update=pd.Series(costs, index=data.index, dtype=float))
    data = data.dropna(subset="gflop_per_update")
    return data.assign(tflop=data["step"] * data["gflop_per_update"] / 1e3)
