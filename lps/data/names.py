"""Where data lies on disk, under which names, and how files come to be there whole: written aside, renamed when
complete."""

import json
import os
from pathlib import Path

from lps.errors import UserError
from lps.tasks.suites import groups

NOISE = 0.1
"""OGBench's standard deviation of the noise on the oracles' plans, times the range of each action."""


def data_dir(path: str | os.PathLike[str] | None = None) -> Path:
    """The data directory: `path`, else $LPS_DATA_DIR, else OGBench's own ~/.ogbench/data. Not created."""
    return Path(path or os.environ.get("LPS_DATA_DIR") or "~/.ogbench/data").expanduser()


def plain_name(text: str, option: str) -> str:
    """The name of a dataset, without .npz. UserError for a path: `option` takes a name in the data directory."""
    name = text.removesuffix(".npz")
    folder, file = os.path.split(name)
    if folder or file in ("", ".", ".."):
        raise UserError(
            f"{option} takes the name of a dataset, not a path such as {text!r}: say --data-dir {folder or 'FOLDER'} "
            f"{option} {file.strip('.') or 'NAME'}"
        )
    return name


def default_name(dataset: str, episodes: int) -> str:
    """What a collected dataset of a kind ('cube-single-play', with or without '-v0') is called unless it is named."""
    return f"{dataset.removesuffix('-v0')}-{episodes}"


def published(name: str) -> bool:
    """Whether a dataset of this name is among OGBench's."""
    return name.removesuffix("-val") in {tasks[0].dataset for tasks in groups("ogbench").values()}


def command(path: Path) -> str | None:
    """What collects the npz file `path` once more, to the same bytes where versions and kind of processor are the same;
    None if it was not collected. One that bears the name of OGBench's gets a name of its own."""
    path = path.with_stem(path.stem.removesuffix("-val"))
    try:
        about = json.loads(path.with_suffix(".json").read_text())
        episodes = about["episodes"]["train"]
        name = default_name(about["dataset"], episodes) if published(path.stem) else path.stem
        words = ["python -m lps collect", about["dataset"], "--episodes", episodes]
        words += ["--seed", about["seed"], "--name", name]
        words += ["--noise", about["noise"]] if about["noise"] != NOISE else []
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return " ".join(map(str, words)) + ("" if path.parent == data_dir() else f" --data-dir {path.parent}")
