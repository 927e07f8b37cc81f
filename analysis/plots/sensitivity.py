"""Sensitivity in one dimension: success against one hyperparameter at a time, all others at the common setting."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from analysis.numbers import published as reference
from analysis.numbers import summaries
from analysis.plots import style
from analysis.results import settings
from analysis.results.agents import Agent
from analysis.results.study import Study, Unit, word

DECADE = 10  # values that span it stand on a log axis


def draw(study: Study) -> style.Plot | None:
    data, unit = settings.sensitivity(study), study.unit()
    if data.empty:
        return None
    names = list(dict.fromkeys(data["hyperparameter"]))
    figure, grid = style.panels(len(names), 0.5, 1.95, sharey=True)
    columns = grid.shape[1]
    agents = study.agents(data["agent"])
    published = False
    for i, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        here = data[data["hyperparameter"] == name]
        place = _axis(axes, list(here["value"]))
        named = any(isinstance(value, str | bool) for value in here["value"])
        present = [agent for agent in agents.values() if agent.name in set(here["agent"])]
        for j, agent in enumerate(present):
            line = here[here["agent"] == agent.name]
            line = line.assign(x=[place[str(value)] for value in line["value"]])
            if named:  # between two names there is nothing
                _points(axes, line.assign(x=line["x"] + 0.1 * (j - (len(present) - 1) / 2)), agent, unit)
            else:
                _line(axes, line.sort_values("x"), agent, unit)
            if name == "alpha" and (known := published_alphas(study, agent)):
                axes.plot(*zip(*known, strict=True), color=agent.colour, ls=(0, (2, 1.5)), lw=0.9, zorder=2)
                published = True
        style.score_axis(axes, unit, i % columns == 0)
        axes.set_xlabel(name)
    order = [agents[name] for name in style.by_end(data, "agent", "hyperparameter")]
    handles = [Line2D([], [], color=a.colour, marker=a.marker, mew=0, label=a.title) for a in order]
    handles.append(Line2D([], [], color="none", marker="o", mfc="none", mec=style.INK, ms=7, label="common setting"))
    if published:
        handles.append(Line2D([], [], color=style.INK, ls=(0, (2, 1.5)), lw=0.9, label="published"))
    style.legend(figure, handles, columns=min(len(handles), 6 if columns > 1 else 3))
    invariance = _invariance(study, data)
    caption = (
        f"{unit.title} against one hyperparameter at a time, the others at the setting that most runs of the agent "
        "share: mean over the tasks that all values of an agent have, of the mean over seeds. Rings: the common "
        "setting. Bands and bars: 95 % stratified bootstrap intervals over seeds within tasks; none with a single "
        "seed."
    )
    if published:
        caption += " Dashed: LPS's alpha figure, single tasks that its page does not name, about 3 seeds."
    notes = [*summaries.interval_notes(data), *[invariance] * bool(invariance)]
    return style.Plot(figure, data, "Sensitivity to hyperparameters", caption, notes)


def published_alphas(study: Study, agent: Agent) -> list[tuple[float, float]]:
    """(alpha, success in %) of LPS's alpha figure, where the study is about one group of it."""
    if len(study.groups) != 1 or not study.is_ogbench(study.groups[0]):
        return []
    return [(alpha, 100 * mean) for alpha, mean in reference.published_alphas(agent, study.groups[0])]


def _axis(axes: Axes, values: list[Any]) -> dict[str, float]:
    """Sets up the x axis and says where each value stands on it: numbers by size, words one after the other."""
    known = {str(value): value for value in values}
    if not all(map(settings.is_number, values)):
        known = dict(sorted(known.items(), key=lambda item: (item[1] if isinstance(item[1], list) else [], item[0])))
        axes.set_xticks(range(len(known)), [word(value).replace("_", "\n") for value in known.values()])
        axes.set_xlim(-0.4, len(known) - 0.6)
        return {text: float(i) for i, text in enumerate(known)}
    places = {text: float(value) for text, value in known.items()}
    ordered = sorted(set(places.values()))
    if ordered[0] > 0 and ordered[-1] >= DECADE * ordered[0]:
        axes.set_xscale("log")
    if len(ordered) <= 6:
        axes.set_xticks(ordered, [_short(value) for value in ordered])
        axes.xaxis.set_minor_locator(NullLocator())
    return places


def _short(value: float) -> str:
    """3e-4 for 0.0003: neighbours on a small axis must not run into each other."""
    text = f"{value:g}"
    if 0 < abs(value) < 0.01:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        text = f"{float(mantissa):g}e{int(exponent)}"
    return text


def _line(axes: Axes, line: pd.DataFrame, agent: Agent, unit: Unit) -> None:
    style.line(axes, line["x"], line, agent.colour, agent.marker, unit)
    _rings(axes, line, unit)


def _points(axes: Axes, line: pd.DataFrame, agent: Agent, unit: Unit) -> None:
    middle, half = (line["low"] + line["high"]) / 2, (line["high"] - line["low"]) / 2
    axes.errorbar(
        line["x"], unit.scale * middle, unit.scale * half, fmt="none", ecolor=agent.colour, elinewidth=1.2, zorder=2
    )
    axes.plot(
        line["x"], unit.scale * line["mean"], agent.marker, color=agent.colour, ms=5, mew=0, zorder=3, clip_on=False
    )
    _rings(axes, line, unit)


def _rings(axes: Axes, line: pd.DataFrame, unit: Unit) -> None:
    usual = line[line["common"].astype(bool)]
    if usual.empty:
        return  # see style.line
    axes.plot(
        usual["x"], unit.scale * usual["mean"], "o", mfc="none", mec=style.INK, mew=0.9, ms=7, zorder=4, clip_on=False
    )


def _invariance(study: Study, data: pd.DataFrame) -> str:
    """Note for agents in which alpha has no effect."""
    agents = study.agents(data.loc[data["hyperparameter"] == "alpha", "agent"])
    titles = ", ".join(agent.title for agent in agents.values() if agent.alpha_without_effect)
    if not titles:
        return ""
    return (
        f"alpha of {titles}: it scales the loss of the latent actor alone, and Adam's steps do not depend "
        "on the scale of a loss. That these lines are flat, up to noise, is how the methods are made; it is no "
        "evidence that they are robust."
    )
