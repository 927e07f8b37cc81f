"""Success against the budget of tuning: the best of k configurations tried at random."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.numbers import budgets
from analysis.plots import style
from analysis.results.agents import group_key
from analysis.results.study import Study


def draw(study: Study) -> style.Plot | None:
    data = budgets.budget(study)
    if data.empty:
        return None
    groups = sorted(set(data["group"]), key=group_key)
    robust = budgets.robustness(study).set_index(["agent", "group"])
    figure = Figure(figsize=(style.COLUMN if len(groups) == 1 else style.PAGE, 2.4))
    shared = len({study.unit(group) for group in groups}) == 1
    grid = figure.subplots(1, len(groups), squeeze=False, sharey=shared)[0]
    agents = study.agents(data["agent"])
    for axes, group in zip(grid, groups, strict=True):
        unit = study.unit(group)
        for agent in agents.values():
            line = data[(data["group"] == group) & (data["agent"] == agent.name)]
            axes.plot(line["k"], unit.scale * line["mean"], color=agent.colour, zorder=3)
            axes.fill_between(
                line["k"], unit.scale * line["low"], unit.scale * line["high"], color=agent.colour, alpha=0.14, lw=0
            )
            default = robust["default"].get((agent.name, group), np.nan)
            if np.isfinite(default):
                axes.plot(0, unit.scale * default, agent.marker, color=agent.colour, ms=5, zorder=4, clip_on=False)
        style.score_axis(axes, unit, group == groups[0] or not shared)
        axes.set_xlabel("configurations tried")
        axes.set_title(group)
    order = [agents[name] for name in style.by_end(data, "agent", "group")]
    handles = [Line2D([], [], color=a.colour, marker=a.marker, label=a.title) for a in order]
    style.legend(figure, handles, columns=min(len(handles), 6 if len(groups) > 1 else 3))
    few = data.iloc[0]
    caption = (
        f"Expected {study.unit(*groups).name} of the best of k configurations of the joint design, drawn at random, "
        f"chosen by {few['choosing_seeds']} seeds and judged by {few['judging_seeds']} others; bands: 95 % bootstrap "
        "intervals over configurations. Marks at the left: the default, untuned, over all seeds."
    )
    return style.Plot(figure, data, f"{study.unit(*groups).title} against the budget of tuning", caption)
