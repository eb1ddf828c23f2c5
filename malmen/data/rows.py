"""Rows: the facts to edit, with their paraphrases and their unrelated facts.

Two shapes are known. A *zsRE-shaped* row is a question with its answer; a *FEVER-shaped* row is a
claim with the label to edit in. Both are read from the fields of MALMEN's released data and from
those of MEND's, in JSON (a list of rows or a mapping of columns) or JSON lines, gzipped or not.

Rows are checked as they are read (:mod:`malmen.data.raw_rows`), so that nothing downstream meets an
empty answer.
"""

import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar, cast, overload

from malmen.data.raw_rows import RawRow, read_raw_rows, write_json_lines
from malmen.support.errors import InputError

__all__ = [
    "LABELS",
    "Answer",
    "FeverRow",
    "Label",
    "Row",
    "Task",
    "ZsreRow",
    "check_task",
    "fever_row",
    "label",
    "loc_pair",
    "read_rows",
    "without_repeats",
    "write_rows",
    "zsre_row",
]

logger = logging.getLogger(__name__)

Task = Literal["completion", "verdict"]
"""What a language model does: complete a prompt (zsRE) or judge a claim (FEVER)."""


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
    """

    subject: str | None
    src: str
    rephrase: tuple[str, ...]
    ans: str
    loc: str
    loc_ans: str
    relation: str | None = None

    @property
    def heading(self) -> str:
        """What tells the row from others."""
        return self.src


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

    @property
    def heading(self) -> str:
        """What tells the row from others."""
        return self.prompt


Row = ZsreRow | FeverRow


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
    A file that cannot be read or a malformed row raises an :class:`InputError` that says where.

    Args:
        path: A ``.json`` (list of rows, or mapping of columns) or ``.jsonl`` file, which may be
            gzipped (``.gz`` at the end of its name).
        task: ``"completion"`` for fields ``src``, ``rephrase``, ``ans`` (or MEND's ``answers`` and
            ``alt``), ``loc``, ``loc_ans``; ``"verdict"`` for ``prompt``, ``equiv_prompt``,
            ``unrel_prompt``, ``alt``, ``unrel_ans``. ``subject`` and ``relation`` are optional.
        answer: Which of MEND's fields is the answer to edit in where a row has no ``ans`` but
            both of them: the first of the true ``answers``, or ``alt``.

    Returns:
        The rows in the order of the file, their texts stripped.
    """
    check_task(task)
    raws = read_raw_rows(path)
    if task == "completion":
        return without_repeats([zsre_row(r, answer) for r in raws], path)
    return without_repeats([fever_row(raw) for raw in raws], path)


def write_rows(path: str | Path, rows: Iterable[Row]) -> None:
    """Write rows as JSON lines, whole or not at all.

    Args:
        path: The file; its folder is made where missing.
        rows: Rows of one task.
    """
    write_json_lines(path, (_without_none(asdict(row)) for row in rows))


def zsre_row(raw: RawRow, answer: Answer, *, with_loc: bool = True) -> ZsreRow:
    """Return the row that a raw row is; without ``with_loc`` its unrelated question stays empty."""
    loc, loc_ans = loc_pair(raw) if with_loc else ("", "")
    return ZsreRow(
        subject=raw.optional_text("subject"),
        src=raw.text("src"),
        rephrase=raw.texts("rephrase"),
        ans=_answer(raw, answer),
        loc=loc,
        loc_ans=loc_ans,
        relation=raw.optional_text("relation"),
    )


def _answer(raw: RawRow, answer: Answer) -> str:
    """Return ``ans``, or the preferred of MEND's two fields, or the other of them."""
    fields: tuple[str, ...] = ("ans", "answers", "alt")
    if answer == "alt":
        fields = ("ans", "alt", "answers")
    for field in fields:
        if raw.has(field):
            return raw.texts(field)[0]
    raise raw.fail("ans", "missing", "add 'ans', 'answers' or 'alt'")


def loc_pair(raw: RawRow) -> tuple[str, str]:
    """Return the unrelated question and its answer."""
    if not raw.has("loc"):
        raise raw.fail("loc", "missing", "attach unrelated questions with malmen import-rows")
    loc = raw.text("loc")
    # Natural Questions come without a question mark; the released code adds it when it reads them.
    if loc.startswith("nq question:") and not loc.endswith("?"):
        loc += "?"
    return loc, raw.text("loc_ans")


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
    )


class Headed(Protocol):
    """Anything that is told apart from others by its question or claim."""

    @property
    def heading(self) -> str:
        """The question or claim."""
        ...


Item = TypeVar("Item", bound=Headed)


def without_repeats(items: Sequence[Item], name: str | Path) -> list[Item]:
    """Keep the first of those that have one question or claim, and log how many go."""
    first: dict[str, Item] = {}
    for item in items:
        first.setdefault(item.heading, item)
    if len(first) < len(items):
        logger.warning("%s: dropped %d repeated rows", name, len(items) - len(first))
    return list(first.values())


def check_task(task: str) -> None:
    """Refuse a task that is not one of the two."""
    if task not in TASKS:
        raise InputError(f"unknown task '{task}' (use one of {', '.join(TASKS)})")


def _without_none(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}
