"""The state of a sweep, and the list of the studies: `python -m sweeps status | watch | retry | list`."""

import argparse
import sys
from collections.abc import Sequence

from lps.errors import at_least, command_line
from lps.runs.store import Store
from sweeps import STUDIES
from sweeps.watch import follow, status


@command_line
def main(argv: Sequence[str] | None = None) -> int:
    about = "Show or watch the state of a sweep, retry its failed runs, or list the studies."
    parser = argparse.ArgumentParser(prog="python -m sweeps", description=about)
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("status", help="list finished, running, failed and missing runs, with reasons")
    watch = commands.add_parser("watch", help="show the same as a live view")
    retry = commands.add_parser("retry", help="queue failed runs again for the command of their sweep")
    commands.add_parser("list", help="list the studies")
    for command in (show, watch, retry):
        command.add_argument("results", help="folder or s3://bucket/folder")
    watch.add_argument(
        "--every", type=at_least(0.1), default=5.0, metavar="S", help="seconds between two readings (default: 5)"
    )
    retry.add_argument(
        "--run", nargs="+", default=[], metavar="ID", help="ids of the runs to retry (default: all failed runs)"
    )
    retry.add_argument("--from-start", action="store_true", help="delete their checkpoints and results first")
    arguments = parser.parse_args(argv)
    if arguments.command == "list":
        for name, subject in STUDIES.items():
            print(f"python sweeps/{name}.py".ljust(32) + subject)
        return 0
    store = Store(arguments.results, create=False, warn=False)
    if arguments.command == "watch":
        follow.follow(store, arguments.every)
    elif arguments.command == "status":
        status.show(store)
    else:
        status.say_retry(status.retry(store, arguments.run, arguments.from_start), store)
    return 0


if __name__ == "__main__":
    sys.exit(main())
