"""Statistics of many runs: aggregates, intervals and tests, over seeds within tasks.

A *stratum* holds the values of one task, one row per seed: shape (seeds,) for scores or (seeds, points) for curves.
The estimate of a group is the mean over its strata of the mean over seeds, so that every task weighs the same
whatever its number of seeds. Resampling draws seeds with replacement inside each stratum and keeps the tasks fixed:
the interval describes the variation over seeds, not over tasks. Interval and
aggregates are those of Agarwal et al., "Deep RL at the edge of the statistical precipice" (arXiv 2108.13264), whose
library is rliable. With equal numbers of seeds on all tasks the numbers are equal. rliable has no rule for other cases;
here a value then has the weight 1 / (tasks x seeds of its task).
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
EXACT_BLOCKS = 14  # up to 2^14 sign flips are enumerated, beyond that as many are drawn
FEW_SEEDS = 5  # below it a percentile interval is visibly too narrow: its width lacks a factor sqrt(n / (n - 1))


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its interval; NaN if the data cannot support an interval."""

    mean: float
    low: float = float("nan")
    high: float = float("nan")

    @property
    def has_interval(self) -> bool:
        return bool(np.isfinite(self.low) and np.isfinite(self.high))


def arrays(strata: Sequence[ArrayLike]) -> list[Floats]:
    """The strata as float arrays of shape (seeds, ...).

    Raises:
        ValueError: no stratum, an empty one, or one that holds NaN or infinity.
    """
    checked = [np.asarray(stratum, dtype=np.float64) for stratum in strata]
    if not checked or any(stratum.ndim == 0 or not len(stratum) for stratum in checked):
        raise ValueError("a mean needs at least one value in every stratum")
    if not all(np.isfinite(stratum).all() for stratum in checked):
        raise ValueError("a mean needs finite values")
    return checked


def normalised(weights: ArrayLike | None, count: int) -> Floats:
    """Weights of `count` strata that sum to one; equal ones when none are given."""
    values = np.ones(count) if weights is None else np.asarray(weights, dtype=np.float64)
    if values.shape != (count,) or (values < 0).any() or values.sum() <= 0:
        raise ValueError(f"need {count} weights that are not negative and not all zero")
    return values / values.sum()


def stratified_mean(strata: Sequence[ArrayLike], weights: ArrayLike | None = None) -> Floats:
    """Weighted mean over strata of the mean over seeds: shape () for scores, (points,) for curves."""
    checked = arrays(strata)
    means = np.stack([stratum.mean(axis=0) for stratum in checked])
    return np.tensordot(normalised(weights, len(checked)), means, axes=1)


def resampled_means(
    strata: Sequence[ArrayLike],
    weights: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    rng: np.random.Generator | int = 0,
) -> Floats:
    """The stratified mean of `resamples` bootstrap samples: shape (resamples,) or (resamples, points).

    A resample of n seeds is a multinomial count of how often each was drawn, so that all resamples of a stratum are
    one matrix product. Values of one seed (a row) stay together: a curve is resampled as a curve.
    """
    checked = arrays(strata)
    generator = np.random.default_rng(rng)
    total = np.zeros((resamples, *checked[0].shape[1:]))
    for stratum, weight in zip(checked, normalised(weights, len(checked)), strict=True):
        seeds = len(stratum)
        counts = generator.multinomial(seeds, np.full(seeds, 1 / seeds), size=resamples)
        total += weight / seeds * np.tensordot(counts.astype(np.float64), stratum, axes=1)
    return total


