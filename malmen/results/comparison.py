"""Levels of editors and comparisons between them, with intervals from the two-level bootstrap.

Two editors are compared on the same facts in the same edit sets, so what makes a fact easy for both
does not widen the interval of the difference.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from malmen.results.bootstrap import Interval, bootstrap, percentile_interval, resampled_means
from malmen.results.metrics import FURTHER, FURTHER_PRE_EDIT, HEADLINE, METRICS, PRE_EDIT_METRICS
from malmen.results.per_fact import IDENTITY
from malmen.support.errors import InputError

__all__ = [
    "MEASURES",
    "PRE_EDIT",
    "Resampled",
    "aggregate",
    "editor_order",
    "level",
    "paired_difference",
    "pre_edit_rows",
]

PRE_EDIT = "Pre-edit"
"""Stands in the column `editor` of aggregated results for the LM before editing."""

SCORE = "score"
MEASURES = (*METRICS, SCORE)
"""What evaluations can be compared in.

The score is that of the MEMIT paper, the harmonic mean of the headline metrics: an editor that
gives up one of the three has none.
"""


def aggregate(
    frame: pd.DataFrame, titles: Sequence[str] = (), *, resamples: int = 1000
) -> pd.DataFrame:
    """Average per-fact results over facts and edit sets, with 95% confidence intervals.

    The LM before editing appears as one more editor, `PRE_EDIT`, over the facts that any editor
    was evaluated on.

    Args:
        frame: Per-fact results, as `read_all` returns them.
        titles: Editors in the order of rows.
        resamples: Number of bootstrap resamples.

    Returns:
        One row a mean with the columns lm, editor, edits, metric (of `METRICS` or `FURTHER`),
        value, low, high (fractions), n_facts (distinct facts), n_sets (distinct pairs of seed and
        edit set, the units resampled), sorted by LM, editor (`editor_order`), edits and metric.
    """
    measured = [metric for metric in (*METRICS, *FURTHER) if metric in frame]
    everything = pd.concat([frame[[*IDENTITY, *measured]], pre_edit_rows(frame)])
    order = editor_order(everything["editor"], titles)
    rows: list[dict[str, Any]] = []
    for (lm, editor, edits), group in everything.groupby(["lm", "editor", "edits"]):
        for metric in measured:
            asked = group[group[metric].notna()]
            if asked.empty:  # LS-consistency before editing
                continue
            values, sets = asked[metric].to_numpy(dtype=float), _set_numbers(asked)
            sizes = {"n_facts": asked["fact"].nunique(), "n_sets": len(np.unique(sets))}
            # From a generator of its own: another editor or count leaves this interval as it is.
            interval = bootstrap(values, sets, seed=0, resamples=resamples)
            rows.append(
                {"lm": lm, "editor": editor, "edits": edits, "metric": metric}
                | interval._asdict()
                | sizes
            )
    # groupby sorts LMs and counts, and the metrics come in order; editors have an order of theirs.
    rows.sort(key=lambda row: (row["lm"], order.index(row["editor"])))
    return pd.DataFrame(rows)


def pre_edit_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the LM's scores before editing as those of the editor `PRE_EDIT`."""
    # Each editor's evaluation measured the LM anew: average them, so that a fact counts once.
    keys = [name for name in IDENTITY if name != "editor"]
    names = PRE_EDIT_METRICS | FURTHER_PRE_EDIT
    measured = [column for column in names if column in frame]
    means = frame.groupby(keys, as_index=False)[measured].mean()
    return means.rename(columns=names).assign(editor=PRE_EDIT)


def editor_order(editors: Iterable[str], titles: Iterable[str] = ()) -> list[str]:
    """Return the distinct editors in the order of rows and legends.

    `PRE_EDIT` is first, then come the ``titles``, then the others by their names.
    """
    known = (PRE_EDIT, *titles)
    present = set(editors)
    return [name for name in known if name in present] + sorted(present.difference(known))


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
    return _levels([evaluation[_columns(measure)]], evaluation, measure, seed)[0]


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
    fact = ["seed", "edits", "edit_set", "fact"]
    both = evaluation.merge(against, on=fact, suffixes=("", "_against"))
    if both.empty:
        raise InputError("no fact was edited by both editors in the same edit set")
    sides = [both[columns], both[[f"{name}_against" for name in columns]]]
    one, other = _levels(sides, both, measure, seed)
    return (one - other).interval


def _set_numbers(facts: pd.DataFrame) -> ArrayLike:
    """Return the number of each fact's edit set, counted over seeds; the unit resampled."""
    return facts.groupby(["seed", "edit_set"]).ngroup().to_numpy()


def _columns(measure: str) -> list[str]:
    return list(HEADLINE) if measure == SCORE else [measure]


def _levels(
    sides: Sequence[pd.DataFrame], facts: pd.DataFrame, measure: str, seed: int
) -> list[Resampled]:
    """Return the level of every side, all resampled together."""
    values = np.hstack([side.to_numpy(float) for side in sides])
    samples = resampled_means(values, _set_numbers(facts), seed=seed)
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
