"""How runs came about: the code that trained them, the commands that make them again, and where MLflow shows them."""

import os
import shlex
import sqlite3
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from analysis.results import settings
from analysis.results.agents import declared
from analysis.results.study import PROTOCOL, Study, records
from lps.agents.variants import group_settings
from lps.runs.provenance import short_commit

LOCAL_UI = "http://127.0.0.1:5000"  # where `mlflow ui` serves


def sweeps(study: Study) -> list[str]:
    """The commands of the sweeps that made these runs, as they were typed."""
    return list(dict.fromkeys(str(sweep["command"]) for sweep in study.results.sweeps if sweep.get("command")))


def commands(study: Study) -> list[str]:
    """One command per series and task, with all its seeds, that trains the same runs again, without Ray."""
    found = []
    for (_, task), runs in study.runs.groupby(["series", "task"], sort=False):
        run = records(runs)[0]
        known = {**declared(run["agent"]), **group_settings(run["agent"], run["group"])}
        changed = {k: v for k, v in run["hyperparameters"].items() if k not in known or known[k] != v}
        words = ["python", "-m", "lps", "train", "--agent", run["agent"], "--task", str(task)]
        for name in PROTOCOL:
            words += [f"--{name.replace('_', '-')}", str(run[name])] if run[name] != "" else []
        words += ["--seeds", *map(str, sorted(set(runs["seed"])))]
        words += ["--set", *(f"{key}={value}" for key, value in changed.items())] if changed else []
        found.append(shlex.join(words))
    return found


def mixed_code(study: Study) -> str:
    """Which series have runs that count and were trained by different code, a sentence; '' where none has."""
    found = []
    scored = study.runs[study.runs["scored"]]
    for key in study.series:
        counts = Counter(map(short_commit, scored.loc[scored["series"] == key, "versions"]))
        if len(counts) > 1:
            commits = ", ".join(f"{commit}: {n} run{'s' * (n > 1)}" for commit, n in counts.most_common())
            found.append(f"{settings.titles(study)[key]} ({commits})")
    return f"Trained by different code within one series (git commits): {'; '.join(found)}." if found else ""


def mixed_data(study: Study) -> str:
    """Which names of datasets stand for different data in runs that count, a sentence; '' where none does."""
    scored = study.runs[study.runs["scored"] & (study.runs["dataset"] != "") & (study.runs["fingerprint"] != "")]
    found = []
    for name, runs in scored.groupby("dataset"):
        prints = list(dict.fromkeys(runs["fingerprint"].str[:12]))
        if len(prints) > 1:
            found.append(f"{name} (fingerprints {', '.join(prints)})")
    return f"Trained on different data under one name: {'; '.join(found)}." if found else ""


@dataclass(frozen=True)
class Mlflow:
    """Where MLflow has the runs."""

    ui: str  # address of its pages
    start: str = ""  # the command that serves them, '' where a server does
    runs: Mapping[str, str] = field(default_factory=dict)  # run id -> address of its page


def mlflow(study: Study) -> Mlflow | None:
    """The server that the environment names, else the (first) database that a sweep leaves beside local results, else
    None."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        return Mlflow(uri)
    databases = [Path(path) / "mlflow.db" for path in study.results.paths]
    database = next((path for path in databases if path.is_file()), None)
    if database is None:
        return None
    query = (
        "SELECT t.value, r.experiment_id, r.run_uuid FROM tags t JOIN runs r USING (run_uuid) WHERE t.key = 'run_id'"
    )
    rows: list[Any] = []
    try:
        connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)
        try:
            rows = connection.execute(query).fetchall()
        finally:
            connection.close()
    except sqlite3.Error:
        pass  # of another version, or busy: the pages are found by hand
    pages = {run: f"{LOCAL_UI}/#/experiments/{experiment}/runs/{page}" for run, experiment, page in rows}
    start = shlex.join(["mlflow", "ui", "--backend-store-uri", f"sqlite:///{database}"])
    return Mlflow(LOCAL_UI, start, pages)
