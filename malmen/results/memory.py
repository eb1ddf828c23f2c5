"""The file of memory measurements: its columns and the names of the procedures."""

from pathlib import Path

import pandas as pd

from malmen.support.errors import InputError

__all__ = ["COLUMNS", "EDITING", "PLAIN", "PROCEDURES", "SPILLED", "TRAINING", "read"]

TRAINING = "MALMEN: meta-training step"
SPILLED = "MALMEN: meta-training step, keys on disk"
EDITING = "MALMEN: edit"
PLAIN = "One graph (MEND's procedure)"

PROCEDURES = (TRAINING, SPILLED, EDITING, PLAIN)
COLUMNS = ("procedure", "edits", "peak_mb", "seconds", "fits", "limit_mb")
"""Peak memory in MB (2²⁰ bytes) above the loaded language model; seconds of wall clock; whether
the peak is within the limit, where a procedure's measurements end."""


def read(path: Path) -> pd.DataFrame:
    """Read what `malmen memory` wrote.

    Raises:
        InputError: If the file is missing, or is no such file.
    """
    try:
        frame = pd.read_csv(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file (make it with `malmen memory`)") from error
    except (UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"{path}: not a readable CSV file") from error
    if missing := [name for name in COLUMNS if name not in frame]:
        raise InputError(f"{path}: no column '{missing[0]}' (make it with `malmen memory`)")
    if unknown := sorted(set(frame["procedure"]).difference(PROCEDURES)):
        known = ", ".join(PROCEDURES)
        raise InputError(f"{path}: column 'procedure': '{unknown[0]}' is not one of {known}")
    return frame
