"""Means and intervals over runs: the stratified bootstrap over seeds within tasks.

A *stratum* holds the values of one task, one row per seed: shape (seeds,) for scores or (seeds, points) for curves.
The estimate of a group is the mean over its strata of the mean over seeds, so that every task weighs the same
whatever its number of seeds. Resampling draws seeds with replacement inside each stratum and keeps the tasks fixed:
the interval says how much another set of seeds would change the result, not another set of tasks. This is the
interval of Agarwal et al., "Deep RL at the edge of the statistical precipice" (arXiv 2108.13264).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
FEW_SEEDS = 5  # below it a percentile interval is visibly too narrow: its width lacks a factor sqrt(n / (n - 1))


@dataclass(frozen=True)
class Estimate:
    """A mean with the ends of its interval, which are NaN where the data cannot support one."""

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


def percentile_interval(samples: ArrayLike, level: float = LEVEL) -> tuple[Floats, Floats]:
    """Ends of the central interval that holds `level` of the samples (axis 0)."""
    low, high = np.quantile(np.asarray(samples, dtype=np.float64), [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def can_resample(strata: Sequence[ArrayLike]) -> bool:
    """Whether every stratum has two seeds: a single one says nothing about its spread, so it forbids an interval."""
    return all(len(stratum) > 1 for stratum in arrays(strata))


def estimate(
    strata: Sequence[ArrayLike],
    weights: ArrayLike | None = None,
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """The stratified mean of scores with its bootstrap interval; no interval if any stratum has a single seed."""
    mean = float(stratified_mean(strata, weights))
    if not can_resample(strata):
        return Estimate(mean)
    low, high = percentile_interval(resampled_means(strata, weights, resamples=resamples, rng=seed), level)
    return Estimate(mean, float(low), float(high))


def curve(
    strata: Sequence[ArrayLike], *, resamples: int = 2_000, level: float = LEVEL, seed: int = 0
) -> tuple[Floats, Floats, Floats]:
    """Mean, low and high of a curve, each (points,), from strata of shape (seeds, points); pointwise intervals."""
    mean = stratified_mean(strata)
    if not can_resample(strata):
        nothing = np.full_like(mean, np.nan)
        return mean, nothing, nothing
    low, high = percentile_interval(resampled_means(strata, resamples=resamples, rng=seed), level)
    return mean, low, high


def difference(
    ours: Sequence[ArrayLike],
    theirs: Sequence[ArrayLike],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
) -> Estimate:
    """Difference of two stratified means over the same tasks, seeds resampled independently on both sides."""
    if len(ours) != len(theirs):
        raise ValueError(f"a difference needs the same tasks on both sides, not {len(ours)} and {len(theirs)}")
    mean = float(stratified_mean(ours) - stratified_mean(theirs))
    if not (can_resample(ours) and can_resample(theirs)):
        return Estimate(mean)
    rng = np.random.default_rng(seed)
    gaps = resampled_means(ours, resamples=resamples, rng=rng) - resampled_means(theirs, resamples=resamples, rng=rng)
    low, high = percentile_interval(gaps, level)
    return Estimate(mean, float(low), float(high))


def paired_difference(
    ours: Sequence[Mapping[int, float]],
    theirs: Sequence[Mapping[int, float]],
    *,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
    seed: int = 0,
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
    return estimate(gaps, resamples=resamples, level=level, seed=seed)
