"""The report as one HTML file that needs nothing else: figures, numbers and tables are inside it."""

import base64
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from analysis.numbers.claims import Claim, claims
from analysis.numbers.stats import LEVEL, RESAMPLES
from analysis.page import provenance
from analysis.page.figures import drawn
from analysis.page.table import Table
from analysis.page.tables import made
from analysis.plots import style
from analysis.results.study import LAST, Study, records

VERDICTS = {
    "better": "better",
    "worse": "worse",
    "open": "not shown",
    "too few": "too few runs",
    "not compared": "not compared",
}
FOLDED = 30  # rows from which on a table is folded away
FEW_SHOWN = 3  # claims without enough runs beyond which they are folded away
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
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    tables = {name: _table(name, table) for name, table in made(study).items()}
    supported = claims(study)
    return environment.get_template("page.html").render(
        title=study.results.name,
        summary=_summary(study),
        updated=max(study.runs["updated"], default=""),
        verdict=_verdict(supported),
        claims=[(group, *_parted(list(here))) for group, here in groupby(supported, lambda claim: claim.group)],
        few_shown=FEW_SHOWN,
        claims_table=tables.pop("claims"),
        coverage=[tables.pop("coverage"), tables.pop("missing_runs")],
        figures=_figures(study),
        tables=list(tables.values()),
        problems=study.results.problems,
        rules=RULES,
        protocol=[_table("protocol", provenance.protocol(study)), _table("versions", provenance.versions(study.runs))],
        sweeps=provenance.sweeps(study),
        commands=provenance.commands(study),
        mlflow=provenance.mlflow(study),
        runs=_runs(study),
        score=f"Score {study.unit(*study.groups).sign}".strip(),
    )


def _summary(study: Study) -> str:
    runs = study.runs
    states = ", ".join(f"{count} {state}" for state, count in runs["state"].value_counts().sort_index().items())
    text = f"{len(runs)} runs ({states}); {int(runs['scored'].sum())} of them count in the scores below."
    if study.include_unfinished:
        text += " Unfinished runs are included, with the last evaluations they have."
    if len(study.results.paths) > 1:
        text += f" The runs are those of {study.results.path}."
    return " ".join([text, *study.results.notes])


def _figures(study: Study) -> list[dict[str, str]]:
    found = []
    with style.styled():
        for name, plot in drawn(study).items():
            links = {"svg": _data("image/svg+xml", style.svg(plot)), "csv": _csv(plot.data.to_csv(index=False))}
            found.append({"name": name, "title": plot.title, "caption": plot.caption, **links})
    return found


def _table(name: str, table: Table) -> dict[str, Any]:
    links = {"csv": _csv(table.data.to_csv(index=False)), "tex": _data("text/x-tex", table.latex(name).encode())}
    return {"name": name, "table": table, "folded": len(table.rows) >= FOLDED, **links}


def _parted(made: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
    """The claims that had enough runs, and those that had not."""
    return [one for one in made if one.verdict != "too few"], [one for one in made if one.verdict == "too few"]


def _verdict(made: Sequence[Claim]) -> str:
    """How often the subject is better, in a sentence; '' where it is compared with nobody."""
    if len({claim.ours for claim in made}) != 1:
        return ""
    counts = {key: sum(claim.verdict == key for claim in made) for key in VERDICTS}
    return f"{len(made)} comparisons: " + ", ".join(f"{counts[key]} {VERDICTS[key]}" for key in VERDICTS if counts[key])


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
