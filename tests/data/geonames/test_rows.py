"""Prompts and rows say what they are meant to say, and no relation or pair outweighs others."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmen.data.geonames.rows import (
    PROBED,
    all_prompts,
    fever_rows,
    prompts_to_probe,
    zsre_rows,
)
from malmen.data.geonames.wordings import WORDINGS
from malmen.support.errors import InputError

seeds = st.integers(0, 2**32 - 1)
PAIRS = [("The capital of France is", "Paris"), ("The capital of Spain is", "Madrid")]
CLAIM_PAIRS = [("Paris is in France.", "SUPPORTS"), ("Paris is in Spain.", "REFUTES")]


@given(seed=seeds, n=st.integers(1, 100))
def test_zsre_rows_ask_one_fact_in_three_ways(some, seed, n):
    answers = {(fact.subject, fact.relation): fact.answer for fact in some}
    rows = zsre_rows(some, PAIRS, n=n, seed=seed)
    assert len(rows) == n
    assert len({row.src for row in rows}) == n
    assert len({row.subject for row in rows}) == n
    for row in rows:
        assert row.ans == answers[row.subject, row.relation]
        assert len({row.src, *row.rephrase}) == 3
        assert all(row.subject in text for text in (row.src, *row.rephrase))
        assert row.src.endswith("?")
        assert (row.loc, row.loc_ans) in PAIRS
    assert rows == zsre_rows(some, PAIRS, n=n, seed=seed)


def test_no_relation_outweighs_the_others(splits):
    rows = zsre_rows(splits["train"], PAIRS, n=5000, seed=0)
    counts = Counter(row.relation for row in rows)
    large = ("country", "continent", "currency", "time_zone", "us_state")
    assert max(counts.values()) - min(counts[relation] for relation in large) <= 1


def test_a_subject_comes_again_only_after_all_others(some):
    rows = zsre_rows(some, PAIRS, n=len(some), seed=0)
    subjects = [row.subject for row in rows]
    assert len(set(subjects[: len(set(subjects))])) == len(set(subjects))
    assert Counter(subjects) == Counter(fact.subject for fact in some)


@given(seed=seeds, n_pairs=st.integers(2, 20), n=st.integers(1, 60))
def test_unrelated_prompts_are_dealt_out_evenly(some, seed, n_pairs, n):
    known = [(f"prompt {i}", f"answer {i}") for i in range(n_pairs)]
    rows = zsre_rows(some, known, n=n, seed=seed)
    counts = Counter({pair: 0 for pair in known})
    counts.update((row.loc, row.loc_ans) for row in rows)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(a.loc != b.loc for a, b in pairwise(rows))


@given(seed=seeds, n=st.integers(1, 100))
def test_fever_rows_claim_one_value_in_several_ways(some, seed, n):
    rows = fever_rows(some, CLAIM_PAIRS, n=n, seed=seed)
    assert len({row.prompt for row in rows}) == n
    for row in rows:
        assert len({row.prompt, *row.equiv_prompt}) == len(WORDINGS[row.relation].claims)
        assert row.subject in row.prompt
        assert (row.unrel_prompt, row.unrel_ans) in CLAIM_PAIRS
    assert rows == fever_rows(some, CLAIM_PAIRS, n=n, seed=seed)


def test_labels_are_even_and_say_nothing_of_the_truth(splits):
    facts = {(fact.subject, fact.relation): fact for fact in splits["train"]}
    rows = fever_rows(splits["train"], CLAIM_PAIRS, n=4000, seed=0)
    counts = Counter()
    for row in rows:
        fact = facts[row.subject, row.relation]
        counts[says_truth(row.prompt, fact), row.alt] += 1
    assert len(counts) == 4
    for count in counts.values():
        # 4 standard deviations of a draw of one in four
        assert abs(count / len(rows) - 0.25) < 4 * (0.25 * 0.75 / len(rows)) ** 0.5


def test_no_claim_is_edited_twice(splits):
    rows = fever_rows(splits["evaluation"], [("It is.", "SUPPORTS")], n=6000, seed=0)
    claims = [claim for row in rows for claim in (row.prompt, *row.equiv_prompt)]
    assert len(claims) == len(set(claims))


def test_prompts_to_probe_begin_with_the_most_prominent(splits):
    facts = [f for f in splits["unrelated_train"] if f.relation in PROBED]
    prompts = prompts_to_probe(splits["unrelated_train"])
    assert len(prompts) == len(set(prompts)) == len(facts)
    assert not any(prompt.endswith("?") for prompt, _ in prompts)
    first = max(facts, key=lambda fact: fact.prominence)
    assert first.subject in prompts[0][0]
    used = {prompt for prompt, _ in prompts}
    for relation in PROBED:
        named = [fact for fact in facts if fact.relation == relation]
        for stem in WORDINGS[relation].statements:
            assert any(fact.worded(stem) in used for fact in named)


def test_all_prompts_are_all_wordings(some):
    prompts = all_prompts(some)
    assert len(prompts) == sum(
        len(WORDINGS[fact.relation][0] + WORDINGS[fact.relation][1]) for fact in some
    )
    assert set(prompts_to_probe(some)) <= set(prompts)
    for row in zsre_rows(some, PAIRS, n=50, seed=0):
        assert {(text, row.ans) for text in (row.src, *row.rephrase)} <= set(prompts)


def test_more_rows_than_facts_is_an_error(some):
    with pytest.raises(InputError, match=f"rows asked of {len(some)} facts"):
        zsre_rows(some, PAIRS, n=len(some) + 1, seed=0)
    with pytest.raises(InputError, match="0 rows asked"):
        fever_rows(some, CLAIM_PAIRS, n=0, seed=0)


def test_nothing_known_is_an_error(some):
    with pytest.raises(InputError, match="no unrelated facts"):
        zsre_rows(some, [], n=1, seed=0)


def says_truth(claim, fact):
    wordings = WORDINGS[fact.relation].claims
    return claim in {fact.worded(wording, fact.answer) for wording in wordings}
