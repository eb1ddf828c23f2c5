"""Splits: nothing leaks from one into another."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmen.data.geonames.splits import checker_facts, pretraining_facts, split_subjects
from malmen.support.errors import InputError


@given(seed=st.integers(0, 2**32 - 1))
def test_splits_share_no_subject_and_lose_no_fact(facts, seed):
    some = facts[::100]
    shared = split_subjects(some, seed=seed)
    subjects = [subject for split in shared.values() for subject in {f.subject for f in split}]
    assert len(subjects) == len(set(subjects)) == len({fact.subject for fact in some})
    assert sum(len(split) for split in shared.values()) == len(some)
    assert shared == split_subjects(some, seed=seed)


def test_only_the_unrelated_splits_hold_prominent_subjects(splits):
    least = {"country": 5_000_000, "city": 300_000, "county": 1, "state": 0}
    for name, facts in splits.items():
        for fact in facts:
            assert (fact.prominence >= least[fact.place]) == name.startswith("unrelated_")


def test_no_split_is_small(splits):
    sizes = {name: len({fact.subject for fact in facts}) for name, facts in splits.items()}
    assert sizes["train"] > sizes["evaluation"] > 4096
    assert sizes["validation"] > 1024
    assert min(sizes.values()) > 200


def test_the_fact_checker_does_not_learn_what_it_is_measured_on(splits):
    train, held_out = checker_facts(splits)
    seen = {fact.subject for fact in train}
    assert held_out
    assert not seen & {fact.subject for fact in held_out}
    assert not seen & {fact.subject for fact in splits["evaluation"]}
    for name in ("unrelated_train", "unrelated_validation", "unrelated_evaluation"):
        assert {fact.subject for fact in splits[name]} <= seen


@given(n=st.integers(1, 1900))
def test_a_language_model_learns_the_most_prominent_subjects_only(splits, n):
    known, held_out = pretraining_facts(splits, subjects=n)
    learned = {fact.subject for fact in known}
    assert len(learned) == n
    assert held_out == splits["evaluation"]
    left = []
    for name, facts in splits.items():
        if name.startswith("unrelated_"):
            left += [fact for fact in facts if fact.subject not in learned]
        else:
            assert not learned & {fact.subject for fact in facts}
    prominence = [fact.prominence for fact in known]
    assert prominence == sorted(prominence, reverse=True)
    assert not left or prominence[-1] >= max(fact.prominence for fact in left)


def test_every_fact_of_a_learned_subject_is_learned(splits):
    known, _ = pretraining_facts(splits, subjects=100)
    learned = {fact.subject for fact in known}
    prominent = [f for name in splits if name.startswith("unrelated_") for f in splits[name]]
    assert set(known) == {fact for fact in prominent if fact.subject in learned}


@pytest.mark.parametrize("n", [0, 100_000])
def test_more_subjects_than_there_are_is_an_error(splits, n):
    with pytest.raises(InputError, match=rf"{n} subjects asked of \d+ prominent ones"):
        pretraining_facts(splits, subjects=n)
