"""The statistics: closed forms, plain loops, rliable's own output, and coverage by simulation.

rliable is not among what is installed for the tests: rliable/make.py wrote down what it says about fixed scores, with
as many seeds on every task, which is all that it knows. Its definitions stand here once more as plain loops.
"""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import trim_mean, wilcoxon

from analysis.numbers import stats

RAGGED = [[0.0, 1.0, 1.0], [0.5, 0.7], [0.2, 0.2, 0.4, 0.8]]
RLIABLE = json.loads((Path(__file__).parent / "rliable" / "fixture.json").read_text())


def test_tasks_weigh_the_same_whatever_their_number_of_seeds():
    assert stats.stratified_mean([[0.0], [1.0, 1.0, 1.0]]) == pytest.approx(0.5)
    assert stats.stratified_mean([[0.0], [1.0, 1.0, 1.0]], [3, 1]) == pytest.approx(0.25)


def test_resampled_means_have_the_moments_of_the_bootstrap():
    samples = stats.resampled_means(RAGGED, resamples=40_000)
    variance = np.mean([np.var(values) / len(values) for values in RAGGED]) / len(RAGGED)
    assert samples.shape == (40_000,)
    assert samples.mean() == pytest.approx(float(stats.stratified_mean(RAGGED)), abs=4 * np.sqrt(variance / 40_000))
    assert samples.var() == pytest.approx(variance, rel=0.05)


def test_two_seeds_give_the_three_means_there_are():
    values, counts = np.unique(stats.resampled_means([[0.0, 1.0]], resamples=8_000), return_counts=True)
    assert values == pytest.approx([0, 0.5, 1])
    assert counts / 8_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_interval_is_that_of_a_plain_loop():
    rng = np.random.default_rng(7)
    loop = [np.mean([rng.choice(values, len(values)).mean() for values in RAGGED]) for _ in range(10_000)]
    ours = stats.estimate(RAGGED)
    assert (ours.low, ours.high) == pytest.approx(tuple(np.quantile(loop, [0.025, 0.975])), abs=0.01)


def test_the_same_seed_gives_the_same_interval():
    assert stats.estimate(RAGGED) == stats.estimate(RAGGED)
    assert stats.estimate(RAGGED) != stats.estimate(RAGGED, seed=1)


def test_no_spread_gives_no_width():
    value = stats.estimate([[0.7, 0.7, 0.7], [0.9, 0.9]])
    assert (value.mean, value.low, value.high) == pytest.approx((0.8, 0.8, 0.8))


@pytest.mark.parametrize("strata", [[[0.5]], [[0.5], [0.1, 0.9]]])
def test_a_single_seed_has_no_interval(strata):
    assert not stats.estimate(strata).has_interval
    assert not stats.difference(strata, strata).has_interval


def test_a_curve_is_the_estimate_at_each_of_its_points():
    rng = np.random.default_rng(0)
    strata = [rng.random((seeds, 4)) for seeds in (3, 5)]
    mean, low, high = stats.curve(strata, resamples=500, seed=3)
    for i in range(4):
        point = stats.estimate([stratum[:, i] for stratum in strata], resamples=500, seed=3)
        assert (mean[i], low[i], high[i]) == pytest.approx((point.mean, point.low, point.high))


def test_coverage_by_simulation():
    """Five tasks, eight seeds, normal scores: near 95 %, a little under it as the percentile bootstrap is."""
    rng = np.random.default_rng(1)
    truth = np.linspace(0.2, 0.8, 5)
    hits = 0
    for trial in range(300):
        value = stats.estimate(rng.normal(truth[:, None], 0.1, (5, 8)), resamples=400, seed=trial)
        hits += value.low <= truth.mean() <= value.high
    assert 0.88 <= hits / 300 <= 0.98


def test_difference_of_independent_means():
    ours, theirs = [[0.9, 0.7, 0.8]], [[0.1, 0.3, 0.5, 0.3]]
    value, back = stats.difference(ours, theirs), stats.difference(theirs, ours)
    assert value.mean == pytest.approx(0.5)
    assert (back.low, back.high) == pytest.approx((-value.high, -value.low), abs=0.02)
    sd = np.sqrt(np.var(ours) / 3 + np.var(theirs) / 4)
    assert value.high - value.low == pytest.approx(2 * 1.96 * sd, rel=0.15)


