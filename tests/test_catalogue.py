import dataclasses

import pytest

from malmen.catalogue import Entry, catalogue, lookup
from malmen.errors import InputError


def test_entries_are_found_by_name() -> None:
    assert {"smollm2", "fact_checker", "minilm"} <= set(catalogue())
    for name, entry in catalogue().items():
        assert lookup(name) is entry
        assert entry.name == name


def test_an_unknown_name_is_answered_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"unknown language model 'gpt5'.*smollm2, fact_checker"):
        lookup("gpt5")


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_entries_are_complete(entry: Entry) -> None:
    assert entry.title
    assert entry.rows in ("zsre", "fever")
    assert entry.cached in ("ans", "all")
    origin = lookup(entry.origin)  # whose weights arrive in a package of pinned content
    assert origin.base is None
    assert origin.package is not None
    assert len(origin.package.sha256) == 64
    assert origin.package.licence
    if entry.layers:
        assert entry.blocks
        assert entry.edited
        assert entry.first_edited_block > 0  # so that there is a frozen prefix


def test_modules_are_listed_lowest_block_first() -> None:
    entry = Entry(name="x", title="x", blocks="h", edited="mlp.c_proj", layers=(11, 9, 10))
    assert entry.modules == ("h.9.mlp.c_proj", "h.10.mlp.c_proj", "h.11.mlp.c_proj")
    assert entry.first_edited_block == 9


def test_a_fine_tuned_model_has_its_base_as_origin() -> None:
    assert lookup("fact_checker").origin == "minilm"
    assert lookup("smollm2").origin == "smollm2"


def test_entries_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        lookup("smollm2").title = "other"  # type: ignore[misc]
