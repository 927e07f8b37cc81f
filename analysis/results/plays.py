"""The datasets of the data-scaling studies (sweeps/data_scaling.py): the results say what their names stand for."""

from collections.abc import Collection
from typing import Any

import pandas as pd

from analysis.results.load import Results
from lps.tasks.suites import all_tasks


def plays(results: Results) -> dict[str, dict[str, Any]]:
    """{name: group, episodes, noise} of all datasets that were varied."""
    found: dict[str, dict[str, Any]] = {}
    for document in results.studies:
        if document["study"] == "data-scaling":
            found |= document["datasets"]
    return found


def corner(results: Results, group: str) -> dict[str, Any] | None:
    """Where the axes of a group meet: the noise that most of its datasets have, and the largest size, both of them
    of `name`, if there is such a dataset. None where nothing was varied."""
    own = {name: play for name, play in plays(results).items() if play["group"] == group}
    if not own:
        return None
    noise = pd.Series([play["noise"] for play in own.values()]).mode().iloc[0]
    episodes = max(play["episodes"] for play in own.values())
    names = [name for name, play in own.items() if (play["noise"], play["episodes"]) == (noise, episodes)]
    return {"noise": noise, "episodes": episodes, "name": next(iter(names), None)}


def standard(results: Results, group: str, present: Collection[str]) -> str | None:
    """Of the datasets of a group that are present the one that stands for it: OGBench's own, or that in which the axes
    of a study of datasets meet."""
    official = {task.dataset for task in all_tasks().values() if task.group == group}
    return min(official & set(present), default=(corner(results, group) or {}).get("name"))
