"""Comparison of a run with reference results, cell by cell, within stated tolerances."""

import math
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pandas as pd

from malmen.results.per_fact import read
from malmen.support.errors import InputError
from malmen.support.files import atomic, read_json, read_yaml, write_json

__all__ = ["TOLERANCES", "Moved", "Tolerance", "make_reference", "verify"]

TOLERANCES = Path(__file__).with_name("verify.yaml")

# All figures but learning curves: their steps are thousands, and differ between processors.
_KEPT = ("tables/*.csv", "figures/figure_[!L]*.csv", "claims.csv")
_METADATA = "metadata.json"
_DESCRIBED = ("commit", "dirty", "seed", "versions", "hardware")


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """How the cells of a file are compared; the fields are those of `verify.yaml`."""

    files: str = "*"
    key: Sequence[str] = ()
    shares: Sequence[str] = ()
    costs: Sequence[str] = ()
    passed: Sequence[str] = ()

    def compared(self, columns: Sequence[str]) -> list[str]:
        """Return the columns whose cells are compared."""
        ends = [end for column in self.shares for end in _ends(column)]
        left_out = {*self.key, *self.costs, *self.passed, *ends}
        return [column for column in dict.fromkeys(columns) if column not in left_out]


@dataclass(frozen=True)
class Moved:
    """A cell (or a row, or a file) that is not what it was."""

    file: str
    row: str
    column: str
    reference: str
    now: str
    tolerance: str

    def __str__(self) -> str:
        where = ": ".join(filter(None, (self.file, self.row, self.column)))
        return f"{where}: was {self.reference}, is {self.now} (tolerance: {self.tolerance})"


def make_reference(results: Path, out: Path) -> list[Path]:
    """Copy the small results of a run and describe the runs that they come from.

    Args:
        results: Folder of the run, `results/<scale>`.
        out: Folder of the reference; what it holds is replaced.

    Returns:
        The files written: CSVs, and `metadata.json` with commit, versions and hardware.

    Raises:
        InputError: The run has no such results.
    """
    found = _kept(results)
    if not found:
        raise InputError(f"{results}: no tables, figures or claims there (make them first)")
    for old in _kept(out):
        old.unlink()
    written = []
    for path in found:
        written.append(Path(out) / path.relative_to(results))
        with atomic(written[-1]) as temporary:
            shutil.copyfile(path, temporary)
    write_json(Path(out) / _METADATA, _runs(results))
    return [*written, Path(out) / _METADATA]


def verify(reference: Path, results: Path, *, tolerances: Path = TOLERANCES) -> list[Moved]:
    """Compare a run with a reference and print what moved.

    Args:
        reference: Folder that `make_reference` wrote.
        results: Folder of the run.
        tolerances: What may differ, and by how much.

    Returns:
        What moved beyond its tolerance.

    Raises:
        InputError: There is no reference, the tolerances are malformed, or their keys do not tell
            the rows of a file apart.
    """
    points, rules = _read_tolerances(tolerances)
    if not (files := _kept(reference)):
        raise InputError(f"{reference}: no reference there (write one with `malmen reference`)")
    moved: list[Moved] = []
    for path in files:
        name = path.relative_to(reference).as_posix()
        rule = next((rule for rule in rules if fnmatch(name, rule.files)), Tolerance())
        if not (Path(results) / name).is_file():
            moved.append(Moved(name, "", "", "a file", "missing", "none"))
            continue
        before, now = (_read(Path(folder) / name, rule.key) for folder in (reference, results))
        moved += _compare(name, before, now, rule, points)
        print(*_ratios(name, before, now, rule.costs), sep="\n")
    print(_described(reference, results))
    print(*moved, sep="\n", end="\n" if moved else "")
    verdict = f"{len(moved)} cells moved" if moved else "nothing moved"
    print(f"{verdict} in {len(files)} files of {reference}")
    return moved


def _kept(folder: Path) -> list[Path]:
    """Return the small results in a folder."""
    return sorted(path for pattern in _KEPT for path in Path(folder).glob(pattern))


