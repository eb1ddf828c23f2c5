from functools import cache, partial

import pytest
import torch
from tiny_models import BLOCKS, HIDDEN, random_examples, tiny_lm

from malmen.lm.batches import Example
from malmen.lm.blocks import block_of, blocks_of, inputs_of, outputs_of, run_through
from malmen.support.errors import InputError

kinds = pytest.mark.parametrize("kind", ["gpt2", "gptj", "llama"])
lm_of = cache(partial(tiny_lm, edited_blocks=(0, 2)))


@kinds
@pytest.mark.parametrize("block", range(BLOCKS))
def test_a_block_hands_on_the_same_whether_or_not_the_others_run(kind: str, block: int) -> None:
    lm = lm_of(kind)
    [batch] = lm.batches(random_examples(kind, 5), size=5)
    ran = []
    handles = [
        module.register_forward_hook(lambda module, args, output, i=i: ran.append(i))
        for i, module in enumerate(blocks_of(lm))
    ]
    cut = run_through(lm, batch, block)
    assert ran == list(range(block + 1))
    with outputs_of(lm, block) as outputs:
        lm.logits(batch, whole=True)
    for handle in handles:
        handle.remove()
    [whole] = outputs
    assert whole.states.shape == (*batch.input_ids.shape, HIDDEN)
    tokens = [states.flatten(0, 1)[batch.tokens] for states in (cut.states, whole.states)]
    torch.testing.assert_close(*tokens, rtol=0, atol=1e-12)


@kinds
def test_other_states_come_in_the_same_form(kind: str) -> None:
    lm = lm_of(kind)
    [batch] = lm.batches(random_examples(kind, 5), size=5)
    output = run_through(lm, batch, 1)
    replaced = output.replaced(output.states + 1)
    handle = blocks_of(lm)[1].register_forward_hook(lambda module, args, output: replaced)
    changed = run_through(lm, batch, 2).states
    handle.remove()
    assert isinstance(replaced, tuple) == (kind == "gptj")
    assert not torch.allclose(changed, run_through(lm, batch, 2).states)


@kinds
def test_hooks_are_removed_when_the_forward_fails(kind: str) -> None:
    lm = lm_of(kind)
    [batch] = lm.batches([Example((1_000_000, 2), (0,), (1,))], size=1)  # no such token
    with pytest.raises(IndexError), outputs_of(lm, 0):
        run_through(lm, batch, 1)
    assert not any(block._forward_hooks for block in blocks_of(lm))


@kinds
def test_inputs_are_what_enters_the_layers(kind: str) -> None:
    lm = lm_of(kind)
    [batch] = lm.batches(random_examples(kind, 4), size=4)
    (first, layer), (last, _) = lm.layers.items()
    with inputs_of(lm, [first]) as inputs, torch.no_grad():
        lm.logits(batch)
    assert list(inputs) == [first]
    assert last not in inputs
    seen = []
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    lm.logits(batch)
    handle.remove()
    assert torch.equal(inputs[first], seen[0].flatten(0, -2))


@kinds
def test_a_layer_knows_its_block(kind: str) -> None:
    lm = lm_of(kind)
    assert [block_of(lm, layer) for layer in lm.layers] == [0, 2]


@pytest.mark.parametrize("layer", ["transformer.wte", "lm_head", "transformer.h.mlp"])
def test_a_layer_outside_every_block_is_named(layer: str) -> None:
    with pytest.raises(InputError, match=f"{layer} lies in no block of transformer.h"):
        block_of(lm_of("gpt2"), layer)
