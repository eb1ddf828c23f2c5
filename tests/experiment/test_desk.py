from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tiny_folders import write_lm
from tiny_models import tiny_lm

from malmen.data.geonames.claims import claims_to_probe
from malmen.data.geonames.facts import Fact, collect_facts
from malmen.data.geonames.rows import all_prompts, prompts_to_probe
from malmen.data.geonames.splits import split_subjects
from malmen.data.rows import FeverRow, ZsreRow
from malmen.experiment.desk import (
    SPLITS,
    UNRELATED,
    SplitName,
    desk_texts,
    known_prompts,
    make_rows,
)
from malmen.lm.catalogue import lookup
from malmen.lm.language_model import LanguageModel
from malmen.lm.objectives import TokenPrediction
from malmen.lm.predictions import predict
from malmen.support.errors import InputError

SIZES: dict[SplitName, int] = {"train": 24, "validation": 6, "evaluation": 12}


@pytest.fixture(scope="module")
def facts() -> list[Fact]:
    return collect_facts()


def teach(lm: LanguageModel, pairs: Sequence[tuple[str, str]], *, steps: int) -> None:
    """Train on pairs until the model knows them, or some of them."""
    lm.model.requires_grad_(True)
    optimizer = torch.optim.Adam(lm.model.parameters(), lr=1e-2)
    (batch,) = lm.batches([lm.encode(*pair) for pair in pairs], size=len(pairs))
    for _ in range(steps):
        optimizer.zero_grad()
        TokenPrediction().loss(lm.logits(batch), batch.targets).mean().backward()
        optimizer.step()
    lm.model.requires_grad_(False)


@pytest.fixture(scope="module")
def decoder(facts: list[Fact]) -> LanguageModel:
    """A tiny decoder that has learnt a few unrelated facts of every split, and nothing else."""
    lm = tiny_lm("llama", dtype=torch.float32)
    splits = split_subjects(facts, seed=0)
    teach(
        lm,
        [p for s in SPLITS for p in prompts_to_probe(splits[UNRELATED[s]])[:4]],
        steps=120,
    )
    return lm


def greedy(lm: LanguageModel, prompt: str, length: int) -> list[int]:
    """Decode token by token, without teacher forcing, padding or batches."""
    ids = lm.tokenizer(prompt)["input_ids"]
    for _ in range(length):
        ids = [*ids, int(lm.model(torch.tensor([ids])).logits[0, -1].argmax())]
    return ids[-length:]


def test_known_prompts_are_completed_right(decoder: LanguageModel, facts: list[Fact]) -> None:
    splits = split_subjects(facts, seed=0)
    pairs = prompts_to_probe(splits["unrelated_train"])[:64]
    known = known_prompts(decoder, pairs, enough=64, name="train", progress=False)
    assert set(known) <= set(pairs)
    assert 4 <= len(known) < len(pairs)
    for prompt, answer in pairs:
        answer_ids = decoder.tokenizer(" " + answer)["input_ids"]
        is_right = greedy(decoder, prompt, len(answer_ids)) == answer_ids
        assert is_right == ((prompt, answer) in known)


def test_the_search_stops_when_enough_is_known(decoder: LanguageModel, facts: list[Fact]) -> None:
    splits = split_subjects(facts, seed=0)
    pairs = iter(prompts_to_probe(splits["unrelated_train"]))
    known = known_prompts(decoder, pairs, enough=2, name="train", fact_batch=8, progress=False)
    assert len(known) >= 2
    assert next(pairs)  # only the first of them were tried


def test_nothing_known() -> None:
    lm = tiny_lm("llama")
    with pytest.raises(InputError, match="tiny_llama gets none of 2 unrelated prompts right"):
        known_prompts(
            lm, [("Where is Lyon?", "Peru"), ("a", "xyz")], enough=2, name="train", progress=False
        )


def test_question_rows(decoder: LanguageModel, facts: list[Fact]) -> None:
    rows = make_rows(decoder, facts, sizes=SIZES, seed=0)
    assert {split: len(rows[split]) for split in SPLITS} == SIZES
    assert make_rows(decoder, facts, sizes=SIZES, seed=0) == rows
    subjects = {split: {row.subject for row in rows[split]} for split in SPLITS}
    assert_disjoint(subjects)
    assert_disjoint({split: {row.loc for row in questions(rows[split])} for split in SPLITS})
    for split in SPLITS:
        for row in questions(rows[split]):
            expected = decoder.tokenizer(" " + row.loc_ans)["input_ids"]
            assert greedy(decoder, row.loc, len(expected)) == expected


def questions(rows: Sequence[ZsreRow | FeverRow]) -> list[ZsreRow]:
    return [row for row in rows if isinstance(row, ZsreRow)]


def assert_disjoint(sets: dict[SplitName, set[str | None]]) -> None:
    assert len(set().union(*sets.values())) == sum(map(len, sets.values()))


def test_claim_rows(facts: list[Fact], tmp_path: Path) -> None:
    folder = write_lm(tmp_path, "fact_checker")
    checker = LanguageModel.load(folder, lookup("fact_checker"))
    with torch.no_grad():  # it says both "true" and "false" of some claims
        probe = claims_to_probe(split_subjects(facts, seed=1)["unrelated_train"], seed=1)[:64]
        (batch,) = checker.batches([checker.encode(*pair) for pair in probe], size=64)
        checker.model.classifier.bias -= checker.logits(batch).median()
    rows = make_rows(checker, facts, sizes=SIZES, seed=1)
    assert {split: len(rows[split]) for split in SPLITS} == SIZES
    assert_disjoint({split: {row.subject for row in rows[split]} for split in SPLITS})
    for split in SPLITS:
        for row in rows[split]:
            assert isinstance(row, FeverRow)
            unrelated = checker.encode(row.unrel_prompt, row.unrel_ans)
            assert predict(checker, [unrelated], size=1).accuracy().item() == 1
    assert {row.unrel_ans for row in rows["train"] if isinstance(row, FeverRow)} == {
        "SUPPORTS",
        "REFUTES",
    }


def test_too_few_facts(decoder: LanguageModel, facts: list[Fact]) -> None:
    with pytest.raises(InputError):
        make_rows(decoder, facts, sizes={**SIZES, "validation": 10**6}, seed=0)


FACTS = [
    Fact(f"City {i}", "country", ("Peru", "France", "Chad")[i % 3], "city", 10**7 - i)
    for i in range(200)
]


def test_desk_texts_are_facts_and_sampled_texts() -> None:
    lm = tiny_lm("gpt2")
    texts = desk_texts(lm, FACTS, n=9, length=4, seed=0)
    known = split_subjects(FACTS, seed=0)["unrelated_train"]
    stated = {f"{prompt} {answer}" for prompt, answer in all_prompts(known)}
    assert len(texts) == 9
    assert set(texts[:5]) <= stated
    assert len(set(texts[:5])) == 5
    for fact, text in zip(texts[:4], texts[5:], strict=True):
        assert text.startswith(fact.split()[0])
    assert texts == desk_texts(lm, FACTS, n=9, length=4, seed=0)
    assert texts != desk_texts(lm, FACTS, n=9, length=4, seed=1)


@pytest.mark.parametrize("n", [0, 10**6])
def test_more_texts_than_there_are_facts_are_refused(n: int) -> None:
    with pytest.raises(InputError, match=f"{n} texts asked for; the facts give 1 to"):
        desk_texts(tiny_lm("gpt2"), FACTS, n=n, length=4, seed=0)
