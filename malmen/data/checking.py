"""What a data file holds, before anything is trained on it."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from malmen.data.forms import in_zsre_form
from malmen.data.raw_rows import RawRow, read_raw_rows
from malmen.data.rows import fever_row, label, loc_pair, zsre_row
from malmen.support.errors import InputError

__all__ = ["check"]

MOST_PROBLEMS = 20
"""So many malformed rows are shown one by one."""

QUANTILES = {"least": 0.0, "half": 0.5, "90 %": 0.9, "99 %": 0.99, "most": 1.0}


@dataclass(frozen=True)
class _Checked:
    """What a well-formed row says: its question or claim, what it is about, what is edited in."""

    heading: str
    subjects: frozenset[str]
    answer: str


@dataclass(frozen=True)
class _Kind:
    """A kind of file.

    Attributes:
        title: what it holds.
        mark: a field that only this kind has.
        check: what a row says; a malformed one raises an error.
        heading: what the rows are told apart by.
        subject: what their subjects are called.
    """

    title: str
    mark: str
    check: Callable[[RawRow], _Checked]
    heading: str = "question"
    subject: str = "subject"


def check(path: Path, *, against: Path | None = None) -> tuple[str, int]:
    """Look through a data file.

    Args:
        path: rows of zsRE, FEVER or CounterFact, claims, or unrelated questions; ``.json`` or
            ``.jsonl``, gzipped or not. Of any other rows, only the fields are counted.
        against: the file of another split, to look for what is in both.

    Returns:
        The report, and the number of malformed rows.

    Raises:
        InputError: a file cannot be read, or holds no rows.
    """
    problems: list[InputError] = []
    raws = read_raw_rows(path, problems=problems)
    kind = _kind_of(raws)
    parts = [f"{path}: {len(raws) + len(problems):,} rows, {kind.title if kind else 'unknown'}"]
    parts.append(_fields(raws))
    if kind:
        rows = _checked(raws, kind, problems)
        parts += [_duplicates(rows, kind), _answers(rows)]
        if against is not None:
            parts.append(_overlap(rows, kind, against))
    elif against is not None:
        raise InputError(
            f"{path}: rows of an unknown kind cannot be compared (leave out --against)"
        )
    parts.append(_problems(problems))
    return "\n\n".join(parts) + "\n", len(problems)


def _zsre(raw: RawRow) -> _Checked:
    raw = in_zsre_form(raw)
    row = zsre_row(raw, "answers", with_loc=raw.has("loc"))
    return _Checked(row.src, frozenset(filter(None, [row.subject])), row.ans)


def _fever(raw: RawRow) -> _Checked:
    row = fever_row(raw)
    return _Checked(row.prompt, frozenset(filter(None, [row.subject])), row.alt)


def _claim(raw: RawRow) -> _Checked:
    pages = raw.texts("evidence_pages") if raw.fields.get("evidence_pages") else ()
    return _Checked(raw.text("claim"), frozenset(pages), label(raw, "label"))


def _pair(raw: RawRow) -> _Checked:
    question, answer = loc_pair(raw)
    return _Checked(question, frozenset(), answer)


_KINDS = (  # in this order: rows hold the fields of pairs, too
    _Kind("nested CounterFact", "requested_rewrite", _zsre, heading="prompt"),
    _Kind("flat CounterFact", "target_new", _zsre, heading="prompt"),
    _Kind("zsRE", "src", _zsre),
    _Kind("FEVER", "equiv_prompt", _fever, heading="claim"),
    _Kind("claims", "claim", _claim, heading="claim", subject="page"),
    _Kind("unrelated questions", "loc", _pair),
)


def _kind_of(raws: Sequence[RawRow]) -> _Kind | None:
    """Return the kind that most rows are of."""
    counts = Counter(
        next((i for i, kind in enumerate(_KINDS) if kind.mark in raw.fields), None) for raw in raws
    )
    ((place, _),) = counts.most_common(1)
    return None if place is None else _KINDS[place]


def _checked(raws: Sequence[RawRow], kind: _Kind, problems: list[InputError]) -> list[_Checked]:
    """Return what the well-formed rows say, and add the errors of the others."""
    rows = []
    for raw in raws:
        try:
            rows.append(kind.check(raw))
        except InputError as error:
            problems.append(error)
    return rows


def _fields(raws: Sequence[RawRow]) -> str:
    """Return a table of the fields: in how many rows each is, and what it holds there."""
    counts: dict[str, Counter[str]] = {}
    for raw in raws:
        for field, value in raw.fields.items():
            counts.setdefault(field, Counter())[_kind_of_value(value)] += 1
    rows = [
        [field, found.total(), ", ".join(f"{kind} {n:,}" for kind, n in found.most_common())]
        for field, found in counts.items()
    ]
    return tabulate(rows, headers=["field", "rows", "holds"], intfmt=",")


def _kind_of_value(value: object) -> str:
    if value in ("", [], {}):
        return "nothing"
    names = {str: "text", list: "list", dict: "object", bool: "truth value", type(None): "null"}
    return names.get(type(value), "number")


def _duplicates(rows: Sequence[_Checked], kind: _Kind) -> str:
    exact = len(rows) - len({row.heading for row in rows})
    folded = len(rows) - len({row.heading.casefold() for row in rows})
    return (
        f"{exact:,} rows repeat the {kind.heading} of an earlier row (the suite leaves them out); "
        f"{folded:,} do if case does not count"
    )


def _answers(rows: Sequence[_Checked]) -> str:
    """Return a table of the lengths of answers, as quantiles."""
    lengths = {
        "words": [len(row.answer.split()) for row in rows],
        "characters": [len(row.answer) for row in rows],
    }
    table = [
        [name, *(int(np.quantile(ns, q, method="inverted_cdf")) for q in QUANTILES.values())]
        for name, ns in lengths.items()
        if ns
    ]
    return tabulate(table, headers=["length of answers", *QUANTILES], intfmt=",")


def _overlap(rows: Sequence[_Checked], kind: _Kind, against: Path) -> str:
    """Say how many rows have a question or a subject of another file, whatever their case."""
    raws = read_raw_rows(against, problems=[])
    other_kind = _kind_of(raws)
    others = _checked(raws, other_kind, []) if other_kind else []
    headings = _folded(other.heading for other in others)
    subjects = _folded(subject for other in others for subject in other.subjects)
    shared = sum(row.heading.casefold() in headings for row in rows)
    about = sum(not subjects.isdisjoint(_folded(row.subjects)) for row in rows)
    known = sum(bool(row.subjects) for row in rows)
    return (
        f"against {against}, {len(others):,} well-formed rows:\n"
        f"  {shared:,} of {len(rows):,} rows have a {kind.heading} that occurs there\n"
        f"  {about:,} of {known:,} rows that name a {kind.subject} have one that occurs there"
    )


def _folded(texts: Iterable[str]) -> set[str]:
    return {text.casefold() for text in texts}


def _problems(problems: Sequence[InputError]) -> str:
    lines = [f"malformed rows: {len(problems):,}", *(f"  {e}" for e in problems[:MOST_PROBLEMS])]
    if len(problems) > MOST_PROBLEMS:
        lines.append(f"  and {len(problems) - MOST_PROBLEMS:,} more")
    return "\n".join(lines)
