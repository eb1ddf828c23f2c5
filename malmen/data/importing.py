"""Rows from real data files, some of which lack fields that a row has to have.

zsRE files may come without unrelated questions, other data sets have fields of their own, and FEVER
files may be raw claims without paraphrases: what is missing is drawn from other files, or made by
rules that the rows then name.
"""

import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

from malmen.data.forms import Task, in_zsre_form
from malmen.data.raw_rows import RawRow, place, read_raw_rows
from malmen.data.rows import (
    LABELS,
    Answer,
    AnyRow,
    FeverRow,
    Headed,
    Label,
    ZsreRow,
    check_task,
    contradictions,
    fever_row,
    label,
    loc_pair,
    overwritten,
    without_repeats,
    zsre_row,
)
from malmen.data.subjects import folded
from malmen.support.errors import InputError

__all__ = [
    "PARAPHRASE_RULES",
    "RELATION_OF_RULES",
    "Claim",
    "Draw",
    "Fits",
    "OnContradiction",
    "check_fit",
    "fever_rows",
    "import_rows",
    "read_claim",
    "well_formed",
    "zsre_rows",
]

logger = logging.getLogger(__name__)

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

OnContradiction = Literal["keep", "last", "error"]
"""What becomes of rows that ask one question and have different answers: all that are spelt in
different ways stay, and the first of those that are not; the last stays; or they are refused."""

Fits = Callable[[str, str], object]

MOST_SHOWN = 5
"""So many rows are named in one message."""


def import_rows(
    files: Sequence[str | Path],
    *,
    task: Task,
    unrelated: str | Path | None,
    n: int | None,
    seed: int,
    answer: Answer = "answers",
    exclude: Sequence[str | Path] = (),
    skip_malformed: bool = False,
    on_contradiction: OnContradiction = "keep",
    fits: Fits | None = None,
) -> list[ZsreRow] | list[FeverRow]:
    """Draw complete rows from real data files, some of which may lack fields.

    Questions may stand in any form of :mod:`malmen.data.forms`; those without ``loc`` get one from
    the file ``unrelated``. FEVER-shaped rows may be raw claims (``claim`` and ``label``, optionally
    ``evidence_pages``): their paraphrases come from :data:`PARAPHRASE_RULES` (and ``relation`` says
    so), their unrelated claim is a claim of another page, taken from ``unrelated`` or else from the
    files themselves, and the label to edit in is drawn evenly from both, whatever the truth is.

    Args:
        files: One or several files, read in turn.
        task: What a language model does with them.
        unrelated: A file with ``loc`` and ``loc_ans`` (zsRE) or ``claim`` and ``label`` (FEVER).
        n: How many rows to draw, or None for all of them, shuffled.
        seed: Decides the draw, the pairing and the labels.
        answer: As in :func:`malmen.data.rows.read_rows`.
        exclude: Files of rows, those of other splits, in any form: no row has a subject, a question
            or a claim of theirs, in whatever case it is written.
        skip_malformed: Whether malformed rows are left out and counted.
        on_contradiction: What becomes of rows that contradict each other.
        fits: Raises an error of a prompt and its answer that the language model cannot read.

    Returns:
        ``n`` rows with distinct questions or claims; the unrelated prompt of none is edited.

    Raises:
        InputError: If a file cannot be read, a row is malformed, an unrelated fact is needed but
            none is at hand, or there are fewer than ``n`` rows.
    """
    if not files:
        raise InputError("no files to import rows from (name at least one)")
    check_task(task)
    draw = Draw(
        name=", ".join(str(path) for path in files),
        n=n,
        rng=random.Random(seed),
        problems=[] if skip_malformed else None,
        on_contradiction=on_contradiction,
        fits=fits,
    )
    raws = [raw for path in files for raw in read_raw_rows(path, problems=draw.problems)]
    raws = _without_known(raws, exclude, draw.problems)
    others = None if unrelated is None else read_raw_rows(unrelated, problems=draw.problems)
    rows: list[ZsreRow] | list[FeverRow]
    if task == "completion":
        rows = zsre_rows(raws, others, draw, answer=answer)
    else:
        rows = fever_rows(raws, others, draw)
    if draw.problems:
        logger.warning("left out %d malformed rows: %s", len(draw.problems), _some(draw.problems))
    return rows


@dataclass(frozen=True, kw_only=True)
class Draw:
    """How rows are drawn; the rest is as in :func:`import_rows`.

    Attributes:
        name: of the files, for messages.
        problems: where the errors of malformed rows go, which are left out; None to raise them.
    """

    name: str
    n: int | None
    rng: random.Random
    problems: list[InputError] | None = None
    on_contradiction: OnContradiction = "keep"
    fits: Fits | None = None


