from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import tiny_lm
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import PreTrainedTokenizerFast

from malmen.data.rows import FeverRow, ZsreRow
from malmen.lm.encoding import encode_rows
from malmen.lm.language_model import LanguageModel
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


def without_letters(kind: str, letters: str) -> LanguageModel:
    """Return a language model whose vocabulary has no other letters than some."""
    lm = tiny_lm(kind)
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "<unk>", " ", *letters])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Split("", "isolated")
    lm.tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")
    return lm


@pytest.mark.parametrize("kind", ["llama", "t5"])
@given(answer=st.text("abcx", min_size=1, max_size=5))
def test_an_answer_that_cannot_be_spelt_is_refused(kind: str, answer: str) -> None:
    lm = without_letters(kind, "abc")
    assert lm.encode("x", "a")  # a prompt may hold what it does not know
    if "x" not in answer:
        assert lm.tokenizer.unk_token_id not in lm.encode("x", answer).targets
        return
    with pytest.raises(InputError, match=f"cannot spell the answer '{answer}'"):
        lm.encode("a", answer)


def test_rows_that_cannot_be_encoded_are_named_by_their_places() -> None:
    lm = without_letters("t5", "Peru")
    rows = [replace(row, loc_ans="r", where=f"rows:{i}") for i, row in enumerate(QUESTIONS)]
    assert encode_rows(lm, rows, seed=0)
    rows[3], rows[5] = replace(rows[3], ans="挪威"), replace(rows[5], loc_ans="x")
    with pytest.raises(InputError, match=r"^rows:3: .*挪威.*; 1 more: rows:5"):
        encode_rows(lm, rows, seed=0)


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
