"""Published numbers of other papers; reference/README.md lists their sources.

Published protocols differ from each other and from ours. Each value includes the known facts of its protocol.
"""

import csv
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from analysis.results.agents import AVERAGE, PUBLISHED_GROUPS, Agent

FOLDER = Path(__file__).with_name("reference")
TASKS_PER_GROUP = 5
# What a published success rate on OGBench's manipulation tasks was made with, as far as it is known.
STEPS = 1_000_000
EVAL_EPISODES = 50
SUCCESS_TIMING = "post"
REWARD_TIMING = "pre"


@dataclass(frozen=True)
class Published:
    """A published success rate (0..1) with the ends of its error bar; NaN if it has none."""

    mean: float
    low: float
    high: float
    source: str
    protocol: str  # one line for people


LPS_FIGURE = "1M updates on OGBench's data, 5 tasks; number of seeds and kind of error bar not stated"


def published(agent: Agent, group: str) -> Published | None:
    """The published success of an agent on one of our groups: LPS's main figure, else the data that Q-chunking and QAM
    released."""
    if agent.published is None or group == AVERAGE:
        return None
    name = PUBLISHED_GROUPS.get(group, group)
    return _table().get((agent.published, name))


def published_average(agent: Agent, groups: list[str]) -> Published | None:
    """The mean of the published group means over the given groups; None unless all of them are published.

    Computed here: the published average also counts visual tasks. It has no error bar of its own.
    """
    found = [published(agent, group) for group in groups]
    values = [value for value in found if value is not None]
    if not values or len(values) < len(groups):
        return None
    nan = float("nan")
    mean = sum(value.mean for value in values) / len(values)
    return Published(mean, nan, nan, values[0].source, f"mean of the groups shown; {values[0].protocol}")


@dataclass(frozen=True)
class Record:
    """The highest published success rate (0..1) of any method on a group or on one of its tasks."""

    what: str  # 'record', or 'second-hand' where we have it not from its source
    by: str  # the method
    mean: float
    low: float  # of its error bar; NaN where there is none
    high: float
    protocol: str  # where it stands and how it was made, one line for people


PAPERS = ("other_papers.csv", "newer_papers.csv")
FIRST_HAND = (
    "table text",
    "README table",
    "released data file",
    "computed here from the five task means",
    "computed from released per-seed arrays",
    "read from the table picture",
)
# What in a published protocol is not what our runs do, by the words that tell of it.
DEPARTURES = {
    "offline phase": "one evaluation at the end instead of the mean of the last three",
    "value at 1.0M": "one evaluation at the end instead of the mean of the last three",
    "stops early": "each run stops at an evaluation that succeeds",
    "2.5M/2.75M/3M": "3M updates instead of 1M",
    "offline, 1M updates": "which evaluations count is not said",
    "not stated": "which evaluations count is not said",
}
# Protocols whose number is not that of the end of offline training: an earlier point of a curve, a mean of its points,
# or training that goes on online.
ELSEWHERE = ("0.9M steps", "mean of 0.9M", "online")


def records(group: str, task: str = "") -> list[Record]:
    """Return the highest number of a paper or of its released data, after any higher number from a secondary source.

    The numbers are of the group's five tasks together, or of one task ('task2'). Empty if none is known. Reward and
    size of the dataset are the same as ours; other rewards and datasets of 10M or 100M transitions are excluded.
    """
    name = PUBLISHED_GROUPS.get(group, group)
    reward = "sparse" if group in PUBLISHED_GROUPS else "dense"
    known = [
        _record(row)
        for paper in PAPERS
        for row in _rows(paper)
        if (row["env_group"], row["task"]) == (name, task or "mean of 5 tasks")
        and row["reward"].startswith(reward)
        and row["dataset"].removesuffix(" visual").endswith("std")
        and not any(words in row["protocol"] for words in ELSEWHERE)
    ]
    for (method, here), value in _figure().items():
        if here == name and not task:
            protocol = f"{value.source}: {value.protocol}"
            known.append(Record("record", method, value.mean, value.low, value.high, protocol))
    first, second = (_highest([one for one in known if one.what == what]) for what in ("record", "second-hand"))
    higher = second if second and not (first and second.mean <= first.mean) else None
    return [record for record in (higher, first) if record]


def _highest(known: list[Record]) -> Record | None:
    """Return the best of them, with a note if several are equal."""
    best = max(known, key=lambda record: record.mean, default=None)
    also = {record.by for record in known if best and record.mean == best.mean and record.by != best.by}
    return replace(best, by=f"{best.by} and {len(also)} more") if best and also else best


