"""Per-fact results: their columns, their Parquet files, and means with confidence intervals.

An evaluation file holds one row a fact. The columns stand in `COLUMNS` and nowhere else; whatever
reads or writes results goes through `read`, `read_all` and `write`, which check them.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike, NDArray

from malmen.support.errors import InputError
from malmen.support.files import atomic, read_json

__all__ = [
    "COLUMNS",
    "METRICS",
    "PRE_EDIT",
    "Interval",
    "aggregate",
    "bootstrap",
    "check",
    "editor_order",
    "percentile_interval",
    "read",
    "read_all",
    "read_metadata",
    "resampled_means",
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
METRICS: dict[str, str] = {
    "es": "ES",
    "gs": "GS",
    "ls": "LS",
    "ls_consistency": "LS-consistency",
    "es_exact": "ES exact",
    "gs_exact": "GS exact",
    "ls_exact": "LS exact",
}
"""The measures of an edited LM with their names in print; accuracies first, exact matches last."""

PRE_EDIT_METRICS: dict[str, str] = {
    f"pre_{metric}": metric for metric in METRICS if metric != "ls_consistency"
}
"""The same measures before editing (agreement with itself, LS-consistency, says nothing)."""

COLUMNS: dict[str, str] = IDENTITY | {
    name: "bool" if name.endswith("_exact") else "float64" for name in [*METRICS, *PRE_EDIT_METRICS]
}
"""Name and Arrow type of every column, in order; measures are fractions in [0, 1]."""

PRE_EDIT = "Pre-edit"
"""Stands in the column `editor` of aggregated results for the LM before editing."""

_METADATA_KEY = b"malmen"
_SCHEMA = pa.schema([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])


class Interval(NamedTuple):
    """A mean with the ends of its confidence interval."""

    value: float
    low: float
    high: float


def write(path: Path, frame: pd.DataFrame, metadata: Mapping[str, Any]) -> None:
    """Write per-fact results and the metadata of the run that made them as one Parquet file.

    Args:
        path: The file, written whole or not at all.
        frame: One row a fact with the columns of `COLUMNS`, in any order; must pass `check`.
        metadata: What `malmen.experiment.provenance.run_metadata` returns; kept in the file's
            schema.
    """
    check(frame, source=str(path))
    table = pa.Table.from_pandas(frame[list(COLUMNS)], schema=_SCHEMA, preserve_index=False)
    table = table.replace_schema_metadata({_METADATA_KEY: json.dumps(dict(metadata)).encode()})
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
    return frame[list(COLUMNS)], json.loads(metadata)


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
        The rows of all files, and the metadata of each.

    Raises:
        InputError: As `read`; if there is no file; if two files hold the same evaluation.
    """
    paths = list(paths)
    if not paths:
        raise InputError("no evaluations given (--evaluations FILE.parquet ...)")
    files = [read(path) for path in paths]
    frame = pd.concat([rows for rows, _ in files], ignore_index=True)
    _check_unique(frame, source=", ".join(map(str, paths)))
    return frame, [metadata for _, metadata in files]


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
        if name not in COLUMNS:
            raise InputError(f"{source}: column '{name}' is unknown (known: {', '.join(COLUMNS)})")
    if frame.empty:
        raise InputError(f"{source}: no rows")
    for name, kind in COLUMNS.items():
        _check_column(frame[name], kind, source)
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


def aggregate(
    frame: pd.DataFrame, titles: Sequence[str] = (), *, seed: int = 0, resamples: int = 1000
) -> pd.DataFrame:
    """Average per-fact results over facts and edit sets, with 95% confidence intervals.

    The LM before editing appears as one more editor, `PRE_EDIT`, over the facts that any editor
    was evaluated on.

    Args:
        frame: Per-fact results, as `read_all` returns them.
        titles: Editors in the order of rows.
        seed: Of the bootstrap; every mean draws from a generator of its own, so that adding an
            editor or a count leaves the intervals of the others as they are.
        resamples: Number of bootstrap resamples.

    Returns:
        One row a mean with the columns lm, editor, edits, metric (a key of `METRICS`), value,
        low, high (fractions), n_facts (distinct facts), n_sets (distinct pairs of seed and edit
        set, the units resampled), sorted by LM, editor (`editor_order`), edits and metric.
    """
    everything = pd.concat([frame[[*IDENTITY, *METRICS]], _pre_edit_rows(frame)])
    order = editor_order(everything["editor"], titles)
    rows: list[dict[str, Any]] = []
    for (lm, editor, edits), group in everything.groupby(["lm", "editor", "edits"]):
        sets = group.groupby(["seed", "edit_set"]).ngroup().to_numpy()
        sizes = {"n_facts": group["fact"].nunique(), "n_sets": int(sets.max()) + 1}
        for metric in METRICS:
            values = group[metric].to_numpy(dtype=float)
            if np.isnan(values).all():  # LS-consistency before editing
                continue
            interval = bootstrap(values, sets, seed=seed, resamples=resamples)
            rows.append(
                {"lm": lm, "editor": editor, "edits": edits, "metric": metric}
                | interval._asdict()
                | sizes
            )
    # groupby sorts LMs and counts, and the metrics come in order; editors have an order of theirs.
    rows.sort(key=lambda row: (row["lm"], order.index(row["editor"])))
    return pd.DataFrame(rows)


def _pre_edit_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the LM's measures before editing as rows of the editor `PRE_EDIT`."""
    # Each editor's evaluation measured the LM anew: average them, so that a fact counts once.
    keys = [name for name in IDENTITY if name != "editor"]
    means = frame.groupby(keys, as_index=False)[list(PRE_EDIT_METRICS)].mean()
    return means.rename(columns=PRE_EDIT_METRICS).assign(editor=PRE_EDIT)


def editor_order(editors: Iterable[str], titles: Iterable[str] = ()) -> list[str]:
    """Return the distinct editors in the order of rows and legends.

    `PRE_EDIT` is first, then come the ``titles``, then the others by their names.
    """
    known = (PRE_EDIT, *titles)
    present = set(editors)
    return [name for name in known if name in present] + sorted(present.difference(known))


def bootstrap(
    values: ArrayLike,
    sets: ArrayLike,
    *,
    seed: int,
    resamples: int = 1000,
    level: float = 0.95,
) -> Interval:
    """Return a mean with its percentile interval from a two-level bootstrap (`resampled_means`).

    Args:
        values: Shape (n,), finite.
        sets: Shape (n,); the edit set each value belongs to.
        seed: Of the NumPy generator.
        resamples: Number of resamples.
        level: Probability mass of the interval.
    """
    values = np.asarray(values, dtype=float)
    smallest = values.min()  # of equal values, the mean is that value exactly
    value = smallest + math.fsum(values - smallest) / len(values)
    means = resampled_means(values[:, None], sets, seed=seed, resamples=resamples)[:, 0]
    return percentile_interval(float(value), means, level=level)


def percentile_interval(
    value: float, samples: NDArray[np.float64], *, level: float = 0.95
) -> Interval:
    """Return an estimate with the interval that holds `level` of its resampled values."""
    tail = (1 - level) / 2
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
        Shape (resamples, k); the facts of a row are drawn together, so that measures, or editors
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
