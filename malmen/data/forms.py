"""The forms that rows have in the data sets of the field, and their way into the fields of zsRE."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from malmen.data.raw_rows import RawRow
from malmen.support.errors import InputError

__all__ = ["FORMS", "Form", "Task", "form_of", "in_zsre_form"]

Task = Literal["completion", "verdict"]
"""What a language model does: complete a prompt (zsRE) or judge a claim (FEVER)."""


@dataclass(frozen=True)
class Form:
    """A form that rows have.

    Attributes:
        title: the data set that they are of, or are as those of.
        marks: fields that only this form has together.
        task: what a language model does with them; None if they are no rows, or not for this suite.
        reading: their way into the fields of zsRE; None if they are no questions.
        heading: what they are told apart by.
        subject: what their subjects are called.
        declined: why the suite does not read them.
    """

    title: str
    marks: tuple[str, ...]
    task: Task | None = None
    reading: Callable[[RawRow], RawRow] | None = None
    heading: str = "question"
    subject: str = "subject"
    declined: str = ""


def form_of(raw: RawRow) -> Form | None:
    """Return the form of a row, or None if it has no known one."""
    for form in FORMS:
        if all(raw.has(mark) for mark in form.marks):
            if form.title == MQUAKE and not isinstance(raw.fields[form.marks[0]], list):
                continue
            return form
    return None


def in_zsre_form(raw: RawRow) -> RawRow:
    """Return the fields of a zsRE row, and any row that is no question as it is.

    Where the form tells a false answer from a true one, the false one is edited in, whatever else a
    row may hold; of several unrelated prompts the first is taken. Fields are not checked here: an
    error names them as they stand in the file.

    Args:
        raw: of any data set.

    Returns:
        A row with those of ``subject``, ``src``, ``rephrase``, ``ans``, ``loc``, ``loc_ans``,
        ``relation`` and ``subject_at`` that are there.

    Raises:
        InputError: the form is none that the suite reads.
    """
    form = form_of(raw)
    if form is not None and form.declined:
        raise InputError(f"{raw.where}: {form.title}: {form.declined}")
    return raw if form is None or form.reading is None else form.reading(raw)


def _nested(raw: RawRow) -> RawRow:
    """CounterFact as ROME and MEMIT have it."""
    rewrite = raw.inner("requested_rewrite").fields
    found = {
        "subject": ("subject", rewrite.get("subject")),
        "src": ("prompt", rewrite.get("prompt")),
        "relation": ("relation_id", rewrite.get("relation_id")),
        "ans": _target(rewrite, "target_new"),
        "loc_ans": _target(rewrite, "target_true"),
    }
    found = {name: (f"requested_rewrite.{place}", value) for name, (place, value) in found.items()}
    unrelated = _first(raw.fields.get("neighborhood_prompts"), "prompt")
    row = raw.renamed(rephrase="paraphrase_prompts")
    return _filled(_with(row, {**found, "loc": ("neighborhood_prompts", unrelated)}))


def _flat(raw: RawRow) -> RawRow:
    """CounterFact, requests and benchmarks as EasyEdit has them, and requests of ROME."""
    rephrase = "rephrase" if raw.has("rephrase") else "rephrase_prompt"
    row = raw.renamed(
        subject="subject",
        src="prompt",
        rephrase=rephrase,
        loc="locality_prompt",
        loc_ans="locality_ground_truth",
    )
    return _filled(_with(row, {"ans": _target(raw.fields, "target_new"), **_locality(raw)}))


def _qaedit(raw: RawRow) -> RawRow:
    row = raw.renamed(subject="subject", src="prompt", rephrase="rephrase", ans="target")
    return _with(row, _locality(raw))


def _wikibigedit(raw: RawRow) -> RawRow:
    names = ("subject", "rephrase", "ans", "loc", "loc_ans")
    return raw.renamed(src="update", **dict(zip(names, names, strict=True)))


Found = Mapping[str, tuple[str, Any]]
"""Fields by their names here: their names in the file, and their values."""


def _with(row: RawRow, found: Found) -> RawRow:
    """Return a row with further fields, those that are missing left out."""
    there = {name: value for name, (_, value) in found.items() if value is not None}
    names = {name: other for name, (other, _) in found.items()}
    return RawRow(row.where, {**row.fields, **there}, {**row.names, **names})


def _target(fields: Mapping[str, Any], name: str) -> tuple[str, Any]:
    """Return an answer, which may be an object, with its name in the file."""
    value = fields.get(name)
    return (f"{name}.str", value.get("str")) if isinstance(value, dict) else (name, value)


def _locality(raw: RawRow) -> Found:
    """Return the first unrelated prompt with an answer, as EasyEdit, KnowEdit and QAEdit nest it.

    ``{name: [{prompt, ground_truth}]}``, ``{name: {prompt, ground_truth}}``, where either may be
    lists of one or several, or ``[{loc, loc_ans}]``.
    """
    value = raw.fields.get("locality")
    kinds = list(value.items()) if isinstance(value, dict) else [("", value)]
    for name, items in kinds:
        for item in items if isinstance(items, list) else [items]:
            for prompt, answer in (("prompt", "ground_truth"), ("loc", "loc_ans")):
                pair = (_first(item, prompt), _first(item, answer))
                if all(isinstance(text, str) and text.strip() for text in pair):
                    place = ".".join(filter(None, ("locality", name)))
                    return {
                        "loc": (f"{place}.{prompt}", pair[0]),
                        "loc_ans": (f"{place}.{answer}", pair[1]),
                    }
    return {}


def _first(value: Any, field: str) -> Any:
    """Return what is first in nested lists, or the field of an object there."""
    while isinstance(value, list):
        value = value[0] if value else None
    return _first(value.get(field), field) if isinstance(value, dict) else value


def _filled(row: RawRow) -> RawRow:
    """Put the subject into the slot of its prompt; where it stands elsewhere, too, tell which."""
    src, subject = row.fields.get("src"), row.fields.get("subject")
    if not (isinstance(src, str) and isinstance(subject, str) and "{}" in src):
        return row
    src, subject = src.strip(), subject.strip()
    at, text = src.index("{}"), src.replace("{}", subject)
    slot = {} if text.find(subject) == at else {"subject_at": at}
    return RawRow(row.where, {**row.fields, "src": text, **slot}, row.names)


MQUAKE = "MQuAKE"

FORMS = (  # in this order: rows hold the fields of pairs, too
    Form(
        MQUAKE,
        ("requested_rewrite",),
        declined="one row edits several facts and asks for chains of them, which no measure here "
        "does (edit facts of CounterFact)",
    ),
    Form("nested CounterFact", ("requested_rewrite",), "completion", _nested, heading="prompt"),
    Form(
        "UnKE",
        ("question", "answer", "para_question"),
        declined="answers of whole paragraphs, which no measure here does (edit short answers)",
    ),
    Form(
        "WikiBio",
        ("text", "labels", "concept"),
        declined="sentences of biographies, without paraphrases (edit questions)",
    ),
    Form("zsRE", ("src",), "completion"),
    Form("WikiBigEdit", ("update", "ans"), "completion", _wikibigedit),
    Form("KnowEdit", ("target_new", "locality"), "completion", _flat, heading="prompt"),
    Form("KnowEdit", ("target_new", "portability"), "completion", _flat, heading="prompt"),
    Form("flat CounterFact", ("target_new", "case_id"), "completion", _flat, heading="prompt"),
    Form("EasyEdit", ("target_new",), "completion", _flat, heading="prompt"),
    Form("QAEdit", ("prompt", "target"), "completion", _qaedit),
    Form("FEVER", ("equiv_prompt",), "verdict", heading="claim"),
    Form("claims", ("claim",), "verdict", heading="claim", subject="page"),
    Form("unrelated questions", ("loc",)),
)
"""The forms that are known."""
