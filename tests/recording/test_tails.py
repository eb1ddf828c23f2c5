from collections.abc import Iterator
from functools import cache

import pytest
import torch
from exact_gptj import exact_gptj
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import BLOCKS, HIDDEN, bits, random_examples, tiny_lm
from torch import Tensor

from malmen.lm.batches import Batch
from malmen.lm.blocks import blocks_of
from malmen.lm.language_model import LanguageModel
from malmen.recording.tails import Tails

KINDS = ("gpt2", "gptj", "llama", "gemma", "opt")
kinds = pytest.mark.parametrize("kind", KINDS)
lm_of = cache(tiny_lm)


@pytest.fixture(autouse=True, scope="module")
def _double_precision() -> Iterator[None]:
    with exact_gptj():
        yield


def prepared(kind: str, n: int, *, seed: int = 0) -> tuple[LanguageModel, Batch, list[int]]:
    """Return a batch and, for every row, a token no later than its first answer."""
    lm = lm_of(kind)
    [batch] = lm.batches(random_examples(kind, n, seed=seed), size=n)
    generator = torch.Generator().manual_seed(seed)
    first = torch.tensor([example.positions[0] for example in batch.examples])
    starts = (torch.rand(n, generator=generator) * (first + 1)).long()
    return lm, batch, starts.tolist()


def plain_logits(
    lm: LanguageModel, batch: Batch, block: int, starts: list[int], change: Tensor
) -> Tensor:
    """Return the logits of all sequences as a whole, with these states changed."""

    def hook(module: object, args: object, output: object) -> object:
        states = output[0] if isinstance(output, tuple) else output
        assert isinstance(states, Tensor)
        added = torch.zeros_like(states).index_put(
            (torch.arange(len(starts)), torch.tensor(starts)), change
        )
        return (states + added, *output[1:]) if isinstance(output, tuple) else states + added

    handle = blocks_of(lm)[block].register_forward_hook(hook)
    try:
        return lm.logits(batch)
    finally:
        handle.remove()


@given(
    kind=st.sampled_from(KINDS),
    n=st.integers(1, 6),
    block=st.integers(0, BLOCKS - 1),
    seed=st.integers(0, 1000),
)
@settings(max_examples=30)
def test_logits_and_gradients_are_those_of_the_whole(
    kind: str, n: int, block: int, seed: int
) -> None:
    lm, batch, starts = prepared(kind, n, seed=seed)
    tails = Tails(lm, batch, block=block, starts=starts)
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    changes = [(scale * normal(n, HIDDEN)).requires_grad_() for scale in (0.0, 1.0, 3.0)]
    weights = normal(*lm.logits(batch).shape)
    with tails.replayed() as logits_with:  # again and again: nothing is left of the one before
        found = [logits_with(tails.states + change) for change in changes]
    for change, logits in zip(changes, found, strict=True):
        wanted = plain_logits(lm, batch, block, starts, change)
        torch.testing.assert_close(logits, wanted, rtol=1e-11, atol=1e-11)
        [gradient], [expected] = (
            torch.autograd.grad((weights * some).sum(), change) for some in (logits, wanted)
        )
        torch.testing.assert_close(gradient, expected, rtol=1e-9, atol=1e-10)


@kinds
def test_what_is_unchanged_is_known(kind: str) -> None:
    lm, batch, starts = prepared(kind, 5)
    tails = Tails(lm, batch, block=1, starts=starts)
    with tails.replayed() as logits_with:
        found = logits_with(tails.states)
    torch.testing.assert_close(found, lm.logits(batch), rtol=1e-11, atol=1e-11)


@kinds
def test_only_the_tails_are_run_and_only_above(kind: str) -> None:
    lm, batch, starts = prepared(kind, 4)
    tails = Tails(lm, batch, block=0, starts=starts)
    ran = []
    handles = [
        block.register_forward_hook(lambda module, args, output, i=i: ran.append((i, args[0])))
        for i, block in enumerate(blocks_of(lm))
    ]
    with tails.replayed() as logits_with:
        logits_with(tails.states)
    for handle in handles:
        handle.remove()
    longest = int((batch.attention_mask.sum(dim=1) - torch.tensor(starts)).max())
    assert [(i, states.shape) for i, states in ran] == [(i, (4, longest, HIDDEN)) for i in (1, 2)]


@kinds
def test_the_language_model_is_left_as_it_was(kind: str) -> None:
    lm, batch, starts = prepared(kind, 4)
    before, blocks, wanted = bits(lm.model), list(blocks_of(lm)), lm.logits(batch)
    tails = Tails(lm, batch, block=1, starts=starts)
    with tails.replayed() as logits_with:
        logits_with(tails.states)
    with pytest.raises(KeyError), tails.replayed():
        raise KeyError
    assert list(blocks_of(lm)) == blocks
    assert bits(lm.model) == before
    assert torch.equal(lm.logits(batch), wanted)
