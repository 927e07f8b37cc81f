"""Migration: roles, defaults and titles for results of version 1, which do not hold them.

Version 1 has OGBench's play groups, the ring bandit and nine agents; version1.json holds these agents as they were. The
usual setting of an agent is read from its runs: the one that is nearest to all others and to the agent's defaults.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

Setting = Mapping[str, Any]

_TASK_NAME = re.compile(r"(?P<group>.+?)-(?:play-singletask-task(?P<number>\d+)|bandit)-v\d+")


@cache
def agents() -> Mapping[str, Mapping[str, Any]]:
    """Values about each agent, as results of later versions store them."""
    return json.loads(Path(__file__).with_name("version1.json").read_text(encoding="utf-8"))


def task(name: str) -> dict[str, Any]:
    """Values about a task, as later versions store them. A task with a name of another form is its own group."""
    match = _TASK_NAME.fullmatch(name)
    group, number = (match["group"], match["number"]) if match else (name, None)
    return {
        "suite": "ogbench" if number else group,
        "group": group,
        "title": f"{group} task {number}" if number else group,
        "dataset": f"{group}-play-v0" if number else "",
        "max_episode_steps": 1 if match and not number else None,
        "metric": "success",
        "return_range": None,
    }


def usual(agent: str, group: str, runs: Sequence[Mapping[str, Any]], studies: Sequence[Mapping[str, Any]]) -> Setting:
    """The usual setting of an agent on a group; `runs` have an id and a setting, `studies` are the stored documents."""
    default, trials = set(_held_out(studies).get("default", ())), [run for run in runs if _trial(agent, run, studies)]
    free = [run for run in runs if run["run_id"] in default] or [run for run in runs if run not in trials] or runs
    about = agents().get(agent, {})
    datasets = {run["setting"]["dataset"] for run in free}
    official = f"{group}-play-v0"
    declared = {**about.get("defaults", {}), **about.get("tuned", {}).get(group, {})}
    declared["dataset"] = official if official in datasets else (_corner(group, studies) or {}).get("name")
    texts = [json.dumps(run["setting"], sort_keys=True) for run in free]
    settings, counts = dict(zip(texts, (run["setting"] for run in free), strict=True)), Counter(texts)

    def strangeness(text: str) -> tuple[int, int, int]:
        apart = changes(settings[text], declared)
        words = sum(isinstance(value, str | bool) for name, value in apart.items() if name in declared)
        return (
            words,
            sum(n * len(changes(settings[other], settings[text])) for other, n in counts.items()),
            len(apart),
        )

    return settings[min(sorted(settings), key=strangeness)]


def roles(
    agent: str, group: str, run: Mapping[str, Any], usual: Setting, studies: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """The roles of a run that its sweep did not store, from its changes from the usual setting."""
    found: list[dict[str, Any]] = []
    for name, ids in _held_out(studies).items():
        found += [{"held_out": name}] if run["run_id"] in ids else []
    if found or _trial(agent, run, studies):
        return found or [{"trial": 0}]
    apart = changes(run["setting"], usual)
    play, corner = _plays(studies).get(run["setting"]["dataset"]), _corner(group, studies)
    if play and corner and set(apart) <= {"dataset"}:
        for axis, other in (("episodes", "noise"), ("noise", "episodes")):
            found += [{"axis": axis, "value": play[axis]}] if play[other] == corner[other] else []
        return [*found, *([] if apart else [{}])]
    for name, settings in agents().get(agent, {}).get("variants", {}).items():
        if apart and apart == changes(settings, usual):
            return [{"variant": name}, *_axis(apart)]
    in_words = not any(name in _PROTOCOL or _is_number(value) for name, value in apart.items())
    return [*([{}] if in_words else []), *(_axis(apart) or ([] if in_words else [{"point": 0}]))]


def changes(setting: Setting, usual: Setting) -> dict[str, Any]:
    """The part of a setting that differs from another one."""
    return {name: value for name, value in setting.items() if value != usual.get(name)}


_PROTOCOL = ("steps", "dataset", "eval_interval", "eval_episodes", "success_timing", "reward_timing")


def _axis(apart: Setting) -> list[dict[str, Any]]:
    return [{"axis": name, "value": value} for name, value in apart.items()] if len(apart) == 1 else []


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _held_out(studies: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for document in studies:
        for name, ids in document.get("held_out", {}).items():
            found[name] = [*found.get(name, []), *ids]
    return found


def _trial(agent: str, run: Mapping[str, Any], studies: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run has the hyperparameters of a trial of a tuning study."""
    documents = [doc for doc in studies if doc.get("trials") and doc["agent"].partition(":")[0] == agent]
    trials = [trial.get("params") for document in documents for trial in document["trials"]]
    return any(trial and trial.items() <= dict(run["setting"]).items() for trial in trials)


def _plays(studies: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The datasets of the data-scaling studies by name: group, episodes, noise."""
    return {name: play for doc in studies if doc["study"] == "data-scaling" for name, play in doc["datasets"].items()}


def _corner(group: str, studies: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The place where the two axes of a data-scaling study meet: the noise of most datasets, the largest size."""
    own = {name: play for name, play in _plays(studies).items() if play["group"] == group}
    if not own:
        return None
    noises = [play["noise"] for play in own.values()]
    noise = max(sorted(set(noises)), key=noises.count)
    episodes = max(play["episodes"] for play in own.values())
    named = [name for name, play in own.items() if (play["noise"], play["episodes"]) == (noise, episodes)]
    return {"noise": noise, "episodes": episodes, "name": next(iter(named), None)}
