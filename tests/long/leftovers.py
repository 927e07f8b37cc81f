"""Sweeps as processes, and what they leave behind: others, found by a mark in their environment, which all of Ray's
inherit."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import ray  # noqa: F401  psutil comes with it

import psutil  # isort: skip

MARK = "LPS_LONG_TEST"
OUT = Path(os.environ.get("LPS_LONG_OUT") or "build/long")
"""Where figures go, as CSV."""


def environment() -> dict[str, str]:
    """This process's, for a file of ours that is run as a script: it finds the project."""
    root = Path(__file__).resolve().parent.parent.parent
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path}


def marked(mark: str) -> list[psutil.Process]:
    """The processes that live and have this mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            pass
    return found


def title(process: psutil.Process) -> str:
    """A short name: 'RayTrainWorker', 'raylet', 'soak.py'; '' for a process that is gone."""
    try:
        words = process.cmdline() or [process.name()]
    except psutil.Error:
        return ""
    if words[0].startswith("ray::"):
        return words[0].removeprefix("ray::").split(".")[0].split("(")[0].strip()
    scripts = [word for word in words[:4] if word.endswith(".py")]
    return Path((scripts or words)[0]).name


def wait_until(condition: Callable[[], object], seconds: float, what: Callable[[], str]) -> None:
    """Waits until the condition holds; an AssertionError with `what` after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)
