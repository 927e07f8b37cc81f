"""Costs of an agent: time of an update, memory, time of a decision."""

import pandas as pd
from matplotlib.figure import Figure

from analysis.plots import style
from analysis.results.study import Study

PANELS = {"update_ms": "one update (ms)", "memory_mib": "memory (MiB)", "decision_ms": "one decision (ms)"}


def draw(study: Study) -> style.Plot | None:
    document = next((doc for doc in study.results.studies if doc["study"] == "compute"), None)
    if document is None:
        return None
    data = pd.DataFrame(document["rows"])
    agents = study.agents(data["agent"])
    data = data.sort_values("update_ms", ascending=False, kind="stable", ignore_index=True)
    colours, names = ([getattr(agents[name], what) for name in data["agent"]] for what in ("colour", "title"))
    panels = {key: title for key, title in PANELS.items() if data[key].notna().any()}
    figure = Figure(figsize=(style.PAGE if len(panels) > 1 else style.COLUMN, 0.7 + 0.19 * len(data)))
    grid = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axes, (key, title) in zip(grid, panels.items(), strict=True):
        axes.barh(range(len(data)), data[key], 0.7, color=colours, zorder=2)
        for place, value in enumerate(data[key]):
            label = f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
            axes.annotate(label, (value, place), (2, 0), textcoords="offset points", va="center", fontsize=6)
        axes.set_yticks(range(len(data)), names)
        axes.set_xlabel(title)
        axes.margins(x=0.18)
        axes.grid(axis="y", visible=False)
    caption = (
        f"Cost of every agent with the paper's networks and batch, one run alone, on {document['device']} "
        f"({document['threads']} threads, torch {document['torch']}). One decision is a chunk of 5 actions for one "
        "observation, on the CPU. LPS's own compute figure is of a robot's networks and is not shown beside it."
    )
    return style.Plot(figure, data, "Compute", caption)
