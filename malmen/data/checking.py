"""What a data file is, who can use it and what is wrong with it, before anything runs."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tabulate import tabulate

from malmen.data.forms import Form, form_of
from malmen.data.importing import Claim, Fits, check_fit, read_claim, well_formed
from malmen.data.raw_rows import RawRow, place, read_raw_rows
from malmen.data.rows import (
    Answer,
    FeverRow,
    Row,
    Task,
    ZsreRow,
    contradictions,
    fever_row,
    loc_pair,
    overwritten,
    zsre_row,
)
from malmen.data.subjects import folded, subject_end
from malmen.support.errors import InputError

__all__ = ["Editor", "Reader", "check"]

MOST_PROBLEMS = 20
"""So many rows of each kind of problem are shown one by one."""

QUANTILES = {"least": 0.0, "half": 0.5, "90 %": 0.9, "99 %": 0.99, "most": 1.0}


@dataclass(frozen=True)
class Editor:
    """An editor, as far as it matters who can use a file.

    Attributes:
        title: its name in print.
        needs_subjects: whether each prompt has to name its subject.
    """

    title: str
    needs_subjects: bool


@dataclass(frozen=True)
class Reader:
    """A language model, as far as it matters who can use a file.

    Attributes:
        title: its name in print.
        task: what it does with rows.
        fits: raises an error of a prompt and its answer that it cannot read; None if its tokenizer
            is not at hand.
    """

    title: str
    task: Task
    fits: Fits | None = None


@dataclass(frozen=True)
class _Pair:
    heading: str
    answer: str
    where: str


_Item = Row | Claim | _Pair


def check(
    path: Path,
    *,
    against: Path | None = None,
    answer: Answer = "answers",
    editors: Sequence[Editor] = (),
    reader: Reader | None = None,
) -> tuple[str, int]:
    """Look through a data file.

    Args:
        path: a file of any kind that the suite reads; of rows in no known form, only the fields are
            counted.
        against: the file of another split, to look for what is in both.
        answer: which of MEND's fields is edited in.
        editors: who may use it.
        reader: the language model that it is for.

    Returns:
        The report; and how many rows are malformed, contradict others or have an unrelated prompt
        that is edited, at least one if none can be used.

    Raises:
        InputError: a file cannot be read, or holds no rows.
    """
    malformed: list[InputError] = []
    raws = read_raw_rows(path, problems=malformed)
    form, others = _form_of(raws)
    named = form.title if form else "unknown"
    parts = [f"{path}: {len(raws) + len(malformed):,} rows, {named}", _fields(raws)]
    if form is None or form.declined:
        if against is not None:
            raise InputError(
                f"{path}: rows of an unknown kind cannot be compared (leave out --against)"
            )
        why = form.declined if form else "no fields that the suite knows (docs/data.md lists them)"
        parts += [f"cannot be used: {why}", _listing("malformed rows", malformed)]
        return "\n\n".join(parts) + "\n", len(raws) + len(malformed)
    items: list[_Item] = well_formed(raws, _reading(form, answer, reader), malformed)
    parts += [_duplicates(items, form), _answers(items)]
    if others:
        parts.append(f"{sum(others.values()):,} rows are of another form: {', '.join(others)}")
    if against is not None:
        parts.append(_overlap(items, form, against))
    wrong: dict[str, Sequence[object]] = {
        "malformed rows": malformed,
        f"{form.heading}s with different answers": _contradictory(items),
        "rows whose unrelated prompt is edited to another answer": _overwritten(items),
    }
    parts += [_use(items, form, editors, reader), *map(_listing, wrong, wrong.values())]
    return "\n\n".join(parts) + "\n", max(sum(map(len, wrong.values())), not items)


def _form_of(raws: Sequence[RawRow]) -> tuple[Form | None, Counter[str]]:
    """Return the form that most rows are of, and the titles of the others."""
    forms = [form_of(raw) for raw in raws]
    titles: Counter[str] = Counter(form.title if form else "unknown" for form in forms)
    most = max(titles, key=titles.__getitem__, default="unknown")
    del titles[most]
    return next((form for form in forms if form and form.title == most), None), titles


def _reading(
    form: Form, answer: Answer, reader: Reader | None
) -> Callable[[RawRow], ZsreRow | FeverRow | Claim | _Pair]:
    fits = reader.fits if reader and reader.task == form.task else None
    if form.title == "claims":
        return read_claim
    if form.task is None:
        return lambda raw: _Pair(*loc_pair(raw), raw.where)
    if form.task == "verdict":
        return lambda raw: check_fit(fever_row(raw), fits)
    return lambda raw: check_fit(zsre_row(raw, answer, with_loc=False), fits)


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


def _duplicates(items: Sequence[_Item], form: Form) -> str:
    exact = len(items) - len({item.heading for item in items})
    respelt = len(items) - len({folded(item.heading) for item in items})
    return (
        f"{exact:,} rows repeat the {form.heading} of an earlier row (the suite leaves them out); "
        f"{respelt:,} do if spelling does not count"
    )


def _answers(items: Sequence[_Item]) -> str:
    """Return a table of the lengths of answers, as quantiles."""
    lengths = {
        "words": [len(item.answer.split()) for item in items],
        "characters": [len(item.answer) for item in items],
    }
    table = [
        [name, *(int(np.quantile(ns, q, method="inverted_cdf")) for q in QUANTILES.values())]
        for name, ns in lengths.items()
        if ns
    ]
    return tabulate(table, headers=["length of answers", *QUANTILES], intfmt=",")


def _overlap(items: Sequence[_Item], form: Form, against: Path) -> str:
    """Say how many rows have a question or a subject of another file, however it is spelt."""
    raws = read_raw_rows(against, problems=[])
    other, _ = _form_of(raws)
    there: list[_Item] = []
    if other and not other.declined:
        there = well_formed(raws, _reading(other, "answers", None), [])
    headings = {folded(item.heading) for item in there}
    subjects = {subject for item in there for subject in _subjects(item)}
    shared = sum(folded(item.heading) in headings for item in items)
    about = sum(not subjects.isdisjoint(_subjects(item)) for item in items)
    known = sum(bool(_subjects(item)) for item in items)
    return (
        f"against {against}, {len(there):,} well-formed rows:\n"
        f"  {shared:,} of {len(items):,} rows have a {form.heading} that occurs there\n"
        f"  {about:,} of {known:,} rows that name a {form.subject} have one that occurs there"
    )


def _subjects(item: _Item) -> set[str]:
    if isinstance(item, Claim):
        return {folded(page) for page in item.pages}
    subject = None if isinstance(item, _Pair) else item.subject
    return set() if subject is None else {folded(subject)}


def _use(
    items: Sequence[_Item], form: Form, editors: Sequence[Editor], reader: Reader | None
) -> str:
    """Say which editors and which language models can use the rows, and why others cannot."""
    if not items:
        return "cannot be used: no well-formed row"
    if form.title == "claims":
        use = "claims: for a fact checker, and for rows by `malmen import-rows`"
    elif form.task is None:
        use = "unrelated questions: for `malmen import-rows --unrelated`"
    else:
        does = "complete prompts" if form.task == "completion" else "judge claims"
        use = f"for language models that {does}"
    lines = [use]
    if reader is not None and form.task is not None and reader.task != form.task:
        lines.append(f"not for {reader.title}, which does not")
    rows = [item for item in items if isinstance(item, ZsreRow | FeverRow)]
    if lacking := [row.where for row in rows if not row.unrelated[0]]:
        lines.append(
            f"{len(lacking):,} rows have no unrelated prompt: `malmen import-rows --unrelated` "
            "attaches one before they are edited"
        )
    unnamed = [error for row in rows if (error := _unnamed(row))]
    able = [e.title for e in editors if not (unnamed and e.needs_subjects)]
    unable = [e.title for e in editors if unnamed and e.needs_subjects]
    if rows and able:
        lines.append(f"edited by {', '.join(able)}")
    if rows and unable:
        what = f"{len(unnamed):,} of {len(rows):,} rows do not name their subject"
        lines.append(_listing(f"not edited by {', '.join(unable)}: {what}", unnamed, count=False))
    return "\n".join(lines)


def _unnamed(row: Row) -> str | None:
    """Say why the prompt of a row does not name its subject, if so."""
    if isinstance(row, FeverRow):
        return f"{row.where}: a claim"
    if row.subject is None:
        return f"{row.where}: field 'subject': missing"
    try:
        subject_end(row.subject, row.src, at=row.subject_at)
    except InputError as error:
        return f"{row.where}: {error}"
    return None


def _contradictory(items: Iterable[_Item]) -> list[str]:
    rows = [item for item in items if not isinstance(item, _Pair)]
    return [
        "; ".join(f"{place(row.where)}: {row.answer}" for row in group)
        for group in contradictions(rows)
    ]


def _overwritten(items: Iterable[_Item]) -> list[str]:
    zsre = overwritten(item for item in items if isinstance(item, ZsreRow))
    fever = overwritten(item for item in items if isinstance(item, FeverRow))
    return [row.where for row in zsre] + [row.where for row in fever]


def _listing(what: str, lines: Sequence[object], *, count: bool = True) -> str:
    shown = [f"{what}: {len(lines):,}" if count else what]
    shown += [f"  {line}" for line in lines[:MOST_PROBLEMS]]
    if len(lines) > MOST_PROBLEMS:
        shown.append(f"  and {len(lines) - MOST_PROBLEMS:,} more")
    return "\n".join(shown)
