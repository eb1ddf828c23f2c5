"""The record of a search for hyper-parameters."""

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import harmonic_mean
from typing import Any

import pandas as pd

from malmen.results import per_fact
from malmen.results.metrics import HEADLINE
from malmen.support.errors import InputError

__all__ = ["trials"]


def trials(evaluations: Sequence[Path]) -> pd.DataFrame:
    """List trials, best first.

    The score is the harmonic mean of ES, GS and LS, as in Meng et al. (2023): their plain mean
    would prefer an editor that does nothing, whose LS is perfect.

    Args:
        evaluations: per-fact results on validation rows, one file a trial; the metadata of a
            trained editor stand beside it as ``.json``.

    Returns:
        One row a trial: its settings, number of facts, ES, GS, LS, score and seconds (of
        training, or else of evaluation).

    Raises:
        InputError: there is no trial, or a file is not one of per-fact results.
    """
    if not evaluations:
        raise InputError("no evaluations given (--evaluations FILE.parquet ...)")
    rows = []
    for path in evaluations:
        frame, evaluation = per_fact.read(path)
        training = path.with_suffix(".json")
        run: dict[str, Any] = json.loads(training.read_text()) if training.exists() else evaluation
        means = frame[list(HEADLINE)].mean()
        rows.append(
            {
                **run["settings"],
                "facts": len(frame),
                **means,
                "score": harmonic_mean(means),
                "seconds": run["wall_seconds"],
            }
        )
    return pd.DataFrame(rows).sort_values("score", ascending=False, ignore_index=True)
