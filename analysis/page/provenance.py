"""The provenance of runs: protocol, software, code, the commands that train them again, and their place in MLflow."""

import os
import shlex
from collections import Counter
from pathlib import Path

import pandas as pd

from analysis.page.table import Table
from analysis.results.study import PROTOCOL, Study, options, records
from lps.runs.provenance import short_commit

TIMINGS = ("success_timing", "reward_timing")


def protocol(study: Study) -> Table:
    """Table of the data and protocol of every group and series."""
    rows, ogbench = [], all(map(study.is_ogbench, study.groups))
    for group in study.groups:
        for key in study.series:
            cell = study.cell(key, group)
            if len(cell):
                run = cell.iloc[0].to_dict()
                series, steps = study.series[key].title, f"{run['steps']:,}"
                prints = " ".join(sorted({str(value)[:12] for value in cell["fingerprint"] if value})) or "?"
                evaluation = f"{run['eval_episodes']} episodes every {run['eval_interval']:,}"
                own = options(run)
                timings = ", ".join(own.get(name, "?") for name in TIMINGS)
                last = timings if ogbench else ", ".join(f"{k}={v}" for k, v in own.items())
                rows.append([group, series, steps, run["dataset"] or "?", prints, evaluation, last])
    last = "Timing of success, reward" if ogbench else "Options of the suite"
    header = ["Group", "Series", "Updates", "Dataset", "Fingerprint", "Evaluation", last]
    return Table("Protocol", header, rows, pd.DataFrame(rows, columns=header), text_columns=len(header))


def versions(runs: pd.DataFrame) -> Table:
    """Table of software and hardware as the runs recorded them; several values mean that runs differ."""
    names = list(dict.fromkeys(name for versions in runs["versions"] for name in versions))
    table = {name: sorted({str(versions.get(name, "?")) for versions in runs["versions"]}) for name in names}
    table["device"] = sorted(set(runs["device"]) - {""})
    table["sweep"] = sorted(set(runs["sweep"]) - {""})
    hours = runs["wall_time_s"] / 3600
    times = " to ".join(dict.fromkeys(f"{hour:.2f} h" for hour in (hours.min(), hours.max())))
    rows = [[name, ", ".join(values)] for name, values in table.items() if values]
    rows.append(["wall time of a run", f"{times} (runs that train together share it)"])
    return Table("How it was run", ["", ""], rows, pd.DataFrame(rows, columns=["what", "value"]))


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
