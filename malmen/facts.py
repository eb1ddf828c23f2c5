"""Rows: the facts to edit, with their paraphrases and their unrelated facts.

Two shapes are known. A *zsRE-shaped* row is a question with its answer; a *FEVER-shaped* row is a
claim with the label to edit in. Both are read from the fields of MALMEN's released data and from
those of MEND's, in JSON (a list of rows or a mapping of columns) or JSON lines, gzipped or not.

Rows are checked as they are read: what is missing or malformed is reported with its file, its
line and its field, so that nothing downstream meets an empty answer.
"""

import gzip
import json
import logging
import os
import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

from malmen.errors import InputError

__all__ = [
    "LABELS",
    "PARAPHRASE_RULES",
    "Answer",
    "FeverRow",
    "Label",
    "Record",
    "Row",
    "Shape",
    "ZsreRow",
    "attach_unrelated",
    "import_rows",
    "read_pairs",
    "read_records",
    "read_rows",
    "write_json_lines",
    "write_rows",
]

logger = logging.getLogger(__name__)

Shape = Literal["zsre", "fever"]
Label = Literal["SUPPORTS", "REFUTES"]
Answer = Literal["answers", "alt"]

SHAPES: tuple[Shape, ...] = ("zsre", "fever")
LABELS: tuple[Label, ...] = ("SUPPORTS", "REFUTES")

PARAPHRASE_RULES: tuple[str, ...] = (
    "It is true that {claim}.",
    "It is a fact that {claim}.",
    "The following statement is correct: {claim}.",
)
"""How a claim without paraphrases gets some: rules, not the back-translations of the released data.

The claim stands in them without its final full stop, and with a small first letter where its first
word is one of :data:`SMALL_WORDS`.
"""

SMALL_WORDS = ("A", "An", "At", "For", "From", "He", "In", "It", "On", "One", "She", "The", "There")
"""Words that are no names, so that they take a small letter within a sentence."""

RELATION_OF_RULES = "rule-made paraphrases"
"""The ``relation`` of a row whose paraphrases come from :data:`PARAPHRASE_RULES`."""


@dataclass(frozen=True)
class ZsreRow:
    """Hold one question to edit.

    Attributes:
        subject: What the fact is about, as it stands in ``src``; None where the data do not say.
        src: The question whose answer is edited in.
        rephrase: Other wordings of it, at least one.
        ans: The answer edited in.
        loc: A question that has nothing to do with this one.
        loc_ans: Its answer.
        relation: What is asked of the subject; None where the data do not say.
    """

    subject: str | None
    src: str
    rephrase: tuple[str, ...]
    ans: str
    loc: str
    loc_ans: str
    relation: str | None = None


@dataclass(frozen=True)
class FeverRow:
    """Hold one claim to edit.

    Attributes:
        prompt: The claim whose label is edited in.
        equiv_prompt: Other wordings of it, at least one.
        unrel_prompt: A claim that has nothing to do with this one.
        alt: The label edited in.
        unrel_ans: The true label of the unrelated claim.
        subject: What the claim is about; None where the data do not say.
        relation: What the claim says of the subject; None where the data do not say.
    """

    prompt: str
    equiv_prompt: tuple[str, ...]
    unrel_prompt: str
    alt: Label
    unrel_ans: Label
    subject: str | None = None
    relation: str | None = None


Row = ZsreRow | FeverRow


@dataclass(frozen=True)
class Record:
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

    def label(self, field: str) -> Label:
        """Return a field that has to be one of :data:`LABELS`."""
        value = self.text(field)
        if value not in LABELS:
            raise self.fail(field, f"unknown label '{value}'", f"use one of {', '.join(LABELS)}")
        return value

    def optional_text(self, field: str) -> str | None:
        """Return a text that may be missing or null, but not empty."""
        return None if self.fields.get(field) is None else self.text(field)

    def has(self, field: str) -> bool:
        """Return whether the field is there and not null."""
        return self.fields.get(field) is not None

    def _checked(self, field: str, value: object) -> str:
        if not isinstance(value, str):
            raise self.fail(field, f"{_kind(value)} instead of text", "write it as a string")
        if not value.strip():
            raise self.fail(field, "empty", "fill it in, or drop the row")
        return value.strip()


