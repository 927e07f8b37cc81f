"""Sensitivity in two dimensions: the joint design, seen along the two hyperparameters that matter most."""

import numpy as np
import pandas as pd
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from scipy.stats import rankdata

from analysis.numbers import budgets
from analysis.plots import style
from analysis.plots.sensitivity import DECADE
from analysis.results.agents import group_key
from analysis.results.study import SUCCESS, Study


def draw(study: Study) -> style.Plot | None:
    points, unit = budgets.configurations(study), study.unit()
    points = points[points["group"].isin(study.comparable)] if len(points) else points
    if points.empty:
        return None
    cells = sorted(points.groupby(["agent", "group"], sort=False), key=lambda cell: (group_key(cell[0][1]), cell[0][0]))
    figure, grid = style.panels(len(cells), 0.4, 2.1)
    ends = (0, 100) if unit == SUCCESS else (unit.scale * points["score"].min(), unit.scale * points["score"].max())
    scale, shown = ScalarMappable(Normalize(*ends), "cividis"), []
    for axes, ((agent, group), here) in zip(grid.flat, cells, strict=False):
        table = pd.DataFrame(list(here["settings"]))
        if study.agents([agent])[agent].alpha_without_effect and len(table.columns) > 2:
            table = table.drop(columns="alpha", errors="ignore")  # what it goes with is chance
        x, y = strongest(table, here["score"].to_numpy())
        axes.scatter(
            table[x], table[y], c=scale.to_rgba(unit.scale * here["score"]), s=26, edgecolors=style.INK, lw=0.4
        )
        for name, set_scale in ((x, axes.set_xscale), (y, axes.set_yscale)):
            set_scale("log" if drawn_in_decades(table[name].to_numpy()) else "linear")
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(f"{study.agents([agent])[agent].title}, {group}")
        values = {"x": table[x], "y": table[y], "score": here["score"].to_numpy()}
        shown.append(pd.DataFrame({"agent": agent, "group": group, "x_name": x, "y_name": y, **values}))
    figure.colorbar(scale, ax=grid, label=unit.label, shrink=0.9, aspect=30)
    caption = (
        "Every configuration of the joint design at its values of the two hyperparameters whose ranks go best with the "
        f"rank of {unit.name} (Spearman); all others vary too. Colour: {unit.name} over all seeds."
    )
    return style.Plot(figure, pd.concat(shown, ignore_index=True), f"{unit.title} over two hyperparameters", caption)


def drawn_in_decades(values: np.ndarray) -> bool:
    """Whether a design drew these values evenly on a log scale: there their mean lies nearer to the middle."""
    if values.min() <= 0 or values.max() < DECADE * values.min():
        return False

    def off(scaled: np.ndarray) -> float:
        return abs(float((scaled.mean() - scaled.min()) / (scaled.max() - scaled.min())) - 0.5)

    return off(np.log(values)) < off(values)


def strongest(table: pd.DataFrame, score: np.ndarray) -> tuple[str, str]:
    """The two columns whose ranks are most correlated with the rank of the score, by name where none is."""
    ranks = rankdata(score) - (len(score) + 1) / 2

    def strength(name: str) -> float:
        own = rankdata(table[name]) - (len(score) + 1) / 2
        norm = float(np.sqrt((own**2).sum() * (ranks**2).sum()))
        return abs(float((own * ranks).sum())) / norm if norm else 0.0

    x, y = sorted(sorted(table.columns), key=strength, reverse=True)[:2]
    return x, y
