"""The record of a search for hyper-parameters."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from malmen import results

__all__ = ["trials"]


def trials(evaluations: Sequence[Path]) -> pd.DataFrame:
    """List trials, best first: by the mean of ES, GS and LS on validation facts.

    Args:
        evaluations: per-fact results on validation rows, one file a trial.

    Returns:
        One row a trial: its settings, number of edits and of facts, ES, GS, LS and their mean.
    """
    rows = []
    for path in evaluations:
        frame, metadata = results.read(path)
        means = frame[["es", "gs", "ls"]].mean()
        rows.append(
            {
                "trial": path.stem,
                **metadata["settings"],
                "edits": int(frame["edits"].iloc[0]),
                "facts": len(frame),
                **means,
                "mean": means.mean(),
                "seconds": metadata["wall_seconds"],
            }
        )
    return pd.DataFrame(rows).sort_values("mean", ascending=False, ignore_index=True)
