"""Compares the agents of a results folder: figures and tables, with the published numbers beside ours.

    python analysis/compare.py RESULTS... [--out DIR] [--include-unfinished] [--exclude ID...] [--subject AGENT]

Exit code 0 if something could be shown, 2 if not.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

if not __package__:  # started as a file: find the packages beside this folder, and nothing of the same name in it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis.page import tables  # noqa: E402
from analysis.page.figures import all_plots  # noqa: E402
from analysis.page.table import save  # noqa: E402
from analysis.plots import PLOTS, style  # noqa: E402
from analysis.progress import progress  # noqa: E402
from analysis.results.agents import SUBJECT  # noqa: E402
from analysis.results.load import load  # noqa: E402
from analysis.results.select import select  # noqa: E402
from analysis.results.study import Study, study  # noqa: E402
from lps.errors import UserError, command_line, printable, suggest  # noqa: E402
from lps.files import local_path  # noqa: E402


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Reads the results, writes the report, prints the success table and the paths; returns the exit code."""
    parser = argparse.ArgumentParser(prog="compare", description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """Write the report. UserError if the results are empty or the report cannot be written."""
    here = read(arguments)
    out = local_path(arguments.out) if arguments.out else default_out(arguments.results)
    written = write(here, out)
    print(printable(tables.all_tables(here)["success" if here.groups else "held_out"].text()), end="\n\n")
    print("written:")
    for _, (path, *others) in groupby(written, key=lambda path: path.with_suffix("")):
        print(f"  {path}  (and {', '.join(other.suffix for other in others)})")
    return 0


def read(arguments: argparse.Namespace) -> Study:
    """The study that the arguments of `add_choice` ask for; prints what is missing in it. UserError where there is
    nothing to show."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the dagger, on a terminal that has none
    parts = [load(path) for path in dict.fromkeys(arguments.results)]
    results = select(parts, arguments.exclude, arguments.agents, arguments.groups)
    subject = arguments.subject or SUBJECT
    if arguments.subject and subject not in set(results.runs["agent"]):
        known = sorted(set(results.runs["agent"]))
        raise UserError(f"--subject: {suggest(subject, known, 'agent')} (those that are shown)")
    here = study(results, arguments.include_unfinished, subject)
    _print_gaps(here)
    if not here.groups and not len(tables.held_out(here).data):
        raise UserError(_nothing(here))
    return here


def write(here: Study, out: Path) -> list[Path]:
    """Writes all figures and tables into `out`; returns the paths. Figures that an earlier call wrote there, and that
    these results have nothing for, are removed.

    Raises:
        UserError: the folder cannot be written.
    """
    written = []
    made = tables.all_tables(here)
    try:
        out.mkdir(parents=True, exist_ok=True)
        with style.styled():
            plots = all_plots(here) if here.groups else {}
            for name, plot in progress(plots.items(), what="drawing", unit="figure"):
                written += style.save(plot, out / "figures", name)
        for name in PLOTS.keys() - plots.keys():
            for suffix in style.SUFFIXES:
                (out / "figures" / f"{name}.{suffix}").unlink(missing_ok=True)
        for name, table in made.items():
            written += save(table, out / "tables", name)
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error.strerror or error}; choose another --out") from error
    return written


def default_out(results: Sequence[str]) -> Path:
    """RESULTS/report; ./report where the results are not on a local disk, or in several folders."""
    folders = list(dict.fromkeys(results))
    return Path("report") if len(folders) > 1 or "://" in folders[0] else local_path(folders[0]) / "report"


def _print_gaps(here: Study) -> None:
    if here.results.problems:
        print(f"{len(here.results.problems)} files could not be read and are left out:")
        print(printable("".join(f"  {problem}\n" for problem in here.results.problems)))
    if len(here.gaps):
        gaps = tables.gaps(here)
        print(printable(f"{gaps.title}:\n{gaps.text()}\n"))


def _nothing(here: Study) -> str:
    states = ", ".join(f"{count} {state}" for state, count in here.runs["state"].value_counts().sort_index().items())
    text = f"nothing to compare in {here.results.path} yet: no finished run with evaluations ({states})"
    if len(here.results.evaluations) and not here.include_unfinished:
        return f"{text}; --include-unfinished shows what there is so far"
    return f"{text}; wait for the first evaluation, or see why runs failed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_choice(parser)
    parser.add_argument(
        "--out", metavar="DIR", help="output folder (default: RESULTS/report, ./report for a URI or several RESULTS)"
    )


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Adds what says which runs are shown, and what claims are about."""
    parser.add_argument(
        "results",
        metavar="RESULTS",
        nargs="+",
        help="results folder, local or a URI such as s3://bucket/results; several are combined",
    )
    some: dict[str, Any] = {"nargs": "+", "action": "extend", "default": []}
    parser.add_argument(
        "--exclude", **some, metavar="RUN_ID", help="ids of the runs to exclude; the first letters are enough"
    )
    parser.add_argument(
        "--agents", **some, metavar="AGENT", help="agents to show, with all their variants (default: all)"
    )
    parser.add_argument("--groups", **some, metavar="GROUP", help="groups to show (default: all)")
    parser.add_argument(
        "--subject", metavar="AGENT", help=f"agent that the claims compare with the others (default: {SUBJECT})"
    )
    parser.add_argument(
        "--include-unfinished",
        action="store_true",
        help="include running, failed and incomplete runs, with their last evaluations",
    )


if __name__ == "__main__":
    sys.exit(main())
