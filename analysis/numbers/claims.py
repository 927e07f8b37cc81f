"""Claims that the results support: the study's subject (LPS by default) against every other agent, on each group and
over all groups.

A claim says "better" if a paired test finds a difference at LEVEL after Holm's correction for all comparisons on that
group, and mean and probability of improvement agree on its direction. If all agents were equal, a group would have a
wrong "better" with a probability of at most 1 - LEVEL. Without runs of the subject, all pairs are compared.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from typing import Literal

from analysis.numbers import stats
from analysis.numbers.stats import LEVEL
from analysis.results import settings
from analysis.results.agents import AVERAGE
from analysis.results.study import Study, Unit, protocol

Scores = Mapping[tuple[str, str], Mapping[int, float]]  # {(group, task): {seed: score}}
Verdict = Literal["better", "worse", "open", "too few", "not compared"]


@dataclass(frozen=True)
class Evidence:
    """The comparison of two agents on the tasks where they share a seed."""

    probability: stats.Estimate  # of improvement, over all their runs there
    difference: stats.Estimate  # of success, over the seeds they share
    test: stats.Test
    tasks: int
    seeds: tuple[int, int]  # shared by both, per task: fewest and most


@dataclass(frozen=True)
class Claim:
    group: str  # AVERAGE: over all groups
    ours: str  # series
    theirs: str
    verdict: Verdict  # of ours against theirs
    evidence: Evidence | None  # None where they are not compared
    p: float  # corrected; NaN where they are not compared
    comparisons: int  # that it was corrected for; 0 where it was not
    sentence: str
    details: str


def weigh(
    ours: Scores, theirs: Scores, *, one_network: bool = False, resamples: int = stats.RESAMPLES
) -> Evidence | None:
    """Compare two agents; None if no task has a shared seed.

    one_network: whether one of them does not see rewards. Its runs of one seed on the tasks of a group are then one
    and the same network, and count as one observation.
    """
    tasks = [task for task, seeds in ours.items() if seeds.keys() & theirs.get(task, {}).keys()]
    if not tasks:
        return None
    mine, other = [ours[task] for task in tasks], [theirs[task] for task in tasks]
    strata = [[list(seeds.values()) for seeds in side] for side in (mine, other)]
    difference = stats.paired_difference(mine, other, resamples=resamples)
    assert difference is not None  # every task has a common seed
    counts = [len(a.keys() & b.keys()) for a, b in zip(mine, other, strict=True)]
    test = stats.paired_test(mine, other, clusters=[group for group, _ in tasks] if one_network else None)
    probability = stats.improvement(*strata, resamples=resamples)
    return Evidence(probability, difference, test, len(tasks), (min(counts), max(counts)))


def decide(evidence: Sequence[Evidence]) -> list[tuple[Verdict, float]]:
    """Return the verdict and the corrected p-value of every comparison of one family.

    Comparisons with too few runs for any significant result are not part of the family, and their p-values are not
    corrected.
    """
    can = [one for one in evidence if one.test.can_reach(1 - LEVEL)]
    corrected = iter(stats.holm([one.test.p for one in can]))
    found: list[tuple[Verdict, float]] = []
    for one in evidence:
        if one not in can:
            found.append(("too few", one.test.p))
            continue
        p, gap, ahead = float(next(corrected)), one.difference.mean, one.probability.mean - 0.5
        clear = p <= 1 - LEVEL and gap * ahead > 0
        found.append((("better" if gap > 0 else "worse") if clear else "open", p))
    return found


@lru_cache(maxsize=2)
def claims(study: Study) -> list[Claim]:
    """Return all claims; those over all groups come first."""
    groups = ([AVERAGE] if len(study.comparable) > 1 and study.unit().sign else []) + study.groups
    return [claim for group in groups for claim in _on(study, group)]


def _on(study: Study, group: str) -> list[Claim]:
    within = study.comparable if group == AVERAGE else [group]
    present = [key for key in settings.compared_series(study) if all(len(study.cell(key, here)) for here in within)]
    weighed: dict[tuple[str, str], Evidence] = {}
    apart: dict[tuple[str, str], str] = {}
    pairs = _pairs(study, present)
    for ours, theirs in pairs:
        why = [text for here in within if (text := _obstacle(study, ours, theirs, here))]
        imitation = any(study.series[key].agent.imitation for key in (ours, theirs))
        found = None if why else weigh(*(_scores(study, key, within) for key in (ours, theirs)), one_network=imitation)
        if found is None:
            apart[ours, theirs] = why[0] if why else "they share no seed on any task"
        else:
            weighed[ours, theirs] = found
    decided = dict(zip(weighed, decide(list(weighed.values())), strict=True))
    family = sum(verdict != "too few" for verdict, _ in decided.values())
    made = []
    for pair in pairs:
        a, b = (study.series[key].title for key in pair)
        where = f"over all {len(within)} groups" if group == AVERAGE else f"on {group}"
        if pair in apart:
            sentence = f"{a} and {b} are not compared {where}: {apart[pair]}."
            made.append(Claim(group, *pair, "not compared", None, float("nan"), 0, sentence, ""))
            continue
        verdict, p = decided[pair]
        one = weighed[pair]
        size = 0 if verdict == "too few" else family
        words = _sentence(verdict, a, b, where, one), _details(one, p, size, where, study.unit(group))
        made.append(Claim(group, *pair, verdict, one, p, size, *words))
    return made


def _pairs(study: Study, keys: Sequence[str]) -> list[tuple[str, str]]:
    """Return the pairs to compare: the subject at its usual setting (else at all its settings) against all others;
    without the subject, all pairs."""
    plain = settings.default_series(study, study.subject.name, keys)
    ours = [plain] if plain else [key for key in keys if study.series[key].agent.name == study.subject.name]
    pairs = [(key, other) for key in reversed(ours) for other in reversed(keys) if other not in ours]
    return pairs or list(combinations(reversed(keys), 2))


def _scores(study: Study, key: str, groups: Sequence[str]) -> Scores:
    return {(group, task): seeds for group in groups for task, seeds in study.scores(key, group).items()}


def _obstacle(study: Study, ours: str, theirs: str, group: str) -> str:
    """Return the reason why a comparison on a group is not fair; '' if it is fair."""
    cells = [study.cell(key, group) for key in (ours, theirs)]
    if study.include_unfinished and any((cell["state"] != "done").any() for cell in cells):
        return "not all of their runs are finished"
    a, b = (protocol(cell.iloc[0].to_dict()) for cell in cells)
    differing = [f"{name} ({value} and {b.get(name)})" for name, value in a.items() if value != b.get(name)]
    return f"they differ in {', '.join(differing)}" if differing else ""


def _sentence(verdict: Verdict, a: str, b: str, where: str, one: Evidence) -> str:
    value = one.probability
    if verdict == "worse":
        a, b = b, a
        value = stats.Estimate(1 - value.mean, 1 - value.high, 1 - value.low)
    fewest, most = one.seeds
    seeds = f"{fewest} seed{'s' * (fewest > 1)}" if fewest == most else f"{fewest} to {most} seeds"
    interval = f" [{value.low:.2f}, {value.high:.2f}]" if value.has_interval else ""
    chance = f"probability {value.mean:.2f}{interval}, {seeds}"
    if verdict in ("better", "worse"):
        return f"{a} is better than {b} {where} with {chance}."
    if verdict == "too few":
        return (
            f"Too few runs to tell {a} from {b} {where}: if all of them agreed, p would be {p_value(one.test.floor)} "
            f"(improvement with {chance})."
        )
    return f"The data do not show that {a} is better or worse than {b} {where}: improvement with {chance}."


def _details(one: Evidence, p: float, comparisons: int, where: str, unit: Unit) -> str:
    gap = one.difference
    interval = f" [{unit.text(gap.low, '+')}, {unit.text(gap.high, '+')}]" if gap.has_interval else ""
    points, pairs = "points" if unit.sign else unit.name, one.test.pairs
    text = f"{unit.text(gap.mean, '+')} {points}{interval} over {pairs} pair{'s' * (pairs > 1)} of runs, "
    text += f"{one.tasks} task{'s' * (one.tasks > 1)}; p = {p_value(one.test.p)}"
    return text + (f", {p_value(p)} corrected for {comparisons} comparisons {where}" if comparisons > 1 else "")


def p_value(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else "below 0.0001"
