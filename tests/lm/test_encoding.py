from dataclasses import replace

import pytest
from tiny_models import tiny_lm

from malmen.data.rows import FeverRow, ZsreRow
from malmen.lm.encoding import encode_rows
from malmen.support.errors import InputError

QUESTIONS = [
    ZsreRow(
        subject=f"Town {i}",
        src=f"What country is Town {i} in?",
        rephrase=tuple(f"Town {i} lies where, wording {k}?" for k in range(4)),
        ans="Peru",
        loc=f"The capital number {i}?",
        loc_ans="Lima",
    )
    for i in range(12)
]
CLAIMS = [
    FeverRow(
        prompt=f"Town {i} is in Peru.",
        equiv_prompt=tuple(f"It is true that Town {i} is in Peru, wording {k}." for k in range(4)),
        unrel_prompt=f"Lima is number {i}.",
        alt="SUPPORTS" if i % 2 else "REFUTES",
        unrel_ans="REFUTES" if i % 3 else "SUPPORTS",
    )
    for i in range(12)
]


@pytest.mark.parametrize("kind", ["llama", "t5"])
def test_questions_become_three_tuples_each(kind: str) -> None:
    lm = tiny_lm(kind)
    facts = encode_rows(lm, QUESTIONS, seed=0)
    assert len(facts) == len(QUESTIONS)
    for row, fact in zip(QUESTIONS, facts, strict=True):
        assert fact.edit == lm.encode(row.src, row.ans)
        assert fact.equivalent in [lm.encode(wording, row.ans) for wording in row.rephrase]
        assert fact.unrelated == lm.encode(row.loc, row.loc_ans)
        assert fact.row is row


def test_claims_become_three_tuples_each() -> None:
    lm = tiny_lm("bert")
    facts = encode_rows(lm, CLAIMS, seed=0)
    for row, fact in zip(CLAIMS, facts, strict=True):
        assert fact.edit == lm.encode(row.prompt, row.alt)
        assert fact.equivalent in [lm.encode(wording, row.alt) for wording in row.equiv_prompt]
        assert fact.unrelated == lm.encode(row.unrel_prompt, row.unrel_ans)
        assert fact.row is row
    assert {fact.edit.targets for fact in facts} == {(0,), (1,)}


@pytest.mark.parametrize(("kind", "rows"), [("gpt2", QUESTIONS), ("bert", CLAIMS)])
def test_the_seed_alone_draws_the_paraphrase(
    kind: str, rows: list[ZsreRow] | list[FeverRow]
) -> None:
    lm = tiny_lm(kind)
    assert encode_rows(lm, rows, seed=3) == encode_rows(lm, rows, seed=3)
    one, other = (encode_rows(lm, rows, seed=seed) for seed in (3, 4))
    assert [f.equivalent for f in one] != [f.equivalent for f in other]
    assert [(f.edit, f.unrelated) for f in one] == [(f.edit, f.unrelated) for f in other]


def test_the_draw_of_a_row_does_not_depend_on_the_rows_after_it() -> None:
    # So that a smaller pool is a beginning of a larger one.
    lm = tiny_lm("llama")
    assert encode_rows(lm, QUESTIONS[:5], seed=0) == encode_rows(lm, QUESTIONS, seed=0)[:5]


@pytest.mark.parametrize("field", ["ans", "loc_ans"])
def test_an_empty_answer_is_refused(field: str) -> None:
    rows = [*QUESTIONS[:3], replace(QUESTIONS[3], **{field: " "})]
    with pytest.raises(InputError, match=r"the answer of .* tokenises to nothing"):
        encode_rows(tiny_lm("llama"), rows, seed=0)


def test_no_rows_give_no_facts() -> None:
    assert encode_rows(tiny_lm("llama"), [], seed=0) == []
