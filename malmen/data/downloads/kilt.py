"""Stand-ins for the rows of zsRE and FEVER, made from the benchmark KILT.

KILT holds the questions and claims that the released rows were made from, but neither their
back-translated paraphrases nor their splits. Here a question is worded by the first of KILT's
templates for its relation and paraphrased by the others; a claim is paraphrased by
:data:`malmen.data.importing.PARAPHRASE_RULES`. The field ``relation`` of every row says so.
"""

import json
import logging
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

from malmen.data.importing import RELATION_OF_RULES, Draw, fever_rows, zsre_rows
from malmen.data.raw_rows import RawRow, read_raw_rows
from malmen.data.rows import LABELS, FeverRow, ZsreRow, fields_of
from malmen.support.errors import InputError
from malmen.support.files import atomic

__all__ = ["QUESTION_RULES", "rebuild"]

logger = logging.getLogger(__name__)

QUESTION_RULES: tuple[str, ...] = ("Answer this question: {question}", "Tell me: {question}")
"""How a question that KILT words in one way alone gets paraphrases."""

_SEPARATOR = " [SEP] "  # between subject and relation


def rebuild(facts: Path, *, unrelated: Path | None, out: Path) -> None:
    """Write rows made from KILT, a JSON list in an order that is the same every time.

    Args:
        facts: KILT's zero-shot relation extraction, or its FEVER; JSON lines or Parquet.
        unrelated: KILT's Natural Questions, for relation extraction; None for FEVER.
        out: the rows.

    Raises:
        InputError: a file cannot be read, or is not what it is taken for.
    """
    draw = Draw(name=str(facts), n=None, rng=random.Random(0))
    rows: Sequence[ZsreRow] | Sequence[FeverRow]
    if unrelated is None:
        claims = [_claim(raw) for raw in _read(facts, LABELS)]
        rows = fever_rows(claims, None, draw)
    else:
        raws = list(_questions(_read(facts)))
        pairs = [_pair(raw) for raw in _read(unrelated)]
        rows = zsre_rows(raws, pairs, draw)
    lines = (json.dumps(fields_of(row), ensure_ascii=False) for row in rows)
    with atomic(out) as temporary:
        temporary.write_text("[\n" + ",\n".join(lines) + "\n]\n", encoding="utf-8")


def _read(path: Path, answers: Sequence[str] | None = None) -> list[RawRow]:
    """Return the rows that have an answer, or one of certain answers; say how many have none."""
    raws = read_raw_rows(path)
    kept = []
    for raw in raws:
        outputs = raw.fields.get("output") or []
        given = [output for output in outputs if output.get("answer")]
        if given and (answers is None or given[0]["answer"] in answers):
            kept.append(RawRow(raw.where, {**raw.fields, "output": given}))
    if not kept:
        raise InputError(f"{path}: no answers in it (name a training or development file of KILT)")
    if len(kept) < len(raws):
        logger.warning("%s: left out %d rows without answers", path, len(raws) - len(kept))
    return kept


def _claim(raw: RawRow) -> RawRow:
    """Return a claim as `malmen import-rows` takes it: with its label and the pages it rests on."""
    output = raw.fields["output"][0]
    pages = {source["title"] for source in output.get("provenance") or () if source.get("title")}
    fields = {"claim": raw.text("input"), "label": output["answer"]}
    return RawRow(raw.where, {**fields, "evidence_pages": sorted(pages)})


def _questions(raws: Sequence[RawRow]) -> Iterator[RawRow]:
    """Yield questions without unrelated ones, where there is a template to word them by."""
    left_out = 0
    for raw in raws:
        subject, separator, relation = raw.text("input").partition(_SEPARATOR)
        if not separator:
            raise raw.fail("input", f"no '{_SEPARATOR}' in it", "name KILT's zero-shot RE")
        templates = (raw.fields.get("meta") or {}).get("template_questions") or ()
        wordings = list(dict.fromkeys(text.replace("XXX", subject).strip() for text in templates))
        if not wordings:
            left_out += 1
            continue
        question, *others = wordings
        fields = {
            "subject": subject,
            "src": question,
            "rephrase": others or [rule.format(question=question) for rule in QUESTION_RULES],
            "answers": [output["answer"] for output in raw.fields["output"]],
            "relation": f"{relation}; {RELATION_OF_RULES}",
        }
        yield RawRow(raw.where, fields)
    if left_out:
        logger.warning("left out %d facts that KILT has no question for", left_out)


def _pair(raw: RawRow) -> RawRow:
    """Return a question of Natural Questions as the released rows write it."""
    question = f"nq question: {raw.text('input')}"
    return RawRow(raw.where, {"loc": question, "loc_ans": raw.fields["output"][0]["answer"]})
