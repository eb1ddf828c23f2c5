"""That the results are the same is held by the tests of language models: these hold the cuts."""

from dataclasses import replace

import pytest
import torch
from tiny_models import (
    ARCHITECTURES,
    BLOCKS,
    UNCUT,
    VOCABULARY,
    random_examples,
    tiny_entry,
    tiny_lm,
    tiny_model,
    tiny_tokenizer,
)
from torch import Tensor
from transformers.activations import NewGELUActivation

from malmen.lm.batches import Batch
from malmen.lm.language_model import LanguageModel

GENERATORS = ("llama", "gpt2", "gptj", "t5")


@pytest.mark.parametrize("kind", sorted({*ARCHITECTURES} - {*UNCUT}))
def test_the_last_feed_forward_sees_the_answers_alone(kind: str) -> None:
    lm = tiny_lm(kind, edited_blocks=(BLOCKS - 1,))
    [layer] = lm.layers.values()
    seen: list[int] = []
    layer.register_forward_hook(
        lambda module, args, output: seen.append(args[0].flatten(0, -2).shape[0])
    )
    [batch] = lm.batches(random_examples(kind, 5), size=5)
    lm.logits(batch)
    lm.logits(batch, whole=True)
    lm.model(input_ids=batch.input_ids)  # as in generation
    assert seen == [len(batch.targets), batch.input_ids.numel(), batch.input_ids.numel()]


@pytest.mark.parametrize("kind", sorted({*ARCHITECTURES} - {*UNCUT}))
def test_feed_forwards_see_no_padding(kind: str) -> None:
    lm = tiny_lm(kind, edited_blocks=(0,))
    [layer] = lm.layers.values()
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda module, args, output: seen.append(args[0].flatten(0, -2)))
    [batch] = lm.batches(random_examples(kind, 5), size=5)
    assert not batch.attention_mask.all()
    lm.logits(batch)
    lm.logits(batch, whole=True)
    cut, whole = seen
    torch.testing.assert_close(cut, whole[batch.attention_mask.flatten().bool()])


def all_logits(lm: LanguageModel, batch: Batch) -> Tensor:
    """The logits at every position, by the model's own forward."""
    options = (
        {} if batch.decoder_input_ids is None else {"decoder_input_ids": batch.decoder_input_ids}
    )
    output = lm.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, **options)
    logits: Tensor = output.logits
    return logits


@pytest.mark.parametrize("kind", GENERATORS)
def test_outside_logits_the_model_answers_at_every_position(kind: str) -> None:
    lm = tiny_lm(kind)
    (batch,) = lm.batches(random_examples(kind, 3), size=3)
    lm.logits(batch)
    read = batch.input_ids if batch.decoder_input_ids is None else batch.decoder_input_ids
    assert all_logits(lm, batch).shape == (*read.shape, VOCABULARY)


@pytest.mark.parametrize("kind", GENERATORS)
def test_a_failing_forward_does_not_leave_the_head_cut(kind: str) -> None:
    lm = tiny_lm(kind)
    (example,) = random_examples(kind, 1)
    (good,) = lm.batches([example], size=1)
    wanted = all_logits(lm, good)
    unknown = replace(example, ids=(VOCABULARY + 1, *example.ids[1:]))
    (bad,) = lm.batches([unknown], size=1)
    with pytest.raises(IndexError):
        lm.logits(bad)
    assert torch.equal(all_logits(lm, good), wanted)


@pytest.mark.parametrize("kind", GENERATORS)
def test_the_head_computes_the_answers_only(kind: str) -> None:
    lm = tiny_lm(kind)
    examples = random_examples(kind, 3)
    (batch,) = lm.batches(examples, size=3)
    seen = []
    lm.model.get_output_embeddings().register_forward_hook(
        lambda module, args, output: seen.append(output.shape)
    )
    lm.logits(batch)
    assert seen == [(sum(len(example.targets) for example in examples), VOCABULARY)]


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "t5"])
def test_gelu_in_one_kernel_is_the_same_function(kind: str) -> None:
    plain, model = (tiny_model(kind, dtype=torch.float64).eval() for _ in range(2))
    lm = LanguageModel(model, tiny_tokenizer(kind), tiny_entry(kind))
    ids = torch.tensor([[3, 4, 5, 6, 7]])
    inputs = {"input_ids": ids} | ({"decoder_input_ids": ids} if kind == "t5" else {})
    assert any(isinstance(module, NewGELUActivation) for module in plain.modules())
    assert not any(isinstance(module, NewGELUActivation) for module in lm.model.modules())
    with torch.no_grad():
        expected, found = plain(**inputs).logits, lm.model(**inputs).logits
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