def test_pairing_cancels_what_a_seed_has_in_common():
    theirs = [{0: 0.1, 1: 0.5, 2: 0.8}]
    ours = [{0: 0.2, 1: 0.6, 2: 0.9, 3: 0.0}]
    paired = stats.paired_difference(ours, theirs)
    assert paired is not None
    assert (paired.mean, paired.low, paired.high) == pytest.approx((0.1, 0.1, 0.1))
    assert stats.difference([[0.2, 0.6, 0.9]], [[0.1, 0.5, 0.8]]).low < 0


def test_pairs_need_a_common_seed_in_every_task():
    assert stats.paired_difference([{0: 0.1}, {0: 0.3}], [{0: 0.2}, {1: 0.2}]) is None


@pytest.mark.parametrize("strata", [[], [[]], [[0.1, float("nan")]], [0.5]])
def test_means_of_nothing_or_of_nan_are_refused(strata):
    with pytest.raises(ValueError):
        stats.stratified_mean(strata)


def test_differences_over_other_tasks_are_refused():
    with pytest.raises(ValueError, match="same tasks"):
        stats.difference([[0.1]], [[0.1], [0.2]])


@pytest.mark.parametrize("weights", [[1], [0, 0], [-1, 2]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        stats.stratified_mean([[0.1], [0.2]], weights)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(0, 1), min_size=2, max_size=6), min_size=1, max_size=4))
def test_intervals_stay_within_what_was_seen(strata):
    value = stats.estimate(strata, resamples=200)
    low, high = np.mean([min(stratum) for stratum in strata]), np.mean([max(stratum) for stratum in strata])
    assert low - 1e-9 <= value.low <= value.high <= high + 1e-9


# -- aggregates, profiles, probability of improvement


def looped(scores: list[list[float]]) -> dict[str, float]:
    """The aggregates of rliable on a matrix of scores (tasks, seeds), with the same number of seeds everywhere."""
    of_task = sorted(sum(row) / len(row) for row in scores)
    half = len(of_task) // 2
    runs = sorted(score for row in scores for score in row)
    cut = int(0.25 * len(runs))
    middle = runs[cut : len(runs) - cut]
    return {
        "mean": sum(of_task) / len(of_task),
        "median": of_task[half] if len(of_task) % 2 else (of_task[half - 1] + of_task[half]) / 2,
        "iqm": sum(middle) / len(middle),
        "optimality_gap": 1 - sum(min(run, 1) for run in runs) / len(runs),
    }


@pytest.mark.parametrize("tasks, seeds", [(5, 8), (5, 3), (1, 5), (2, 1), (9, 7)])
def test_aggregates_are_those_of_a_plain_loop(tasks, seeds):
    scores = np.random.default_rng(tasks).random((tasks, seeds)).round(2)
    ours = {name: float(getattr(stats, name)(list(scores))) for name in looped([[0.0]])}
    assert ours == pytest.approx(looped(scores.tolist()))
    assert ours["iqm"] == pytest.approx(trim_mean(scores, 0.25, axis=None)), "what rliable calls"


def test_aggregates_in_closed_form():
    strata = [np.array([0.0, 0.2, 0.4, 1.0]), np.array([0.1, 0.3, 0.5, 0.9])]
    assert stats.iqm(strata) == pytest.approx((0.2 + 0.3 + 0.4 + 0.5) / 4)
    assert stats.median([*strata, np.array([1.0])]) == pytest.approx(0.45)
    assert stats.optimality_gap([np.array([0.5, 2.0])]) == pytest.approx(0.25), "no credit beyond the optimum"


def test_ragged_seeds_count_by_task():
    strata = [np.array([0.0] * 2), np.array([1.0] * 6)]
    assert [stats.mean(strata), stats.iqm(strata)] == pytest.approx([0.5, 0.5])
    doubled = [np.repeat(stratum, 2) for stratum in strata]
    assert stats.iqm(doubled) == pytest.approx(0.5)
    assert stats.iqm(strata[::-1]) == stats.iqm(strata)


def test_aggregates_of_many_resamples_are_those_of_each():
    rng = np.random.default_rng(3)
    drawn = [rng.random((50, seeds)) for seeds in (2, 3, 7)]
    for statistic in (stats.mean, stats.median, stats.iqm, stats.optimality_gap):
        expected = [statistic([stratum[i] for stratum in drawn]) for i in range(50)]
        assert statistic(drawn) == pytest.approx(np.array(expected))


def test_the_interval_of_the_mean_is_the_same_by_both_ways():
    ours, known = stats.aggregate(RAGGED, stats.mean), stats.estimate(RAGGED)
    assert (ours.mean, ours.low, ours.high) == pytest.approx((known.mean, known.low, known.high), abs=0.01)
    assert not stats.aggregate([[0.1], [0.2, 0.3]], stats.iqm).has_interval