def _read_tolerances(path: Path) -> tuple[float, list[Tolerance]]:
    content = read_yaml(path)
    try:
        return float(content["points"]), [Tolerance(**entry) for entry in content["files"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not as its heading says ({error})") from error


def _read(path: Path, key: Sequence[str]) -> pd.DataFrame:
    """Return the cells of a file as text, the rows named by their key or by their position."""
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    if missing := [name for name in key if name not in frame]:
        raise InputError(f"{path}: no column '{missing[0]}', by which its rows are told apart")
    named = frame[[*key]].agg(", ".join, axis=1) if key else [f"row {n + 1}" for n in frame.index]
    frame.index = pd.Index(named)
    if frame.index.has_duplicates:
        twice = frame.index[frame.index.duplicated()][0]
        raise InputError(f"{path}: two rows are '{twice}' (name more columns under 'key')")
    return frame


def _compare(
    file: str, before: pd.DataFrame, now: pd.DataFrame, tolerance: Tolerance, points: float
) -> Iterator[Moved]:
    """Yield what moved: rows that came or went, then cells."""
    columns = tolerance.compared([*before, *now])
    for row in dict.fromkeys([*before.index, *now.index]):
        if row not in before.index or row not in now.index:
            was, found = ("a row" if row in one.index else "missing" for one in (before, now))
            yield Moved(file, row, "", was, found, "none")
            continue
        for column in columns:
            was, found = (str(one.loc[row].get(column, "no column")) for one in (before, now))
            allowed = _allowed(before.loc[row], column, points) if column in tolerance.shares else 0
            if not _within(was, found, allowed):
                yield Moved(file, row, column, was, found, f"{allowed:.3g}")


def _ends(column: str) -> tuple[str, str]:
    """Return the columns of a share's interval."""
    return ("low", "high") if column == "value" else (f"{column}_low", f"{column}_high")


def _allowed(row: "pd.Series[str]", column: str, points: float) -> float:
    """Return by how much a share may move: by `points`, or by its interval if that is wider."""
    value = _number(row.get(column, ""))
    ends = (_number(row.get(end, "")) for end in _ends(column))
    return max([points / 100, *(abs(end - value) for end in ends if not math.isnan(end))])


def _within(reference: str, now: str, allowed: float) -> bool:
    difference = abs(_number(now) - _number(reference))
    return reference == now or difference <= allowed  # of text, the difference is NaN


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan


def _ratios(
    file: str, before: pd.DataFrame, now: pd.DataFrame, costs: Sequence[str]
) -> Iterator[str]:
    """Yield a line a column of costs: how many times the reference."""
    for column in (name for name in costs if name in before and name in now):
        old, new = (frame[column].map(_number) for frame in (before, now))
        ratios = (new / old)[(old > 0) & (new > 0)]
        if len(ratios):
            spread = f"{ratios.min():.2f} to {ratios.max():.2f}"
            yield f"{file}: {column}: {ratios.median():.2f} times the reference ({spread})"


# --- where results come from ---------------------------------------------------------------------


def _runs(results: Path) -> list[dict[str, Any]]:
    """Return what describes the runs behind the evaluations, each description once."""
    runs: list[dict[str, Any]] = []
    for path in sorted(Path(results).glob("evaluations/*/*.parquet")):
        _, metadata = read(path)
        run = {key: metadata[key] for key in _DESCRIBED if key in metadata}
        if run not in runs:
            runs.append(run)
    return runs


def _described(reference: Path, results: Path) -> str:
    path = Path(reference) / _METADATA
    before = read_json(path) if path.is_file() else []
    return f"reference: {_about(before)}\nnow: {_about(_runs(results))}"


def _about(runs: Sequence[Mapping[str, Any]]) -> str:
    """Return commits, processors and versions of torch in one line."""
    commits = {str(run.get("commit", "unknown"))[:9] for run in runs}
    machines = {str(run.get("hardware", {}).get("cpu", "unknown")) for run in runs}
    torch = {str(run.get("versions", {}).get("torch", "unknown")) for run in runs}
    parts = {"commit": commits, "processor": machines, "torch": torch}
    return "; ".join(f"{name} {', '.join(sorted(of))}" for name, of in parts.items() if of)
