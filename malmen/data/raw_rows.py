"""Rows as they stand in data files, which know where they stand.

A file holds JSON (a list of rows, a mapping of columns as pandas writes it, or either under a key),
one row a line (``.jsonl``), a table with a header (``.csv``, ``.tsv``) or Parquet, gzipped or not.
Whoever takes a field from a row gets it checked: what is missing or malformed is reported with its
file, its line and its name.
"""

import csv
import gzip
import io
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from malmen.support.errors import InputError, quoted
from malmen.support.files import atomic

__all__ = ["RawRow", "decoded", "place", "read_raw_rows", "write_json_lines"]

logger = logging.getLogger(__name__)

FOREIGN = {
    b"version https://git-lfs": "a Git LFS pointer: fetch the real file (git lfs pull)",
    b"PK\x03\x04": "a ZIP archive: unpack it",
    b"\x80": "a pickle, which is never read: write the rows as JSON lines",
    b"<!DOCTYPE": "a web page, not data: download the file itself",
    b"<html": "a web page, not data: download the file itself",
}
"""What files begin with that are no data, whatever their names say."""


@dataclass(frozen=True)
class RawRow:
    """Hold one row as it stands in a file, and where it stands.

    A field that is not as it has to be raises an :class:`InputError` that names file, line and
    field, and says what to do.

    Attributes:
        where: file and line, or number of the row from 1.
        fields: what stands there, by name.
        names: of fields that have another name in the file, that name.
    """

    where: str
    fields: Mapping[str, Any]
    names: Mapping[str, str] = field(default_factory=dict)

    def fail(self, field: str, what: str, remedy: str) -> InputError:
        """Return the error that names this row's file, line and field."""
        return InputError(
            f"{self.where}: field '{self.names.get(field, field)}': {what} ({remedy})"
        )

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
            raise self.fail(field, f"unknown {field} {quoted(value)}", remedy)
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

    def renamed(self, **names: str) -> "RawRow":
        """Return the fields that are given here as name=name in the file, and no others."""
        fields = {name: self.fields[other] for name, other in names.items() if other in self.fields}
        return replace(self, fields=fields, names=names)

    def _checked(self, field: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.fail(field, f"{_kind(value)} instead of text", "write it as a string")
        if not value.strip():
            raise self.fail(field, "empty", "fill it in, or drop the row")
        if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
            remedy = "write both halves, or drop the row"
            raise self.fail(field, "half of a character (a lone surrogate)", remedy)
        return value.strip()


class _Row(NamedTuple):
    """What stands at a place of a file; of a line that cannot be read, the error."""

    where: str
    value: object


def read_raw_rows(path: str | Path, *, problems: list[InputError] | None = None) -> list[RawRow]:
    """Read the rows of a file, unchecked but for being rows.

    Args:
        path: A file of one of the kinds above; its name says which.
        problems: Where given, what is no row is left out and its error put here.

    Returns:
        The rows in the order of the file, at least one.

    Raises:
        InputError: If the file is missing, cannot be read or holds no rows.
    """
    path = Path(path)
    rows: list[RawRow] = []
    for where, value in _parser(path)(path, _content(path)):
        try:
            if isinstance(value, InputError):
                raise value
            if isinstance(value, Exception):
                raise InputError(f"{where}: not JSON: {value} (mend the line)") from value
            if not isinstance(value, dict):
                raise InputError(
                    f"{where}: {_kind(value)} instead of a row (write it as an object)"
                )
            rows.append(RawRow(where, value))
        except InputError as error:
            if problems is None:
                raise
            problems.append(error)
    if not rows and not problems:
        raise InputError(f"{path}: no rows (check the file)")
    if padded := sum(any(map(_is_padded, row.fields.values())) for row in rows):
        logger.info("%s: white space round texts of %d rows is stripped", path, padded)
    return rows


def place(where: str) -> str:
    """Return where a row stands in its file, without the file."""
    number = where.rpartition(":")[2]
    return f"line {number}" if number.isdigit() else number


def write_json_lines(path: str | Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as JSON lines, whole or not at all.

    Args:
        path: The file; its folder is made where missing.
        objects: One mapping a line.
    """
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        for item in objects:
            file.write(json.dumps(item, ensure_ascii=False) + "\n")


def decoded(content: bytes, where: str, *, line: int = 1) -> str:
    """Return text that is UTF-8, with or without a byte-order mark.

    Args:
        content: a file's, or one of its lines.
        where: the file.
        line: the number of the first line.

    Raises:
        InputError: it is something else; which byte is wrong, and what to do.
    """
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        remedy = "convert it: iconv -f UTF-16 -t UTF-8"
        raise InputError(f"{where}: byte 1: UTF-16 instead of UTF-8 ({remedy})")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line += content.count(b"\n", 0, error.start)
        byte = error.start - content.rfind(b"\n", 0, error.start)
        raise InputError(
            f"{where}:{line}: byte {byte} of the line: 0x{content[error.start]:02x} is not UTF-8 "
            "(convert the file: iconv -f LATIN1 -t UTF-8, if it is that)"
        ) from error


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        if content.startswith(b"\x1f\x8b") or path.suffix == ".gz":
            content = gzip.decompress(content)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (check the path)") from None
    except (OSError, EOFError, zlib.error) as error:
        what = getattr(error, "strerror", None) or error
        raise InputError(f"{path}: cannot be read: {what} (check the file)") from error
    for start, what in FOREIGN.items():
        if content[:64].lstrip().startswith(start):
            raise InputError(f"{path}: {what}")
    return content


def _parser(path: Path) -> Callable[[Path, bytes], Iterator[_Row]]:
    ending = Path(path.name.removesuffix(".gz")).suffix
    if ending not in _PARSERS:
        kinds = ", ".join(_PARSERS)
        raise InputError(f"{path}: unknown kind of file (use {kinds}, or these with .gz)")
    return _PARSERS[ending]


def _json(path: Path, content: bytes) -> Iterator[_Row]:
    """Read JSON, whichever of the two kinds it is, whatever the name says."""
    text = decoded(content, str(path))
    lines = [line for line in text.split("\n") if line.strip()]
    one_a_line = path.name.removesuffix(".gz").endswith("l")
    value = _loaded(text)
    if isinstance(value, Exception):
        one_a_line = one_a_line or (bool(lines) and isinstance(_loaded(lines[0]), dict))
    else:
        one_a_line = one_a_line and len(lines) == 1 and not _is_list_of_rows(value)
    if one_a_line:
        return _json_lines(path, text)
    if isinstance(value, Exception):
        line = f":{value.lineno}" if isinstance(value, json.JSONDecodeError) else ""
        raise InputError(f"{path}{line}: not JSON: {value} (mend the file)") from value
    return _numbered(path, _listed(path, value))


def _json_lines(path: Path, text: str) -> Iterator[_Row]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _Row(f"{path}:{number}", _loaded(line))


def _loaded(text: str) -> Any:
    """Return what JSON says, or the error: whether other lines are wanted, the caller says."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        return error


def _listed(path: Path, content: object) -> list[object]:
    """Return the list of rows that JSON holds in one of several ways."""
    if isinstance(content, list):
        return content
    if not isinstance(content, dict):
        raise InputError(f"{path}: {_kind(content)} instead of a list of rows (mend the file)")
    values = list(content.values())
    lists = [name for name, value in content.items() if _is_list_of_rows(value)]
    if len(lists) > 1 and len(lists) == len(content):
        raise InputError(f"{path}: rows under {', '.join(lists)} (keep one of them)")
    if len(lists) == 1 and sum(isinstance(value, list) for value in values) == 1:
        return list(content[lists[0]])
    if values and all(isinstance(value, dict) for value in values):  # as pandas writes them
        if all(name.isdigit() for name in content):
            return values
        numbers = dict.fromkeys(number for column in values for number in column)
        return [{name: column.get(n) for name, column in content.items()} for n in numbers]
    if set(content) >= {"columns", "data"} and isinstance(content["data"], list):
        return [dict(zip(content["columns"], values, strict=False)) for values in content["data"]]
    if any(isinstance(value, str) for value in values):
        return [content]
    return _rows_of_columns(path, content)


def _is_list_of_rows(value: object) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], dict)


