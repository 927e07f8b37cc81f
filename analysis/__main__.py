"""The command line of the analysis: `python -m analysis report | compare | maze | actions`."""

import argparse
import sys
from collections.abc import Sequence

from analysis import actions, compare, maze
from analysis.page import html as page
from lps.errors import UserError, command_line
from lps.files import local_path


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; 0 if something could be shown, 2 if not."""
    parser = argparse.ArgumentParser(prog="python -m analysis", description="From results to figures and claims.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    report = commands.add_parser("report", help="write one HTML file with all figures, tables and claims")
    compare.add_choice(report)
    report.add_argument(
        "--out",
        metavar="FILE",
        help="output file (default: RESULTS/report/report.html, ./report/... for a URI or several RESULTS)",
    )
    report.set_defaults(call=_report)
    files = commands.add_parser("compare", help="write each figure and table as files, for a paper")
    compare.add_arguments(files)
    files.set_defaults(call=compare.run)
    picture = commands.add_parser("maze", help="a figure and an animation of policies in a maze")
    maze.add_arguments(picture)
    picture.set_defaults(call=maze.run)
    histograms = commands.add_parser("actions", help="a figure of the histograms of a dataset's actions")
    actions.add_arguments(histograms)
    histograms.set_defaults(call=actions.run)
    arguments = parser.parse_args(argv)
    return int(arguments.call(arguments))


def _report(arguments: argparse.Namespace) -> int:
    study = compare.read(arguments)
    out = local_path(arguments.out) if arguments.out else compare.default_out(arguments.results)
    if out.suffix != ".html":
        out /= "report.html"
    try:
        page.write(study, out)
    except OSError as error:
        raise UserError(f"cannot write the report to {out}: {error.strerror or error}; choose another --out") from error
    print(f"written: {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
