"""A table, and how it is written: as Markdown, LaTeX (booktabs), CSV and plain text."""

import re
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from analysis.results.files import write_csv
from analysis.results.study import DAGGER

DOUBLE_DAGGER = "‡"
LETTERS, GAP = 70, 3
"""Letters on a line of LaTeX (345 pt at 10 pt), and between two columns."""
WHOLE, NARROWEST = 20, 10
"""Letters of a cell that is not broken, such as a number with its interval, and of a column of broken ones."""


@dataclass(frozen=True)
class Table:
    """Cells as people read them, and the numbers behind them for the CSV."""

    title: str
    header: list[str]
    rows: list[list[str]]
    data: pd.DataFrame
    notes: list[str] = field(default_factory=list)
    text_columns: int = 2  # so many columns, from the left, hold text; the others are aligned to the right

    def markdown(self) -> str:
        align = [":--" if i < self.text_columns else "--:" for i in range(len(self.header))]
        lines = [[_markdown(cell) for cell in row] for row in [self.header, *self.rows]]
        lines.insert(1, align)
        table = "\n".join("| " + " | ".join(line) + " |" for line in lines)
        return table + "".join(f"\n\n{_markdown(note)}" for note in self.notes) + "\n"

    def latex(self, name: str) -> str:
        """A floating table that needs the booktabs package; `name` makes its label."""
        widths = _paragraphs([self.header, *self.rows])
        align = "".join(
            f"p{{{widths[i]:.2f}\\linewidth}}" if i in widths else "l" if i < self.text_columns else "r"
            for i in range(len(self.header))
        )
        lines = [
            " & ".join(f"{{\\raggedright {_latex(c)}\\par}}" if i in widths else _latex(c) for i, c in enumerate(row))
            + r" \\"
            for row in [self.header, *self.rows]
        ]
        notes = "".join(f"\n  \\\\[2pt] {{\\footnotesize {_latex(note)}}}" for note in self.notes)
        return "\n".join(
            [
                r"\begin{table}[t]",
                r"  \centering",
                f"  \\caption{{{_latex(self.title)}}}",
                f"  \\label{{tab:{name}}}",
                f"  \\begin{{tabular}}{{{align}}}",
                r"    \toprule",
                f"    {lines[0]}",
                r"    \midrule",
                *(f"    {line}" for line in lines[1:]),
                r"    \bottomrule",
                f"  \\end{{tabular}}{notes}",
                r"\end{table}",
                "",
            ]
        )

    def text(self) -> str:
        """Aligned plain text, for a console."""
        lines = [self.header, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.header))]
        aligned = [
            "  ".join(
                cell.ljust(width) if i < self.text_columns else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        aligned.insert(1, "-" * max(map(len, aligned)))
        return "\n".join([*aligned, *self.notes])


def save(table: Table, folder: Path, name: str) -> list[Path]:
    """Writes NAME.md, NAME.tex and NAME.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.{suffix}" for suffix in ("md", "tex", "csv")]
    paths[0].write_text(f"**{_markdown(table.title)}**\n\n{table.markdown()}", encoding="utf-8")
    paths[1].write_text(table.latex(name), encoding="utf-8")
    write_csv(table.data, paths[2])
    return paths


def _markdown(cell: str) -> str:
    for mark in "\\|*_<":
        cell = cell.replace(mark, "\\" + mark)
    return cell


def _paragraphs(rows: list[list[str]]) -> dict[int, float]:
    """Return the columns of a too wide LaTeX table whose cells are broken (the longest ones), and their shares of the
    line's width, in proportion to the roots of their lengths."""
    longest = [max(map(len, column)) for column in zip(*rows, strict=True)]
    room = LETTERS - GAP * len(longest) - sum(longest)
    broken: list[int] = []
    for i in sorted(range(len(longest)), key=lambda i: -longest[i]):
        if room >= NARROWEST * len(broken) or longest[i] <= WHOLE:
            break
        broken.append(i)
        room += longest[i]
    roots = {i: longest[i] ** 0.5 for i in broken}
    return {i: max(room, NARROWEST * len(broken)) / LETTERS * root / sum(roots.values()) for i, root in roots.items()}


_LATEX = {c: "\\" + c for c in "%&#$_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    DAGGER: r"\textdagger{}",
    DOUBLE_DAGGER: r"\textdaggerdbl{}",
}


def _latex(cell: str) -> str:
    text = "".join(_LATEX.get(character, character) for character in cell)
    text = re.sub(r"(?<!\w)-(?=[\d ])", "$-$", text)  # a minus sign
    return re.sub(r"^(\d+)-(\d+)$", r"\1--\2", text)  # a range
