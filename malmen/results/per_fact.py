"""Per-fact results: their columns and their Parquet files.

An evaluation file holds one row a fact. The columns stand in `COLUMNS` and nowhere else; whatever
reads or writes results goes through `read`, `read_all` and `write`, which check them.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from malmen.results.metrics import FURTHER, FURTHER_PRE_EDIT, METRICS, PRE_EDIT_METRICS
from malmen.support.errors import InputError
from malmen.support.files import atomic, read_json

__all__ = [
    "COLUMNS",
    "IDENTITY",
    "check",
    "endings",
    "read",
    "read_all",
    "read_metadata",
    "scale_of",
    "sources",
    "write",
]

IDENTITY: dict[str, str] = {
    "editor": "string",
    "lm": "string",
    "edits": "int64",  # how many facts were edited at once
    "seed": "int64",
    "edit_set": "int64",
    "fact": "int64",  # row index in the pool of evaluation rows
}
_KNOWN = METRICS | FURTHER

COLUMNS: dict[str, str] = (
    IDENTITY
    | {name: metric.arrow_type for name, metric in METRICS.items()}
    | {column: METRICS[name].arrow_type for column, name in PRE_EDIT_METRICS.items()}
)
"""Name and Arrow type of every column, in order; scores are fractions in [0, 1]."""

_NULLABLE = dict.fromkeys([*FURTHER, *FURTHER_PRE_EDIT], "float64")

_METADATA_KEY = b"malmen"


def _field(name: str, kind: str) -> pa.Field:
    """Return a column's field; a metric's says what it means."""
    metric = _KNOWN.get(name.removeprefix("pre_"))
    about = None if metric is None else {"metric_meta": json.dumps(metric.meta)}
    return pa.field(name, pa.type_for_alias(kind), metadata=about)


_FIELDS = {name: _field(name, kind) for name, kind in (COLUMNS | _NULLABLE).items()}


def write(path: Path, frame: pd.DataFrame, metadata: Mapping[str, Any]) -> None:
    """Write per-fact results and the metadata of the run that made them as one Parquet file.

    Args:
        path: The file, written whole or not at all.
        frame: One row a fact with the columns of `COLUMNS`, and any of those of `FURTHER`, after
            or before editing, in any order; must pass `check`.
        metadata: What `malmen.experiment.provenance.run_metadata` returns; kept in the file's
            schema.
    """
    check(frame, source=str(path))
    about = {_METADATA_KEY: json.dumps(dict(metadata)).encode()}
    schema = pa.schema([_FIELDS[name] for name in _present(frame)], metadata=about)
    table = pa.Table.from_pandas(frame[schema.names], schema=schema, preserve_index=False)
    table = table.replace_schema_metadata(about)  # without what pandas adds
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read per-fact results and their run metadata.

    Raises:
        InputError: If the file is missing, is not such a file, or fails `check`.
    """
    try:
        with pq.ParquetFile(path) as file:
            table = file.read()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file (make it with `malmen evaluate`)") from error
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: not a readable Parquet file") from error
    metadata = (table.schema.metadata or {}).get(_METADATA_KEY)
    if metadata is None:
        raise InputError(f"{path}: no run metadata (write it with `malmen evaluate`)")
    frame = table.replace_schema_metadata(None).to_pandas()
    check(frame, source=str(path))
    return frame[_present(frame)], json.loads(metadata)


def _present(frame: pd.DataFrame) -> list[str]:
    """Return the columns of a frame, in order."""
    return [name for name in _FIELDS if name in frame.columns]


