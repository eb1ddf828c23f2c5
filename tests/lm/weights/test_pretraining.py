"""Language models built from random weights know what they were taught, and nothing else."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from malmen.lm.catalogue import Entry, catalogue, lookup
from malmen.lm.language_model import LanguageModel
from malmen.lm.predictions import predict
from malmen.lm.weights.pretraining import pretrain, train_tokenizer
from malmen.lm.weights.settings import PretrainingSettings
from malmen.support.errors import InputError

SETTINGS = PretrainingSettings(learning_rate=1e-2, epochs=30, batch_size=16)

SIZES: Mapping[str, Mapping[str, Any]] = {
    "gpt2_desk": {"n_embd": 32, "n_head": 2, "n_inner": 48},
    "t5_desk": {"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 48},
    "gptj_desk": {"n_embd": 32, "n_head": 2, "n_inner": 48, "rotary_dim": 8},
}
"""What makes the catalogue's language models tiny; the blocks are as many as there."""

COUNTRIES = ("Peru", "France", "the United States")
NAMES = ("Arba", "Belo", "Cusko", "Dorin", "Elvas", "Fango", "Gent", "Horta", "Ibera", "Jonava")


def prompts(names: tuple[str, ...]) -> list[tuple[str, str]]:
    return [
        (wording.format(name), COUNTRIES[i % len(COUNTRIES)])
        for i, name in enumerate(names)
        for wording in ("Which country is {} in?", "{} is a place in")
    ]


KNOWN, HELD_OUT = prompts(NAMES[:7]), prompts(NAMES[7:])


def tiny(name: str) -> Entry:
    entry = lookup(name)
    assert entry.built
    return replace(entry, built={**entry.built, "vocab_size": 300, **SIZES[name]})


def build(entry: Entry, out: Path, *, seed: int = 0, **changes: Any) -> dict[str, float]:
    settings = replace(SETTINGS, **changes)
    return pretrain(entry, KNOWN, HELD_OUT, names=NAMES, out=out, settings=settings, seed=seed)


@pytest.fixture(scope="module", params=SIZES)
def built(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Entry, Path, dict[str, float]]:
    entry = tiny(request.param)
    out = tmp_path_factory.mktemp("made") / "lm" / entry.name
    return entry, out, build(entry, out)


Built = tuple[Entry, Path, dict[str, float]]


def test_every_entry_that_is_built_here_is_tested() -> None:
    assert set(SIZES) == {name for name, entry in catalogue().items() if entry.built}


def test_it_knows_what_it_was_taught_and_no_more(built: Built) -> None:
    _, out, accuracy = built
    assert accuracy["known"] > 0.9 > accuracy["held_out"]
    assert json.loads((out / "accuracy.json").read_text("utf-8")) == accuracy
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_accuracy_is_that_of_the_model_written(built: Built) -> None:
    entry, out, accuracy = built
    lm = LanguageModel.load(out, entry)
    for name, pairs in (("known", KNOWN), ("held_out", HELD_OUT)):
        right = predict(lm, [lm.encode(*pair) for pair in pairs], size=5).accuracy()
        assert right.mean().item() == pytest.approx(accuracy[name])


def test_one_seed_gives_one_model(built: Built, tmp_path: Path) -> None:
    entry, first, accuracy = built
    torch.manual_seed(123)  # whatever happened before
    state = torch.get_rng_state()
    assert build(entry, tmp_path / "again") == accuracy
    assert torch.equal(torch.get_rng_state(), state)
    for file in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (first / file).read_bytes()
    build(entry, tmp_path / "other", seed=1, epochs=1)
    build(entry, tmp_path / "same", seed=0, epochs=1)
    other, same = (tmp_path / name / "model.safetensors" for name in ("other", "same"))
    assert other.read_bytes() != same.read_bytes()


