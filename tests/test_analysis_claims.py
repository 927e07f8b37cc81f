"""Claims: true where the truth is known, silent where there is nothing to say, and seldom wrong when all are alike."""

import numpy as np
import pytest
from test_analysis import put, studied

from analysis.numbers.claims import Claim, claims, decide, weigh
from analysis.numbers.stats import LEVEL


def scores(values) -> dict[tuple[str, str], dict[int, float]]:
    """Scores (tasks, seeds) as an agent has them on one group."""
    return {("cube", f"task{i}"): dict(enumerate(row)) for i, row in enumerate(np.atleast_2d(values))}


def drawn(rng: np.random.Generator, truth: float, tasks: int, seeds: int) -> np.ndarray:
    """Scores as evaluations make them: a run has a success rate of its own, and 150 episodes find it."""
    rate = np.clip(rng.normal(truth, 0.1, (tasks, seeds)), 0, 1)
    return rng.binomial(150, rate) / 150


def test_seldom_a_false_better_among_equals():
    """Families of six comparisons with one and the same agent, all alike: wrong in 5 % of families at most."""
    rng, families, wrong = np.random.default_rng(0), 300, 0
    for _ in range(families):
        ours = scores(drawn(rng, 0.95, 3, 4))
        evidence = [weigh(ours, scores(drawn(rng, 0.95, 3, 4)), resamples=10) for _ in range(6)]
        wrong += any(verdict in ("better", "worse") for verdict, _ in decide([one for one in evidence if one]))
    assert wrong / families <= (1 - LEVEL) + 3 * np.sqrt(LEVEL * (1 - LEVEL) / families)


def test_seldom_a_false_better_where_one_network_serves_all_tasks():
    """Imitation: seeds differ, tasks of a seed do not. Taken for independent pairs, they would claim far too much."""
    rng, trials = np.random.default_rng(1), 300
    wrong = {True: 0, False: 0}
    for _ in range(trials):
        one, other = (np.tile(rng.normal(0.5, 0.1, 6), (5, 1)) for _ in range(2))
        for together in wrong:
            found = weigh(scores(one), scores(other), one_network=together, resamples=10)
            assert found is not None
            wrong[together] += decide([found])[0][0] != "open"
    assert wrong[True] / trials <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / trials)
    assert wrong[False] / trials > 0.2


def test_a_difference_is_found():
    rng = np.random.default_rng(2)
    ours = scores(drawn(rng, 0.9, 5, 8))
    rivals = [weigh(ours, scores(drawn(rng, truth, 5, 8)), resamples=100) for truth in (0.5, 0.6, 0.7, 0.9)]
    verdicts = [verdict for verdict, _ in decide([one for one in rivals if one])]
    assert verdicts == ["better", "better", "better", "open"]


def fill(path, agent: str, success, group="cube-single", tasks=(1, 2), seeds=range(6), **changes) -> None:
    for task in tasks:
        for seed in seeds:
            put(path, agent, group, task, seed, (0.0, *[success + 0.1 * (seed % 2)] * 3), **changes)


def made(path) -> dict[tuple[str, str], Claim]:
    return {(claim.group, claim.theirs): claim for claim in claims(studied(path))}


def test_sentences(tmp_path):
    fill(tmp_path, "lps", 0.8)
    fill(tmp_path, "dsrl", 0.5)
    fill(tmp_path, "qcfql", 0.9)
    fill(tmp_path, "cfgrl", 0.8, seeds=range(5))
    fill(tmp_path, "best_of_n", 0.5, seeds=range(3), tasks=(1,))
    fill(tmp_path, "qcmfql", 0.5, seeds=range(10, 13))
    fill(tmp_path, "fm_lps", 0.5, reward_timing="post")
    here = made(tmp_path)
    on = {theirs: claim for (_, theirs), claim in here.items()}
    assert on["dsrl"].sentence == "LPS is better than DSRL on cube-single with probability 1.00 [1.00, 1.00], 6 seeds."
    assert on["dsrl"].details == (
        "+30.0 points [+30.0, +30.0] over 12 pairs of runs, 2 tasks; "
        "p = 0.00049, 0.0015 corrected for 3 comparisons on cube-single"
    )
    assert on["qcfql"].verdict == "worse"
    assert on["qcfql"].sentence.startswith("QC-FQL is better than LPS on cube-single with probability 0.8")
    assert on["cfgrl"].sentence.startswith("The data do not show that LPS is better or worse than CFGRL on cube-single")
    assert on["best_of_n"].sentence.startswith(
        "Too few runs to tell LPS from QC best-of-N on cube-single: if all of them agreed, p would be 0.25"
    )
    assert on["qcmfql"].sentence.endswith("not compared on cube-single: they share no seed on any task.")
    assert on["fm_lps"].sentence.endswith("they differ in reward_timing (pre and post).")
    assert on["best_of_n"].comparisons == 0, "it cannot be wrong, so it is not corrected for"


def test_imitation_counts_by_seed(tmp_path):
    fill(tmp_path, "lps", 0.8, tasks=(1, 2, 3, 4, 5), seeds=range(3))
    fill(tmp_path, "flow_bc", 0.2, tasks=(1, 2, 3, 4, 5), seeds=range(3))
    claim = made(tmp_path)["cube-single", "flow_bc"]
    assert claim.verdict == "too few" and claim.evidence.test.pairs == 15


def test_over_all_groups(tmp_path):
    for group in ("cube-single", "scene"):
        fill(tmp_path, "lps", 0.8, group, seeds=range(2))
        fill(tmp_path, "dsrl", 0.5, group, seeds=range(2))
    fill(tmp_path, "cfgrl", 0.5, seeds=range(2))
    here = made(tmp_path)
    assert list(here) == [
        ("average", "dsrl"), ("cube-single", "dsrl"), ("cube-single", "cfgrl"), ("scene", "dsrl"),
    ]  # fmt: skip
    assert here["average", "dsrl"].sentence.startswith(
        "LPS is better than DSRL over all 2 groups with probability 1.00"
    )
    assert here["cube-single", "dsrl"].verdict == "too few"


def test_without_lps_all_pairs(tmp_path):
    for agent in ("dsrl", "cfgrl", "flow_bc"):
        fill(tmp_path, agent, 0.5, tasks=(1,), seeds=range(2))
    assert len(claims(studied(tmp_path))) == 3


@pytest.mark.parametrize("seeds", [1, 2])
def test_one_agent_or_one_seed_claims_nothing(tmp_path, seeds):
    fill(tmp_path, "lps", 0.5, seeds=range(seeds), tasks=(1,))
    assert claims(studied(tmp_path)) == []
    fill(tmp_path, "dsrl", 0.1, seeds=range(seeds), tasks=(1,))
    assert [claim.verdict for claim in claims(studied(tmp_path))] == ["too few"]


def test_unfinished_runs_are_shown_but_never_claimed_with(tmp_path):
    fill(tmp_path, "lps", 0.9)
    fill(tmp_path, "dsrl", 0.1, status="running")
    assert claims(studied(tmp_path)) == []
    (claim,) = claims(studied(tmp_path, include_unfinished=True))
    assert claim.sentence == "LPS and DSRL are not compared on cube-single: not all of their runs are finished."
