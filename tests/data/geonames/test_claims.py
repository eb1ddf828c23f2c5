"""Claims are true or false as they are meant to be, half of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from malmen.data.geonames.claims import claims_to_probe, training_claims
from malmen.data.geonames.facts import by_relation
from malmen.data.geonames.wordings import WORDINGS
from malmen.data.rows import LABELS
from malmen.support.errors import InputError

seeds = st.integers(0, 2**32 - 1)


def says(claim, fact, value):
    return claim in {fact.worded(wording, value) for wording in WORDINGS[fact.relation].claims}


@given(seed=seeds)
def test_refuted_claims_are_false_and_of_the_right_type(some, seed):
    values = {name: {f.answer for f in group} for name, group in by_relation(some).items()}
    claimed = [fact for fact in some if len(values[fact.relation]) > 1]
    ordered = sorted(claimed, key=lambda fact: -fact.prominence)
    claims = claims_to_probe(some, seed=seed)
    assert len(claims) == 2 * len(ordered)
    for i in range(seed % 37, len(ordered), 37):
        fact = ordered[i]
        for claim, label in claims[2 * i : 2 * i + 2]:
            said = [value for value in values[fact.relation] if says(claim, fact, value)]
            assert len(said) == 1
            assert (said[0] == fact.answer) == (label == "SUPPORTS")


def test_a_false_value_does_not_pass_for_the_true_one(facts):
    minsk = [fact for fact in facts if fact.relation == "currency" and "uble" in fact.answer]
    assert {fact.answer for fact in minsk} == {"Ruble", "Belarusian ruble"}
    with pytest.raises(InputError, match="no facts of which false claims can be made"):
        claims_to_probe(minsk, seed=0)


def test_a_relation_with_one_answer_is_not_claimed(some):
    lonely = next(fact for fact in some if fact.relation == "capital")
    cities = [fact for fact in some if fact.relation == "country"][:5]
    claims = claims_to_probe([lonely, *cities], seed=0)
    assert len(claims) == 2 * len(cities)
    assert not any(lonely.subject in claim for claim, _ in claims)


def test_claims_to_probe_are_half_true(splits):
    claims = claims_to_probe(splits["unrelated_validation"], seed=0)
    assert [label for _, label in claims[:4]] == [*LABELS, *LABELS]
    assert len(claims) == 2 * len(splits["unrelated_validation"])


@given(seed=seeds, n=st.integers(200, 400))
def test_training_claims_are_half_true_in_every_relation(some, seed, n):
    facts = some[::10]
    claims = training_claims(facts, n=n, seed=seed)
    assert len(claims) == n
    assert abs(sum(label == "SUPPORTS" for _, label in claims) - n / 2) <= 1
    for relation, group in by_relation(facts).items():
        said = {
            fact.worded(wording, value)
            for fact in group
            for value in {other.answer for other in group}
            for wording in WORDINGS[relation].claims
        }
        labels = [label for claim, label in claims if claim in said]
        assert abs(labels.count("SUPPORTS") - len(labels) / 2) <= 1
    assert claims == training_claims(facts, n=n, seed=seed)


def test_no_facts_to_claim_is_an_error():
    with pytest.raises(InputError, match="no facts"):
        training_claims([], n=1, seed=0)
