"""Rows: the facts to edit, with their paraphrases and their unrelated facts.

Two shapes are known. A *zsRE-shaped* row is a question with its answer; a *FEVER-shaped* row is a
claim with the label to edit in. Both are read from files of any kind that
:mod:`malmen.data.raw_rows` reads, the questions in any form that :mod:`malmen.data.forms` knows.

Rows are checked as they are read, so that nothing downstream meets an empty answer.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast, overload

from malmen.data.forms import Task, in_zsre_form
from malmen.data.raw_rows import RawRow, read_raw_rows, write_json_lines
from malmen.data.subjects import folded
from malmen.support.errors import InputError

__all__ = [
    "LABELS",
    "Answer",
    "AnyRow",
    "FeverRow",
    "Headed",
    "Label",
    "Row",
    "Task",
    "ZsreRow",
    "check_task",
    "contradictions",
    "fever_row",
    "fields_of",
    "label",
    "loc_pair",
    "overwritten",
    "read_rows",
    "without_repeats",
    "write_rows",
    "zsre_row",
]

logger = logging.getLogger(__name__)

Label = Literal["SUPPORTS", "REFUTES"]

Answer = Literal["answers", "alt"]

TASKS: tuple[Task, ...] = ("completion", "verdict")

LABELS: tuple[Label, ...] = ("SUPPORTS", "REFUTES")


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
        port: A question whose answer follows from the fact (portability); None without one.
        port_ans: Its answer.
        subject_at: Where in ``src`` the subject begins, if that is not the first place where it
            stands.
        where: File and row that it was read from; of no other meaning.
    """

    subject: str | None
    src: str
    rephrase: tuple[str, ...]
    ans: str
    loc: str
    loc_ans: str
    relation: str | None = None
    port: str | None = None
    port_ans: str | None = None
    subject_at: int | None = None
    where: str = field(default="", compare=False, repr=False)

    @property
    def heading(self) -> str:
        """What tells the row from others."""
        return self.src

    @property
    def answer(self) -> str:
        """What is edited in."""
        return self.ans

    @property
    def paraphrases(self) -> tuple[str, ...]:
        """Other wordings."""
        return self.rephrase

    @property
    def unrelated(self) -> tuple[str, str]:
        """The unrelated prompt and its answer."""
        return self.loc, self.loc_ans

    @property
    def follow_up(self) -> tuple[str, str] | None:
        """The question whose answer follows from the fact, and that answer, if there is one."""
        return None if self.port is None or self.port_ans is None else (self.port, self.port_ans)


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
        where: File and row that it was read from; of no other meaning.
    """

    prompt: str
    equiv_prompt: tuple[str, ...]
    unrel_prompt: str
    alt: Label
    unrel_ans: Label
    subject: str | None = None
    relation: str | None = None
    where: str = field(default="", compare=False, repr=False)

    @property
    def heading(self) -> str:
        """What tells the row from others."""
        return self.prompt

    @property
    def answer(self) -> Label:
        """What is edited in."""
        return self.alt

    @property
    def paraphrases(self) -> tuple[str, ...]:
        """Other wordings."""
        return self.equiv_prompt

    @property
    def unrelated(self) -> tuple[str, Label]:
        """The unrelated claim and its label."""
        return self.unrel_prompt, self.unrel_ans

    @property
    def follow_up(self) -> None:
        """Nothing: data of claims ask for nothing that follows."""


Row = ZsreRow | FeverRow

AnyRow = TypeVar("AnyRow", ZsreRow, FeverRow)


class Headed(Protocol):
    """Anything that is told apart from others by its question or claim."""

    @property
    def heading(self) -> str:
        """The question or claim."""
        ...

    @property
    def answer(self) -> str:
        """Its answer or label."""
        ...

    @property
    def where(self) -> str:
        """File and row that it was read from."""
        ...


Item = TypeVar("Item", bound=Headed)


@overload
def read_rows(
    path: str | Path, task: Literal["completion"], *, answer: Answer = "answers"
) -> list[ZsreRow]: ...
@overload
def read_rows(
    path: str | Path, task: Literal["verdict"], *, answer: Answer = "answers"
) -> list[FeverRow]: ...
@overload
def read_rows(path: str | Path, task: Task, *, answer: Answer = "answers") -> list[Row]: ...
def read_rows(
    path: str | Path, task: Task, *, answer: Answer = "answers"
) -> list[ZsreRow] | list[FeverRow] | list[Row]:
    """Read every row of a file and check it.

    Rows that repeat the question or claim of an earlier row are dropped, and their number logged.

    Args:
        path: A file of rows, of any kind and form.
        task: ``"completion"`` for questions, ``"verdict"`` for claims (``prompt``,
            ``equiv_prompt``, ``unrel_prompt``, ``alt``, ``unrel_ans``).
        answer: Which of MEND's fields is the answer to edit in where a row has no ``ans`` but
            both of them: the first of the true ``answers``, or ``alt``.

    Returns:
        The rows in the order of the file, their texts stripped.

    Raises:
        InputError: A file cannot be read, a row is malformed, or its unrelated prompt is the very
            one that it edits; the message says where.
    """
    check_task(task)
    raws = read_raw_rows(path)
    if task == "completion":
        return without_repeats([_kept_apart(zsre_row(raw, answer)) for raw in raws], path)
    return without_repeats([_kept_apart(fever_row(raw)) for raw in raws], path)


def _kept_apart(row: AnyRow) -> AnyRow:
    if overwritten([row]):
        raise InputError(
            f"{row.where}: its unrelated prompt is the one that it edits, to another answer (give "
            "it another one, or drop the row)"
        )
    return row


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, whole or not at all.

    Args:
        path: The file; its folder is made where missing.
        rows: Rows of one task.
    """
    write_json_lines(path, map(fields_of, rows))


