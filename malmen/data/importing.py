"""Rows from real data files, some of which lack fields that a row has to have.

zsRE files may come without unrelated questions, CounterFact has fields of its own, and FEVER files
may be raw claims without paraphrases: what is missing is drawn from other files, or made by rules
that the rows then name.
"""

import logging
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from malmen.data.forms import in_zsre_form
from malmen.data.raw_rows import RawRow, read_raw_rows
from malmen.data.rows import (
    LABELS,
    Answer,
    FeverRow,
    Label,
    Task,
    ZsreRow,
    check_task,
    fever_row,
    label,
    loc_pair,
    without_repeats,
    zsre_row,
)
from malmen.support.errors import InputError

__all__ = [
    "PARAPHRASE_RULES",
    "RELATION_OF_RULES",
    "attach_unrelated",
    "fever_rows",
    "import_rows",
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


def import_rows(
    files: Sequence[str | Path],
    *,
    task: Task,
    unrelated: str | Path | None,
    n: int | None,
    seed: int,
    answer: Answer = "answers",
    exclude: Sequence[str | Path] = (),
) -> list[ZsreRow] | list[FeverRow]:
    """Draw complete rows from real data files, some of which may lack fields.

    zsRE-shaped rows without ``loc`` get one from the file ``unrelated``; cases of CounterFact are
    taken for such rows (:mod:`malmen.data.forms`). FEVER-shaped rows may be
    raw claims (``claim`` and ``label``, optionally ``evidence_pages``): their paraphrases come
    from :data:`PARAPHRASE_RULES` (and ``relation`` says so), their unrelated claim is a claim of
    another page, taken from ``unrelated`` or else from the files themselves, and the label to
    edit in is drawn evenly from both, whatever the truth is.

    Args:
        files: One or several files, read in turn.
        task: What a language model does with them.
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
    check_task(task)
    raws = [in_zsre_form(raw) for path in files for raw in read_raw_rows(path)]
    raws = _without_known(raws, exclude)
    others = None if unrelated is None else read_raw_rows(unrelated)
    name = ", ".join(str(path) for path in files)
    if task == "completion":
        return zsre_rows(raws, name, unrelated=others, n=n, rng=rng, answer=answer)
    return fever_rows(raws, name, unrelated=others, n=n, rng=rng)


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


def _without_known(raws: Sequence[RawRow], files: Sequence[str | Path]) -> list[RawRow]:
    """Leave out the rows that share a subject, a question or a claim with those of other files."""
    known = {mark for path in files for raw in read_raw_rows(path) for mark in _marks(raw)}
    kept = [raw for raw in raws if known.isdisjoint(_marks(raw))]
    if len(kept) < len(raws):
        logger.info("left out %d rows that occur in other splits", len(raws) - len(kept))
    return kept


def _marks(raw: RawRow) -> list[tuple[str, str]]:
    """Return what must not be in two splits: the subject, and the question or claim."""
    headings = ("src", "prompt", "claim")
    marks = [("heading", raw.text(name)) for name in headings if raw.has(name)]
    if raw.has("subject"):
        marks.append(("subject", raw.text("subject")))
    return [(kind, text.casefold()) for kind, text in marks]


def zsre_rows(
    raws: Sequence[RawRow],
    name: str,
    *,
    unrelated: Sequence[RawRow] | None,
    n: int | None,
    rng: random.Random,
    answer: Answer = "answers",
) -> list[ZsreRow]:
    """Draw zsRE rows from raw rows; see :func:`import_rows`. The name is that of their files."""
    rows = without_repeats([zsre_row(r, answer, with_loc=r.has("loc")) for r in raws], name)
    rows = _drawn(rows, name, n=n, rng=rng)
    lacking = [i for i, row in enumerate(rows) if not row.loc]
    if not lacking:
        return rows
    if unrelated is None:
        raise InputError(
            f"{name}: field 'loc': missing in {len(lacking)} of {len(rows)} rows "
            "(name a file of unrelated questions, with 'loc' and 'loc_ans')"
        )
    pairs = [loc_pair(raw) for raw in unrelated]
    rng.shuffle(pairs)
    for i, row in zip(lacking, attach_unrelated([rows[i] for i in lacking], pairs), strict=True):
        rows[i] = row
    return rows


def fever_rows(
    raws: Sequence[RawRow],
    name: str,
    *,
    unrelated: Sequence[RawRow] | None,
    n: int | None,
    rng: random.Random,
) -> list[FeverRow]:
    """Draw FEVER rows from raw rows; see :func:`import_rows`. The name is that of their files."""
    if all(raw.has("prompt") for raw in raws):
        rows = without_repeats([fever_row(raw) for raw in raws], name)
        return _drawn(rows, name, n=n, rng=rng)
    claims = without_repeats([_claim(raw) for raw in raws], name)
    others = claims
    if unrelated is not None:
        others = [_claim(raw) for raw in unrelated]
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

    @property
    def heading(self) -> str:
        return self.text


def _claim(raw: RawRow) -> _Claim:
    pages = raw.fields.get("evidence_pages")
    named = frozenset(raw.texts("evidence_pages")) if pages else frozenset()
    return _Claim(raw.text("claim"), label(raw, "label"), named, raw.where)


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


Drawn = TypeVar("Drawn")


def _drawn(items: Sequence[Drawn], name: str, *, n: int | None, rng: random.Random) -> list[Drawn]:
    if not items:
        raise InputError(f"{name}: no rows are left to draw from (leave out fewer)")
    if n is not None and not 0 < n <= len(items):
        raise InputError(f"{name}: {n} rows asked of {len(items)} (ask for 1 to {len(items)})")
    return rng.sample(items, len(items) if n is None else n)


def _cycled(items: Sequence[tuple[str, str]], n: int) -> Iterator[tuple[str, str]]:
    return (items[i % len(items)] for i in range(n))
