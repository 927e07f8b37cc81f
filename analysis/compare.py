"""Compares the agents of a results folder: figures, tables and a page, with the published numbers beside ours.

    python analysis/compare.py RESULTS [--out DIR] [--include-unfinished]

Exit code 0 if something could be shown, 2 if not.
"""

import argparse
import io
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # started as a file: find the packages beside this folder, and nothing of the same name in it
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from analysis import report, style, tables  # noqa: E402
from analysis.load import load  # noqa: E402
from analysis.plots import PLOTS  # noqa: E402
from analysis.scores import Study, study  # noqa: E402
from lps.errors import UserError, guarded  # noqa: E402


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    """Reads the results, writes the report, prints the success table and the paths; returns the exit code."""
    parser = argparse.ArgumentParser(prog="compare", description=(__doc__ or "").splitlines()[0])
    add_arguments(parser)
    return run(parser.parse_args(argv))


def run(arguments: argparse.Namespace) -> int:
    """What the command line does; UserError where the results hold nothing or the report cannot be written."""
    here = read(arguments.results, arguments.include_unfinished)
    out = Path(arguments.out) if arguments.out else default_out(arguments.results)
    written = write(here, out)
    print(tables.success(here).text(), end="\n\n")
    print("written:")
    for path, also in _by_stem(written).items():
        print(f"  {path}" + (f"  (and {', '.join(also)})" if also else ""))
    return 0


def read(results: str, include_unfinished: bool) -> Study:
    """The study in a results folder; prints what is missing in it. UserError where there is nothing to show."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # the dagger, on a terminal that has none
    here = study(load(results), include_unfinished)
    _print_gaps(here)
    if not here.groups:
        raise UserError(_nothing(here))
    return here


def write(here: Study, out: Path) -> list[Path]:
    """Writes all figures, tables and the page into `out`; the paths, the page first.

    Raises:
        UserError: the folder cannot be written.
    """
    plots, written = {}, []
    made = {name: make(here) for name, make in tables.TABLES.items()}
    try:
        out.mkdir(parents=True, exist_ok=True)
        with style.styled():
            for name, draw in PLOTS.items():
                plot = draw(here)
                if plot is not None:
                    plots[name] = plot
                    written += style.save(plot, out / "figures", name)
        for name, table in made.items():
            written += tables.save(table, out / "tables", name)
        report.write(out / "report.md", here, plots, made)
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error.strerror or error}; choose another --out") from error
    return [out / "report.md", *written]


def default_out(results: str) -> Path:
    """RESULTS/report; ./report where the results are not on a local disk."""
    return Path("report") if "://" in results else Path(results) / "report"


def _by_stem(paths: Sequence[Path]) -> dict[Path, list[str]]:
    """The first path of every stem, with the suffixes of the others."""
    found: dict[Path, tuple[Path, list[str]]] = {}
    for path in paths:
        if path.with_suffix("") in found:
            found[path.with_suffix("")][1].append(path.suffix)
        else:
            found[path.with_suffix("")] = (path, [])
    return dict(found.values())


def _print_gaps(here: Study) -> None:
    if here.results.problems:
        print(f"{len(here.results.problems)} files could not be read and are left out:")
        print("".join(f"  {problem}\n" for problem in here.results.problems))
    if len(here.gaps):
        gaps = tables.gaps(here)
        print(f"{gaps.title}:\n{gaps.text()}\n")


def _nothing(here: Study) -> str:
    states = ", ".join(f"{count} {state}" for state, count in here.runs["state"].value_counts().sort_index().items())
    text = f"nothing to compare in {here.results.path} yet: no finished run with evaluations ({states})"
    if len(here.results.evaluations) and not here.include_unfinished:
        return f"{text}; --include-unfinished shows what there is so far"
    return f"{text}; wait for the first evaluation, or see why runs failed"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("results", metavar="RESULTS", help="results folder, local or a URI such as s3://bucket/results")
    parser.add_argument("--out", metavar="DIR", help="where to write (default: RESULTS/report, ./report for a URI)")
    add_unfinished(parser)


def add_unfinished(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--include-unfinished",
        action="store_true",
        help="let runs that are running, failed or incomplete count, with the last evaluations they have",
    )


if __name__ == "__main__":
    sys.exit(main())
