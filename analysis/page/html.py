"""The report as one HTML file that needs nothing else: figures, numbers, tables and scripts are inside it."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.numbers.claims import Claim, claims
from analysis.numbers.stats import LEVEL, RESAMPLES
from analysis.page import charts, provenance
from analysis.page.figures import all_plots
from analysis.page.headline import Headline, headline, lead, verdict
from analysis.page.table import Table
from analysis.page.tables import all_tables
from analysis.plots import style
from analysis.progress import progress
from analysis.results import settings
from analysis.results.study import LAST, Study, records

HERE = Path(__file__).parent
FOLDED = 30  # rows from which on a table is folded away
FEW_SHOWN = 3  # claims without enough runs beyond which they are folded away
FIRST = "curves"  # the figure of the first screen
WIDTHS = {"tasks": "13rem", "aggregates": "23rem"}  # least width of a panel, for five or two in a row
RULES = [
    f"The score of a run is the mean over its last {LAST} evaluations (all of them if there are fewer). The best "
    "evaluation of a run is never reported.",
    "A group is the mean over its tasks of the mean over seeds.",
    f"Intervals: {LEVEL:.0%} percentile intervals of a stratified bootstrap ({RESAMPLES:,} resamples, fixed seed) over "
    "seeds within tasks. Where a task has a single seed there is none.",
]


def write(study: Study, path: Path) -> None:
    """Writes the page to `path`. OSError where it cannot."""
    html = render(study)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(html, encoding="utf-8")


def render(study: Study) -> str:
    """The page as text. The same results make the same page."""
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    notes = _Notes()
    found = all_tables(study)
    scored = bool(study.groups)
    table = headline(study, found["success"]) if scored else Headline([], [], "", False, "")
    first = notes.once(found["success"].notes) if scored else []
    specs: dict[str, Any] = {}
    with style.styled():
        plots = all_plots(study) if scored else {}
        looks = _looks(study, plots)
        figures = _figures(study, plots, looks, specs, notes)
    supported = claims(study) if scored else []
    tables = {name: _table(name, one, notes) for name, one in found.items() if name == "success" or _has(name, one)}
    whole = tables.get("success")
    if set(study.series) == set(settings.plotted_series(study)):
        tables.pop("success", None)  # the headline says it all
    coverage = [tables.pop(name) for name in ("coverage", "missing_runs") if name in tables]
    stated = tables.pop("claims", None)
    script = bundle()
    return environment.get_template("page.html").render(
        title=study.results.name,
        facts=_facts(study),
        lead=lead(study, table) if scored else "Recordings without an environment: held-out checks, no success rates.",
        verdict=verdict(study, supported) if scored else [],
        headline=table,
        unit=study.unit(*study.groups),
        notes=first,
        success=whole,
        first=figures.pop(FIRST, None),
        looks=looks,
        claims=[(group, *_parted(list(here))) for group, here in groupby(supported, lambda claim: claim.group)],
        few_shown=FEW_SHOWN,
        claims_table=stated,
        coverage=coverage,
        figures=list(figures.values()),
        tables=list(tables.values()),
        problems=study.results.problems,
        rules=RULES,
        protocol=[
            _table(name, one, notes)
            for name, one in (("protocol", provenance.protocol(study)), ("versions", provenance.versions(study.runs)))
        ],
        sweeps=provenance.sweeps(study),
        commands=provenance.commands(study),
        mlflow=provenance.mlflow(study),
        runs=_runs(study),
        score=f"Score {study.unit(*study.groups).sign}".strip(),
        dark=style.DARK,
        light={light: light for light in style.DARK},
        names={style.INK: "ink", style.MUTED: "muted", style.GRID: "line", style.PAPER: "paper"},
        specs=json.dumps(specs, separators=(",", ":")).replace("<", "\\u003c"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


@lru_cache(maxsize=1)
def bundle() -> str:
    """Vega, Vega-Lite and page.js as one script without imports."""
    script = vl_convert.javascript_bundle((HERE / "page.js").read_text(encoding="utf-8"), charts.VERSION)
    return str(script).replace("\r", "").replace("</script", "<\\/script")


class _Notes:
    """The notes of the page, each of which stands once, where it comes first."""

    def __init__(self) -> None:
        self._shown: set[str] = set()

    def once(self, notes: Sequence[str]) -> list[str]:
        fresh = [note for note in notes if note not in self._shown]
        self._shown.update(fresh)
        return fresh


def _has(name: str, table: Table) -> bool:
    """Whether a table says something: it has rows or, of what is published, a number."""
    if name == "published":
        return bool(table.data["what"].isin(["figure", "record", "second-hand"]).any())
    return bool(table.rows)


def _facts(study: Study) -> list[str]:
    runs = study.runs
    states = ", ".join(f"{count} {state}" for state, count in runs["state"].value_counts().sort_index().items())
    count = int(runs["scored"].sum())
    facts = [f"{len(runs)} runs ({states})", f"{'all' if count == len(runs) else count} of them count"]
    if study.include_unfinished:
        facts.append("Unfinished runs are included, with the last evaluations they have")
    if len(study.results.paths) > 1:
        facts.append(f"from {study.results.path}")
    facts += [f"last update {updated[:16].replace('T', ' ')}" for updated in [runs["updated"].max()] if updated]
    return facts


def _looks(study: Study, plots: Mapping[str, style.Plot]) -> dict[str, dict[str, str]]:
    """{title: light, dark, marker} of everything that a chart names: series as they are shown, then agents."""
    shown = [study.series[key] for key in settings.plotted_series(study)]
    found = {one.title: (style.colour(study, one), one.agent.marker) for one in shown}
    names = {name for plot in plots.values() for name in plot.data.get("agent", ())}
    for agent in study.agents(names).values():
        found.setdefault(agent.title, (agent.colour, agent.marker))
    return {
        title: {"light": colour, "dark": style.on_dark(colour), "marker": marker}
        for title, (colour, marker) in found.items()
    }


def _figures(
    study: Study,
    plots: Mapping[str, style.Plot],
    looks: Mapping[str, Mapping[str, str]],
    specs: dict[str, Any],
    notes: _Notes,
) -> dict[str, dict[str, Any]]:
    """The figures by name; puts the specifications of their charts into `specs`, by the ids of their places."""
    found = {}
    markers = charts.Looks({title: look["marker"] for title, look in looks.items()})
    colours = [look["light"] for look in looks.values()]
    for name, plot in progress(plots.items(), what="drawing", unit="figure"):
        picture = _data("image/svg+xml", style.svg(plot, colours).encode())
        panels = charts.CHARTS[name](study, plot.data, markers) if name in charts.CHARTS else []
        ids = [f"chart-{name}-{i}" for i in range(len(panels))]
        specs |= {key: panel.spec for key, panel in zip(ids, panels, strict=True)}
        found[name] = {
            "name": name,
            "title": plot.title,
            "caption": plot.caption,
            "notes": notes.once(plot.notes),
            "picture": picture,
            "wide": plot.figure.get_figwidth() > style.COLUMN,
            "csv": _csv(plot.data.to_csv(index=False)),
            "least": WIDTHS.get(name, "20rem"),
            "panels": list(zip(ids, panels, strict=True)),
            "legend": _legend(study, plot) if name in charts.LEGENDS else [],
        }
    return found


def _legend(study: Study, plot: style.Plot) -> list[str]:
    """The titles in a figure of lines, in the order of their ends. Profiles all end at 0: there, of their means."""
    data = plot.data
    key = "agent" if "agent" in data else "series"
    panels = [name for name in ("group", "task", "hyperparameter", "axis") if name in data]
    if "share" in data:
        data, panels = data.groupby(key, as_index=False)["share"].mean().rename(columns={"share": "mean"}), []
    keys = style.by_end(data, key, *panels)
    titled = study.agents(keys) if key == "agent" else study.series
    return [titled[one].title for one in keys]


def _table(name: str, table: Table, notes: _Notes) -> dict[str, Any]:
    links = {"csv": _csv(table.data.to_csv(index=False)), "tex": _data("text/x-tex", table.latex(name).encode())}
    fresh = notes.once(table.notes)
    earlier = any(note.startswith("(") for note in table.notes if note not in fresh)
    return {
        "name": name,
        "table": table,
        "notes": fresh,
        "earlier": earlier,
        "folded": len(table.rows) >= FOLDED,
        **links,
    }


def _parted(made: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
    """The claims that had enough runs, and those that had not."""
    return [one for one in made if one.verdict != "too few"], [one for one in made if one.verdict == "too few"]


def _runs(study: Study) -> list[Mapping[str, Any]]:
    order = {key: i for i, key in enumerate(study.series)}
    runs = records(study.runs)
    runs.sort(key=lambda run: (run["group"], order[run["series"]], run["short"], run["seed"]))
    units = {group: study.unit(group) for group in set(study.runs["group"])}
    shown = [units[run["group"]].text(run["score"]) if run["scored"] else "" for run in runs]
    titles = [study.series[run["series"]].title for run in runs]
    return [{**run, "title": title, "shown": text} for run, title, text in zip(runs, titles, shown, strict=True)]


def _csv(text: str) -> str:
    return _data("text/csv", text.encode())


def _data(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
