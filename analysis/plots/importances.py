"""Which hyperparameters matter: the share of the variance of success that each explains in a tuning study."""

from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from analysis.plots import style
from analysis.results.study import Study


def draw(study: Study) -> style.Plot | None:
    found = {doc["agent"].partition(":")[0]: doc for doc in reversed(study.results.studies) if doc.get("importances")}
    if not found:
        return None
    agents = study.agents(found)
    rows = [
        {"agent": name, "hyperparameter": key, "importance": value, "trials": _finished(found[name]["trials"])}
        for name in agents
        for key, value in found[name]["importances"].items()
    ]
    data = pd.DataFrame(rows)
    names = list(data.groupby("hyperparameter")["importance"].max().sort_values().index)
    figure = Figure(figsize=(style.COLUMN, 0.8 + 0.12 * len(names) * (len(agents) + 1)))
    axes = figure.subplots()
    height = 1 / (len(agents) + 1)
    for i, agent in enumerate(reversed(agents.values())):
        own = data[data["agent"] == agent.name]
        places = [names.index(name) + (i - (len(agents) - 1) / 2) * height for name in own["hyperparameter"]]
        axes.barh(places, own["importance"], 0.9 * height, color=agent.colour, label=agent.title, zorder=2)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 1)
    axes.set_xlabel("share of the variance explained")
    axes.grid(axis="y", visible=False)
    axes.grid(axis="x", visible=True)
    style.legend(figure, axes.get_legend_handles_labels()[0][::-1], columns=min(3, len(agents)))
    caption = (
        "Importance of hyperparameters in the tuning studies: share of the variance of success over the ranges of the "
        "study that each explains alone or with others (fANOVA of a random forest; Hutter, Hoos and Leyton-Brown, ICML "
        f"2014), from {data['trials'].min()} trials or more. TPE looks where it is good: a tuner's view."
    )
    return style.Plot(figure, data, "Importance of hyperparameters", caption)


def _finished(trials: list[dict[str, Any]]) -> int:
    """Return the number of trials that trained to their end. fANOVA uses these; pruned trials are excluded."""
    return sum(trial["state"] == "COMPLETE" for trial in trials)