def read_records(path: str | Path) -> list[Record]:
    """Read the rows of a JSON or JSON lines file, unchecked but for being rows.

    Args:
        path: A ``.json`` or ``.jsonl`` file, gzipped or not.

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
            records = [_checked_record(where, value) for where, value in parse(path, file)]
    except FileNotFoundError:
        raise InputError(f"{path}: no such file (check the path)") from None
    except (OSError, EOFError, UnicodeDecodeError, zlib.error) as error:
        raise InputError(f"{path}: cannot be read: {error} (check the file)") from error
    if not records:
        raise InputError(f"{path}: no rows (check the file)")
    return records


@overload
def read_rows(
    path: str | Path, shape: Literal["zsre"], *, answer: Answer = "answers"
) -> list[ZsreRow]: ...
@overload
def read_rows(
    path: str | Path, shape: Literal["fever"], *, answer: Answer = "answers"
) -> list[FeverRow]: ...
@overload
def read_rows(path: str | Path, shape: Shape, *, answer: Answer = "answers") -> list[Row]: ...
def read_rows(
    path: str | Path, shape: Shape, *, answer: Answer = "answers"
) -> list[ZsreRow] | list[FeverRow] | list[Row]:
    """Read every row of a file and check it.

    Rows that repeat the question or claim of an earlier row are dropped, and their number logged.
    A file that cannot be read or a malformed row raises an :class:`InputError` that says where.

    Args:
        path: A ``.json`` (list of rows, or mapping of columns) or ``.jsonl`` file, which may be
            gzipped (``.gz`` at the end of its name).
        shape: ``"zsre"`` for fields ``src``, ``rephrase``, ``ans`` (or MEND's ``answers`` and
            ``alt``), ``loc``, ``loc_ans``; ``"fever"`` for ``prompt``, ``equiv_prompt``,
            ``unrel_prompt``, ``alt``, ``unrel_ans``. ``subject`` and ``relation`` are optional.
        answer: Which of MEND's fields is the answer to edit in where a row has no ``ans`` but
            both of them: the first of the true ``answers``, or ``alt``.

    Returns:
        The rows in the order of the file, their texts stripped.
    """
    _check_shape(shape)
    records = read_records(path)
    if shape == "zsre":
        return _without_repeats([_zsre_row(r, answer) for r in records], path)
    return _without_repeats([_fever_row(record) for record in records], path)


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, whole or not at all.

    Args:
        path: The file; its folder is made where missing.
        rows: Rows of one shape.
    """
    write_json_lines(path, (_without_none(asdict(row)) for row in rows))


