from dataclasses import replace
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import ARCHITECTURES, bits, plain_cached, random_examples, tiny_lm

from malmen.lm.batches import Example
from malmen.lm.kinds import Cached
from malmen.recording.capture import Record, capture
from malmen.recording.spill import SpilledVectors, in_memory

kinds = pytest.mark.parametrize("kind", ARCHITECTURES)
choices = pytest.mark.parametrize("cached", ["ans", "all"])


def by_length(examples: list[Example]) -> list[Example]:
    """The order in which batches are made."""
    return sorted(examples, key=lambda example: len(example.ids))


def assert_equal(found: Record, wanted: Record, *, tolerance: float = 1e-12) -> None:
    assert list(found) == list(wanted)
    for name in wanted:
        for f, w in zip(found[name], wanted[name], strict=True):
            assert f.shape == w.shape
            assert (f - w).abs().max() <= tolerance * w.abs().max()


@kinds
@choices
@pytest.mark.parametrize("size", [1, 3, 100])
def test_keys_and_gradients_are_those_of_each_example_alone(
    kind: str, cached: Cached, size: int
) -> None:
    lm = tiny_lm(kind)
    examples = random_examples(kind, 7)
    found = capture(lm, lm.batches(examples, size=size), cached=cached)
    assert_equal(found, plain_cached(lm, by_length(examples), cached))


def test_an_encoder_decoder_caches_every_token_on_both_sides() -> None:
    lm = tiny_lm("t5")
    examples = random_examples("t5", 5)
    batches = lm.batches(examples, size=3)
    record = capture(lm, batches)
    assert_equal(record, capture(lm, batches, cached="all"), tolerance=0)
    for name, (keys, _) in record.items():
        is_decoder = name.startswith("decoder.")
        tokens = (example.decoder_ids if is_decoder else example.ids for example in examples)
        assert len(keys) == sum(map(len, tokens))


@kinds
def test_all_tokens_together_give_the_gradient_of_the_weight(kind: str) -> None:
    # ∇_W of a linear layer is Σ_j ∇v_j u_jᵀ over all tokens: no hook is needed to know it.
    lm = tiny_lm(kind)
    examples = random_examples(kind, 6)
    record = capture(lm, lm.batches(examples, size=4), cached="all")
    weights = lm.edited_weights(lm.zero_shifts())
    for batch in lm.batches(examples, size=6):
        with lm.swapped(weights):
            losses = lm.objective.loss(lm.logits(batch), batch.targets)
        (losses * batch.weights).sum().backward()
    for name, gradient in lm.shift_gradients(weights).items():
        keys, gradients = record[name]
        torch.testing.assert_close(gradients.T @ keys, gradient, rtol=1e-11, atol=1e-13)


@kinds
@choices
def test_rows_beyond_the_memory_are_kept_in_files(kind: str, cached: Cached) -> None:
    lm = tiny_lm(kind)
    batches = lm.batches(random_examples(kind, 7), size=3)
    held = capture(lm, batches, cached=cached)
    size = sum(rows.numel() * rows.element_size() for pair in held.values() for rows in pair)
    enough = capture(lm, batches, cached=cached, memory_mb=size / 2**20)
    assert all(isinstance(rows, torch.Tensor) for pair in enough.values() for rows in pair)
    spilled = capture(lm, batches, cached=cached, memory_mb=(size - 1) / 2**20)
    assert all(isinstance(rows, SpilledVectors) for pair in spilled.values() for rows in pair)
    assert list(spilled) == list(held)
    for name, pair in spilled.items():
        for found, wanted in zip(pair, held[name], strict=True):
            assert torch.equal(in_memory(found), wanted)


shared_lm = cache(tiny_lm)


@given(
    kind=st.sampled_from(ARCHITECTURES),
    n=st.integers(2, 8),
    size=st.integers(1, 9),
    seed=st.integers(0, 1000),
)
def test_batch_mates_and_batch_size_change_nothing(kind: str, n: int, size: int, seed: int) -> None:
    lm = shared_lm(kind)
    examples = random_examples(kind, n, seed=seed)
    together = capture(lm, lm.batches(examples, size=size), cached="all")
    assert_equal(together, capture(lm, lm.batches(examples, size=n), cached="all"))
    # One fact's tokens do not depend on which other facts there are.
    alone = capture(lm, lm.batches(examples[:1], size=1), cached="all")
    before = by_length(examples)[: by_length(examples).index(examples[0])]
    mine = {}
    for name, (keys, gradients) in together.items():
        sides = [
            e.decoder_ids if name.startswith("decoder.") else e.ids for e in [*before, examples[0]]
        ]
        part = slice(sum(map(len, sides[:-1])), sum(map(len, sides)))
        mine[name] = keys[part], gradients[part]
    assert_equal(mine, alone)


@kinds
@choices
def test_the_language_model_is_left_as_it_was(kind: str, cached: Cached) -> None:
    lm = tiny_lm(kind)
    before = bits(lm.model)
    hooks = [len(module._forward_hooks) for module in lm.model.modules()]
    record = capture(lm, lm.batches(random_examples(kind, 3), size=2), cached=cached)
    assert bits(lm.model) == before
    assert all(p.grad is None and not p.requires_grad for p in lm.model.parameters())
    assert [len(module._forward_hooks) for module in lm.model.modules()] == hooks
    assert not any(t.requires_grad for pair in record.values() for t in pair)


@kinds
def test_hooks_are_removed_when_the_forward_fails(kind: str) -> None:
    lm = tiny_lm(kind)
    hooks = [len(module._forward_hooks) for module in lm.model.modules()]
    (example,) = random_examples(kind, 1)
    unknown = replace(example, ids=(1_000_000, *example.ids[1:]))  # no such token
    with pytest.raises(IndexError):
        capture(lm, lm.batches([unknown], size=1))
    assert [len(module._forward_hooks) for module in lm.model.modules()] == hooks


def test_it_works_where_gradients_are_switched_off() -> None:
    lm = tiny_lm("llama")
    batches = lm.batches(random_examples("llama", 3), size=3)
    with torch.no_grad():
        without = capture(lm, batches)
    assert_equal(without, capture(lm, batches), tolerance=0)


@kinds
def test_a_bfloat16_model_is_recorded_in_single_precision(kind: str) -> None:
    lm = tiny_lm(kind, dtype=torch.bfloat16)
    record = capture(lm, lm.batches(random_examples(kind, 4), size=2))
    assert tuple(record) == lm.entry.edited
    for keys, gradients in record.values():
        assert keys.dtype == gradients.dtype == torch.float32
        assert keys.isfinite().all()
        assert gradients.isfinite().all()
        assert gradients.any()
