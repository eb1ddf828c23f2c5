"""The released procedure, against which speed is measured, computes what ours does."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from exact_gptj import exact_gptj
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_meta_gradient import learned, scrambled_editor
from tiny_models import bits, random_facts, tiny_lm, tiny_model

from baselines.memit_values import optimise_values
from benchmarks.released import Released
from benchmarks.released_values import optimise_value
from benchmarks.shapes import TINY, language_model, random_model, random_questions
from malmen.encoding import EncodedFact
from malmen.evaluation import Predictions, edit_and_score
from malmen.malmen import MALMEN
from malmen.meta_gradient import MetaLoss, meta_gradient
from malmen.models.language_model import LanguageModel
from malmen.settings import MemitSettings

KINDS = ("gpt2", "gptj")
"""A decoder whose weights are (d, d') and one whose weights are (d', d)."""

kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(autouse=True, scope="module")
def _double_precision() -> Iterator[None]:
    with exact_gptj():
        yield


def contest(
    kind: str, folder: Path, *, dtype: torch.dtype = torch.float64, **changes: Any
) -> tuple[LanguageModel, MALMEN, Released]:
    """Return ours, and the released procedure with an equal model and an equal editor."""
    lm = tiny_lm(kind, dtype=dtype)
    editors = [scrambled_editor("malmen", lm, **changes).to(dtype) for _ in range(2)]
    released = Released(tiny_model(kind, dtype=dtype), lm.entry.edited, editors[1], folder)
    return lm, editors[0], released


def our_meta_gradient(
    editor: MALMEN, lm: LanguageModel, facts: Sequence[EncodedFact], *, loc_coef: float = 1.0
) -> MetaLoss:
    record = editor.record(lm, facts)
    editor.observe(record)
    return meta_gradient(editor, lm, record, facts, loc_coef=loc_coef)


@kinds
@settings(
    max_examples=settings.default.max_examples // 5,
    suppress_health_check=[HealthCheck.function_scoped_fixture],  # files are written over
)
@given(
    n=st.integers(1, 7),
    seed=st.integers(0, 99),
    loc_coef=st.sampled_from([0.0, 0.3, 1.0]),
    fact_batch=st.integers(1, 8),
    token_batch=st.integers(1, 30),
    learn_lambda=st.booleans(),
)
def test_meta_gradients_are_equal_in_double_precision(
    kind: str, tmp_path: Path, n: int, seed: int, loc_coef: float, **changes: Any
) -> None:
    lm, editor, released = contest(kind, tmp_path, **changes)
    facts = random_facts(kind, n, seed=seed)
    ours = our_meta_gradient(editor, lm, facts, loc_coef=loc_coef)
    plain = released.meta_gradient(facts, loc_coef=loc_coef)
    assert plain.generalisation == pytest.approx(ours.generalisation, rel=1e-12)
    assert plain.locality == pytest.approx(ours.locality, rel=1e-12)
    assert plain.total == pytest.approx(ours.total, rel=1e-12)
    for (name, mine), (_, theirs) in zip(learned(editor), learned(released.editor), strict=True):
        difference = (mine.grad - theirs.grad).abs().max()
        assert difference <= 1e-10 * mine.grad.abs().max(), name
    for (name, mine), (_, theirs) in zip(
        editor.named_buffers(), released.editor.named_buffers(), strict=True
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12, msg=name)


@kinds
def test_first_losses_are_equal_in_single_precision(kind: str, tmp_path: Path) -> None:
    lm, editor, released = contest(kind, tmp_path, dtype=torch.float32, fact_batch=3)
    facts = random_facts(kind, 7)
    ours = our_meta_gradient(editor, lm, facts)
    plain = released.meta_gradient(facts)
    assert ours.locality > 1e-3
    assert plain.total == pytest.approx(ours.total, rel=1e-5)


@kinds
def test_scores_are_equal(kind: str, tmp_path: Path) -> None:
    lm, editor, released = contest(kind, tmp_path, fact_batch=3)
    facts = random_facts(kind, 7)
    for one in (editor, released.editor):
        one.observe(editor.record(lm, facts))
    statistics = bits(released.editor)
    facts = partly_predicted(facts, edit_and_score(editor, lm, facts, size=3).unrelated)
    scores = edit_and_score(editor, lm, facts, size=3)
    assert 0.2 < scores.unrelated.accuracy().mean() < 0.8
    found = released.edit_and_score(facts)
    for theirs, mine in zip(found, (scores.edit, scores.equivalent, scores.unrelated), strict=True):
        torch.testing.assert_close(theirs, mine.accuracy(), rtol=1e-12, atol=1e-12)
    assert bits(released.editor) == statistics


def partly_predicted(facts: list[EncodedFact], predictions: Predictions) -> list[EncodedFact]:
    """Return the facts, every other one's unrelated answer being what is predicted."""
    changed = []
    for i, fact in enumerate(facts):
        predicted = tuple(predictions.tokens[predictions.facts == i].tolist())
        targets = predicted if i % 2 else fact.unrelated.targets
        changed.append(replace(fact, unrelated=replace(fact.unrelated, targets=targets)))
    return changed


@kinds
def test_weights_come_back_up_to_rounding(kind: str, tmp_path: Path) -> None:
    lm, _, released = contest(kind, tmp_path)
    facts = random_facts(kind, 4)
    released.meta_gradient(facts)
    released.edit_and_score(facts)
    for name, layer in lm.layers.items():
        weight = released.model.get_submodule(name).weight
        torch.testing.assert_close(weight.detach(), layer.weight, rtol=1e-12, atol=1e-12)
        assert weight.grad is None


@settings(max_examples=settings.default.max_examples // 5)
@given(
    seed=st.integers(0, 99),
    v_learning_rate=st.sampled_from([0.05, 0.5]),
    kl_factor=st.sampled_from([0.0625, 1.0]),
    block=st.integers(0, 1),
)
def test_values_are_equal_in_double_precision(seed: int, block: int, **changes: float) -> None:
    lm = language_model(random_model(TINY).double(), TINY)
    contexts = ["", "w1 w2. ", "w3 w4 w5 "]
    chosen = replace(MemitSettings(v_steps=5), **changes)
    facts = random_questions(TINY, 3, seed=seed)
    ours = optimise_values(lm, facts, contexts, chosen, block=block)
    plain = [optimise_value(lm, fact, contexts, chosen, block=block) for fact in facts]
    torch.testing.assert_close(torch.stack(plain), ours, rtol=1e-10, atol=1e-10)
