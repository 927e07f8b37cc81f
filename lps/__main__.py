"""The command line of the library: `lps COMMAND` or `python -m lps COMMAND`."""

from __future__ import annotations

import argparse
import sys
from importlib import import_module

from lps.commands import COMMANDS
from lps.errors import command_line
from lps.workers import spin_briefly


def main(argv: list[str] | None = None) -> int:
    """Run one command. Return 0 on success, 1 if a run failed, 2 for invalid input."""
    spin_briefly()
    parser = argparse.ArgumentParser(prog="lps", description="Train and evaluate policies on this machine.")
    parsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in COMMANDS:
        command = import_module(f"lps.commands.{name}")
        subparser = parsers.add_parser(name, help=command.HELP, description=command.__doc__)
        command.add_arguments(subparser)
        subparser.set_defaults(run=command.run)
    arguments = parser.parse_args(argv)
    return command_line(arguments.run)(arguments)


if __name__ == "__main__":
    sys.exit(main())