def test_coverage_of_the_interquartile_mean():
    """Ten tasks of one distribution, ten seeds. The truth is the mean of the middle half of a normal: its centre."""
    rng = np.random.default_rng(2)
    hits = 0
    for trial in range(200):
        value = stats.aggregate(rng.normal(0.5, 0.1, (10, 10)), stats.iqm, resamples=300, seed=trial)
        hits += value.low <= 0.5 <= value.high
    assert 0.88 <= hits / 200 <= 0.99


def test_profile_is_the_share_of_runs_above():
    share, low, high = stats.profile(RAGGED, [-0.1, 0.2, 0.5, 1.0])
    assert share == pytest.approx([1, (2 / 3 + 1 + 2 / 4) / 3, (2 / 3 + 1 / 2 + 1 / 4) / 3, 0])
    assert (low <= share).all() and (share <= high).all()


def test_improvement_is_that_of_a_plain_loop():
    theirs = [[0.5, 1.0], [0.6, 0.7, 0.7], [0.4]]
    wins = [
        np.mean([1.0 if x > y else 0.5 if x == y else 0.0 for x, y in itertools.product(mine, other)])
        for mine, other in zip(RAGGED, theirs, strict=True)
    ]
    assert stats.improvement(RAGGED, theirs).mean == pytest.approx(np.mean(wins))
    assert stats.improvement(RAGGED, RAGGED).mean == pytest.approx(0.5)
    with pytest.raises(ValueError, match="same tasks"):
        stats.improvement([[0.1]], [[0.1], [0.2]])


def test_interval_of_the_improvement_is_that_of_a_plain_loop():
    rng = np.random.default_rng(5)
    ours, theirs = rng.normal(0.1, 1, (2, 6)), rng.normal(0, 1, (2, 5))

    def share(x, y):
        return np.mean([(np.sign(a[:, None] - b) + 1).mean() / 2 for a, b in zip(x, y, strict=True)])

    loop = [
        share(np.stack([rng.choice(row, 6) for row in ours]), np.stack([rng.choice(row, 5) for row in theirs]))
        for _ in range(3_000)
    ]
    value = stats.improvement(ours, theirs)
    assert (value.low, value.high) == pytest.approx(tuple(np.quantile(loop, [0.025, 0.975])), abs=0.03)


def test_coverage_of_the_improvement():
    """Normals one standard deviation apart: the truth is Phi(1 / sqrt 2) = 0.7602."""
    rng = np.random.default_rng(6)
    hits = 0
    for trial in range(200):
        value = stats.improvement(rng.normal(1, 1, (4, 10)), rng.normal(0, 1, (4, 10)), resamples=300, seed=trial)
        hits += value.low <= 0.7602 <= value.high
    assert 0.88 <= hits / 200 <= 0.99


# -- rliable's own output (rliable/make.py)


def studies_of_rliable() -> list:
    return [pytest.param(study, id=name) for name, study in RLIABLE["studies"].items()]


def strata_of(study, agent) -> list:
    return list(np.transpose(study["scores"][agent]))  # rliable's are (seeds, tasks)


def between(low, high, levels, inner, outer) -> bool:
    """Whether the ends of a 95 % interval lie between those of rliable's at a lower and a higher level.

    Two bootstraps of R and S resamples agree on the probability in a tail of 2.5 % up to a standard deviation of
    sqrt(0.025 * 0.975 * (1/R + 1/S)). Asked of levels instead of values, this needs no density, and holds for scores
    of 0 and 1 too, where an end can only be one of a few values.
    """
    (inner_low, inner_high), (outer_low, outer_high) = levels[inner], levels[outer]
    slack = 1e-12
    return bool(
        np.all(outer_low <= low + slack)
        and np.all(low <= inner_low + slack)
        and np.all(inner_high <= high + slack)
        and np.all(high <= outer_high + slack)
    )


@pytest.mark.parametrize("study", studies_of_rliable())
def test_aggregates_and_their_intervals_are_those_of_rliable(study):
    """50,000 resamples on both sides: a standard deviation of 0.1 % in the tail, against 0.5 % that levels allow."""
    for agent, found in study["aggregates"].items():
        assert set(found) == {"mean", "median", "iqm", "optimality_gap"}
        for name, theirs in found.items():
            ours = stats.aggregate(strata_of(study, agent), getattr(stats, name), resamples=50_000)
            assert ours.mean == pytest.approx(theirs["value"], abs=1e-12), (agent, name)
            assert between(ours.low, ours.high, theirs["intervals"], "0.94", "0.96"), (agent, name)


