from pathlib import Path

import pytest
import torch
from known_editors import PRINTED_NAMES
from safetensors.torch import save_file
from tiny_models import EDITORS, bits, random_facts, tiny_lm

from malmen.editor import HyperNetworkEditor
from malmen.experiment.editors import load_editor, save_editor
from malmen.lm.language_model import LanguageModel
from malmen.settings import HyperSettings
from malmen.support.errors import InputError

editors = pytest.mark.parametrize("name", EDITORS)


@pytest.fixture
def lm() -> LanguageModel:
    return tiny_lm("gpt2", dtype=torch.float32)


def trained_editor(name: str, lm: LanguageModel) -> HyperNetworkEditor:
    """Return an editor with nothing left at its initial value."""
    settings = HyperSettings(
        rank=3, n_blocks=1, learning_rate=0.02, token_batch=9, fact_batch=2, cached="all"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        editor = EDITORS[name](lm.shapes, settings)
        with torch.no_grad():
            for parameter in editor.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    editor.observe(editor.record(lm, random_facts("gpt2", 5)))
    return editor


@editors
def test_an_editor_survives_its_file(tmp_path: Path, name: str, lm: LanguageModel) -> None:
    editor = trained_editor(name, lm)
    path = tmp_path / "new" / "editor.safetensors"
    save_editor(path, editor, lm=lm.entry.name)
    read = load_editor(path, lm)
    assert type(read) is EDITORS[name]
    assert read.settings == editor.settings
    assert bits(read) == bits(editor)
    assert not any(parameter.requires_grad for parameter in read.parameters())
    facts = random_facts("gpt2", 3, seed=1)
    for layer, shift in editor.edit(lm, facts).items():
        assert torch.equal(read.edit(lm, facts)[layer], shift)


@editors
def test_an_editor_of_other_modules_is_refused(
    tmp_path: Path, name: str, lm: LanguageModel
) -> None:
    path = tmp_path / "editor.safetensors"
    save_editor(path, trained_editor(name, lm), lm=lm.entry.name)
    alternative = tuple(module.replace("c_proj", "c_fc") for module in lm.entry.edited)
    for edited in (alternative, lm.entry.edited[:1], lm.entry.edited[::-1]):
        other = tiny_lm("gpt2", dtype=torch.float32, edited=edited)
        with pytest.raises(InputError) as caught:
            load_editor(path, other)
        message = str(caught.value)
        assert message.startswith(f"{path}: an editor of {', '.join(lm.entry.edited)}, and ")
        assert f"loaded to edit {', '.join(edited)}: use the same --modules" in message


def test_every_editor_has_a_name_in_print() -> None:
    assert set(EDITORS) < set(PRINTED_NAMES)
    assert {PRINTED_NAMES[name] for name in EDITORS} == {kind.__name__ for kind in EDITORS.values()}


@editors
def test_an_editor_of_another_model_is_refused(
    tmp_path: Path, name: str, lm: LanguageModel
) -> None:
    path = tmp_path / "editor.safetensors"
    save_editor(path, trained_editor(name, lm), lm="smollm2")
    with pytest.raises(
        InputError, match=r"not an editor for tiny_gpt2 .*'lm': 'smollm2'.*`malmen train`"
    ):
        load_editor(path, lm)


def test_a_missing_file_is_named(tmp_path: Path, lm: LanguageModel) -> None:
    with pytest.raises(InputError, match=r"editor\.safetensors: no such file"):
        load_editor(tmp_path / "editor.safetensors", lm)


def test_a_file_that_is_no_editor_is_refused(tmp_path: Path, lm: LanguageModel) -> None:
    path = tmp_path / "editor.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(InputError, match=r"not an editor for tiny_gpt2 \(it says \{\}\)"):
        load_editor(path, lm)
    path.write_text("these are no tensors", encoding="utf-8")
    with pytest.raises(InputError, match="not a safetensors file"):
        load_editor(path, lm)


def test_half_an_editor_is_refused(tmp_path: Path, lm: LanguageModel) -> None:
    path = tmp_path / "editor.safetensors"
    save_editor(path, trained_editor("malmen", lm), lm=lm.entry.name)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="not a safetensors file, or a damaged one"):
        load_editor(path, lm)
