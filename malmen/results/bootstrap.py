"""Means with confidence intervals from a two-level bootstrap: over edit sets, then over facts."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Interval", "bootstrap", "percentile_interval", "resampled_means"]


class Interval(NamedTuple):
    """An estimate with the ends of its 95% confidence interval."""

    value: float
    low: float
    high: float


def bootstrap(values: ArrayLike, sets: ArrayLike, *, seed: int, resamples: int = 1000) -> Interval:
    """Return the mean of values with its interval; the arguments are those of `resampled_means`.

    Args:
        values: Shape (n,), finite.
        sets: Shape (n,); the edit set each value belongs to.
        seed: Of the NumPy generator.
        resamples: Number of resamples.
    """
    values = np.asarray(values, dtype=float)
    smallest = values.min()  # of equal values, the mean is that value exactly
    value = smallest + math.fsum(values - smallest) / len(values)
    means = resampled_means(values[:, None], sets, seed=seed, resamples=resamples)[:, 0]
    return percentile_interval(float(value), means)


def percentile_interval(value: float, samples: NDArray[np.float64]) -> Interval:
    """Return an estimate with the interval that holds 95% of its resampled values."""
    tail = (1 - 0.95) / 2
    low, high = np.quantile(samples, [tail, 1 - tail])
    # Rounding may put an end on the wrong side of the mean by a unit in the last place.
    return Interval(value, float(min(low, value)), float(max(high, value)))


def resampled_means(
    values: ArrayLike, sets: ArrayLike, *, seed: int, resamples: int = 1000
) -> NDArray[np.float64]:
    """Return the means of the resamples of a two-level bootstrap.

    A resample draws as many edit sets as there are, with replacement, and within each drawn set
    as many facts as it holds, with replacement: facts edited together share one shift, so they
    are not independent. A few sets show little of the variation between sets; an interval from
    one set has none of it.

    Facts with equal values are interchangeable, so a resample is a multinomial draw of how often
    each distinct row of values occurs. Accuracies take few distinct values: the cost hardly grows
    with the number of facts, and the order of the facts cannot matter.

    Args:
        values: Shape (n, k), finite; what is measured on each of n facts.
        sets: Shape (n,); the edit set each fact belongs to.
        seed: Of the NumPy generator.
        resamples: Number of resamples.

    Returns:
        Shape (resamples, k); the facts of a row are drawn together, so that metrics, or editors
        on the same facts, can be compared within a resample.
    """
    distinct, value_index = np.unique(np.asarray(values, dtype=float), axis=0, return_inverse=True)
    names, set_index = np.unique(np.asarray(sets), return_inverse=True)
    counts: NDArray[np.int64] = np.zeros((len(names), len(distinct)), dtype=np.int64)
    np.add.at(counts, (set_index, value_index), 1)
    sizes = counts.sum(axis=1)

    smallest = distinct.min(axis=0)
    offsets = distinct - smallest
    generator = np.random.default_rng(seed)
    drawn = generator.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples)
    sums = np.zeros((resamples, distinct.shape[1]))
    for index, size in enumerate(sizes):
        tallies = generator.multinomial(drawn[:, index] * size, counts[index] / size)
        sums += tallies @ offsets
    return smallest + sums / (drawn @ sizes)[:, None]