def read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata of a run: those in its per-fact results, or a JSON file of their own.

    Raises:
        InputError: As `read`; if the JSON file holds something else.
    """
    if path.suffix == ".parquet":
        return read(path)[1]
    found = read_json(path)
    if not isinstance(found, dict) or "commit" not in found:
        raise InputError(f"{path}: not the metadata of a run")
    return found


def read_all(paths: Iterable[Path]) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """Read several files of per-fact results into one frame.

    Returns:
        The results of all files, and the metadata of each.

    Raises:
        InputError: As `read`; if there is no file; if two files hold the same evaluation.
    """
    paths = list(paths)
    if not paths:
        raise InputError("no evaluations given (--evaluations FILE.parquet ...)")
    files = [read(path) for path in paths]
    frame = pd.concat([facts for facts, _ in files], ignore_index=True)
    _check_unique(frame, source=", ".join(map(str, paths)))
    return frame, [metadata for _, metadata in files]


def endings(paths: Iterable[Path]) -> dict[tuple[str, str, int], str]:
    """Return what ended the training behind results, by LM, editor and number of edits.

    That is "patience", "budget" or, where several files of a count differ, both; an editor that
    was not trained has no entry.
    """
    found: dict[tuple[str, str, int], set[str]] = {}
    for path in paths:
        frame, metadata = read(path)
        lm, editor = (str(frame[name].iloc[0]) for name in ("lm", "editor"))
        for edits, training in metadata.get("trainings", {}).items():
            if training:  # files of trained editors did not always say
                found.setdefault((lm, editor, int(edits)), set()).add(training["ended_by"])
    return {key: " and ".join(sorted(reasons)) for key, reasons in found.items()}


def check(frame: pd.DataFrame, *, source: str) -> None:
    """Check that a frame holds per-fact results.

    Args:
        frame: What should have the columns of `COLUMNS`.
        source: The file to name in an error.

    Raises:
        InputError: Naming file and column (and the row, from 0): a column missing, unknown, of a
            wrong type or with a value outside its range; a fact that occurs twice; no rows.
    """
    for name in COLUMNS:
        if name not in frame.columns:
            raise InputError(f"{source}: column '{name}' is missing")
    for name in frame.columns:
        if name not in _FIELDS:
            raise InputError(f"{source}: column '{name}' is unknown (known: {', '.join(_FIELDS)})")
    if frame.empty:
        raise InputError(f"{source}: no rows")
    for name, kind in COLUMNS.items():
        _check_column(frame[name], kind, source)
    for name in frame.columns.intersection(list(_NULLABLE)):
        _check_column(frame[name].fillna(0.0), "float64", source)
    _check_unique(frame, source)


def _check_column(column: "pd.Series[Any]", kind: str, source: str) -> None:
    found = pd.api.types.infer_dtype(column, skipna=False)
    expected = {"string": "string", "int64": "integer", "float64": "floating", "bool": "boolean"}
    if found != expected[kind]:
        raise InputError(f"{source}: column '{column.name}' holds {found}, not {expected[kind]}")
    if kind == "string":
        wrong, allowed = column == "", "not empty"
    elif kind == "float64":
        wrong, allowed = ~column.between(0, 1), "in [0, 1]"
    else:
        least = 1 if column.name == "edits" else 0
        wrong, allowed = column < least, f"at least {least}"
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        value = column.iloc[row]
        raise InputError(f"{source}: column '{column.name}', row {row}: {value} is not {allowed}")


def _check_unique(frame: pd.DataFrame, source: str) -> None:
    repeated = frame.duplicated(list(IDENTITY))
    if repeated.any():
        row = frame.loc[repeated, list(IDENTITY)].iloc[0]
        which = ", ".join(f"{name} {value}" for name, value in row.items())
        raise InputError(f"{source}: column 'fact': evaluated twice ({which})")


def sources(metadata: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the attributions of the data and models behind several runs, each once."""
    return sorted({source for run in metadata for source in run.get("data", [])})


def scale_of(paths: Sequence[Path]) -> str | None:
    """Return the scale of results from where they lie, `results/<scale>/...`, or None."""
    for path in paths:
        parts = Path(path).absolute().parts
        for folder, scale in zip(reversed(parts[:-2]), reversed(parts[1:-1]), strict=True):
            if folder == "results":
                return scale
    return None
