import json
from pathlib import Path

import pytest
import torch
from tiny_folders import write_lm
from tiny_models import tiny_tokenizer
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DistilBertConfig,
    DistilBertModel,
)

from malmen.data.rows import Label
from malmen.lm.catalogue import lookup
from malmen.lm.language_model import LanguageModel
from malmen.lm.predictions import predict
from malmen.lm.weights.fact_checker import train_fact_checker
from malmen.lm.weights.settings import FactCheckerSettings
from malmen.support.errors import InputError

CPU = torch.device("cpu")
SETTINGS = FactCheckerSettings(learning_rate=1e-2, epochs=10, batch_size=16)

CLAIMS: list[tuple[str, Label]] = [
    (f"City {i} is in {'Peru' if i % 2 else 'France'}.", "SUPPORTS" if i % 2 else "REFUTES")
    for i in range(160)
]
TRAINING, HELD_OUT = CLAIMS[:128], CLAIMS[128:]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lm(tmp_path_factory.mktemp("base"), "minilm")


def train(base: Path, out: Path, *, seed: int = 0) -> dict[str, float]:
    return train_fact_checker(
        base, TRAINING, HELD_OUT, out=out, settings=SETTINGS, seed=seed, device=CPU
    )


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    out = tmp_path_factory.mktemp("made") / "lm" / "fact_checker"
    return out, train(base, out)


def test_separable_claims_are_learnt(trained: tuple[Path, dict[str, float]]) -> None:
    out, accuracy = trained
    assert accuracy["training"] > 0.95
    assert accuracy["held_out"] > 0.95
    assert json.loads((out / "accuracy.json").read_text("utf-8")) == accuracy
    assert [path.name for path in out.parent.iterdir()] == ["fact_checker"]


def test_the_accuracy_is_that_of_the_model_written(
    trained: tuple[Path, dict[str, float]],
) -> None:
    out, accuracy = trained
    lm = LanguageModel.load(out, lookup("fact_checker"))
    right = predict(lm, [lm.encode(*pair) for pair in HELD_OUT], size=8).accuracy()
    assert right.mean().item() == pytest.approx(accuracy["held_out"])


def test_one_seed_gives_one_model(
    base: Path, trained: tuple[Path, dict[str, float]], tmp_path: Path
) -> None:
    first, accuracy = trained
    torch.manual_seed(123)  # whatever happened before
    assert train(base, tmp_path / "again") == accuracy
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        first / "model.safetensors"
    ).read_bytes()
    train(base, tmp_path / "other", seed=1)
    assert (tmp_path / "other" / "model.safetensors").read_bytes() != (
        first / "model.safetensors"
    ).read_bytes()


def test_progress_shows_steps_and_losses(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(base, tmp_path / "model")
    written = capsys.readouterr()
    assert written.out == ""
    lines = [line for line in written.err.splitlines() if line.startswith("fact checker")]
    assert lines[0] == "fact checker on 128 claims: 0 of 80 steps [00:00]"
    assert lines[-1].startswith("fact checker on 128 claims: 80 of 80 steps, loss 0.")


def test_one_logit_with_a_negative_one_for_refutes(
    trained: tuple[Path, dict[str, float]],
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained[0])
    assert model.num_labels == 1


def test_the_head_is_linear_on_the_state_of_the_first_token(
    trained: tuple[Path, dict[str, float]],
) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(trained[0]).eval()
    tokenizer = AutoTokenizer.from_pretrained(trained[0])
    inputs = tokenizer([claim for claim, _ in HELD_OUT], padding=True, return_tensors="pt")
    states = model.base_model(**inputs).last_hidden_state[:, 0].double()
    pooler = model.base_model.pooler.dense
    scale = pooler.weight[0, 0].double()
    assert torch.equal(pooler.weight, pooler.weight[0, 0] * torch.eye(len(pooler.weight)))
    assert not pooler.bias.any()
    head = model.classifier
    linear = states @ (head.weight.double() * scale).T + head.bias.double()
    found = model(**inputs).logits.double()
    assert found.std() > 1
    torch.testing.assert_close(found, linear, rtol=1e-6, atol=1e-6)


def test_an_encoder_of_another_head_is_refused(tmp_path: Path) -> None:
    config = DistilBertConfig(dim=8, hidden_dim=16, n_layers=1, n_heads=2, vocab_size=300)
    DistilBertModel(config).save_pretrained(tmp_path / "base")
    tiny_tokenizer("bert").save_pretrained(tmp_path / "base")
    with pytest.raises(InputError, match=r"base: a DistilBert\w+, whose head is not BERT's"):
        train(tmp_path / "base", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_claim_that_is_too_long_is_refused_before_anything_is_trained(
    base: Path, tmp_path: Path
) -> None:
    long = [*TRAINING, ("City 1 is in Peru. " * 90, "SUPPORTS")]
    with pytest.raises(InputError, match=r"the claim 'City 1 .* has \d+ tokens, .* at most 512"):
        train_fact_checker(
            base, long, HELD_OUT, out=tmp_path / "out", settings=SETTINGS, seed=0, device=CPU
        )
    assert not (tmp_path / "out").exists()


def test_no_encoder_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent: no encoder there"):
        train(tmp_path / "absent", tmp_path / "out")
    assert not list(tmp_path.iterdir())
