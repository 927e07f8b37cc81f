"""The versions and commits that a result depends on."""

import functools
import importlib.metadata
import platform
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lps import __version__


@functools.cache
def versions() -> dict[str, str]:
    """The versions that a result depends on, by name, and `git_commit`, the commit of the checkout that this package
    sits in: with '+dirty' where the package differs from it, 'unknown' where it sits in none."""
    found = {"python": platform.python_version(), "lps": __version__}
    for name in ("torch", "numpy", "ogbench", "mujoco", "gymnasium", "ray"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return {**found, "git_commit": _git_commit(Path(__file__).resolve().parent.parent)}


def trained_by_other_commits(documents: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """{run id: short commit} of the runs that other code than this has trained, as far as git knows.  A run is known by
    its settings and not its code: whoever has changed an agent would be shown its old results."""
    here = short_commit(versions())
    commits = {doc["id"]: short_commit(doc.get("versions", {})) for doc in documents}
    # What differs from its commit may differ from itself, too.
    return {
        run: commit
        for run, commit in commits.items()
        if "unknown" not in (commit, here) and (commit != here or commit.endswith("+dirty"))
    }


def short_commit(versions: Mapping[str, Any]) -> str:
    """Return the commit in a run's versions: seven digits, '+dirty' if it has that; or 'unknown'."""
    digits, plus, dirty = str(versions.get("git_commit", "unknown")).partition("+")
    return digits[:7] + plus + dirty


def _git_commit(package: Path) -> str:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(package), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "--", "__init__.py")  # not a repository that merely lies around it
        return git("rev-parse", "HEAD") + ("+dirty" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
