"""The page: report.md with figures and tables, what is missing, the protocol and the versions behind the numbers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from analysis.numbers.stats import LEVEL, RESAMPLES
from analysis.page.table import Table
from analysis.plots.style import Plot
from analysis.results.study import LAST, Study, options


def write(path: Path, study: Study, plots: Mapping[str, Plot], tables: Mapping[str, Table]) -> None:
    """Writes the page to `path`; the figures are expected beside it, as figures/NAME.png and .pdf."""
    parts = [f"# Results: {study.results.name}", summary(study)]
    for name in dict.fromkeys([*plots, *tables]):
        if name in plots:
            plot = plots[name]
            parts += [f"## {plot.title}", f"![{plot.title}](figures/{name}.png)", plot.caption + _links(name)]
        if name in tables:
            table = tables[name]
            parts += [] if name in plots else [f"## {table.title}"]
            parts.append(table.markdown())
    parts += ["## Files that could not be read", _problems(study.results.problems)] if study.results.problems else []
    rules = "\n".join(f"- {rule}" for rule in RULES)
    parts += ["## Protocol", rules, protocol(study).markdown()]
    parts += ["## How it was run", versions(study.runs).markdown(), _settings(study)]
    path.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


def _links(name: str) -> str:
    return f" ([PDF](figures/{name}.pdf), [numbers](figures/{name}.csv))"


def summary(study: Study) -> str:
    runs = study.runs
    states = ", ".join(f"{count} {state}" for state, count in runs["state"].value_counts().sort_index().items())
    text = f"{len(runs)} runs ({states}); {int(runs['scored'].sum())} of them count in the scores below."
    if study.include_unfinished:
        text += " **Unfinished runs are included**, with the last evaluations they have."
    if len(study.results.paths) > 1:
        text += f" The runs are those of {study.results.path}."
    return " ".join([text, *study.results.notes])


def _problems(problems: Sequence[str]) -> str:
    return "\n".join(f"- `{problem}`" for problem in problems)


RULES = [
    f"The score of a run is the mean over its last {LAST} evaluations (all of them if there are fewer). The best "
    "evaluation of a run is never reported.",
    "A group is the mean over its tasks of the mean over seeds.",
    f"Intervals: {LEVEL:.0%} percentile intervals of a stratified bootstrap ({RESAMPLES:,} resamples, fixed seed) over "
    "seeds within tasks. Where a task has a single seed there is none.",
]


TIMINGS = ("success_timing", "reward_timing")


def protocol(study: Study) -> Table:
    """What the runs of every group and series were trained and evaluated on."""
    rows, ogbench = [], all(map(study.is_ogbench, study.groups))
    for group in study.groups:
        for key in study.series:
            cell = study.cell(key, group)
            if len(cell):
                run = cell.iloc[0].to_dict()
                prints = " ".join(sorted({str(value)[:12] for value in cell["fingerprint"] if value})) or "?"
                evaluation = f"{run['eval_episodes']} episodes every {run['eval_interval']:,}"
                cells = [
                    group,
                    study.series[key].title,
                    f"{run['steps']:,}",
                    run["dataset"] or "?",
                    prints,
                    evaluation,
                ]
                own = options(run)
                timings = ", ".join(own.get(name, "?") for name in TIMINGS)
                rows.append([*cells, timings if ogbench else ", ".join(f"{k}={v}" for k, v in own.items())])
    last = "Timing of success, reward" if ogbench else "Options of the suite"
    header = ["Group", "Series", "Updates", "Dataset", "Fingerprint", "Evaluation", last]
    return Table("Protocol", header, rows, pd.DataFrame(rows, columns=header), text_columns=len(header))


def versions(runs: pd.DataFrame) -> Table:
    """What the runs say about the software and hardware they ran on; several values mean that they differ."""
    names = list(dict.fromkeys(name for versions in runs["versions"] for name in versions))
    table = {name: sorted({str(versions.get(name, "?")) for versions in runs["versions"]}) for name in names}
    table["device"] = sorted(set(runs["device"]) - {""})
    table["sweep"] = sorted(set(runs["sweep"]) - {""})
    hours = runs["wall_time_s"] / 3600
    times = " to ".join(dict.fromkeys(f"{hour:.2f} h" for hour in (hours.min(), hours.max())))
    rows = [[name, ", ".join(values)] for name, values in table.items() if values]
    rows.append(["wall time of a run", f"{times} (runs that train together share it)"])
    return Table("How it was run", ["", ""], rows, pd.DataFrame(rows, columns=["what", "value"]))


def _settings(study: Study) -> str:
    """Hyperparameters by series and group, folded away."""
    lines = []
    for (series, group), here in study.runs.groupby(["series", "group"], sort=True):
        values = json.dumps(here.iloc[0]["hyperparameters"], sort_keys=True)
        lines.append(f"- {study.series[str(series)].title}, {group}: `{values}`")
    body = "\n".join(lines)
    return f"<details><summary>Hyperparameters</summary>\n\n{body}\n\n</details>"
