"""Rows as they stand in JSON and JSON-lines files, which know where they stand.

A file holds a list of rows or a mapping of columns (``.json``), or one row a line (``.jsonl``), and
may be gzipped. Whoever takes a field from a row gets it checked: what is missing or malformed is
reported with its file, its line and its name.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from malmen.support.errors import InputError
from malmen.support.files import atomic

__all__ = ["RawRow", "read_raw_rows", "write_json_lines"]


@dataclass(frozen=True)
class RawRow:
    """Hold one row as it stands in a file, and where it stands.

    A field that is not as it has to be raises an :class:`InputError` that names file, line and
    field, and says what to do.
    """

    where: str
    fields: Mapping[str, Any]

    def fail(self, field: str, what: str, remedy: str) -> InputError:
        """Return the error that names this row's file, line and field."""
        return InputError(f"{self.where}: field '{field}': {what} ({remedy})")

    def text(self, field: str) -> str:
        """Return a field that has to be text, stripped; missing or empty, it is an error."""
        if field not in self.fields:
            raise self.fail(field, "missing", "add it, or drop the row")
        return self._checked(field, self.fields[field])

    def texts(self, field: str) -> tuple[str, ...]:
        """Return a field that is one text or a list of texts, as a tuple with at least one."""
        value = self.fields.get(field)
        if not isinstance(value, list):
            return (self.text(field),)
        if not value:
            raise self.fail(field, "empty list", "give at least one text")
        return tuple(self._checked(field, item) for item in value)

    def choice(self, field: str, choices: Sequence[str]) -> str:
        """Return a field that has to be one of ``choices``."""
        value = self.text(field)
        if value not in choices:
            remedy = f"use one of {', '.join(choices)}"
            raise self.fail(field, f"unknown label '{value}'", remedy)
        return value

    def optional_text(self, field: str) -> str | None:
        """Return a text that may be missing or null, but not empty."""
        return None if self.fields.get(field) is None else self.text(field)

    def inner(self, field: str) -> "RawRow":
        """Return a field that has to be an object, as a row at the same place."""
        value = self.fields.get(field)
        if not isinstance(value, dict):
            raise self.fail(field, f"{_kind(value)} instead of an object", "mend the row")
        return RawRow(self.where, value)

    def has(self, field: str) -> bool:
        """Return whether the field is there and not null."""
        return self.fields.get(field) is not None

    def _checked(self, field: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.fail(field, f"{_kind(value)} instead of text", "write it as a string")
        if not value.strip():
            raise self.fail(field, "empty", "fill it in, or drop the row")
        return value.strip()


def read_raw_rows(path: str | Path, *, problems: list[InputError] | None = None) -> list[RawRow]:
    """Read the rows of a JSON or JSON lines file, unchecked but for being rows.

    Args:
        path: A ``.json`` or ``.jsonl`` file, gzipped or not.
        problems: Where given, what is no row is left out and its error put here.

    Returns:
        The rows in the order of the file, at least one.

    Raises:
        InputError: If the file is missing, cannot be read or holds no rows.
    """
    path = Path(path)
    parse = _parser(path)
    opened: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            raws = list(_rows(parse(path, file), problems))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (check the path)") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error} (check the file)") from error
    if not raws:
        raise InputError(f"{path}: no rows (check the file)")
    return raws


def write_json_lines(path: str | Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as JSON lines, whole or not at all.

    Args:
        path: The file; its folder is made where missing.
        objects: One mapping a line.
    """
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for item in objects:
            file.write(json.dumps(item, ensure_ascii=False) + "\n")


def _parser(path: Path) -> Callable[[Path, Iterable[str]], Iterator[tuple[str, object]]]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        return _json_lines
    if name.endswith(".json"):
        return _json_rows
    raise InputError(f"{path}: unknown kind of file (use .json or .jsonl, or these with .gz)")


def _json_lines(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, object]]:
    for number, line in enumerate(lines, start=1):
        if line.strip():
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                value = error  # whether the other lines are wanted is for the caller to say
            yield f"{path}:{number}", value


def _json_rows(path: Path, lines: Iterable[str]) -> Iterator[tuple[str, object]]:
    try:
        content = json.loads("".join(lines))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not JSON: {error} (mend the file)") from error
    if isinstance(content, dict):
        content = _rows_of_columns(path, content)
    if not isinstance(content, list):
        raise InputError(f"{path}: {_kind(content)} instead of a list of rows (mend the file)")
    for number, value in enumerate(content, start=1):
        yield f"{path}:row {number}", value


def _rows_of_columns(path: Path, columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    for name, column in columns.items():
        if not isinstance(column, list):
            raise InputError(
                f"{path}: field '{name}': {_kind(column)} instead of a column (mend it)"
            )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: columns of different lengths: {lengths} (mend the file)")
    names = list(columns)
    return [dict(zip(names, values, strict=True)) for values in zip(*columns.values(), strict=True)]


def _rows(
    values: Iterable[tuple[str, object]], problems: list[InputError] | None
) -> Iterator[RawRow]:
    for where, value in values:
        try:
            yield _row(where, value)
        except InputError as error:
            if problems is None:
                raise
            problems.append(error)


def _row(where: str, value: object) -> RawRow:
    if isinstance(value, json.JSONDecodeError):
        raise InputError(f"{where}: not JSON: {value} (mend the line)") from value
    if not isinstance(value, dict):
        raise InputError(f"{where}: {_kind(value)} instead of a row (write it as an object)")
    return RawRow(where, value)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
