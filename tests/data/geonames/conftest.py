"""Facts of GeoNames, collected once."""

import pytest

from malmen.data.geonames.facts import collect_facts
from malmen.data.geonames.splits import split_subjects


class Facts(list):
    """A list that does not fill the screen when an example fails."""

    def __repr__(self):
        return f"<{len(self)} facts>"


@pytest.fixture(scope="session")
def facts():
    return Facts(collect_facts())


@pytest.fixture(scope="session")
def splits(facts):
    return split_subjects(facts, seed=0)


@pytest.fixture(scope="session")
def some(splits):
    """A part of a split that is small enough to make rows of many times."""
    return Facts(splits["evaluation"][::20])
