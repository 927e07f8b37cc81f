"""What became of a sweep: `python -m sweeps status RESULTS`, and `python -m sweeps retry RESULTS`."""

import argparse
import sys
from collections.abc import Sequence

from lps.errors import guarded
from lps.runs.store import Store
from sweeps.watch import status


@guarded
def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sweeps", description="See how a sweep stands, and mend it.")
    commands = parser.add_subparsers(dest="command", required=True)
    show = commands.add_parser("status", help="what is done, running, failed or missing, and why")
    retry = commands.add_parser("retry", help="put failed runs back into the queue of their sweep's command")
    for command in (show, retry):
        command.add_argument("results", help="folder or s3://bucket/folder")
    retry.add_argument("--run", nargs="+", default=[], metavar="ID", help="only these (default: all that failed)")
    retry.add_argument(
        "--from-start", action="store_true", help="delete what they have trained so far, for checkpoints gone bad"
    )
    arguments = parser.parse_args(argv)
    store = Store(arguments.results, create=False, warn=False)
    if arguments.command == "status":
        status.show(store)
    else:
        status.say_retry(status.retry(store, arguments.run, arguments.from_start), store)
    return 0


if __name__ == "__main__":
    sys.exit(main())