def _rows_of_columns(path: Path, columns: Mapping[str, Any]) -> list[object]:
    for name, column in columns.items():
        if not isinstance(column, list):
            raise InputError(
                f"{path}: field '{name}': {_kind(column)} instead of a column (mend it)"
            )
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise InputError(f"{path}: columns of different lengths: {lengths} (mend the file)")
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def _table(path: Path, content: bytes) -> Iterator[_Row]:
    text = decoded(content, str(path))
    header = text.split("\n", 1)[0]
    delimiter = max("\t;,", key=header.count)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        for row in reader:
            where = f"{path}:{reader.line_num}"
            if None in row or None in row.values():
                uneven = InputError(f"{where}: more or fewer cells than the header (mend the row)")
                yield _Row(where, uneven)
            else:
                yield _Row(where, {name: _cell(c) for name, c in row.items() if c.strip()})
    except csv.Error as error:
        raise InputError(f"{path}:{reader.line_num}: no table: {error} (mend the row)") from error


def _cell(cell: str) -> Any:
    """Return a cell's text, or the list or object that it writes as JSON."""
    value = _loaded(cell) if cell.startswith(("[", "{")) else cell
    return value if isinstance(value, list | dict) else cell


def _parquet(path: Path, content: bytes) -> Iterator[_Row]:
    from pyarrow import ArrowException, BufferReader, parquet

    try:
        rows = parquet.read_table(BufferReader(content)).to_pylist()
    except (OSError, ArrowException) as error:
        raise InputError(f"{path}: not a Parquet file: {error} (fetch it again)") from error
    return _numbered(path, rows)


def _numbered(path: Path, values: Sequence[object]) -> Iterator[_Row]:
    return (_Row(f"{path}:row {number}", value) for number, value in enumerate(values, start=1))


_PARSERS: Mapping[str, Callable[[Path, bytes], Iterator[_Row]]] = {
    ".json": _json,
    ".jsonl": _json,
    ".csv": _table,
    ".tsv": _table,
    ".parquet": _parquet,
}


def _is_padded(value: object) -> bool:
    texts = value if isinstance(value, list) else [value]
    return any(isinstance(text, str) and text != text.strip() for text in texts)


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