def fields_of(row: Row) -> dict[str, Any]:
    """Return what a file holds of a row."""
    fields = asdict(row) | {"where": None}
    return {name: value for name, value in fields.items() if value is not None}


def zsre_row(raw: RawRow, answer: Answer, *, with_loc: bool = True) -> ZsreRow:
    """Return the row that a raw row is, in whichever form it stands.

    Without ``with_loc``, a row that has no unrelated question gets an empty one.
    """
    raw = in_zsre_form(raw)
    loc, loc_ans = loc_pair(raw) if with_loc or raw.has("loc") else ("", "")
    src, subject = raw.text("src"), raw.optional_text("subject")
    at = raw.fields.get("subject_at")
    if at is not None and not (type(at) is int and subject and src.startswith(subject, at)):
        raise raw.fail("subject_at", "no subject begins there", "correct it, or leave it out")
    port, port_ans = _follow_up(raw, answer)
    return ZsreRow(
        subject=subject,
        src=src,
        rephrase=raw.texts("rephrase"),
        ans=_answer(raw, answer),
        loc=loc,
        loc_ans=loc_ans,
        relation=raw.optional_text("relation"),
        port=port,
        port_ans=port_ans,
        subject_at=at,
        where=raw.where,
    )


def _follow_up(raw: RawRow, answer: Answer) -> tuple[str | None, str | None]:
    """Return the question whose answer follows from the fact, and that answer, if there is one.

    EasyEdit's file of zsRE asks for what follows from ``alt``: of another answer nothing is asked.
    """
    if raw.has("port"):
        return raw.text("port"), raw.text("port_ans")
    if answer == "alt" and raw.has("alt") and raw.has("portability"):
        asked = raw.inner("portability")
        return asked.text("New Question"), asked.text("New Answer")
    return None, None


def _answer(raw: RawRow, answer: Answer) -> str:
    """Return ``ans``, or the preferred of MEND's two fields, or the other of them."""
    for name in ("ans", "alt", "answers") if answer == "alt" else ("ans", "answers", "alt"):
        if raw.has(name):
            return raw.texts(name)[0]
    raise raw.fail("ans", "missing", "add 'ans', 'answers' or 'alt'")


def loc_pair(raw: RawRow) -> tuple[str, str]:
    """Return the unrelated question and its answer."""
    if not raw.has("loc"):
        raise raw.fail("loc", "missing", "attach unrelated questions with malmen import-rows")
    loc = raw.text("loc")
    # Natural Questions come without a question mark; the released code adds it when it reads them.
    if loc.startswith("nq question:") and not loc.endswith("?"):
        loc += "?"
    return loc, raw.texts("loc_ans")[0]


def label(raw: RawRow, field: str) -> Label:
    """Return a field that has to be one of :data:`LABELS`."""
    return cast(Label, raw.choice(field, LABELS))


def fever_row(raw: RawRow) -> FeverRow:
    """Return the row that a raw row is."""
    if raw.has("claim") and not raw.has("prompt"):
        raise raw.fail("prompt", "missing, but there is a raw claim", "use malmen import-rows")
    return FeverRow(
        prompt=raw.text("prompt"),
        equiv_prompt=raw.texts("equiv_prompt"),
        unrel_prompt=raw.text("unrel_prompt"),
        alt=label(raw, "alt"),
        unrel_ans=label(raw, "unrel_ans"),
        subject=raw.optional_text("subject"),
        relation=raw.optional_text("relation"),
        where=raw.where,
    )


def without_repeats(items: Sequence[Item], name: str | Path) -> list[Item]:
    """Keep the first of those that have one question or claim, and log how many go."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(item.heading, item)
    if len(first) < len(items):
        logger.warning("%s: dropped %d repeated rows", name, len(items) - len(first))
    return list(first.values())


def contradictions(items: Iterable[Item]) -> list[list[Item]]:
    """Return those that ask one question, however it is spelt, and have different answers."""
    same: dict[str, list[Item]] = {}
    for item in items:
        same.setdefault(folded(item.heading), []).append(item)
    return [group for group in same.values() if len({folded(item.answer) for item in group}) > 1]


def overwritten(rows: Iterable[AnyRow]) -> list[AnyRow]:
    """Return the rows whose unrelated prompt is edited, by themselves or others, to another answer.

    Edited together, they would lose locality by what they are asked to learn.
    """
    rows = list(rows)
    edited: dict[str, set[str]] = {}
    for row in rows:
        edited.setdefault(folded(row.heading), set()).add(folded(row.answer))
    return [
        row
        for row in rows
        if edited.get(folded(row.unrelated[0]), set()) - {folded(row.unrelated[1])}
    ]


def check_task(task: str) -> None:
    """Refuse a task that is not one of the two."""
    if task not in TASKS:
        raise InputError(f"unknown task '{task}' (use one of {', '.join(TASKS)})")
