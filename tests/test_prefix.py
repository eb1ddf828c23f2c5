import gc
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_models import (
    ARCHITECTURES,
    BLOCKS,
    HIDDEN,
    answers_in_order,
    examples_of,
    random_examples,
    random_facts,
    random_shifts,
    tiny_entry,
    tiny_lm,
)
from torch import Tensor

from malmen.batches import Example
from malmen.capture import Cached, capture
from malmen.errors import InputError
from malmen.malmen import MALMEN
from malmen.meta_gradient import meta_gradient
from malmen.models.language_model import LanguageModel
from malmen.prefix import PrefixStore, record_prefix, replay
from malmen.settings import HyperSettings

kinds = pytest.mark.parametrize("kind", ARCHITECTURES)


def logits(lm: LanguageModel, examples: list[Example], *, size: int) -> Tensor:
    batches = lm.batches(examples, size=size)
    with torch.no_grad():
        return answers_in_order(batches, [lm.logits(batch) for batch in batches])


def replayed(lm: LanguageModel, store: PrefixStore) -> LanguageModel:
    replay(lm, store)
    return lm


@kinds
@pytest.mark.parametrize("edited_blocks", [(1, 2), (2,)])
@pytest.mark.parametrize("sizes", [(1, 1), (4, 3), (1, 100), (100, 2)])
def test_replay_equals_the_full_forward(
    kind: str, edited_blocks: tuple[int, ...], sizes: tuple[int, int]
) -> None:
    recorded_by, replayed_by = sizes
    examples = random_examples(kind, 9)
    full = tiny_lm(kind, edited_blocks=edited_blocks)
    store = record_prefix(full, examples, fact_batch=recorded_by, progress=False)
    wanted = logits(full, examples, size=9)
    lm = replayed(tiny_lm(kind, edited_blocks=edited_blocks), store)
    found = logits(lm, examples, size=replayed_by)
    assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()

    weights = full.edited_weights(random_shifts(full))
    with full.swapped(weights):
        wanted = logits(full, examples, size=9)
    with lm.swapped(weights):
        found = logits(lm, examples, size=replayed_by)
    assert (found - wanted).abs().max() <= 1e-12 * wanted.abs().max()


@kinds
def test_replay_in_single_precision_under_other_padding(kind: str) -> None:
    examples = random_examples(kind, 16)
    lm = tiny_lm(kind, dtype=torch.float32)
    store = record_prefix(lm, examples, fact_batch=1, progress=False)  # no padding at all
    alone = logits(lm, examples, size=1)
    together = logits(replayed(lm, store), examples, size=16)
    # A few hundred roundings of 6e-8 of the largest logit.
    assert (together - alone).abs().max() <= 2e-5 * alone.abs().max()


@kinds
def test_states_are_those_that_enter_the_first_edited_block(kind: str) -> None:
    lm = tiny_lm(kind)
    examples = random_examples(kind, 5)
    store = record_prefix(lm, examples, fact_batch=5, progress=False)
    assert len(store) == 5
    assert store.states.shape == (sum(len(e.ids) for e in examples), HIDDEN)
    assert not store.states.requires_grad
    entered = []
    first_edited = lm.model.get_submodule(lm.entry.blocks)[lm.entry.frozen]
    first_edited.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    for example in examples:
        logits(lm, [example], size=1)
        torch.testing.assert_close(store.padded([example.ids]), entered[-1], rtol=1e-12, atol=1e-12)


def test_states_of_a_batch_are_padded_with_zeros() -> None:
    store = PrefixStore([(5, 6, 7), (8,)], torch.arange(8.0).view(4, 2), arity=0)
    assert store.padded([(8,), (5, 6, 7)]).tolist() == [
        [[6, 7], [0, 0], [0, 0]],
        [[0, 1], [2, 3], [4, 5]],
    ]


def test_a_repeated_sequence_is_run_and_stored_once() -> None:
    lm = tiny_lm("llama")
    (example,) = random_examples("llama", 1)
    other = Example(example.ids, example.positions[:1], example.targets[:1])
    store = record_prefix(lm, [example, other, example], progress=False)
    assert len(store) == 1
    assert len(store.states) == len(example.ids)


@kinds
def test_frozen_blocks_are_gone(kind: str) -> None:
    lm = tiny_lm(kind, edited_blocks=(2,))
    store = record_prefix(lm, random_examples(kind, 2), progress=False)
    blocks = lm.model.get_submodule(lm.entry.blocks)
    frozen = [weakref.ref(block) for block in blocks[:2]]
    dropped = sum(
        parameter.numel()
        for block in blocks[:2]
        for name, parameter in block.named_parameters()
        if "relative_attention_bias" not in name  # which T5's other blocks use, too
    )
    before = sum(p.numel() for p in lm.model.parameters())
    replay(lm, store)
    gc.collect()
    assert all(block() is None for block in frozen)
    assert sum(p.numel() for p in lm.model.parameters()) == before - dropped
    assert len(blocks) == BLOCKS  # some models look blocks up by index


@kinds
def test_the_recording_leaves_the_model_whole(kind: str) -> None:
    lm = tiny_lm(kind)
    examples = random_examples(kind, 4)
    before = logits(lm, examples, size=2)
    record_prefix(lm, examples, progress=False)
    assert torch.equal(logits(lm, examples, size=2), before)