def zsre_rows(
    raws: Sequence[RawRow],
    unrelated: Sequence[RawRow] | None,
    draw: Draw,
    *,
    answer: Answer = "answers",
) -> list[ZsreRow]:
    """Draw zsRE rows from raw rows; see :func:`import_rows`."""

    def read(raw: RawRow) -> ZsreRow:
        return check_fit(zsre_row(raw, answer, with_loc=False), draw.fits)

    def pair(raw: RawRow) -> tuple[str, str]:
        found = loc_pair(raw)
        if draw.fits is not None:
            draw.fits(*found)
        return found

    rows = _drawn_rows(_resolved(well_formed(raws, read, draw.problems), draw), draw)
    lacking = [i for i, row in enumerate(rows) if not row.loc]
    if not lacking:
        return rows
    pairs = well_formed(unrelated or [], pair, draw.problems)
    if not pairs:
        raise InputError(
            f"{draw.name}: field 'loc': missing in {len(lacking)} of {len(rows)} rows "
            "(name a file of unrelated questions, with 'loc' and 'loc_ans')"
        )
    draw.rng.shuffle(pairs)
    for k, i in enumerate(lacking):  # in order, and from the start again when they run out
        loc, loc_ans = pairs[k % len(pairs)]
        rows[i] = replace(rows[i], loc=loc, loc_ans=loc_ans)
    return rows


def fever_rows(
    raws: Sequence[RawRow], unrelated: Sequence[RawRow] | None, draw: Draw
) -> list[FeverRow]:
    """Draw FEVER rows from raw rows; see :func:`import_rows`."""
    if all(raw.has("prompt") for raw in raws):
        rows = well_formed(raws, lambda raw: check_fit(fever_row(raw), draw.fits), draw.problems)
        return _drawn_rows(_resolved(rows, draw), draw)
    claims = _resolved(well_formed(raws, read_claim, draw.problems), draw)
    others = claims
    if unrelated is not None:
        others = well_formed(unrelated, read_claim, draw.problems)
    drawn = _drawn(claims, draw)
    made = {}
    for claim in drawn:
        other = _claim_of_other_page(claim, others, draw.rng)
        if other is None:
            raise InputError(
                f"{claim.where}: field 'evidence_pages': no claim of another page to serve as "
                "unrelated (add claims, or name a file of unrelated claims)"
            )
        made[claim.heading] = _row_from_claim(claim, other, draw.rng)
    edited = {row.heading: row.alt for row in made.values()}
    safe = [other for other in others if edited.get(other.heading, other.answer) == other.answer]
    lost = {row.heading for row in overwritten(made.values())}
    for claim in drawn:
        if claim.heading in lost and (other := _claim_of_other_page(claim, safe, draw.rng)):
            made[claim.heading] = replace(
                made[claim.heading], unrel_prompt=other.heading, unrel_ans=other.answer
            )
    return [check_fit(row, draw.fits) for row in made.values()]


Read = TypeVar("Read")


def well_formed(
    raws: Iterable[RawRow], read: Callable[[RawRow], Read], problems: list[InputError] | None
) -> list[Read]:
    """Return what raw rows are read as; malformed ones are left out where there are problems."""
    found = []
    for raw in raws:
        try:
            found.append(read(raw))
        except InputError as error:
            if problems is None:
                raise
            problems.append(error)
    return found


def check_fit(row: AnyRow, fits: Fits | None) -> AnyRow:
    """Return a row all of whose texts a language model can read.

    Raises:
        InputError: it cannot; the message says where.
    """
    if fits is not None:
        loc, loc_ans = row.unrelated
        try:
            for prompt in (row.heading, *row.paraphrases):
                fits(prompt, row.answer)
            if loc:
                fits(loc, loc_ans)
        except InputError as error:
            raise InputError(f"{row.where}: {error}") from error
    return row


def _without_known(
    raws: Sequence[RawRow], files: Sequence[str | Path], problems: list[InputError] | None
) -> list[RawRow]:
    """Leave out the rows that share a subject, a question or a claim with those of other files."""
    known: set[tuple[str, str]] = set()
    for path in files:
        for raw in read_raw_rows(path, problems=problems):
            known |= (marks := _marks(raw))
            if not marks:
                raise InputError(
                    f"{raw.where}: neither subject nor question nor claim, so that nothing could "
                    "be left out by it (name a file of rows)"
                )
    if not known:
        return list(raws)
    marked = well_formed(raws, lambda raw: (raw, _marks(raw)), problems)
    kept = [raw for raw, marks in marked if known.isdisjoint(marks)]
    if len(kept) < len(raws):
        logger.info("left out %d rows that occur in other splits", len(raws) - len(kept))
    return kept


