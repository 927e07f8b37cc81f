"""The figures as interactive charts: Vega-Lite specifications, made with Altair from the numbers of the figures.

Vega was chosen by measurement. Its bundle (vl-convert-python) adds 0.9 MB to the page, needs no network and, in its
interpreter mode, no `eval`. The only bundle in Plotly's package has 4.8 MB, and a page has at most 6 MB. Vega's SVG
takes its colours from the page's style sheet, so one drawing fits the light scheme, the dark scheme and paper.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from analysis.numbers import budgets, comparisons
from analysis.plots import compute, data_scaling
from analysis.plots.ablations import heading, label
from analysis.plots.landscape import drawn_in_decades
from analysis.plots.sensitivity import DECADE, published_alphas
from analysis.plots.success import FEW_RUNS
from analysis.results import settings
from analysis.results.agents import AVERAGE
from analysis.results.study import SUCCESS, Study, Unit, word

VERSION = "6.1"
"""Version of Vega-Lite, as vl-convert-python names it. Tooltips of nearest points say "undefined" in 6.4."""
TALL, LOW, ROW = 380, 230, 26
"""Heights in pixels: lines in a panel of its own, lines in one of several panels, axes included, a bar."""
AXES = 46  # pixels that the axis below a panel takes
MANY_POINTS = 25  # beyond it, markers would hide the line
INK, PAPER = "var(--ink)", "var(--paper)"
SHARE = Unit("share of runs above it", 100, "%")
PUBLISHED = ["published_mean", "published_low", "published_high"]
SYMBOLS = {
    **{"o": "circle", "s": "square", "D": "diamond", "v": "triangle-down", "^": "triangle-up", "<": "triangle-left"},
    **{
        ">": "triangle-right",
        "P": "cross",
        "X": "M-.7-.9L0-.3 .7-.9 .9-.7 .3 0 .9 .7 .7 .9 0 .3-.7 .9-.9 .7-.3 0-.9-.7Z",
    },
    **{"h": "M0-1L.9-.5 .9 .5 0 1-.9 .5-.9-.5Z", "p": "M0-1L1-.3 .6 .8-.6 .8-1-.3Z", "d": "M0-1L.6 0 0 1-.6 0Z"},
    "*": "M0-1L.2-.3 1-.3 .4 .1 .6 .8 0 .4-.6 .8-.4 .1-1-.3-.2-.3Z",
}
"""Vega's symbols for matplotlib's markers."""


class Panel(NamedTuple):
    """One chart under its title, with the height in pixels that it takes."""

    title: str
    spec: dict[str, Any]
    height: int


LEGENDS = {"curves", "tasks", "profiles", "sensitivity", "data_scaling", "budget", "flops"}
"""The figures of lines, whose legend switches series. The rows of bars carry their names."""


class Looks(NamedTuple):
    """The symbols of all titles on the page, {title: marker of matplotlib}; a colour is known by its place."""

    markers: Mapping[str, str]

    def colour(self) -> alt.Color:
        colours = [f"var(--series-{place})" for place in range(len(self.markers))]
        return alt.Color("series:N", legend=None, scale=alt.Scale(domain=list(self.markers), range=colours))

    def shape(self) -> alt.Shape:
        symbols = [SYMBOLS.get(marker, "circle") for marker in self.markers.values()]
        return alt.Shape("series:N", legend=None, scale=alt.Scale(domain=list(self.markers), range=symbols))


Chart = Callable[[Study, pd.DataFrame, Looks], list[Panel]]


def _curves(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    x = alt.X("x:Q", title="updates", axis=alt.Axis(format="~s", tickCount=5))
    panels = data.groupby([name for name in ("group", "task") if name in data], sort=False)
    found = []
    for place, here in panels:
        unit = study.unit(str(place[0]))
        told = _told(study, here, unit).assign(x=here["step"], at=here["step"].map("{:,}".format))
        title = " ".join(dict.fromkeys(map(str, place)))
        found.append(_lines(title, told, looks, x, "updates", unit, TALL if len(panels) == 1 else LOW))
    return found


def _flops(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    what = "TFLOP of training"
    x = alt.X("x:Q", title=what, scale=alt.Scale(type="log", nice=False), axis=alt.Axis(format="~g", tickCount=4))
    found = []
    for group, here in data.groupby("group", sort=False):
        unit = study.unit(str(group))
        told = _told(study, here, unit).assign(x=here["tflop"], at=here["tflop"].map("{:.3g}".format))
        found.append(_lines(str(group), told, looks, x, what, unit, LOW))
    return found


def _success(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    found = []
    for group, here in data.groupby("group", sort=False):
        unit = study.unit(*([] if group == AVERAGE else [str(group)]))
        told = _told(study, here, unit)
        told[["published", "their_low", "their_high"]] = 100 * here[PUBLISHED]
        if group != AVERAGE:
            scores = [study.cell(key, str(group))["score"] for key in here["series"]]
            told["runs"] = [list(unit.scale * own) if 1 < len(own) <= FEW_RUNS else [] for own in scores]
        title = "average over groups" if group == AVERAGE else str(group)
        found.append(_bars(title, told, looks, unit, unit.label, bars=bool(unit.sign)))
    return found


def _differences(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    found = []
    several = data["group"].nunique() > 1
    for (group, versus), here in data.groupby(["group", "versus"], sort=False):
        unit = study.unit(str(group))
        here = here.assign(mean=here["difference"])
        counts = here["n_seeds"].astype(str) + " and " + here["n_seeds_versus"].astype(str)
        told = _told(study, here, unit, signed=True).assign(seeds=counts)
        title = (
            f"{group}, against {study.series[str(versus)].title}"
            if several
            else f"against {study.series[str(versus)].title}"
        )
        found.append(_bars(title, told, looks, unit, f"difference ({unit.points})", zero=True))
    return found


def _aggregates(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    unit, found = study.unit(), []
    for name, (title, _) in comparisons.statistics(study).items():
        here = data[data["statistic"] == name]
        told = _told(study, here.assign(mean=here["value"]), unit)
        lower = name == "optimality_gap"
        text = "lower is better (%)" if lower else unit.label
        found.append(_bars(title, told, looks, unit, text, lower=lower))
    return found


def _profiles(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    unit = study.unit()
    told = _told(study, data.assign(mean=data["share"]), SHARE)
    told = told.assign(x=unit.scale * data["threshold"], at=data["threshold"].map(unit.text))
    ticks = alt.Axis(values=list(range(0, 101, 20))) if unit == SUCCESS else alt.Axis(tickCount=5)
    x = alt.X("x:Q", title=unit.label, axis=ticks)
    return [_lines("", told, looks, x, unit.label, SHARE, TALL, interpolate="step-after")]


def _improvement(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    titles = {key: study.series[key].title for key in study.series}
    order = [titles[key] for key in list(comparisons.shared_tasks(study).scores)[::-1]]
    told = data.assign(series=data["series"].map(titles), versus=data["versus"].map(titles))
    told["value"] = told["probability"].map("{:.2f}".format)
    told["interval"] = _ends(told, "{:.2f}".format)
    told["dark"] = (told["probability"] - 0.5).abs() > 0.3
    base = alt.Chart(told[["series", "versus", "probability", "value", "interval", "dark"]]).encode(
        x=alt.X("versus:N", sort=order, title="above a run of", axis=alt.Axis(orient="top", labelAngle=-35)),
        y=alt.Y("series:N", sort=order, title=None),
        tooltip=_tips(
            {"series": "a run of", "versus": "above a run of", "value": "probability", "interval": "95 % interval"}
        ),
    )
    colour = alt.Color("probability:Q", legend=None, scale=alt.Scale(scheme="purpleorange", domain=[1, 0]))
    ink = alt.condition("datum.dark", alt.value("#fafafa"), alt.value("#111111"))
    layers = alt.layer(
        base.mark_rect().encode(color=colour), base.mark_text(fontSize=12).encode(text="value:N", color=ink)
    )
    return [Panel("", _spec(layers, 34 * len(order) + 90), 34 * len(order) + 90)]


def _ablations(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    unit, agents, found = study.unit(), study.agents(data["agent"]), []
    for name, here in data.groupby("panel", sort=False):
        told = _told(study, here.assign(seeds=here["n_seeds_min"]), unit, by="agent")
        told[["published", "their_low", "their_high"]] = 100 * here[PUBLISHED]
        told["name"] = [label(agents[bar["agent"]].title, bar["variant"], " ") for bar in here.to_dict("records")]
        found.append(_bars(heading(str(name)), told, looks, unit, unit.label, bars=bool(unit.sign)))
    return found


def _sensitivity(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    unit, found = study.unit(), []
    for name, here in data.groupby("hyperparameter", sort=False):
        told = _told(study, here, unit, by="agent").assign(
            common=here["common"].astype(bool), at=here["value"].map(word)
        )
        x: alt.X
        if numbers := all(map(settings.is_number, here["value"])):
            told["x"] = here["value"].astype(float)
            x = alt.X("x:Q", title=str(name), scale=_x_scale(told["x"]), axis=_ticks(told["x"]))
        else:
            told["x"] = told["at"]
            x = alt.X("x:N", title=str(name), axis=alt.Axis(labelAngle=0))
        if name == "alpha":
            told = pd.concat([told, *_published_alphas(study, here["agent"])], ignore_index=True)
        found.append(_lines("", told, looks, x, str(name), unit, LOW, names=not numbers))
    return found


def _published_alphas(study: Study, agents: Iterable[str]) -> list[pd.DataFrame]:
    found = []
    for agent in study.agents(agents).values():
        points = published_alphas(study, agent)
        found.append(pd.DataFrame(points, columns=["x", "mean"]).assign(series=agent.title, kind="published"))
    return found


def _data_scaling(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    found = []
    for (group, axis), here in data.groupby(["group", "axis"], sort=False):
        unit, what = study.unit(str(group)), data_scaling.AXES[str(axis)]
        told = _told(study, here, unit, by="agent").assign(x=here["value"], at=here["value"].map("{:g}".format))
        scale = alt.Scale(type="log", nice=False) if axis == "episodes" else alt.Scale(zero=False, nice=False)
        x = alt.X("x:Q", title=what, scale=scale, axis=_ticks(told["x"]))
        found.append(_lines(str(group), told, looks, x, what, unit, LOW))
    return found


def _budget(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    untuned = budgets.robustness(study).dropna(subset="default").assign(k=0, kind="alone")
    untuned["mean"] = untuned["default"]
    x = alt.X("x:Q", title="configurations tried", axis=alt.Axis(tickMinStep=1, format="d", tickCount=6))
    found = []
    for group, here in data.groupby("group", sort=False):
        unit, own = study.unit(str(group)), untuned[untuned["group"] == group]
        here = pd.concat([here, own[own["agent"].isin(set(here["agent"]))]], ignore_index=True)
        told = _told(study, here, unit, by="agent").assign(x=here["k"], at=here["k"], kind=here["kind"])
        found.append(_lines(str(group), told, looks, x, "configurations tried", unit, LOW))
    return found


def _importances(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    found = []
    for agent, here in data.groupby("agent", sort=False):
        told = _told(study, here.assign(mean=here["importance"]), SUCCESS, by="agent").assign(
            name=here["hyperparameter"]
        )
        title = study.agents([str(agent)])[str(agent)].title
        found.append(_bars(title, told, looks, SUCCESS, "share of the variance explained (%)", bars=True))
    return found


def _compute(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    found = []
    for key, title in compute.PANELS.items():
        here = data[data[key].notna()]
        if len(here):
            told = _told(study, here.assign(mean=here[key]), Unit(title, 1), by="agent")
            found.append(_bars(title, told, looks, Unit(title, 1), title, bars=True, lower=True))
    return found


def _landscape(study: Study, data: pd.DataFrame, looks: Looks) -> list[Panel]:
    unit, found = study.unit(), []
    scores = unit.scale * data["score"]
    domain = [0, 100] if unit == SUCCESS else [scores.min(), scores.max()]
    for (agent, group), here in data.groupby(["agent", "group"], sort=False):
        x_name, y_name = here.iloc[0][["x_name", "y_name"]]
        told = here[["x", "y"]].assign(score=scores, value=here["score"].map(unit.text))
        scales = [
            alt.Scale(type="log") if drawn_in_decades(here[n].to_numpy()) else alt.Scale(zero=False) for n in "xy"
        ]
        colour = alt.Color("score:Q", title=unit.label, scale=alt.Scale(scheme="cividis", domain=domain))
        points = alt.Chart(told).mark_point(filled=True, size=90, opacity=1, stroke=INK, strokeWidth=0.5)
        points = points.encode(
            x=alt.X("x:Q", title=x_name, scale=scales[0], axis=alt.Axis(format="~g", tickCount=4)),
            y=alt.Y("y:Q", title=y_name, scale=scales[1], axis=alt.Axis(format="~g", tickCount=4, grid=False)),
            color=colour,
            tooltip=_tips({"x": x_name, "y": y_name, "value": unit.name}),
        )
        title = f"{study.agents([str(agent)])[str(agent)].title}, {group}"
        found.append(Panel(title, _spec(points, LOW), LOW))
    return found


CHARTS: dict[str, Chart] = {
    "curves": _curves,
    "tasks": _curves,
    "success": _success,
    "differences": _differences,
    "aggregates": _aggregates,
    "profiles": _profiles,
    "improvement": _improvement,
    "ablations": _ablations,
    "sensitivity": _sensitivity,
    "landscape": _landscape,
    "budget": _budget,
    "importances": _importances,
    "data_scaling": _data_scaling,
    "compute": _compute,
    "flops": _flops,
}
"""By the names of the figures. A figure that is not here stays a picture."""


def _told(study: Study, data: pd.DataFrame, unit: Unit, *, by: str = "series", signed: bool = False) -> pd.DataFrame:
    """The rows of a figure as a chart needs them: series (title), name (the same), mean, low and high in the unit of
    people, and as texts value, interval and seeds."""
    titles = {key: one.title for key, one in study.series.items()}
    if by == "agent":
        titles = {name: agent.title for name, agent in study.agents(data["agent"]).items()}
    told = pd.DataFrame({"series": data[by].map(titles)}, index=data.index)
    told["name"] = told["series"]
    for end in ("mean", "low", "high"):
        told[end] = (unit.scale * data[end]).map(lambda value: float(f"{value:.5g}")) if end in data else np.nan
    sign = "+" if signed else ""
    after = f" {unit.sign}" if unit.sign and not signed else ""
    told["value"] = [unit.text(value, sign) + after for value in data["mean"]]
    told["interval"] = _ends(data, lambda value: unit.text(value, sign)) if "low" in data else ""
    counts = [data[name] for name in ("n_seeds_min", "n_seeds_max") if name in data]
    told["seeds"] = ["-".join(dict.fromkeys(map(str, row))) for row in zip(*counts, strict=True)] if counts else ""
    return told


def _ends(data: pd.DataFrame, text: Callable[[float], str]) -> list[str]:
    pairs = zip(data["low"], data["high"], strict=True)
    return [f"{text(low)} to {text(high)}" if np.isfinite(low) else "none: a single seed" for low, high in pairs]


def _ticks(values: pd.Series) -> alt.Axis:
    return alt.Axis(values=sorted(set(values)), format="~g", labelOverlap=True)


def _x_scale(values: pd.Series) -> alt.Scale:
    wide = values.min() > 0 and values.max() >= DECADE * values.min()
    return alt.Scale(type="log", nice=False) if wide else alt.Scale(zero=False, nice=False, padding=12)


def _lines(
    title: str,
    data: pd.DataFrame,
    looks: Looks,
    x: alt.X,
    at: str,
    unit: Unit,
    height: int,
    *,
    interpolate: Any = "linear",
    names: bool = False,
) -> Panel:
    """Lines with bands, and a point under the pointer that tells where it is (the column `at`, titled so), its value,
    interval and seeds. `names`: x holds names, so that between two points there is nothing. Rows of a column `common`
    are ringed. Those whose `kind` is 'alone' are points beside the line, and 'published' ones a dashed line."""
    tips = {"series": "method", "at": at, "value": unit.name, "interval": "95 % interval", "seeds": "seeds"}
    tips = {name: text for name, text in tips.items() if (data[name] != "").any()}
    kept = ["x", "mean", "low", "high", "common", "kind", *tips]
    data = data[[name for name in kept if name in data and not data[name].isna().all()]]
    scale = alt.Scale(domain=[0, 100]) if unit in (SUCCESS, SHARE) else alt.Scale(zero=False)
    axis: dict[str, Any] = {"title": unit.label, "scale": scale, "axis": alt.Axis(tickCount=5)}
    y = alt.Y("mean:Q", **axis)
    near = alt.selection_point(nearest=True, on="pointermove", clear="pointerout", fields=["x", "series"], empty=False)
    base = alt.Chart(data).encode(x=x, color=looks.colour()).transform_filter("indexof(hidden, datum.series) < 0")
    layers: list[alt.Chart] = []
    if "low" in data:
        known = base.transform_filter("isValid(datum.low)")
        band = known.mark_rule(strokeWidth=1.5) if names else known.mark_area(opacity=0.16, interpolate=interpolate)
        layers.append(band.encode(y=alt.Y("low:Q", **axis), y2="high:Q"))
    if not names:
        line = base.transform_filter("!datum.kind") if "kind" in data else base
        layers.append(line.mark_line(strokeWidth=2, interpolate=interpolate).encode(y=y))
    ours = base
    if "kind" in data and (data["kind"] == "published").any():
        theirs = base.transform_filter("datum.kind === 'published'")
        layers.append(theirs.mark_line(strokeWidth=1.3, strokeDash=[4, 3]).encode(y=y))
        ours = base.transform_filter("datum.kind !== 'published'")
    small = 34 if len(data) <= MANY_POINTS * data["series"].nunique() else 0
    size = alt.condition(near, alt.value(140), alt.value(small))
    points = ours.mark_point(filled=True, opacity=1).encode(y=y, shape=looks.shape(), size=size, tooltip=_tips(tips))
    layers.append(points.add_params(near))
    if "common" in data:
        ring = base.transform_filter("datum.common === true").mark_point(size=150, strokeWidth=1.2, filled=False)
        layers.append(ring.encode(y=y, color=alt.value(INK)))
    switched = alt.layer(*layers).add_params(alt.param(name="hidden", value=[]))  # set by the legend
    return Panel(title, _spec(switched, height), height)


def _bars(
    title: str,
    data: pd.DataFrame,
    looks: Looks,
    unit: Unit,
    x_title: str,
    *,
    bars: bool = False,
    lower: bool = False,
    zero: bool = False,
) -> Panel:
    """One row for each name, best first, with its interval and value: a bar from 0, or else a dot. `lower`: low values
    are better. `zero`: a line marks 0. The column `published` is drawn as a diamond."""
    order = list(dict.fromkeys(data.sort_values("mean", ascending=lower, kind="stable")["name"]))
    theirs = ["published", "their_low", "their_high"]
    kept = ["series", "name", "mean", "low", "high", "value", "interval", "seeds", *theirs, "runs"]
    data = data[[name for name in kept if name in data and not data[name].isna().all()]]
    ticks: dict[str, Any] = {"axis": alt.Axis(tickCount=4, grid=True), "scale": alt.Scale(zero=bars or zero)}
    if unit == SUCCESS and not zero:
        ticks = {"axis": alt.Axis(values=list(range(0, 101, 20)), grid=True), "scale": alt.Scale(domain=[0, 100])}
    tips = {"name": "method", "value": x_title, "interval": "95 % interval", "seeds": "seeds"}
    tips = {name: text for name, text in tips.items() if name in data and (data[name] != "").any()}
    base = alt.Chart(data).encode(y=alt.Y("name:N", sort=order, title=None), tooltip=_tips(tips))
    x = alt.X("mean:Q", title=x_title, **ticks)
    layers: list[alt.Chart] = []
    if zero:
        layers.append(alt.Chart(pd.DataFrame({"x": [0]})).mark_rule(color=INK).encode(x="x:Q"))
    if bars:
        layers.append(base.mark_bar(height={"band": 0.72}).encode(x=x, color=looks.colour()))
    if "low" in data:
        known = base.transform_filter("isValid(datum.low)")
        ends = {"x": alt.X("low:Q", title=x_title, **ticks), "x2": "high:Q"}
        if bars:
            layers += [known.mark_rule(color=PAPER, strokeWidth=4).encode(**ends)]
            layers += [known.mark_rule(color=INK, strokeWidth=1.6).encode(**ends)]
        else:
            layers.append(known.mark_rule(strokeWidth=3).encode(color=looks.colour(), **ends))
    if not bars:
        layers.append(
            base.mark_point(filled=True, size=110, opacity=1).encode(x=x, color=looks.colour(), shape=looks.shape())
        )
    if "runs" in data:
        single = base.transform_flatten(["runs"]).mark_point(
            size=18, filled=True, fill=PAPER, stroke=INK, strokeWidth=0.8
        )
        layers.append(single.encode(x=alt.X("runs:Q", title=x_title, **ticks), yOffset=alt.value(0.76 * ROW)))
    if "published" in data:
        known = base.transform_filter("isValid(datum.published)").encode(
            tooltip=_tips({"name": "method", "published": "published"})
        )
        if "their_low" in data:
            ends = {"x": alt.X("their_low:Q", title=x_title, **ticks), "x2": "their_high:Q"}
            layers.append(known.mark_rule(color=INK).encode(**ends))
        diamond = known.mark_point(shape="diamond", size=80, filled=True, fill=PAPER, stroke=INK, opacity=1)
        layers.append(diamond.encode(x=alt.X("published:Q", title=x_title, **ticks)))
    text = base.mark_text(align="left", baseline="middle", dx=10, color=INK, fontSize=12)
    layers.append(text.encode(x=alt.value("width"), text="value:N"))
    height = ROW * len(order) + AXES
    return Panel(title, _spec(alt.layer(*layers), height), height)


def _tips(columns: Mapping[str, str]) -> Sequence[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:N", title=title) for name, title in columns.items()]


def _spec(chart: Any, height: int) -> dict[str, Any]:
    """The chart as a specification, as wide as its place on the page."""
    spec = chart.properties(width="container", height=height).to_dict()
    return {key: value for key, value in spec.items() if key not in ("$schema", "config")}  # another version; page.js