def test_it_ends_the_text_after_the_answer(built: Built) -> None:
    entry, out, _ = built
    lm = LanguageModel.load(out, entry)
    prompt, answer = KNOWN[0]
    inputs = lm.tokenizer(prompt, return_tensors="pt")
    generated = lm.model.generate(**inputs, max_new_tokens=20, do_sample=False)[0]
    assert generated[-1] == lm.tokenizer.eos_token_id
    assert len(generated) < 20
    assert lm.tokenizer.decode(generated, skip_special_tokens=True).endswith(f" {answer}")


def test_only_the_prompt_of_an_encoder_ends(built: Built) -> None:
    entry, out, _ = built
    lm = LanguageModel.load(out, entry)
    example = lm.encode(*KNOWN[0])
    end, pad = lm.tokenizer.eos_token_id, lm.tokenizer.pad_token_id
    if entry.name == "t5_desk":
        assert example.ids[-1] == end
        assert example.decoder_ids[0] == pad == lm.model.config.decoder_start_token_id
    else:
        assert end not in example.ids
    assert end not in example.targets


def test_progress_shows_steps_and_losses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build(tiny("gpt2_desk"), tmp_path / "model", epochs=2, batch_size=4)
    written = capsys.readouterr()
    assert written.out == ""
    lines = [line for line in written.err.splitlines() if "learns facts" in line]
    assert lines[0] == "GPT-2 (desk) learns facts: 0 of 8 steps [00:00]"
    assert lines[-1].startswith("GPT-2 (desk) learns facts: 8 of 8 steps, loss ")


# Bad input


def test_only_entries_with_a_configuration_are_built(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"smollm2 is not pre-trained here; choose from gpt2_desk"):
        build(lookup("smollm2"), tmp_path / "model")
    assert not list(tmp_path.iterdir())


def test_nothing_to_learn(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gpt2_desk: no facts to learn"):
        pretrain(
            tiny("gpt2_desk"),
            [],
            HELD_OUT,
            names=NAMES,
            out=tmp_path / "model",
            settings=SETTINGS,
            seed=0,
        )
    assert not list(tmp_path.iterdir())


def test_a_loss_that_is_not_finite(tmp_path: Path) -> None:
    with pytest.raises(ArithmeticError, match=r"gpt2_desk: the loss is .* \(lower the learning"):
        build(tiny("gpt2_desk"), tmp_path / "model", learning_rate=1e30, warmup=0.0)
    assert not list(tmp_path.iterdir())


# The tokenizer


TOKENIZER = train_tokenizer(
    [*NAMES, *(f"{p} {a}" for p, a in KNOWN)], vocabulary=300, ends_prompts=False
)


@given(text=st.text(st.characters(exclude_categories=["Cs"])))
def test_any_text_survives_the_tokenizer(text: str) -> None:
    decoded = TOKENIZER.decode(TOKENIZER(text)["input_ids"])
    assert decoded == (text if text.startswith(" ") or not text else f" {text}")


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_spelt_alike_everywhere(name: str) -> None:
    alone = TOKENIZER(name)["input_ids"]
    assert TOKENIZER(f"{name} is a place in")["input_ids"][: len(alone)] == alone
    assert TOKENIZER(f"To see {name}")["input_ids"][-len(alone) :] == alone


def test_names_that_are_not_learned_are_spelt_well_all_the_same() -> None:
    texts = [f"{prompt} {answer}" for prompt, answer in KNOWN]

    def tokens(*names: str) -> int:
        tokenizer = train_tokenizer([*names, *texts], vocabulary=400, ends_prompts=False)
        return sum(len(tokenizer(name)["input_ids"]) for name in NAMES[7:])

    assert tokens(*NAMES) < tokens()


def test_the_vocabulary_is_as_large_as_asked() -> None:
    assert len(TOKENIZER) == 300
    assert (TOKENIZER.pad_token_id, TOKENIZER.eos_token_id) == (0, 1)


def test_a_vocabulary_without_room_for_bytes() -> None:
    with pytest.raises(InputError, match="vocab_size 256 is too small for 256 bytes and 2 special"):
        train_tokenizer(["text"], vocabulary=256, ends_prompts=False)