@pytest.mark.parametrize("study", studies_of_rliable())
def test_profiles_are_those_of_rliable(study):
    """2,000 resamples here, 50,000 there: 0.36 % in the tail, against 2 % that the levels allow."""
    for agent, theirs in study["profiles"].items():
        share, low, high = stats.profile(strata_of(study, agent), RLIABLE["thresholds"])
        assert share == pytest.approx(np.array(theirs["share"]), abs=1e-12), agent
        levels = {level: np.array(ends) for level, ends in theirs["intervals"].items()}
        assert between(low, high, levels, "0.91", "0.99"), agent


@pytest.mark.parametrize("study", studies_of_rliable())
def test_improvements_are_those_of_rliable(study):
    """50,000 resamples here, 10,000 there: 0.17 % in the tail, against 0.5 % that the levels allow."""
    for theirs in study["improvements"]:
        pair = [strata_of(study, theirs[side]) for side in ("ours", "theirs")]
        value = stats.improvement(*pair, resamples=50_000)
        assert value.mean == pytest.approx(theirs["value"], abs=1e-12)
        assert between(value.low, value.high, theirs["intervals"], "0.94", "0.96"), theirs["ours"]


def test_another_statistic_is_not_within_the_tolerance(monkeypatch):
    """The check above can fail: the interval of the mean is not that of the median, nor 90 % that of 95 %."""
    study = RLIABLE["studies"]["five tasks"]
    theirs = study["aggregates"]["middling"]["median"]["intervals"]
    strata = strata_of(study, "middling")
    another = stats.aggregate(strata, stats.mean, resamples=50_000)
    monkeypatch.setattr(stats, "LEVEL", 0.9)
    for other in (another, stats.aggregate(strata, stats.median, resamples=50_000)):
        assert not between(other.low, other.high, theirs, "0.94", "0.96")


# -- tests


def seeds_of(values) -> dict[int, float]:
    return dict(enumerate(values))


def test_sign_flips_in_closed_form():
    five = stats.paired_test([seeds_of([0.5, 0.6, 0.7, 0.8, 0.9])], [seeds_of([0.1] * 5)])
    assert (five.p, five.pairs, five.floor) == (2 / 2**5, 5, 2 / 2**5)
    one_against = stats.paired_test([seeds_of([1.0, 2.0, 3.0])], [seeds_of([2.0, 0.0, 0.0])])  # -1, 2, 3
    assert one_against.p == pytest.approx(4 / 8)
    alike = stats.paired_test([seeds_of([0.3, 0.4])], [seeds_of([0.3, 0.4])])
    assert (alike.p, alike.floor) == (1, 2 / 2**2)
    assert stats.paired_test([{0: 0.1}], [{1: 0.2}]).pairs == 0


def test_drawn_sign_flips_agree_with_the_signed_rank_test():
    ours = np.arange(1, 31) * np.where(np.arange(30) % 3, 1, -1)
    value = stats.paired_test([seeds_of(ours)], [seeds_of(np.zeros(30))])
    assert value.p == pytest.approx(wilcoxon(ours).pvalue, abs=0.01), "on ranks the two are one test"


def test_pairs_of_a_cluster_flip_together():
    """One network behind several tasks is one observation, however many tasks it is evaluated on."""
    ours, theirs = [seeds_of([0.9] * 3)] * 5, [seeds_of([0.1] * 3)] * 5
    assert stats.paired_test(ours, theirs).p == pytest.approx(2 / 2**15, rel=2)
    assert stats.paired_test(ours, theirs, clusters=["cube"] * 5).p == 2 / 2**3


@pytest.mark.parametrize("shape", [(1, 8), (5, 3)])
def test_sign_flips_reject_a_true_null_no_more_often_than_they_say(shape):
    rng = np.random.default_rng(8)
    gaps = rng.choice([0.0, 0.1, 0.5], (1000, *shape)) - rng.choice([0.0, 0.1, 0.5], (1000, *shape))
    nothing = [seeds_of(np.zeros(shape[1]))] * shape[0]
    rejected = [stats.paired_test([seeds_of(row) for row in trial], nothing).p <= 0.05 for trial in gaps[:300]]
    assert np.mean(rejected) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 300)


def test_holm_by_hand():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.6, 0.9]) == pytest.approx([1, 1])
    assert stats.holm([]).shape == (0,)