def _record(row: dict[str, str]) -> Record:
    mean = float(row["mean"]) / 100
    low = high = float("nan")
    bar = ""
    if row["err"].startswith("["):
        low, high = (float(end) / 100 for end in row["err"].strip("[]").split(","))
    elif row["err"]:
        half = float(row["err"]) / 100
        low, high, bar = max(0.0, mean - half), min(1.0, mean + half), f", brackets: one {row['err_type']}"
    seeds = f"{row['seeds']} seeds" if row["seeds"].isdigit() else "number of seeds not stated"
    differs = next((f"; unlike ours: {how}" for words, how in DEPARTURES.items() if words in row["protocol"]), "")
    protocol = f"{row['source']}, {row['how_obtained']}: {row['protocol']}, {seeds}{bar}{differs}"
    what = "record" if row["how_obtained"] in FIRST_HAND else "second-hand"
    return Record(what, _method(row), mean, low, high, protocol)


def _method(row: dict[str, str]) -> str:
    """Return the name of a method; "DSRL (QAM)" for QAM's own implementation of another paper's method."""
    theirs = row["paper"] == "QAM" and not row["method"].startswith("QAM")
    return f"{row['method']} (QAM)" if theirs else row["method"]


# The bars of LPS's ablation figure, by panel and variant (lps.agents.variants.PANELS).
_ABLATIONS = {
    ("a", "qcfql"): "QC-FQL normal latent",
    ("a", "qcfql:sphere"): "QC-FQL sphere latent",
    ("a", "qcmfql"): "QC-MFQL normal latent",
    ("a", "qcmfql:sphere"): "QC-MFQL sphere latent",
    ("b", "lps:normal"): "LPS normal latent",
    ("b", "lps:truncated_normal"): "LPS truncated-normal latent",
    ("b", "lps"): "LPS sphere latent",
    ("d", "fm_lps"): "FM-LPS (10-step flow base)",
    ("d", "fm_lps:one_step"): "FM-1step-LPS",
    ("d", "lps"): "LPS (MeanFlow base)",
    ("e", "lps:original_meanflow_released"): "LPS original MeanFlow parameterisation",
    ("e", "lps"): "LPS reformulated",
}


def published_ablation(panel: str, bar: str) -> Published | None:
    """Return the published success of a bar of LPS's ablation figure: a mean over unnamed tasks."""
    rows = {(row["panel"], row["variant"]): row for row in _rows("ablations.csv")}
    row = rows.get((panel, _ABLATIONS.get((panel, bar), "")))
    if row is None:
        return None
    low, high = (float(row[key]) if row[key] else float("nan") for key in ("err_low", "err_high"))
    return Published(float(row["mean"]), low, high, row["source"], row["note"])


def published_latent_sizes() -> str:
    """Return a sentence on the paper's figure of the latents' size: curves read by eye, with unclear labels."""
    rows = [row for row in _rows("ablations.csv") if row["panel"] == "c"]
    curves = "; ".join(f"{row['variant']}: {row['mean']}" for row in rows)
    return f"Published ({rows[0]['source']}, {rows[0]['how_obtained']}): {curves}. Its {rows[0]['note']}."


def published_alphas(agent: Agent, group: str) -> list[tuple[float, float]]:
    """The points (alpha, success 0..1) of an agent in LPS's alpha figure, on a single task of a group."""
    rows = _rows("alpha_sensitivity.csv")
    own = [row for row in rows if row["mean"] and (row["env"], row["method"]) == (group, agent.published)]
    return [(float(row["alpha"]), float(row["mean"])) for row in own]


# Papers that released their arrays, and how the protocol of a number from the end of offline training begins.
_ENDS = {"QC": "offline phase, 1.0M steps", "QAM": "value at 1.0M offline updates"}


@cache
def _table() -> dict[tuple[str, str], Published]:
    table: dict[tuple[str, str], Published] = {}
    for row in [row for paper in PAPERS for row in _rows(paper)]:
        ends = row["protocol"].startswith(_ENDS.get(row["paper"], "never"))
        if ends and row["task"] == "mean of 5 tasks" and row["dataset"] != "noisy":
            low, high = (float(end) / 100 for end in row["err"].strip("[]").split(","))
            size = row["dataset"].removesuffix(" std")
            protocol = (
                f"1M updates on OGBench's data of {size} transitions, 5 tasks, {row['seeds']} seeds, {row['err_type']}"
            )
            value = Published(float(row["mean"]) / 100, low, high, row["source"], protocol)
            table[_method(row), row["env_group"]] = value
    return table | _figure()


@cache
def _figure() -> dict[tuple[str, str], Published]:
    """LPS's main figure."""
    table = {}
    for row in _rows("main_results.csv"):
        mean, low, high = (float(row[key]) for key in ("mean", "err_low", "err_high"))
        table[row["method"], row["env_group"]] = Published(mean, low, high, row["source"], LPS_FIGURE)
    return table


@cache
def _rows(name: str) -> list[dict[str, str]]:
    with open(FOLDER / name, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