def percentile_interval(samples: ArrayLike) -> tuple[Floats, Floats]:
    """Ends of the central interval that holds LEVEL of the samples (axis 0)."""
    low, high = np.quantile(np.asarray(samples, dtype=np.float64), [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high


def can_resample(strata: Sequence[ArrayLike]) -> bool:
    """Whether every stratum has two seeds: a single one says nothing about its spread, so it forbids an interval."""
    return all(len(stratum) > 1 for stratum in arrays(strata))


def estimate(
    strata: Sequence[ArrayLike], weights: ArrayLike | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """The stratified mean of scores with its bootstrap interval; no interval if any stratum has a single seed."""
    mean = float(stratified_mean(strata, weights))
    if not can_resample(strata):
        return Estimate(mean)
    low, high = percentile_interval(resampled_means(strata, weights, resamples=resamples, rng=seed))
    return Estimate(mean, float(low), float(high))


def curve(strata: Sequence[ArrayLike], *, resamples: int = 2_000, seed: int = 0) -> tuple[Floats, Floats, Floats]:
    """Mean, low and high of a curve, each (points,), from strata of shape (seeds, points); pointwise intervals."""
    mean = stratified_mean(strata)
    if not can_resample(strata):
        nothing = np.full_like(mean, np.nan)
        return mean, nothing, nothing
    low, high = percentile_interval(resampled_means(strata, resamples=resamples, rng=seed))
    return mean, low, high


def difference(
    ours: Sequence[ArrayLike], theirs: Sequence[ArrayLike], *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Difference of two stratified means over the same tasks, seeds resampled independently on both sides."""
    if len(ours) != len(theirs):
        raise ValueError(f"a difference needs the same tasks on both sides, not {len(ours)} and {len(theirs)}")
    mean = float(stratified_mean(ours) - stratified_mean(theirs))
    if not (can_resample(ours) and can_resample(theirs)):
        return Estimate(mean)
    rng = np.random.default_rng(seed)
    gaps = resampled_means(ours, resamples=resamples, rng=rng) - resampled_means(theirs, resamples=resamples, rng=rng)
    low, high = percentile_interval(gaps)
    return Estimate(mean, float(low), float(high))


def paired_difference(
    ours: Sequence[Mapping[int, float]], theirs: Sequence[Mapping[int, float]], *, resamples: int = RESAMPLES
) -> Estimate | None:
    """Difference over the seeds both sides share, pairs resampled together; None if a task shares no seed.

    Each side is one {seed: score} per task. Runs of one seed meet the same batches and the same evaluation
    environments, so a pair cancels what they have in common.
    """
    gaps = [
        [mine[seed] - other[seed] for seed in sorted(mine.keys() & other.keys())]
        for mine, other in zip(ours, theirs, strict=True)
    ]
    if not gaps or not all(gaps):
        return None
    return estimate(gaps, resamples=resamples)


# -- aggregates over all runs: from strata of shape (..., seeds) to (...), so that resamples may come first

Statistic = Callable[[Sequence[Floats]], Floats]


def mean(strata: Sequence[Floats]) -> Floats:
    """Mean over tasks of the mean over seeds."""
    return np.mean([stratum.mean(axis=-1) for stratum in strata], axis=0)


def median(strata: Sequence[Floats]) -> Floats:
    """Median over tasks of the mean over seeds."""
    return np.median([stratum.mean(axis=-1) for stratum in strata], axis=0)


def iqm(strata: Sequence[Floats]) -> Floats:
    """Interquartile mean: the mean of all runs but the lowest and the highest quarter of them.

    As in SciPy's trim_mean whole runs are cut off, as many as weigh no more than a quarter together.
    """
    ordered = sorted(strata, key=lambda stratum: stratum.shape[-1])  # a stable order of ties that differ in weight
    weights = np.concatenate([np.full(s.shape[-1], 1 / (len(strata) * s.shape[-1])) for s in ordered])
    values = np.concatenate(ordered, axis=-1)
    order = np.argsort(values, axis=-1, kind="stable")
    weight = weights[order]
    up_to = np.cumsum(weight, axis=-1)
    kept = weight * ((up_to > 0.25 + 1e-9) & (up_to - weight < 0.75 - 1e-9))
    return (kept * np.take_along_axis(values, order, axis=-1)).sum(axis=-1) / kept.sum(axis=-1)


def optimality_gap(strata: Sequence[Floats]) -> Floats:
    """Mean distance of runs below a success rate of 1; lower is better."""
    return 1 - mean([np.minimum(stratum, 1) for stratum in strata])


def aggregate(
    strata: Sequence[ArrayLike], statistic: Statistic, *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """A statistic of scores with its bootstrap interval; no interval if any stratum has a single seed."""
    checked = arrays(strata)
    value = float(statistic(checked))
    if not can_resample(checked):
        return Estimate(value)
    rng = np.random.default_rng(seed)
    drawn = [stratum[rng.integers(len(stratum), size=(resamples, len(stratum)))] for stratum in checked]
    low, high = percentile_interval(statistic(drawn))
    return Estimate(value, float(low), float(high))


def profile(strata: Sequence[ArrayLike], thresholds: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Performance profile: the share of runs that score above each threshold; it, low and high, each (thresholds,)."""
    return curve([stratum[:, None] > np.asarray(thresholds) for stratum in arrays(strata)])


# -- two agents


def improvement(
    ours: Sequence[ArrayLike], theirs: Sequence[ArrayLike], *, resamples: int = RESAMPLES, seed: int = 0
) -> Estimate:
    """Probability of improvement: that one of our runs scores above one of theirs on the same task, ties counting
    half, on average over tasks (Mann-Whitney's U over the number of pairs). Both sides are resampled independently.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"an improvement needs the same tasks on both sides, not {len(ours)} and {len(theirs)}")
    mine, other = arrays(ours), arrays(theirs)
    wins = [(1 + np.sign(x[:, None] - y)) / 2 for x, y in zip(mine, other, strict=True)]
    value = float(np.mean([win.mean() for win in wins]))
    if not (can_resample(mine) and can_resample(other)):
        return Estimate(value)
    rng = np.random.default_rng(seed)
    samples = np.zeros(resamples)
    for win in wins:
        counts = [rng.multinomial(n, np.full(n, 1 / n), size=resamples).astype(np.float64) for n in win.shape]
        samples += ((counts[0] @ win) * counts[1]).sum(axis=1) / win.size / len(wins)
    low, high = percentile_interval(samples)
    return Estimate(value, float(low), float(high))


@dataclass(frozen=True)
class Test:
    """A paired test of no difference."""

    __test__ = False  # not pytest's

    p: float  # two-sided; 1 without pairs
    pairs: int
    floor: float  # the smallest p that so many pairs could give

    def can_reach(self, level: float) -> bool:
        return self.floor <= level


def paired_test(
    ours: Sequence[Mapping[int, float]],
    theirs: Sequence[Mapping[int, float]],
    *,
    clusters: Sequence[Hashable] | None = None,
) -> Test:
    """Sign-flip permutation test of the paired difference: if two agents are equal, the two runs of each pair are
    exchangeable. The test assumes no distribution and is exact with few pairs.

    Each side is one {seed: score} per task; tasks weigh the same, and one without a common seed is left out. Pairs of
    one seed in tasks of one cluster (one label per task) are not independent and flip together.
    """
    labels = range(len(ours)) if clusters is None else clusters
    blocks: dict[tuple[Hashable, int], float] = {}
    pairs = 0
    for label, mine, other in zip(labels, ours, theirs, strict=True):
        shared = sorted(mine.keys() & other.keys())
        pairs += len(shared)
        for key in shared:
            blocks[label, key] = blocks.get((label, key), 0.0) + (mine[key] - other[key]) / len(shared)
    floor = max(2.0 ** (1 - len(blocks)), 2.0**-EXACT_BLOCKS) if blocks else 1.0
    gaps = np.array(list(blocks.values()))
    gaps = gaps[np.abs(gaps) > 1e-12]  # a tie is the same both ways round
    if not len(gaps):
        return Test(1.0, pairs, floor)
    if len(gaps) <= EXACT_BLOCKS:
        signs = 1 - 2 * (np.arange(2 ** len(gaps))[:, None] >> np.arange(len(gaps)) & 1)
        extra = 0
    else:
        signs = 1 - 2 * np.random.default_rng(0).integers(2, size=(2**EXACT_BLOCKS, len(gaps)), dtype=np.int8)
        extra = 1  # the data themselves: without them a drawn p could be zero
    as_far = np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9
    return Test(float((as_far.sum() + extra) / (len(signs) + extra)), pairs, floor)


def holm(p_values: ArrayLike) -> Floats:
    """p-values corrected for their number (Holm, 1979): calling those up to a level true errs once or more often with
    at most that probability, whatever their dependence.
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)), 1)
    return corrected
