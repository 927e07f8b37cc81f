"""Success against the size of the dataset, and against its noise."""

from dataclasses import asdict
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from analysis.numbers import stats, summaries
from analysis.plots import style
from analysis.results.agents import group_key
from analysis.results.study import Study, records

AXES = {"episodes": "episodes of play", "noise": "noise of play"}


def draw(study: Study) -> style.Plot | None:
    data = table(study)
    if data.empty:
        return None
    groups = sorted(set(data["group"]), key=group_key)
    panels = [(group, axis) for group in groups for axis in AXES if _varies(data, group, axis)]
    figure = Figure(figsize=(style.COLUMN if len(panels) == 1 else style.PAGE, 2.4))
    shared = len({study.unit(group) for group in groups}) == 1
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=shared)[0]
    agents = study.agents(data["agent"])
    for axes, (group, axis) in zip(grid, panels, strict=True):
        here, unit = data[(data["group"] == group) & (data["axis"] == axis)], study.unit(group)
        for agent in agents.values():
            line = here[here["agent"] == agent.name].sort_values("value")
            style.line(axes, line["value"], line, agent.colour, agent.marker, unit)
        values = sorted(set(here["value"]))
        if axis == "episodes":
            axes.set_xscale("log")
        axes.set_xticks(values, [f"{value:g}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        style.score_axis(axes, unit, (group, axis) == panels[0] or not shared)
        axes.set_xlabel(AXES[axis])
        axes.set_title(group)
    order = [agents[name] for name in style.by_end(data, "agent", "group", "axis")]
    handles = [Line2D([], [], color=a.colour, marker=a.marker, mew=0, label=a.title) for a in order]
    style.legend(figure, handles, columns=min(len(handles), 6 if len(panels) > 1 else 3))
    unit = study.unit(*groups)
    caption = (
        f"{unit.title} against the size of the dataset, at the noise that most of them have, and against its noise, at "
        "the largest size. Mean over tasks of the mean over seeds; bands: 95 % stratified bootstrap intervals over "
        "seeds within tasks."
    )
    return style.Plot(figure, data, f"{unit.title} against the dataset", caption, summaries.interval_notes(data))


def table(study: Study) -> pd.DataFrame:
    """One row per group, agent, axis (AXES) and value: mean, low, high (0..1), n_tasks, n_seeds_min."""
    cells: dict[tuple[str, str, str, float], dict[str, list[float]]] = {}
    for run in records(study.runs[study.runs["scored"]]):
        for role in run["roles"]:
            if role.get("axis") in AXES and "variant" not in role:
                cell = cells.setdefault((run["group"], role["axis"], run["agent"], role["value"]), {})
                cell.setdefault(run["short"], []).append(run["score"])
    rows: list[dict[str, Any]] = []
    for (group, axis, agent, at), tasks in sorted(cells.items(), key=lambda item: (group_key(item[0][0]), item[0][1:])):
        counts = {"n_tasks": len(tasks), "n_seeds_min": min(map(len, tasks.values()))}
        found = asdict(stats.estimate(list(tasks.values())))
        rows.append({"group": group, "agent": agent, "axis": axis, "value": at, **found, **counts})
    data = pd.DataFrame(rows)
    if data.empty:
        return data
    return data[[_varies(data, *cell) for cell in zip(data["group"], data["axis"], strict=True)]]


def _varies(data: pd.DataFrame, group: str, axis: str) -> bool:
    return data.loc[(data["group"] == group) & (data["axis"] == axis), "value"].nunique() > 1