def write_json_lines(path: str | Path, objects: Iterable[Mapping[str, Any]]) -> None:
    """Write objects as JSON lines under a temporary name that is then renamed.

    Args:
        path: The file; its folder is made where missing.
        objects: One mapping a line.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for item in objects:
                file.write(json.dumps(item, ensure_ascii=False) + "\n")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def read_pairs(path: str | Path) -> list[tuple[str, str]]:
    """Read unrelated questions with their answers (fields ``loc`` and ``loc_ans``).

    A file that cannot be read, is empty or malformed raises an :class:`InputError`.

    Args:
        path: A ``.json`` or ``.jsonl`` file, gzipped or not.

    Returns:
        The (question, answer) pairs in the order of the file.
    """
    return [_loc_pair(record) for record in read_records(path)]


def attach_unrelated(rows: Sequence[ZsreRow], pairs: Sequence[tuple[str, str]]) -> list[ZsreRow]:
    """Give every row the unrelated pair that stands at its place.

    Pairs are taken in order and from the start again when they run out: the caller shuffles.

    Args:
        rows: Rows whose ``loc`` and ``loc_ans`` are replaced.
        pairs: (question, answer) pairs, at least one.

    Returns:
        The rows with their new ``loc`` and ``loc_ans``.

    Raises:
        InputError: If there are rows but no pairs.
    """
    if rows and not pairs:
        raise InputError("no unrelated pairs to attach (give a file with 'loc' and 'loc_ans')")
    return [
        replace(row, loc=loc, loc_ans=loc_ans)
        for row, (loc, loc_ans) in zip(rows, _cycled(pairs, len(rows)), strict=True)
    ]


def import_rows(
    files: Sequence[str | Path],
    *,
    shape: Shape,
    unrelated: str | Path | None,
    n: int | None,
    seed: int,
    answer: Answer = "answers",
    exclude: Sequence[str | Path] = (),
) -> list[ZsreRow] | list[FeverRow]:
    """Draw complete rows from real data files, some of which may lack fields.

    zsRE-shaped rows without ``loc`` get one from the file ``unrelated``. FEVER-shaped rows may be
    raw claims (``claim`` and ``label``, optionally ``evidence_pages``): their paraphrases come
    from :data:`PARAPHRASE_RULES` (and ``relation`` says so), their unrelated claim is a claim of
    another page, taken from ``unrelated`` or else from the files themselves, and the label to
    edit in is drawn evenly from both, whatever the truth is.

    Args:
        files: One or several files, read in turn.
        shape: The shape of their rows.
        unrelated: A file with ``loc`` and ``loc_ans`` (zsRE) or ``claim`` and ``label`` (FEVER).
        n: How many rows to draw, or None for all of them, shuffled.
        seed: Decides the draw, the pairing and the labels.
        answer: As in :func:`read_rows`.
        exclude: Files of rows, those of other splits: no row has a subject, a question or a claim
            of theirs, in whatever case it is written.

    Returns:
        ``n`` rows with distinct questions or claims.

    Raises:
        InputError: If a file cannot be read, a row is malformed, an unrelated fact is needed but
            none is at hand, or there are fewer than ``n`` rows.
    """
    if not files:
        raise InputError("no files to import rows from (name at least one)")
    rng = random.Random(seed)
    _check_shape(shape)
    records = [record for path in files for record in read_records(path)]
    records = _without_known(records, exclude)
    name = ", ".join(str(path) for path in files)
    if shape == "zsre":
        return _import_zsre(records, name, unrelated=unrelated, n=n, rng=rng, answer=answer)
    return _import_fever(records, name, unrelated=unrelated, n=n, rng=rng)


def _without_known(records: Sequence[Record], files: Sequence[str | Path]) -> list[Record]:
    """Leave out the rows that share a subject, a question or a claim with those of other files."""
    known = {mark for path in files for record in read_records(path) for mark in _marks(record)}
    kept = [record for record in records if known.isdisjoint(_marks(record))]
    if len(kept) < len(records):
        logger.info("left out %d rows that occur in other splits", len(records) - len(kept))
    return kept


def _marks(record: Record) -> list[tuple[str, str]]:
    """Return what must not be in two splits: the subject, and the question or claim."""
    headings = ("src", "prompt", "claim")
    marks = [("heading", record.text(name)) for name in headings if record.has(name)]
    if record.has("subject"):
        marks.append(("subject", record.text("subject")))
    return [(kind, text.casefold()) for kind, text in marks]


def _import_zsre(
    records: Sequence[Record],
    name: str,
    *,
    unrelated: str | Path | None,
    n: int | None,
    rng: random.Random,
    answer: Answer,
) -> list[ZsreRow]:
    rows = _without_repeats([_zsre_row(r, answer, with_loc=r.has("loc")) for r in records], name)
    rows = _drawn(rows, name, n=n, rng=rng)
    lacking = [i for i, row in enumerate(rows) if not row.loc]
    if not lacking:
        return rows
    if unrelated is None:
        raise InputError(
            f"{name}: field 'loc': missing in {len(lacking)} of {len(rows)} rows "
            "(name a file of unrelated questions, with 'loc' and 'loc_ans')"
        )
    pairs = read_pairs(unrelated)
    rng.shuffle(pairs)
    for i, row in zip(lacking, attach_unrelated([rows[i] for i in lacking], pairs), strict=True):
        rows[i] = row
    return rows


def _import_fever(
    records: Sequence[Record],
    name: str,
    *,
    unrelated: str | Path | None,
    n: int | None,
    rng: random.Random,
) -> list[FeverRow]:
    if all(record.has("prompt") for record in records):
        rows = _without_repeats([_fever_row(record) for record in records], name)
        return _drawn(rows, name, n=n, rng=rng)
    claims = _without_repeats([_claim(record) for record in records], name)
    others = claims
    if unrelated is not None:
        others = [_claim(record) for record in read_records(unrelated)]
    drawn = _drawn(claims, name, n=n, rng=rng)
    return [
        _row_from_claim(claim, _claim_of_other_page(claim, others, rng), rng) for claim in drawn
    ]


@dataclass(frozen=True)
class _Claim:
    text: str
    label: Label
    pages: frozenset[str]
    where: str


def _claim(record: Record) -> _Claim:
    pages = record.fields.get("evidence_pages")
    named = frozenset(record.texts("evidence_pages")) if pages else frozenset()
    return _Claim(record.text("claim"), record.label("label"), named, record.where)


def _claim_of_other_page(claim: _Claim, others: Sequence[_Claim], rng: random.Random) -> _Claim:
    """Draw a claim that shares no page with this one (and is not this one)."""
    start = rng.randrange(len(others))
    for step in range(len(others)):
        other = others[(start + step) % len(others)]
        if other.text != claim.text and not (other.pages & claim.pages):
            return other
    raise InputError(
        f"{claim.where}: field 'evidence_pages': no claim of another page to serve as unrelated "
        "(add claims, or name a file of unrelated claims)"
    )


def _row_from_claim(claim: _Claim, other: _Claim, rng: random.Random) -> FeverRow:
    bare = claim.text.removesuffix(".")
    if bare.split(maxsplit=1)[0] in SMALL_WORDS:
        bare = bare[0].lower() + bare[1:]
    return FeverRow(
        prompt=claim.text,
        equiv_prompt=tuple(rule.format(claim=bare) for rule in PARAPHRASE_RULES),
        unrel_prompt=other.text,
        alt=rng.choice(LABELS),
        unrel_ans=other.label,
        relation=RELATION_OF_RULES,
    )


def _zsre_row(record: Record, answer: Answer, *, with_loc: bool = True) -> ZsreRow:
    loc, loc_ans = _loc_pair(record) if with_loc else ("", "")
    return ZsreRow(
        subject=record.optional_text("subject"),
        src=record.text("src"),
        rephrase=record.texts("rephrase"),
        ans=_answer(record, answer),
        loc=loc,
        loc_ans=loc_ans,
        relation=record.optional_text("relation"),
    )


def _answer(record: Record, answer: Answer) -> str:
    """Return ``ans``, or the preferred of MEND's two fields, or the other of them."""
    fields: tuple[str, ...] = ("ans", "answers", "alt")
    if answer == "alt":
        fields = ("ans", "alt", "answers")
    for field in fields:
        if record.has(field):
            return record.texts(field)[0]
    raise record.fail("ans", "missing", "add 'ans', 'answers' or 'alt'")