@kinds
@pytest.mark.parametrize("cached", ["ans", "all"])
def test_records_and_meta_gradients_agree_with_the_full_model(kind: str, cached: Cached) -> None:
    facts = random_facts(kind, 5)
    full = tiny_lm(kind)
    store = record_prefix(full, examples_of(facts), progress=False)
    upper = replayed(tiny_lm(kind), store)
    settings = HyperSettings(rank=4, learning_rate=1e-2, fact_batch=2, token_batch=5)
    torch.manual_seed(0)
    editor = MALMEN(full.shapes, settings).double()
    edits = [fact.edit for fact in facts]
    records = [capture(lm, lm.batches(edits, size=3), cached=cached) for lm in (full, upper)]
    editor.observe(records[0])
    results = []
    for lm, record in zip((full, upper), records, strict=True):
        editor.zero_grad()
        loss = meta_gradient(editor, lm, record, facts)
        results.append((loss.total, [p.grad.clone() for p in editor.parameters()]))
    for layer in records[0]:
        for one, other in zip(records[0][layer], records[1][layer], strict=True):
            assert (one - other).abs().max() <= 1e-12 * one.abs().max()
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-12)
    for one, other in zip(results[0][1], results[1][1], strict=True):
        assert (one - other).abs().max() <= 1e-12 * one.abs().max()


# --- files ---


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("arity", [0, 1, 3])
def test_a_store_survives_its_file(tmp_path: Path, dtype: torch.dtype, arity: int) -> None:
    examples = random_examples("llama", 6)
    recorded = record_prefix(tiny_lm("llama", dtype=dtype), examples, progress=False)
    store = PrefixStore([e.ids for e in examples], recorded.states, arity=arity)
    path = tmp_path / "new" / "prefix.safetensors"
    store.save(path, model="smollm2")
    read = PrefixStore.load(path, model="smollm2")
    assert len(read) == len(store)
    assert read.arity == arity
    assert read.states.dtype == dtype
    sequences = [example.ids for example in examples]
    assert torch.equal(read.padded(sequences), store.padded(sequences))


def test_merged_stores_hold_every_sequence() -> None:
    lm = tiny_lm("llama")
    examples = random_examples("llama", 9)
    one = record_prefix(lm, examples[:5], progress=False)
    other = record_prefix(lm, examples[3:], progress=False)  # two sequences are in both
    merged = PrefixStore.merged([one, other])
    assert len(merged) == 9
    assert len(merged.states) == sum(len(example.ids) for example in examples)
    for store, part in ((one, examples[:5]), (other, examples[3:])):
        for example in part:  # padding differed, so rounding may
            torch.testing.assert_close(
                merged.padded([example.ids]), store.padded([example.ids]), rtol=1e-12, atol=1e-12
            )


def test_a_sequence_that_was_not_stored_is_refused() -> None:
    lm = tiny_lm("llama")
    known, unknown = random_examples("llama", 2)
    replay(lm, record_prefix(lm, [known], progress=False))
    logits(lm, [known], size=1)
    with pytest.raises(InputError, match=r"holds no sequence .*`malmen prefix`"):
        logits(lm, [known, unknown], size=2)


def test_the_store_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prefix.safetensors"
    store = record_prefix(tiny_lm("llama"), random_examples("llama", 2), progress=False)
    store.save(path, model="smollm2")
    with pytest.raises(InputError, match=r"not a prefix store of gpt2 .*smollm2.*`malmen prefix`"):
        PrefixStore.load(path, model="gpt2")


def test_a_file_that_is_no_store_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prefix.safetensors"
    with pytest.raises(InputError, match=r"prefix\.safetensors: no such file"):
        PrefixStore.load(path, model="smollm2")
    path.write_text("not tensors at all", encoding="utf-8")
    with pytest.raises(InputError, match="not a safetensors file"):
        PrefixStore.load(path, model="smollm2")
    save_file({"states": torch.zeros(2)}, path)
    with pytest.raises(InputError, match="not a prefix store of smollm2"):
        PrefixStore.load(path, model="smollm2")


@kinds
def test_an_edited_block_0_leaves_nothing_to_freeze(kind: str) -> None:
    lm = tiny_lm(kind, edited_blocks=(0, 1))
    with pytest.raises(InputError, match=rf"tiny_{kind}: block 0 is edited"):
        record_prefix(lm, random_examples(kind, 1), progress=False)
    with pytest.raises(InputError, match="block 0 is edited"):
        replay(lm, PrefixStore([], torch.zeros(0, HIDDEN), arity=0))


@kinds
def test_a_layer_in_a_frozen_block_is_refused(kind: str) -> None:
    store = record_prefix(
        tiny_lm(kind, edited_blocks=(2,)), random_examples(kind, 1), progress=False
    )
    lm = tiny_lm(kind, edited_blocks=(1, 2), frozen=2)
    size = len(list(lm.model.parameters()))
    with pytest.raises(InputError, match=rf"{lm.entry.edited[0]} lies in a frozen block"):
        replay(lm, store)
    assert len(list(lm.model.parameters())) == size  # nothing was dropped


def test_a_decoder_may_be_edited_in_any_block() -> None:
    # What is frozen is the encoder: the decoder runs whole.
    edited = ("decoder.block.0.layer.2.DenseReluDense.wo", *tiny_entry("t5").edited)
    examples = random_examples("t5", 6)
    full, upper = tiny_lm("t5", edited=edited), tiny_lm("t5", edited=edited)
    replay(upper, record_prefix(full, examples, progress=False))
    weights = full.edited_weights(random_shifts(full))
    found = []
    for lm in (full, upper):
        with lm.swapped(weights):
            found.append(logits(lm, examples, size=4))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
