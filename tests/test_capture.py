from functools import cache, partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import BLOCKS, KINDS, bits, plain_record, random_examples, tiny_lm

from malmen.batches import Example
from malmen.capture import Record, capture
from malmen.language_model import LanguageModel

cases = pytest.mark.parametrize(
    ("kind", "cached"), [(kind, cached) for kind in KINDS for cached in ("ans", "all")]
)


def expected(lm: LanguageModel, examples: list[Example]) -> Record:
    """Keys and value gradients of the cached tokens, shortest example first."""
    ordered = sorted(examples, key=lambda example: len(example.ids))
    record = {}
    for name, tokens in plain_record(lm, ordered).items():
        chosen = [
            (u[list(e.positions)], g[list(e.positions)]) if lm.entry.cached == "ans" else (u, g)
            for e, (u, g) in zip(ordered, tokens, strict=True)
        ]
        record[name] = torch.cat([u for u, _ in chosen]), torch.cat([g for _, g in chosen])
    return record


def assert_equal(found: Record, wanted: Record, *, tolerance: float = 1e-12) -> None:
    assert list(found) == list(wanted)
    for name in wanted:
        for f, w in zip(found[name], wanted[name], strict=True):
            assert f.shape == w.shape
            assert (f - w).abs().max() <= tolerance * w.abs().max()


@cases
@pytest.mark.parametrize("size", [1, 3, 100])
def test_keys_and_gradients_are_those_of_each_example_alone(
    kind: str, cached: str, size: int
) -> None:
    lm = tiny_lm(kind, cached=cached)
    examples = random_examples(kind, 7)
    assert_equal(capture(lm, lm.batches(examples, size=size)), expected(lm, examples))


@pytest.mark.parametrize("kind", KINDS)
def test_all_tokens_together_give_the_gradient_of_the_weight(kind: str) -> None:
    # ∇_W of a linear layer is Σ_j ∇v_j u_jᵀ over all tokens: no hook is needed to know it.
    lm = tiny_lm(kind, cached="all")
    examples = random_examples(kind, 6)
    record = capture(lm, lm.batches(examples, size=4))
    weights = lm.edited_weights(lm.zero_shifts())
    for batch in lm.batches(examples, size=6):
        with lm.swapped(weights):
            losses = lm.objective.loss(lm.logits(batch), batch.targets)
        (losses * batch.weights).sum().backward()
    for name, gradient in lm.shift_gradients(weights).items():
        keys, gradients = record[name]
        torch.testing.assert_close(gradients.T @ keys, gradient, rtol=1e-11, atol=1e-13)


shared_lm = cache(partial(tiny_lm, cached="all"))


@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(2, 8),
    size=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_batch_mates_and_batch_size_change_nothing(kind: str, n: int, size: int, seed: int) -> None:
    lm = shared_lm(kind)
    examples = random_examples(kind, n, seed=seed)
    together = capture(lm, lm.batches(examples, size=size))
    assert_equal(together, capture(lm, lm.batches(examples, size=n)))
    # One fact's tokens do not depend on which other facts there are.
    alone = capture(lm, lm.batches(examples[:1], size=1))
    order = sorted(range(n), key=lambda i: len(examples[i].ids))
    start = sum(len(examples[i].ids) for i in order[: order.index(0)])
    stop = start + len(examples[0].ids)
    mine = {name: (u[start:stop], g[start:stop]) for name, (u, g) in together.items()}
    assert_equal(mine, alone)


@cases
def test_the_language_model_is_left_as_it_was(kind: str, cached: str) -> None:
    lm = tiny_lm(kind, cached=cached)
    before = bits(lm.model)
    hooks = [len(module._forward_hooks) for module in lm.model.modules()]
    record = capture(lm, lm.batches(random_examples(kind, 3), size=2))
    assert bits(lm.model) == before
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())
    assert [len(module._forward_hooks) for module in lm.model.modules()] == hooks
    assert not any(t.requires_grad for pair in record.values() for t in pair)


@pytest.mark.parametrize("kind", KINDS)
def test_hooks_are_removed_when_the_forward_fails(kind: str) -> None:
    lm = tiny_lm(kind)
    hooks = [len(module._forward_hooks) for module in lm.model.modules()]
    examples = [Example((1_000_000, 2), (0,), (1,))]  # no such token
    with pytest.raises(IndexError):
        capture(lm, lm.batches(examples, size=1))
    assert [len(module._forward_hooks) for module in lm.model.modules()] == hooks


def test_it_works_where_gradients_are_switched_off() -> None:
    lm = tiny_lm("llama")
    batches = lm.batches(random_examples("llama", 3), size=3)
    with torch.no_grad():
        without = capture(lm, batches)
    assert_equal(without, capture(lm, batches), tolerance=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bfloat16_model_is_recorded_in_single_precision(kind: str) -> None:
    lm = tiny_lm(kind, dtype=torch.bfloat16)
    record = capture(lm, lm.batches(random_examples(kind, 4), size=2))
    assert len(record) == BLOCKS - 1
    for keys, gradients in record.values():
        assert keys.dtype == gradients.dtype == torch.float32
        assert keys.isfinite().all()
        assert gradients.isfinite().all()
        assert gradients.any()
