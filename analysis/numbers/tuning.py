"""The gain of tuning (sweeps/tuning.py): the best setting against the default, with seeds that no trial has used."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.numbers import stats
from analysis.results.load import Results
from analysis.results.study import Study, records

TUNING = [
    *("agent", "best_mean", "best_low", "best_high", "default_mean", "default_low", "default_high"),
    *("difference", "low", "high", "n_tasks", "n_seeds_min", "trials", "pruned", "setting"),
]


def documents(results: Results) -> list[dict[str, Any]]:
    """Return the documents of the tuning studies; a running study has no held-out runs yet."""
    return [document for document in results.studies if "trials" in document]


def tuning_gain(study: Study) -> pd.DataFrame:
    """One row per tuning study whose held-out runs count: TUNING. Means over tasks of the mean over held-out seeds
    (0..1), `difference` is best minus default over the seeds that both have, `setting` that of the best trial."""
    rows = []
    for document in documents(study.results):
        sides = {name: _scores(study, ids) for name, ids in document["held_out"].items()}
        tasks = sorted(sides.get("best", {}).keys() & sides.get("default", {}).keys())
        if not tasks:
            continue
        best, default = ([sides[name][task] for task in tasks] for name in ("best", "default"))
        row: dict[str, Any] = {"agent": document["agent"], "n_tasks": len(tasks)}
        for name, side in (("best", best), ("default", default)):
            value = stats.estimate([list(seeds.values()) for seeds in side])
            row |= {f"{name}_mean": value.mean, f"{name}_low": value.low, f"{name}_high": value.high}
        gap = stats.paired_difference(best, default) or stats.Estimate(np.nan)
        row |= {"difference": gap.mean, "low": gap.low, "high": gap.high}
        row["n_seeds_min"] = min(len(a.keys() & b.keys()) for a, b in zip(best, default, strict=True))
        finished = [trial for trial in document["trials"] if trial["state"] == "COMPLETE"]
        row |= {"trials": len(document["trials"]), "pruned": sum(t["state"] == "PRUNED" for t in document["trials"])}
        row["setting"] = json.dumps(max(finished, key=lambda trial: trial["value"])["params"]) if finished else ""
        rows.append(row)
    return pd.DataFrame(rows, columns=TUNING)


def _scores(study: Study, ids: Sequence[str]) -> dict[tuple[str, str], dict[int, float]]:
    """Return {(group, task): {seed: score}} of the scored runs."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for run in records(study.runs[study.runs["scored"] & study.runs.index.isin(list(ids))]):
        found.setdefault((run["group"], run["short"]), {})[run["seed"]] = run["score"]
    return found
