"""The provenance of runs: the code that trained them, the commands that make them again, and their place in MLflow."""

import os
import shlex
from collections import Counter
from pathlib import Path

from analysis.results.study import PROTOCOL, Study, options, records
from lps.runs.provenance import short_commit


def sweeps(study: Study) -> list[str]:
    """The commands of the sweeps that made these runs, as they were typed."""
    return list(dict.fromkeys(str(sweep["command"]) for sweep in study.results.sweeps if sweep.get("command")))


def commands(study: Study) -> list[str]:
    """One command per series and task, with all its seeds, that trains the same runs again, without Ray."""
    found = []
    for (_, task), runs in study.runs.groupby(["series", "task"], sort=False):
        run = records(runs)[0]
        known = study.results.defaults(run["agent"], run["group"])
        changed = {k: v for k, v in run["hyperparameters"].items() if k not in known or known[k] != v}
        words = ["python", "-m", "lps", "train", "--agent", run["agent"], "--task", str(task)]
        for name in PROTOCOL:
            words += [f"--{name.replace('_', '-')}", str(run[name])] if run[name] != "" else []
        own = [f"{name}={value}" for name, value in options(run).items()]
        words += ["--option", *own] if own else []
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
            found.append(f"{study.series[key].title} ({commits})")
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


def mlflow(study: Study) -> str:
    """The address of MLflow's server, or the command that serves the (first) database that a sweep left beside local
    results; '' where there is none."""
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if uri.startswith(("http://", "https://")):
        return uri
    databases = [Path(path) / "mlflow.db" for path in study.results.paths]
    database = next((path for path in databases if path.is_file()), None)
    return shlex.join(["mlflow", "ui", "--backend-store-uri", f"sqlite:///{database}"]) if database else ""
