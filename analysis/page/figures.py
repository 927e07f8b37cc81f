"""All figures of some results."""

from dataclasses import replace

from analysis.plots import PLOTS
from analysis.plots.style import Plot
from analysis.progress import progress
from analysis.results.study import Study


def all_plots(study: Study) -> dict[str, Plot]:
    """The figures that the results have something for; their notes say what was left out by hand."""
    bar = progress(PLOTS.items(), what="figures", unit="figure")
    plots = {name: plot for name, draw in bar if (plot := draw(study)) is not None}
    return {name: replace(plot, notes=[*plot.notes, *study.results.notes]) for name, plot in plots.items()}
