"""Claims about facts, true or false: a claim that is made to be false is false."""

import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

from malmen.data.geonames.facts import Fact, by_prominence, by_relation
from malmen.data.geonames.wordings import WORDINGS
from malmen.data.rows import LABELS, Label
from malmen.support.errors import InputError

__all__ = ["Values", "claimable", "claimed_value", "claims_to_probe", "dealt", "training_claims"]

Values = Mapping[str, Sequence[str]]
"""The answers of each relation, each as often as it occurs: an even draw gives a plausible one."""

# Draws of a false value before the answers that are not the true one are counted out.
_TRIES = 10


def claims_to_probe(facts: Sequence[Fact], *, seed: int) -> list[tuple[str, Label]]:
    """Return claims that a fact checker may know, the most prominent subjects first.

    Args:
        facts: Facts of an unrelated split.
        seed: Decides wordings and false values.

    Returns:
        A true and a false claim a fact, with their labels; none of a fact whose relation has no
        other answer among these facts.
    """
    rng = random.Random(seed)
    facts, values = claimable(facts)
    return [
        (_claim(fact, label, values, rng), label)
        for fact in by_prominence(facts)
        for label in LABELS
    ]


def training_claims(facts: Sequence[Fact], *, n: int, seed: int) -> list[tuple[str, Label]]:
    """Return claims with their true labels, to fine-tune or to measure a fact checker.

    Relations take turns, and a relation whose facts are used up starts again with other wordings
    and values, so that small relations are learned as well as large ones.

    Args:
        facts: One of the two lists of :func:`malmen.data.geonames.splits.checker_facts`.
        n: How many claims.
        seed: Decides facts, truth, values and wordings.

    Returns:
        ``n`` claims, half of them true.
    """
    rng = random.Random(seed)
    facts, values = claimable(facts)
    decks = [dealt(group, n, rng) for group in by_relation(facts).values()]
    claims = []
    for i in range(n):
        turn, place = divmod(i, len(decks))
        label = LABELS[(turn + place) % 2]
        claims.append((_claim(decks[place][turn], label, values, rng), label))
    rng.shuffle(claims)
    return claims


def claimable(facts: Sequence[Fact]) -> tuple[list[Fact], Values]:
    """Return the facts for which another one has a false value, and the values of them all.

    Raises:
        InputError: There are none.
    """
    answers = {relation: set(found) for relation, found in _values(facts).items()}
    found = [
        fact for fact in facts if not all(_alike(a, fact.answer) for a in answers[fact.relation])
    ]
    if not found:
        raise InputError("no facts of which false claims can be made (give it more facts)")
    return found, _values(found)


def claimed_value(fact: Fact, label: Label, values: Values, rng: random.Random) -> str:
    """Return the true answer, or one that other subjects have in this relation."""
    if label == "SUPPORTS":
        return fact.answer
    others = values[fact.relation]
    for _ in range(_TRIES):
        value = rng.choice(others)
        if not _alike(value, fact.answer):
            return value
    return rng.choice([other for other in others if not _alike(other, fact.answer)])


Card = TypeVar("Card")


def dealt(deck: Sequence[Card], n: int, rng: random.Random) -> list[Card]:
    """Deal ``n`` cards, all of the deck before any comes again, and none twice in a row."""
    if not deck:
        raise InputError("no unrelated facts that the language model gets right (probe more)")
    cards: list[Card] = []
    while len(cards) < n:
        again = list(deck)
        rng.shuffle(again)
        if cards and again[0] == cards[-1]:
            again.append(again.pop(0))
        cards += again
    return cards[:n]


def _values(facts: Sequence[Fact]) -> dict[str, list[str]]:
    return {relation: [f.answer for f in group] for relation, group in by_relation(facts).items()}


def _alike(value: str, other: str) -> bool:
    """Return whether one value may pass for the other, as "Ruble" for "Belarusian ruble"."""
    value, other = value.casefold(), other.casefold()
    return value in other or other in value


def _claim(fact: Fact, label: Label, values: Values, rng: random.Random) -> str:
    value = claimed_value(fact, label, values, rng)
    return fact.worded(rng.choice(WORDINGS[fact.relation].claims), value)
