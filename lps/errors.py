"""Errors for people: what was wrong, where, and what to do about it."""

import argparse
import difflib
import functools
import io
import os
import re
import select
import signal
import sys
import threading
from collections.abc import Callable, Iterable
from typing import NoReturn, ParamSpec

P = ParamSpec("P")

WORKERS = 1024
"""Most processes that a command starts."""


class UserError(Exception):
    """Something the user can put right. Its message is shown as it is, without a traceback."""


def suggest(name: str, known: Iterable[str], what: str, instead: str = "") -> str:
    """The message for an unknown name: it names the nearest known ones, or all of them when there are few. Where there
    are many and none is near, it ends with `instead`, or else with the first of them.

    >>> suggest("lsp", ["lps", "dsrl"], "agent")
    "unknown agent 'lsp'; did you mean 'lps'? Known: lps, dsrl"
    """
    names = list(dict.fromkeys(known))
    near = difflib.get_close_matches(name, names, n=4) or [known for known in names if name and name in known][:4]
    message = f"unknown {what} {name!r}"
    if near:
        message += "; did you mean " + " or ".join(map(repr, near)) + "?"
    if instead and not near and len(names) > 10:
        message += f"; {instead}"
    elif names and (len(names) <= 10 or not near):
        shown = ", ".join(names[:40]) + (", ..." if len(names) > 40 else "")
        message += f" Known: {shown}" if near else f"; known: {shown}"
    return message


def at_least(least: int | float, most: int | float | None = None) -> Callable[[str], int | float]:
    """A `type` for argparse's finite numbers from `least` to `most` (default: 10^12): whole ones where `least` is."""
    kind, what = (int, "a whole number") if isinstance(least, int) else (float, "a number")
    high = 10**12 if most is None else most

    def number(text: str) -> int | float:
        limits = f"at least {least:g}" + ("" if most is None else f" and at most {most:g}")
        try:
            if least <= (value := kind(text)) <= high:  # nan is not
                return value
            limits = f"at least {least:g} and at most {high:g}" if value > high else limits
        except ValueError:
            pass
        raise argparse.ArgumentTypeError(f"must be {what} of {limits}, not {text[:40]!r}")

    return number


def check_known(names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raise UserError (see `suggest`) for the first of the names that is not known."""
    known = list(known)
    for name in names:
        if name not in known:
            raise UserError(suggest(name, known, what))


def command_line(main: Callable[P, int | None]) -> Callable[P, int]:
    """Decorate the main function of a command line: return an exit code, and print user errors without a traceback.

    UserError: `error: ...`, code 2.  Ctrl-C: one line, code 130.  SIGTERM: one line, code 143.  Closed stdout
    (`| head`): nothing, code 141.
    """

    @functools.wraps(main)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> int:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # file names may hold any bytes
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, _terminate) if in_main_thread else None
        try:
            code = main(*args, **kwargs) or 0
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            if not _stdout_is_closed():
                raise
            return 141
        except UserError as error:
            print(f"error: {printable(str(error))}", file=sys.stderr)
            return 2
        except (MemoryError, RuntimeError) as error:
            if not isinstance(error, MemoryError) and not re.search("out of memory|allocate memory", str(error)):
                raise
            print("error: not enough memory. Use fewer episodes, smaller networks or smaller batches", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            return 130
        finally:
            if in_main_thread:
                signal.signal(signal.SIGTERM, before)

    return wrapped


def _terminate(*_: object) -> NoReturn:
    """Handle SIGTERM: end with the clean-up of all open blocks."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    print("stopped by SIGTERM", file=sys.stderr)
    raise SystemExit(128 + signal.SIGTERM)


def _stdout_is_closed() -> bool:
    """Whether standard output is a pipe closed at its other end; what Python has not written yet is dropped then."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), select.POLLOUT)
    except io.UnsupportedOperation:
        return False  # not a file at all
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def printable(text: str) -> str:
    """The text for a terminal: control characters, which could command it, become escapes such as \\x1b; line ends and
    tabs stay.  File names and stored texts may hold any characters."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def last_line(text: str) -> str:
    """The last line of a traceback, which is what happened."""
    lines = [line for line in text.splitlines() if line.strip()]
    return printable(lines[-1].strip()[:300]) if lines else "no reason given"
