"""Comparisons of evaluations, with intervals from the two-level bootstrap.

Two editors are compared on the same facts in the same edit sets, so what makes a fact easy for both
does not widen the interval of the difference.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from malmen.results.per_fact import METRICS, Interval, percentile_interval, resampled_means
from malmen.support.errors import InputError

__all__ = ["MEASURES", "Resampled", "level", "paired_difference"]

SCORE = "score"
MEASURES: dict[str, str] = METRICS | {SCORE: "score (harmonic mean of ES, GS and LS)"}
"""What evaluations can be compared in, with the names in print.

The score is that of the MEMIT paper: an editor that gives up one of the three has none.
"""

_SCORED = ("es", "gs", "ls")
_FACT = ["seed", "edits", "edit_set", "fact"]


@dataclass(frozen=True)
class Resampled:
    """An estimate with its bootstrap resamples, shape (resamples,)."""

    value: float
    samples: NDArray[np.float64]

    def __sub__(self, other: "Resampled") -> "Resampled":
        return Resampled(self.value - other.value, self.samples - other.samples)

    @property
    def interval(self) -> Interval:
        """The estimate with its 95% percentile interval."""
        return percentile_interval(self.value, self.samples)


def level(evaluation: pd.DataFrame, measure: str, *, seed: int = 0) -> Resampled:
    """Return the level of a measure over the facts of an evaluation.

    Args:
        evaluation: Per-fact results of one editor on one LM at one number of edits.
        measure: A key of `MEASURES`.
        seed: Of the bootstrap; estimates of different seeds are independent.
    """
    (estimate,) = _levels(
        [evaluation[_columns(measure)].to_numpy(float)], evaluation, measure, seed
    )
    return estimate


def paired_difference(
    evaluation: pd.DataFrame, against: pd.DataFrame, measure: str, *, seed: int = 0
) -> Interval:
    """Return the level of one editor minus that of another, on the facts that both edited.

    Args:
        evaluation: Per-fact results of one editor on one LM at one number of edits.
        against: The same of the other editor.
        measure: A key of `MEASURES`.
        seed: Of the bootstrap.

    Raises:
        InputError: If no fact was edited by both in the same edit set.
    """
    columns = _columns(measure)
    both = evaluation.merge(against, on=_FACT, suffixes=("", "_against"))
    if both.empty:
        raise InputError("no fact was edited by both editors in the same edit set")
    sides = [both[columns], both[[f"{name}_against" for name in columns]]]
    one, other = _levels([side.to_numpy(float) for side in sides], both, measure, seed)
    return (one - other).interval


def _columns(measure: str) -> list[str]:
    return list(_SCORED) if measure == SCORE else [measure]


def _levels(
    sides: Sequence[NDArray[np.float64]], facts: pd.DataFrame, measure: str, seed: int
) -> list[Resampled]:
    """Return the level of every side, all resampled together."""
    sets = facts.groupby(["seed", "edit_set"]).ngroup().to_numpy()
    values = np.hstack(sides)
    samples = resampled_means(values, sets, seed=seed)
    statistic = _harmonic_mean if measure == SCORE else np.mean
    means, drawn = np.split(values.mean(axis=0), len(sides)), np.split(samples, len(sides), axis=1)
    return [
        Resampled(float(statistic(mean, axis=-1)), statistic(sample, axis=-1))
        for mean, sample in zip(means, drawn, strict=True)
    ]


def _harmonic_mean(values: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
    with np.errstate(divide="ignore"):  # 1/0 is infinite, and the mean with a zero is zero
        mean: NDArray[np.float64] = values.shape[axis] / (1 / values).sum(axis=axis)
    return mean