def _loc_pair(record: Record) -> tuple[str, str]:
    if not record.has("loc"):
        raise record.fail("loc", "missing", "attach unrelated questions with malmen import-rows")
    loc = record.text("loc")
    # Natural Questions come without a question mark; the released code adds it when it reads them.
    if loc.startswith("nq question:") and not loc.endswith("?"):
        loc += "?"
    return loc, record.text("loc_ans")


def _fever_row(record: Record) -> FeverRow:
    if record.has("claim") and not record.has("prompt"):
        raise record.fail("prompt", "missing, but there is a raw claim", "use malmen import-rows")
    return FeverRow(
        prompt=record.text("prompt"),
        equiv_prompt=record.texts("equiv_prompt"),
        unrel_prompt=record.text("unrel_prompt"),
        alt=record.label("alt"),
        unrel_ans=record.label("unrel_ans"),
        subject=record.optional_text("subject"),
        relation=record.optional_text("relation"),
    )


Item = TypeVar("Item", ZsreRow, FeverRow, _Claim)


def _without_repeats(items: Sequence[Item], name: str | Path) -> list[Item]:
    """Keep the first of those that have one question or claim, and log how many go."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(_heading(item), item)
    if len(first) < len(items):
        logger.warning("%s: dropped %d repeated rows", name, len(items) - len(first))
    return list(first.values())


def _heading(item: ZsreRow | FeverRow | _Claim) -> str:
    if isinstance(item, ZsreRow):
        return item.src
    return item.prompt if isinstance(item, FeverRow) else item.text


def _drawn(items: Sequence[Item], name: str, *, n: int | None, rng: random.Random) -> list[Item]:
    if not items:
        raise InputError(f"{name}: no rows are left to draw from (leave out fewer)")
    if n is not None and not 0 < n <= len(items):
        raise InputError(f"{name}: {n} rows asked of {len(items)} (ask for 1 to {len(items)})")
    return rng.sample(items, len(items) if n is None else n)


def _cycled(items: Sequence[tuple[str, str]], n: int) -> Iterator[tuple[str, str]]:
    return (items[i % len(items)] for i in range(n))


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
                yield f"{path}:{number}", json.loads(line)
            except json.JSONDecodeError as error:
                raise InputError(f"{path}:{number}: not JSON: {error} (mend the line)") from error


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


def _checked_record(where: str, value: object) -> Record:
    if not isinstance(value, dict):
        raise InputError(f"{where}: {_kind(value)} instead of a row (write it as an object)")
    return Record(where, value)


def _check_shape(shape: str) -> None:
    if shape not in SHAPES:
        raise InputError(f"unknown shape '{shape}' (use one of {', '.join(SHAPES)})")


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a truth value"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
