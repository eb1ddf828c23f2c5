from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from tiny_models import (
    EDITORS,
    KINDS,
    bits,
    plain_divergence,
    plain_logits,
    plain_loss,
    random_facts,
    tiny_lm,
)
from torch import Tensor

from baselines.fine_tuning import FineTuning
from baselines.oracle import Oracle
from baselines.ultraedit import UltraEdit
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.settings import FineTuningSettings, HyperSettings, OracleSettings, TokenSettings

kinds = pytest.mark.parametrize("kind", KINDS)


def plain_objective(
    lm: LanguageModel,
    facts: Sequence[EncodedFact],
    shifts: dict[str, Tensor] | None,
    loc_coef: float = 1.0,
) -> Tensor:
    """Return what the oracle descends, one sequence at a time."""
    terms = []
    for fact in facts:
        fitted = [plain_loss(plain_logits(lm, e, shifts), e) for e in (fact.edit, fact.equivalent)]
        after, before = (plain_logits(lm, fact.unrelated, s) for s in (shifts, None))
        terms.append(sum(fitted) + loc_coef * plain_divergence(after, before.detach()))
    return torch.stack(terms).mean()


@kinds
def test_the_first_step_is_adams_on_the_loss_of_what_is_evaluated(kind: str) -> None:
    lm, facts = tiny_lm(kind), random_facts(kind, 4)
    settings = OracleSettings(learning_rate=1e-3, epochs=1, loc_coef=0.7)
    found = Oracle(settings, seed=0).edit(lm, facts)
    zero = {name: shift.requires_grad_() for name, shift in lm.zero_shifts().items()}
    plain_objective(lm, facts, zero, 0.7).backward()
    for name, shift in zero.items():
        assert shift.grad is not None
        expected = -1e-3 * shift.grad / (shift.grad.abs() + 1e-8)
        torch.testing.assert_close(found[name], expected, rtol=1e-4, atol=1e-9)


@kinds
def test_it_beats_fine_tuning_on_what_it_sees(kind: str) -> None:
    lm, facts = tiny_lm(kind), random_facts(kind, 6)
    before = bits(lm.model)
    losses = [
        plain_objective(lm, facts, dict(editor.edit(lm, facts))).item()
        for editor in (
            Oracle(OracleSettings(learning_rate=3e-3, fact_batch=2, epochs=30), seed=0),
            FineTuning(FineTuningSettings(learning_rate=3e-3, fact_batch=2, epochs=30), seed=0),
        )
    ]
    assert losses[0] < min(losses[1], plain_objective(lm, facts, None).item())
    assert bits(lm.model) == before


@pytest.mark.parametrize(
    ("losses", "epochs"), [((4, 2, 1, 0.5), 4), ((4, 2, 1.99, 3), 4), ((4, 3.99, 3.98, 1), 3)]
)
def test_it_ends_by_patience_and_keeps_the_best(
    monkeypatch: pytest.MonkeyPatch, losses: Sequence[float], epochs: int
) -> None:
    lm, facts = tiny_lm("llama"), random_facts("llama", 3)
    descend, met = Oracle._descend, []

    def scripted(oracle: Oracle, lm: LanguageModel, facts: Sequence[EncodedFact], w: dict) -> float:  # type: ignore[type-arg]
        descend(oracle, lm, facts, w)
        met.append(losses[len(met)])
        return met[-1]

    monkeypatch.setattr(Oracle, "_descend", scripted)
    found = Oracle(OracleSettings(epochs=len(losses), patience=2), seed=0).edit(lm, facts)
    assert len(met) == epochs
    monkeypatch.setattr(Oracle, "_descend", descend)
    best = OracleSettings(epochs=1 + met.index(min(met)), patience=99)
    again = Oracle(best, seed=0).edit(lm, facts)
    assert all(torch.equal(found[name], again[name]) for name in found)


def test_no_editor_sees_what_it_is_evaluated_on() -> None:
    lm, facts = tiny_lm("llama", dtype=torch.float32), random_facts("llama", 5)
    others = random_facts("llama", 5, seed=1)
    changed = [
        replace(fact, equivalent=other.equivalent, unrelated=other.unrelated)
        for fact, other in zip(facts, others, strict=True)
    ]
    editors = [
        FineTuning(FineTuningSettings(epochs=2), seed=0),
        UltraEdit(lm.shapes, TokenSettings(learning_rate=1e-2)),
        *(kind(lm.shapes, HyperSettings(rank=4, learning_rate=1e-2)) for kind in EDITORS.values()),
    ]
    for editor in editors:
        one, other = editor.edit(lm, facts), editor.edit(lm, changed)
        assert all(torch.equal(one[name], other[name]) for name in one)
