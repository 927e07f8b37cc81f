"""Draws the histograms of a dataset's actions, one panel for each number of an action.

python -m lps data describe PATH --csv FILE.csv
python -m analysis actions FILE.csv
"""

import argparse
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from analysis.plots import style
from lps.errors import UserError
from lps.files import local_path

COLUMNS = ["action", "low", "high", "count"]
BAR = "#1F4FA3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE.csv", help="file of `lps data describe --csv`")
    parser.add_argument("--out", metavar="NAME", help="path without suffix of the files to write (default: FILE)")


def run(arguments: argparse.Namespace) -> int:
    file = local_path(arguments.file)
    out = local_path(arguments.out) if arguments.out else file.with_suffix("")
    for path in write(read(file), out):
        print(f"written: {path}")
    return 0


def read(file: Path) -> pd.DataFrame:
    """Return the bins, one row each: action, low, high, count.  UserError for another file."""
    try:
        data = pd.read_csv(file)
        if missing := set(COLUMNS) - set(data):
            raise ValueError(f"it has no column {', '.join(sorted(missing))}")
        data = data[COLUMNS].astype({"low": float, "high": float, "count": float})
        if data.empty or data.isna().any(axis=None):
            raise ValueError("it has no bins, or empty cells")
    except (OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read: {error}. Write it with: python -m lps data describe PATH --csv {file}"
        ) from error
    return data


def write(data: pd.DataFrame, out: Path) -> list[Path]:
    """Write OUT.png and OUT.pdf, and return their paths.  UserError if they cannot be written."""
    try:
        with style.styled():
            return style.write_figure(draw(data), out)
    except OSError as error:
        raise UserError(f"cannot write {out}: {error.strerror or error}. Choose another --out") from error


def draw(data: pd.DataFrame) -> Figure:
    """A panel for each number of an action: the share of the steps in each bin."""
    names = list(dict.fromkeys(data["action"]))
    figure, grid = style.panels(len(names), 0.1, 1.3)
    for i, (axes, name) in enumerate(zip(grid.flat, names, strict=False)):
        bins = data[data["action"] == name]
        share = 100 * bins["count"] / max(1.0, bins["count"].sum())
        axes.bar(bins["low"], share, bins["high"] - bins["low"], align="edge", color=BAR, linewidth=0)
        axes.set_title(name, pad=2)
        if i % grid.shape[1] == 0:
            axes.set_ylabel("steps (%)")
    return figure
