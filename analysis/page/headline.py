"""The first screen of the page: the best methods in sentences, and one table of methods by groups."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from analysis.numbers.claims import Claim
from analysis.page.table import Table
from analysis.results import settings
from analysis.results.agents import AVERAGE
from analysis.results.study import DAGGER, SUCCESS, Study

MANY = 4  # names beyond which a sentence counts instead


@dataclass(frozen=True)
class Cell:
    """One method on one group, as texts; `bar` holds the ends of its bar, in percent."""

    value: str
    interval: str
    published: str
    published_interval: str
    seeds: str
    marks: str  # letters of the notes that are not those of all cells
    best: bool
    bar: dict[str, float]


@dataclass(frozen=True)
class Row:
    title: str
    dagger: str
    cells: list[Cell | None]


@dataclass(frozen=True)
class Headline:
    """The table of methods (rows, best first) by groups (columns, the average over groups first)."""

    columns: list[str]
    rows: list[Row]
    seeds: str  # per task, of most cells
    published: bool  # whether a published number is known
    marks: str  # letters of the notes that all cells share

    @property
    def bars(self) -> bool:
        """Whether there is room for bars: one group, and values in percent."""
        return len(self.columns) == 1 and all(cell is None or cell.bar for row in self.rows for cell in row.cells)


def headline(study: Study, table: Table) -> Headline:
    """The headline of `table`, which is `tables.success`: of the methods that are compared with each other."""
    shown = set(settings.plotted_series(study))
    records = [row | {"texts": texts} for row, texts in zip(table.data.to_dict("records"), table.rows, strict=True)]
    records = [row for row in records if row["series"] in shown]
    groups = sorted(dict.fromkeys(str(row["group"]) for row in records), key=lambda group: group != AVERAGE)
    best = {group: max(row["mean"] for row in records if row["group"] == group) for group in groups}
    letters = [row["texts"][-1].split(",") for row in records]
    common = [letter for letter in letters[0] if all(letter in own for own in letters)] if records else []
    cells = {(row["series"], row["group"]): _cell(study, row, best, common) for row in records}
    means = {key: [row["mean"] for row in records if row["series"] == key] for key in shown}
    last = {row["series"]: row["mean"] for row in records if row["group"] == AVERAGE}
    order = sorted(
        {str(row["series"]): None for row in records},
        key=lambda key: (AVERAGE in groups and key not in last, -last.get(key, np.mean(means[key]))),
    )
    short = {row["series"] for row in records if row["runs_scored"] < row["runs_planned"]}
    rows = [
        Row(study.series[key].title, DAGGER * (key in short), [cells.get((key, group)) for group in groups])
        for key in order
    ]
    seeds = Counter(cell.seeds for cell in cells.values()).most_common(1)[0][0] if cells else ""
    return Headline(groups, rows, seeds, any(cell.published for cell in cells.values()), ", ".join(common))


def _cell(study: Study, row: dict[str, Any], best: dict[str, float], common: Sequence[str]) -> Cell:
    _, _, value, published, seeds, _, _, marks = row["texts"]
    number, _, interval = value.partition(" ")
    theirs, _, their_interval = published.partition(" ")
    own = ",".join(sorted(set(marks.split(",")) - set(common)))
    ends = ("mean", "low", "high", "published_mean")
    unit = study.unit(*([] if row["group"] == AVERAGE else [row["group"]]))
    bar = {end: 100 * row[end] for end in ends if np.isfinite(row[end])} if unit == SUCCESS else {}
    return Cell(number, interval, theirs, their_interval, seeds, own, row["mean"] == best[row["group"]], bar)


def lead(study: Study, table: Headline) -> str:
    """Which method has the highest mean, and where the subject stands: a sentence or two."""
    if not table.rows:
        return ""
    averaged = AVERAGE in table.columns
    if len(table.columns) == 1 or averaged:
        place = table.columns.index(AVERAGE) if averaged else 0
        ranked = [(row, cell) for row in table.rows if (cell := row.cells[place])]
        where = f"over {len(study.comparable)} groups" if averaged else f"on {table.columns[0]}"
        unit = study.unit(*([] if averaged else table.columns))
        values = [" ".join(filter(None, [cell.value, unit.sign, cell.interval])) for _, cell in ranked]
        titles = [row.title for row, _ in ranked]
        if len(ranked) < 2:
            return f"{titles[0]} reaches {values[0]} {where}." if ranked else ""
        best = [row.title for row, cell in ranked if cell.best]
        verb = "has" if len(best) == 1 else "share"
        text = f"{_names(best)} {verb} the highest mean {unit.name} {where}: {values[0]}."
        own = titles.index(study.subject.title) if study.subject.title in titles else 0
        if len(best) > 1 and own < len(best):
            return text
        if own < 2:
            return f"{text} {titles[1]} is second with {values[1]}."
        return f"{text} {titles[own]} is number {own + 1} of {len(titles)} with {values[own]}."
    counts = {row.title: sum(cell is not None and cell.best for cell in row.cells) for row in table.rows}
    parts = [f"{title} on {count}" for title, count in sorted(counts.items(), key=lambda one: -one[1]) if count]
    return f"Highest mean: {', '.join(parts)} of {len(table.columns)} groups."


def verdict(study: Study, made: Sequence[Claim]) -> list[str]:
    """Return the claims about the subject over all compared groups: a sentence per verdict."""
    if len({claim.ours for claim in made}) != 1:
        return []
    whole = [claim for claim in made if claim.group == AVERAGE] or made
    where = f" over {len(study.comparable)} groups" if whole is not made else ""
    subject = study.series[whole[0].ours].title
    names: dict[str, list[str]] = {}
    one_group = len({claim.group for claim in whole}) == 1
    for claim in whole:
        theirs = study.series[claim.theirs].title
        names.setdefault(claim.verdict, []).append(theirs if one_group else f"{theirs} on {claim.group}")
    texts = {
        "better": f"{subject} is shown to be better than {{}}{where}.",
        "worse": f"{subject} is shown to be worse than {{}}{where}.",
        "open": f"The data show no difference between {subject} and {{}}{where}.",
        "too few": f"Too few runs to compare {subject} with {{}}{where}.",
    }
    return [text.format(_names(names[key])) for key, text in texts.items() if key in names]


def _names(names: Sequence[str]) -> str:
    if len(names) > MANY:
        return f"{len(names)} others"
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
