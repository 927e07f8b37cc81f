"""Select the runs to show: the runs of one or more folders without the excluded ones.

`Results.notes` lists the exclusions, and every figure and table shows them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from typing import Any

import pandas as pd

from analysis.results.agents import agents_of, group_key
from analysis.results.load import Results, join
from lps.errors import UserError, suggest

About = Mapping[str, Mapping[str, Any]]


def select(
    parts: Sequence[Results], exclude: Sequence[str] = (), agents: Sequence[str] = (), groups: Sequence[str] = ()
) -> Results:
    """Combine the results of several folders (`load.join`).

    Args:
        exclude: ids, or unique beginnings of ids, of runs to exclude.
        agents: names of the agents to keep; empty: all.
        groups: names of the groups to keep; empty: all.

    Raises:
        UserError: an unknown name or id, folders that disagree about a run, or no remaining run.
    """
    everything = pd.concat([part.runs for part in parts])
    about = {name: own for part in parts for name, own in part.about.items()}
    everything = everything[~everything.index.duplicated()]
    ids = list(dict.fromkeys(_run_id(text, list(everything.index)) for text in exclude))
    notes: list[str] = []
    kept = ~everything.index.isin(ids)
    if ids:
        titles = agents_of(everything["agent"], about)
        runs = [
            f"run {run_id} ({titles[run['agent']].title}, {run['group']} {run['short']}, seed {run['seed']})"
            for run_id, run in everything.loc[ids].iterrows()
        ]
        notes.append(f"Left out by hand: {', '.join(runs)}.")
    for what, names in (("agent", agents), ("group", groups)):
        if names:
            shown = _titles(what, everything[what], about)
            for name in names:
                if name not in shown:
                    raise UserError(f"--{what}s: {suggest(name, shown, what)} (in these results)")
            kept &= everything[what].isin(list(names))
            only = [title for name, title in shown.items() if name in names]
            others = [title for name, title in shown.items() if name not in names]
            note = f"Chosen by hand: only the {what}{'s' * (len(only) > 1)} {', '.join(only)}"
            notes.append(f"{note}, not {', '.join(others)}." if others else f"{note}.")
    if not kept.any():
        where = " and ".join(path for part in parts for path in part.paths)
        raise UserError(f"no run matches --exclude, --agents and --groups ({len(everything)} runs in {where})")
    # Exclude before joining, because --exclude can remove a run that the folders disagree about.
    results = join([part.only(everything.index[kept]) for part in parts])
    studies = [found for document in results.studies if (found := _of_agents(document, agents))]
    return replace(results, studies=studies, left_out=everything.loc[ids], notes=(*notes, *results.notes))


def _run_id(text: str, known: Sequence[str]) -> str:
    found = [run_id for run_id in known if run_id == text] or [run_id for run_id in known if run_id.startswith(text)]
    if len(found) == 1:
        return found[0]
    if found:
        shown = ", ".join(found[:4]) + (", ..." if len(found) > 4 else "")
        raise UserError(f"--exclude {text!r} matches {len(found)} runs: {shown}. Give more letters of the id")
    near = sorted(known, key=lambda run_id: -SequenceMatcher(None, text, run_id[: len(text)]).ratio())[:3]
    raise UserError(f"--exclude: no run {text!r}. Nearest ids: {', '.join(near)}. The report lists all runs")


def _titles(what: str, names: Iterable[str], about: About) -> dict[str, str]:
    """Return {name: title} of agents or groups, in the order of display."""
    if what == "agent":
        return {name: agent.title for name, agent in agents_of(names, about).items()}
    return {name: name for name in sorted(set(names), key=group_key)}


def _of_agents(document: dict[str, Any], agents: Sequence[str]) -> dict[str, Any] | None:
    """Return the part of a study document about these agents (empty: all agents); None if no part remains."""
    if not agents:
        return document
    if "agent" in document:
        return document if document["agent"].partition(":")[0] in agents else None
    if "rows" in document:
        rows = [row for row in document["rows"] if row["agent"] in agents]
        return {**document, "rows": rows} if rows else None
    return document
