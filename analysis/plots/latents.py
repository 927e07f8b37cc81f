"""Panel (c) of the ablations: how far from the origin LPS's latent actor goes, by the latent it is allowed."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from analysis.numbers import ablations, summaries
from analysis.numbers import published as reference
from analysis.plots import style
from analysis.plots.curves import updates
from analysis.results.study import Study

LINES = {"normal": (0, (5, 1.5)), "truncated_normal": (0, (1.2, 1.2))}  # the sphere, LPS itself, is drawn through
SHADES = {"normal": 0.3, "truncated_normal": 0.55}  # towards white


def draw(study: Study) -> style.Plot | None:
    data = ablations.latent_sizes(study)
    if data.empty:
        return None
    figure = Figure(figsize=(style.COLUMN, 2.4))
    axes = figure.subplots()
    agents = study.agents(data["agent"])
    for (agent, variant), line in data.groupby(["agent", "variant"], sort=False):
        colour = style.lighter(agents[agent].colour, SHADES.get(variant, 0.0))
        label = variant.replace("_", " ") or "sphere"
        axes.plot(line["step"], line["mean"], color=colour, linestyle=LINES.get(variant, "-"), label=label, zorder=3)
        if np.isfinite(line["low"]).any():
            axes.fill_between(line["step"], line["low"], line["high"], color=colour, alpha=0.18, linewidth=0)
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.set_xlim(0, data["step"].max() * 1.02)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(updates))
    axes.set_xlabel("updates")
    axes.set_ylabel("mean square of the latent")
    lines = dict(zip(data["variant"].drop_duplicates(), axes.get_legend_handles_labels()[0], strict=True))
    style.legend(figure, [lines[variant] for variant in style.by_end(data, "variant", "agent")], columns=3)
    caption = (
        "Panel (c) of LPS's ablations: the mean square of the components of the latent that LPS's actor chooses, along "
        "training, for the latents of panel (b); 1 is what the base policy was trained on (0.77 where truncated). "
        "Geometric mean over tasks and seeds; bands: pointwise 95 % stratified bootstrap intervals over seeds within "
        "tasks."
    )
    if all(map(study.is_ogbench, study.groups)):
        caption += f" {reference.published_latent_sizes()}"
    return style.Plot(figure, data, "Size of the latent", caption, summaries.interval_notes(data))
