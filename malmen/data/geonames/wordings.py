"""The ways to ask for a fact about a place, and to claim it.

A relation has several wordings of each kind, so that an edit made in one wording can be tested in
another. The subject stands in ``{subject}``, the value claimed in ``{value}``.
"""

from collections.abc import Mapping
from typing import NamedTuple

__all__ = ["WORDINGS", "Wordings"]


class Wordings(NamedTuple):
    """Hold the ways to ask for a fact, and to claim it.

    Attributes:
        questions: Questions, ending in a question mark; the answer comes after a space.
        statements: Beginnings of sentences; the answer comes after a space.
        claims: Sentences that name a value, the true one or not.
    """

    questions: tuple[str, ...]
    statements: tuple[str, ...]
    claims: tuple[str, ...]


WORDINGS: Mapping[str, Wordings] = {
    "country": Wordings(
        questions=(
            "Which country is {subject} in?",
            "In what country is {subject} located?",
            "What country would you visit to see {subject}?",
            "In which country can {subject} be found?",
            "What is the name of the country where {subject} lies?",
        ),
        statements=(
            "{subject} is a place in",
            "{subject} is located in the country of",
            "The country where {subject} lies is",
            "To see {subject}, you have to travel to",
        ),
        claims=(
            "{subject} is in {value}.",
            "{subject} is located in {value}.",
            "{subject} is a place in {value}.",
            "{subject} can be found in {value}.",
            "The country where {subject} lies is {value}.",
        ),
    ),
    "continent": Wordings(
        questions=(
            "Which continent is {subject} on?",
            "On what continent is {subject} located?",
            "What continent does {subject} belong to?",
            "What is the name of the continent where {subject} lies?",
        ),
        statements=(
            "{subject} is located on the continent of",
            "The continent where {subject} lies is",
            "{subject} belongs to the continent of",
        ),
        claims=(
            "{subject} is in {value}.",
            "{subject} is located on the continent of {value}.",
            "The continent where {subject} lies is {value}.",
            "{subject} belongs to the continent of {value}.",
        ),
    ),
    "currency": Wordings(
        questions=(
            "What currency is used in {subject}?",
            "Which currency do people in {subject} pay with?",
            "What is the name of the money used in {subject}?",
            "What is the official currency in {subject}?",
        ),
        statements=(
            "The currency used in {subject} is called the",
            "In {subject}, people pay with a currency called the",
            "The name of the official currency in {subject} is the",
        ),
        claims=(
            "The currency used in {subject} is the {value}.",
            "People in {subject} pay with the {value}.",
            "The official currency in {subject} is the {value}.",
            "In {subject}, the currency is called the {value}.",
        ),
    ),
    "time_zone": Wordings(
        questions=(
            "Which time zone is {subject} in?",
            "What is the tz database name of the time zone of {subject}?",
            "Which IANA time zone applies in {subject}?",
            "What time zone do clocks in {subject} follow?",
        ),
        statements=(
            "The IANA time zone of {subject} is",
            "Clocks in {subject} follow the time zone",
            "In the tz database, the time zone of {subject} is",
        ),
        claims=(
            "The time zone of {subject} is {value}.",
            "{subject} is in the time zone {value}.",
            "Clocks in {subject} follow the time zone {value}.",
            "{value} is the time zone of {subject}.",
        ),
    ),
    "us_state": Wordings(
        questions=(
            "Which US state is {subject} in?",
            "In what US state is {subject} located?",
            "What state of the United States does {subject} belong to?",
            "In which American state can {subject} be found?",
        ),
        statements=(
            "{subject} is located in the US state of",
            "The American state where {subject} lies is",
            "{subject} belongs to the US state of",
        ),
        claims=(
            "{subject} is in the US state of {value}.",
            "{subject} is located in {value}.",
            "{subject} belongs to the state of {value}.",
            "The American state where {subject} lies is {value}.",
        ),
    ),
    "capital": Wordings(
        questions=(
            "What is the capital of {subject}?",
            "Which city is the capital of {subject}?",
            "What is the name of the capital city of {subject}?",
            "What city serves as the capital of {subject}?",
        ),
        statements=(
            "The capital of {subject} is",
            "The capital city of {subject} is called",
            "The name of the capital of {subject} is",
        ),
        claims=(
            "The capital of {subject} is {value}.",
            "{value} is the capital of {subject}.",
            "The capital city of {subject} is called {value}.",
            "{subject} has {value} as its capital.",
        ),
    ),
    "capital_of": Wordings(
        questions=(
            "Which country has {subject} as its capital?",
            "What country is {subject} the capital of?",
            "Of which country is {subject} the capital?",
            "Which country's capital is {subject}?",
        ),
        statements=(
            "{subject} is the capital of",
            "{subject} is the capital city of",
            "The country whose capital is {subject} is",
        ),
        claims=(
            "{subject} is the capital of {value}.",
            "{subject} is the capital city of {value}.",
            "The country whose capital is {subject} is {value}.",
            "{value} has {subject} as its capital.",
        ),
    ),
    "calling_code": Wordings(
        questions=(
            "What is the international calling code of {subject}?",
            "What is the telephone country code of {subject}?",
            "Which dialing code do you use to call {subject}?",
            "What country code do phone numbers in {subject} start with?",
        ),
        statements=(
            "The international calling code of {subject} is",
            "Phone numbers in {subject} start with the country code",
            "The dialing code for calls to {subject} is",
        ),
        claims=(
            "The international calling code of {subject} is {value}.",
            "Phone numbers in {subject} start with the country code {value}.",
            "The dialing code for calls to {subject} is {value}.",
            "{value} is the telephone country code of {subject}.",
        ),
    ),
    "internet_domain": Wordings(
        questions=(
            "What is the internet domain of {subject}?",
            "What is the country code top-level domain of {subject}?",
            "Which top-level domain do websites in {subject} use?",
            "What do web addresses in {subject} end with?",
        ),
        statements=(
            "The internet domain of {subject} is",
            "The top-level domain for websites in {subject} is",
            "Web addresses in {subject} end with",
        ),
        claims=(
            "The internet domain of {subject} is {value}.",
            "Web addresses in {subject} end with {value}.",
            "The top-level domain for websites in {subject} is {value}.",
            "{subject} has the top-level domain {value}.",
        ),
    ),
    "iso_code": Wordings(
        questions=(
            "What is the two-letter ISO country code of {subject}?",
            "What is the ISO 3166 alpha-2 code of {subject}?",
            "Which two-letter code stands for {subject}?",
            "How is {subject} abbreviated in two letters?",
        ),
        statements=(
            "The two-letter ISO country code of {subject} is",
            "In two letters, {subject} is abbreviated",
            "The ISO 3166 alpha-2 code for {subject} is",
        ),
        claims=(
            "The two-letter ISO country code of {subject} is {value}.",
            "{value} is the ISO 3166 alpha-2 code of {subject}.",
            "In two letters, {subject} is abbreviated {value}.",
            "The two-letter code {value} stands for {subject}.",
        ),
    ),
    "postal_abbreviation": Wordings(
        questions=(
            "What is the postal abbreviation of {subject}?",
            "Which two letters stand for {subject} in US mail addresses?",
            "How does the US Postal Service abbreviate {subject}?",
            "What is the two-letter abbreviation for the state of {subject}?",
        ),
        statements=(
            "The postal abbreviation of {subject} is",
            "In US mail addresses, {subject} is abbreviated",
            "The two-letter abbreviation for the state of {subject} is",
        ),
        claims=(
            "The postal abbreviation of {subject} is {value}.",
            "{value} is the postal abbreviation of {subject}.",
            "In US mail addresses, {subject} is abbreviated {value}.",
            "The two-letter abbreviation for the state of {subject} is {value}.",
        ),
    ),
}
"""How each relation is asked for and claimed."""