def _marks(raw: RawRow) -> set[tuple[str, str]]:
    """Return what must not be in two splits: the subject, and the question or claim."""
    raw = in_zsre_form(raw)
    headings = ("src", "prompt", "claim")
    marks = [("heading", raw.text(name)) for name in headings if raw.has(name)]
    if raw.has("subject"):
        marks.append(("subject", raw.text("subject")))
    return {(kind, folded(text)) for kind, text in marks}


@dataclass(frozen=True)
class Claim:
    """Hold a claim with its true label, and the pages that it rests on."""

    heading: str
    answer: Label
    pages: frozenset[str]
    where: str


def read_claim(raw: RawRow) -> Claim:
    """Return the claim that a raw row is."""
    pages = raw.texts("evidence_pages") if raw.fields.get("evidence_pages") else ()
    return Claim(raw.text("claim"), label(raw, "label"), frozenset(pages), raw.where)


def _claim_of_other_page(claim: Claim, others: Sequence[Claim], rng: random.Random) -> Claim | None:
    """Draw a claim that shares no page with this one (and is not this one), if there is one."""
    start = rng.randrange(max(len(others), 1))
    for step in range(len(others)):
        other = others[(start + step) % len(others)]
        if other.heading != claim.heading and not (other.pages & claim.pages):
            return other
    return None


def _row_from_claim(claim: Claim, other: Claim, rng: random.Random) -> FeverRow:
    bare = claim.heading.removesuffix(".")
    if bare.split(maxsplit=1)[0] in SMALL_WORDS:
        bare = bare[0].lower() + bare[1:]
    return FeverRow(
        prompt=claim.heading,
        equiv_prompt=tuple(rule.format(claim=bare) for rule in PARAPHRASE_RULES),
        unrel_prompt=other.heading,
        alt=rng.choice(LABELS),
        unrel_ans=other.answer,
        relation=RELATION_OF_RULES,
        where=claim.where,
    )


Item = TypeVar("Item", bound=Headed)


def _resolved(items: Sequence[Item], draw: Draw) -> list[Item]:
    """Return items with distinct headings, those that contradict each other as asked for."""
    groups = contradictions(items)
    if groups:
        places = [" and ".join(place(item.where) for item in group) for group in groups]
        what = f"{draw.name}: {len(groups)} questions with different answers: {_some(places)}"
        if draw.on_contradiction == "error":
            raise InputError(f"{what} (keep one of each, or give --on-contradiction last)")
        logger.warning("%s", what)
    if draw.on_contradiction == "last":
        lost = {id(item) for group in groups for item in group[:-1]}
        items = [item for item in items if id(item) not in lost]
    return without_repeats(items, draw.name)


def _drawn_rows(rows: Sequence[AnyRow], draw: Draw) -> list[AnyRow]:
    """Draw rows none of which has an unrelated prompt that is edited; others take their places."""
    drawn = _drawn(rows, draw)
    headings = {row.heading for row in drawn}
    rest = [row for row in rows if row.heading not in headings]
    left_out = 0
    while lost := {row.heading for row in overwritten(drawn)}:
        left_out += len(lost)
        drawn = [row for row in drawn if row.heading not in lost]
        if draw.n is not None:
            if len(rest) < len(lost):
                raise InputError(
                    f"{draw.name}: {draw.n} rows asked, but the unrelated prompts of {left_out} "
                    "are edited (ask for fewer, or give other unrelated prompts)"
                )
            draw.rng.shuffle(rest)
            drawn += rest[: len(lost)]
            rest = rest[len(lost) :]
    if left_out:
        logger.warning("left out %d rows whose unrelated prompt is edited", left_out)
    return drawn


def _drawn(items: Sequence[Item], draw: Draw) -> list[Item]:
    if not items:
        raise InputError(f"{draw.name}: no rows are left to draw from (leave out fewer)")
    if draw.n is not None and not 0 < draw.n <= len(items):
        raise InputError(
            f"{draw.name}: {draw.n} rows asked of {len(items)} (ask for 1 to {len(items)})"
        )
    return draw.rng.sample(items, len(items) if draw.n is None else draw.n)


def _some(items: Sequence[object]) -> str:
    more = f"; and {len(items) - MOST_SHOWN} more" if len(items) > MOST_SHOWN else ""
    return "; ".join(map(str, items[:MOST_SHOWN])) + more
