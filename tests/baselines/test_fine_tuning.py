from collections.abc import Sequence

import pytest
import torch
from tiny_models import (
    KINDS,
    bits,
    plain_logits,
    plain_loss,
    random_facts,
    tiny_lm,
    tiny_model,
)
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from baselines.fine_tuning import FineTuning
from malmen.lm.batches import Example
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.settings import FineTuningSettings

kinds = pytest.mark.parametrize("kind", KINDS)


def edits_of(facts: Sequence[EncodedFact]) -> list[Example]:
    return [fact.edit for fact in facts]


def losses(
    lm: LanguageModel, edits: list[Example], shifts: dict[str, Tensor] | None = None
) -> list[float]:
    return [plain_loss(plain_logits(lm, example, shifts), example).item() for example in edits]


@kinds
def test_the_shift_is_what_tuning_the_model_itself_changes(kind: str) -> None:
    lm = tiny_lm(kind)
    facts = random_facts(kind, 5)
    settings = FineTuningSettings(learning_rate=1e-3, weight_decay=0.1, epochs=4, fact_batch=8)
    shifts = FineTuning(settings, seed=0).edit(lm, facts)

    tuned = LanguageModel(tiny_model(kind), lm.tokenizer, lm.entry)  # a copy to write to
    weights = [layer.weight.requires_grad_() for layer in tuned.layers.values()]
    optimizer = torch.optim.AdamW(weights, lr=1e-3, weight_decay=0.1)
    for _ in range(4):
        optimizer.zero_grad()
        each = [plain_loss(plain_logits(tuned, edit), edit) for edit in edits_of(facts)]
        mean = torch.stack(each).mean()
        mean.backward()
        optimizer.step()
    for name, layer in lm.layers.items():
        change = (tuned.layers[name].weight - layer.weight).detach()
        wanted = change.T if isinstance(layer, Conv1D) else change
        assert wanted.any()
        torch.testing.assert_close(shifts[name], wanted, rtol=1e-6, atol=1e-9)


@kinds
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_it_lowers_the_loss_and_leaves_the_model_alone(kind: str, dtype: torch.dtype) -> None:
    lm = tiny_lm(kind, dtype=dtype)
    facts = random_facts(kind, 6)
    before = bits(lm.model)
    parameters = list(lm.model.parameters())
    settings = FineTuningSettings(learning_rate=1e-2, epochs=20, fact_batch=4)
    shifts = FineTuning(settings, seed=0).edit(lm, facts)
    assert bits(lm.model) == before
    assert all(a is b for a, b in zip(lm.model.parameters(), parameters, strict=True))
    assert all(p.grad is None and not p.requires_grad for p in parameters)
    for name, (d, value_size) in lm.shapes.items():
        assert shifts[name].shape == (value_size, d)
        assert shifts[name].dtype == torch.float32
        assert not shifts[name].requires_grad
    exact = tiny_lm(kind, dtype=torch.float32)
    exact.model.load_state_dict(lm.model.state_dict())
    edits = edits_of(facts)
    assert sum(losses(exact, edits, shifts)) < 0.8 * sum(losses(exact, edits))


@kinds
def test_the_seed_orders_the_batches(kind: str) -> None:
    lm = tiny_lm(kind)
    facts = random_facts(kind, 9)
    settings = FineTuningSettings(fact_batch=2)
    one, same, other = (FineTuning(settings, seed=seed).edit(lm, facts) for seed in (0, 0, 1))
    again = FineTuning(settings, seed=0)
    again.edit(lm, facts)
    repeated = again.edit(lm, facts)  # an editor keeps no state from edit to edit
    for name, shift in one.items():
        assert torch.equal(shift, same[name])
        assert torch.equal(shift, repeated[name])
        assert not torch.equal(shift, other[name])


def test_no_epochs_change_nothing() -> None:
    lm = tiny_lm("llama")
    settings = FineTuningSettings()
    object.__setattr__(settings, "epochs", 0)  # which the constructor refuses
    shifts = FineTuning(settings, seed=0).edit(lm, random_facts("llama", 2))
    assert not any(shift.any() for shift in shifts.values())
