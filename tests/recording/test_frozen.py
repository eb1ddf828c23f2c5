import gc
import random
import shutil
import weakref
from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny_models import (
    ARCHITECTURES,
    BLOCKS,
    HIDDEN,
    KINDS,
    answers_in_order,
    examples_of,
    random_example,
    random_examples,
    random_facts,
    random_shifts,
    tiny_entry,
    tiny_lm,
)
from torch import Tensor

from malmen.lm.batches import Example
from malmen.lm.kinds import Cached
from malmen.lm.language_model import LanguageModel
from malmen.malmen import MALMEN
from malmen.meta_gradient import meta_gradient
from malmen.recording.capture import capture
from malmen.recording.frozen import PrefixStore, record_prefix, replay
from malmen.recording.mapped import MappedTensors
from malmen.recording.spill import in_memory
from malmen.settings import HyperSettings
from malmen.support.errors import InputError

kinds = pytest.mark.parametrize("kind", ARCHITECTURES)


def logits(lm: LanguageModel, examples: list[Example], *, size: int) -> Tensor:
    batches = lm.batches(examples, size=size)
    with torch.no_grad():
        return answers_in_order(batches, [lm.logits(batch) for batch in batches])


def unedited_logits(lm: LanguageModel, examples: list[Example], *, size: int) -> Tensor:
    batches = lm.batches(examples, size=size)
    return answers_in_order(batches, [lm.unedited_logits(batch) for batch in batches])


@cache
def full_lm(kind: str, edited_blocks: tuple[int, ...]) -> LanguageModel:
    return tiny_lm(kind, edited_blocks=edited_blocks)


def replayed(lm: LanguageModel, store: PrefixStore) -> LanguageModel:
    replay(lm, store)
    return lm


def assert_close(found: Tensor, wanted: Tensor, *, tolerance: float = 1e-12) -> None:
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()


@settings(max_examples=settings.default.max_examples // 2)
@given(
    kind=st.sampled_from(ARCHITECTURES),
    edited_blocks=st.sampled_from([(1, 2), (2,)]),
    n=st.integers(1, 9),
    answered=st.integers(0, 9),
    recorded_by=st.integers(1, 10),
    replayed_by=st.integers(1, 10),
    is_file=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_replay_equals_the_full_forward(
    kind: str,
    edited_blocks: tuple[int, ...],
    n: int,
    answered: int,
    recorded_by: int,
    replayed_by: int,
    is_file: bool,
    seed: int,
) -> None:
    examples = random_examples(kind, n, seed=seed)
    full = full_lm(kind, edited_blocks)
    with TemporaryDirectory() as folder:
        store = record_prefix(
            full,
            examples,
            answered=examples[:answered],
            path=Path(folder) / "prefix.safetensors" if is_file else None,
            fact_batch=recorded_by,
            progress=False,
        )
        lm = replayed(tiny_lm(kind, edited_blocks=edited_blocks), store)
        wanted = logits(full, examples, size=9)
        assert_close(logits(lm, examples, size=replayed_by), wanted)
        assert_close(unedited_logits(lm, examples, size=replayed_by), wanted)
        assert (store.answers(examples) is not None) == (answered >= n)

        weights = full.edited_weights(random_shifts(full))
        with full.swapped(weights):
            wanted = logits(full, examples, size=9)
        with lm.swapped(weights):
            assert_close(logits(lm, examples, size=replayed_by), wanted)


@kinds
def test_logits_before_an_edit_need_the_head_alone(kind: str) -> None:
    examples = random_examples(kind, 6)
    full = tiny_lm(kind)
    known, unknown = examples[:4], examples[4:]
    lm = replayed(tiny_lm(kind), record_prefix(full, examples, answered=known, progress=False))
    above = lm.model.get_submodule(lm.entry.blocks)[2]
    runs = []
    above.register_forward_pre_hook(lambda module, args: runs.append(1))
    wanted = logits(full, known, size=3)
    assert_close(unedited_logits(lm, known, size=3), wanted)
    assert not runs
    assert_close(unedited_logits(lm, unknown, size=3), logits(full, unknown, size=3))
    assert len(runs) == 1


@kinds
def test_one_sequence_may_have_several_answers(kind: str) -> None:
    one = random_example(kind, random.Random(0))
    while len(one.positions) < 2 and kind != "bert":
        one = random_example(kind, random.Random(one.ids[0]))
    first = replace(
        one,
        positions=one.positions[:1],
        targets=one.targets[:1],
        decoder_ids=one.decoder_ids[:1],
    )
    full = tiny_lm(kind)
    store = record_prefix(full, [one, first], answered=[first, one, first], progress=False)
    assert len(store) == 1
    lm = replayed(tiny_lm(kind), store)
    for example in (one, first):
        assert_close(unedited_logits(lm, [example], size=1), logits(full, [example], size=1))


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
    padded = store.padded([example.ids for example in examples])
    assert padded.shape == (5, max(len(e.ids) for e in examples), HIDDEN)
    assert not padded.requires_grad
    entered = []
    first_edited = lm.model.get_submodule(lm.entry.blocks)[lm.entry.frozen]
    first_edited.register_forward_pre_hook(lambda module, args: entered.append(args[0]))
    for example in examples:
        logits(lm, [example], size=1)
        torch.testing.assert_close(store.padded([example.ids]), entered[-1], rtol=1e-12, atol=1e-12)


def test_states_of_a_batch_are_padded_with_zeros() -> None:
    lm = tiny_lm("llama")
    examples = [Example(ids, (0,), (0,)) for ids in ((5, 6, 7), (8,))]
    store = record_prefix(lm, examples, progress=False)
    padded = store.padded([(8,), (5, 6, 7)])
    assert padded.shape == (2, 3, HIDDEN)
    assert not padded[0, 1:].any()
    assert padded[0, 0].all()
    assert torch.equal(padded[1], store.padded([(5, 6, 7)])[0])


def test_a_repeated_sequence_is_run_and_stored_once() -> None:
    lm = tiny_lm("llama")
    (example,) = random_examples("llama", 1)
    other = Example(example.ids, example.positions[:1], example.targets[:1])
    store = record_prefix(lm, [example, other, example], progress=False)
    assert len(store) == 1


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
@pytest.mark.parametrize("n_stored", [0, 3, 5])
def test_records_and_meta_gradients_agree_with_the_full_model(
    kind: str, cached: Cached, n_stored: int
) -> None:
    facts = random_facts(kind, 5)
    full = tiny_lm(kind)
    unrelated = [fact.unrelated for fact in facts]
    edits = [fact.edit for fact in facts[:n_stored]]
    store = record_prefix(full, examples_of(facts), answered=unrelated, edits=edits, progress=False)
    upper = replayed(tiny_lm(kind), store)
    hyper = HyperSettings(rank=4, learning_rate=1e-2, fact_batch=2, token_batch=5)
    torch.manual_seed(0)
    editor = MALMEN(full.shapes, hyper).double()
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


@kinds
def test_stored_keys_and_value_gradients_need_no_language_model(kind: str) -> None:
    edits = random_examples(kind, 6)
    full = tiny_lm(kind)
    lm = replayed(tiny_lm(kind), record_prefix(full, edits, edits=edits[:4], progress=False))
    runs = []
    lm.model.register_forward_pre_hook(lambda module, args: runs.append(1))
    capture(lm, lm.batches(edits[:4], size=3))
    assert not runs
    capture(lm, lm.batches(edits, size=6))  # one batch, of which some are not stored
    assert len(runs) == 1
    capture(lm, lm.batches(edits[:4], size=4), cached="all")
    assert len(runs) == (1 if kind == "t5" else 2)


@kinds
def test_what_is_stored_of_an_edit_tuple_is_of_its_answer(kind: str) -> None:
    (edit,) = random_examples(kind, 1)
    last = edit.targets[-1]
    other = replace(edit, targets=(*edit.targets[:-1], 1 - last if kind == "bert" else last + 1))
    lm = replayed(tiny_lm(kind), record_prefix(tiny_lm(kind), [edit], edits=[edit], progress=False))
    layer = lm.entry.edited[0]
    gradients = [capture(lm, lm.batches([e], size=1))[layer][1] for e in (edit, other)]
    wanted = capture(tiny_lm(kind), lm.batches([other], size=1))[layer][1]
    assert not torch.allclose(*map(in_memory, gradients))
    torch.testing.assert_close(in_memory(gradients[1]), in_memory(wanted), rtol=1e-12, atol=1e-12)


@kinds
def test_modules_that_the_store_knows_nothing_of_are_run(kind: str) -> None:
    edits = random_examples(kind, 3)
    store = record_prefix(tiny_lm(kind, edited_blocks=(2,), frozen=1), edits, edits=edits)
    lm = replayed(tiny_lm(kind, edited_blocks=(1, 2)), store)
    record = capture(lm, lm.batches(edits, size=3))
    full = tiny_lm(kind, edited_blocks=(1, 2))
    wanted = capture(full, full.batches(edits, size=3))
    for layer in full.layers:
        for one, other in zip(record[layer], wanted[layer], strict=True):
            torch.testing.assert_close(in_memory(one), in_memory(other), rtol=1e-12, atol=1e-12)


# --- files ---


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
def test_a_file_holds_the_bits_of_what_is_recorded_in_memory(
    tmp_path: Path, kind: str, dtype: torch.dtype
) -> None:
    lm = tiny_lm(kind, dtype=dtype)
    examples = random_examples(kind, 6)
    path = tmp_path / "new" / "prefix.safetensors"
    sequences = [example.ids for example in examples]
    options: Any = {
        "answered": examples[:4],
        "edits": examples[2:5],
        "fact_batch": 4,
        "progress": False,
    }
    store = record_prefix(lm, examples, **options)
    record_prefix(lm, examples, **options, path=path)
    read = PrefixStore.load(path, model=lm.entry.name)
    assert len(read) == len(store)
    assert read.arity == store.arity
    for one, other in (
        (read.padded(sequences), store.padded(sequences)),
        (read.answers(examples[:4]), store.answers(examples[:4])),
    ):
        assert one is not None
        assert one.dtype == dtype
        assert torch.equal(one, other)
    for layer in lm.layers:
        pairs = [part.recorded(examples[2:5], layer) for part in (read, store)]
        for one, other in zip(*pairs, strict=True):
            assert one.dtype == dtype
            assert torch.equal(one, other)
    first = path.read_bytes()
    record_prefix(lm, examples, **options, path=path)
    assert path.read_bytes() == first


def test_what_is_read_of_a_file_does_not_stay_in_memory(tmp_path: Path) -> None:
    lm = tiny_lm("llama")
    examples = random_examples("llama", 400)
    path = tmp_path / "prefix.safetensors"
    store = record_prefix(lm, examples, path=path, progress=False)
    assert path.stat().st_size > 2**18
    for example in examples:
        store.padded([example.ids])
        mapped = Path("/proc/self/smaps").read_text().partition(str(path))[2]
        resident = next(line for line in mapped.splitlines() if line.startswith("Rss:"))
        assert int(resident.split()[1]) < 2**5  # kB


def test_merged_stores_hold_every_sequence() -> None:
    lm = tiny_lm("llama")
    examples = random_examples("llama", 9)
    one = record_prefix(lm, examples[:5], progress=False)
    other = record_prefix(lm, examples[3:], progress=False)  # two sequences are in both
    merged = PrefixStore.merged([one, other])
    assert len(merged) == 9
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
    record_prefix(tiny_lm("llama"), random_examples("llama", 2), path=path, progress=False)
    with pytest.raises(InputError, match=r"not a prefix store of gpt2 .*llama.*`malmen prefix`"):
        PrefixStore.load(path, model="gpt2")


@pytest.mark.parametrize(
    "tensor",
    [
        "index",
        "arity",
        "states",
        "states.checksums",
        "answers",
        "model.layers.2.mlp.down_proj.keys",
        "model.layers.2.mlp.down_proj.gradients",
    ],
)
def test_a_damaged_file_is_refused_when_the_damage_is_read(tmp_path: Path, tensor: str) -> None:
    path = tmp_path / "prefix.safetensors"
    examples = random_examples("llama", 3)
    lm = tiny_lm("llama")
    record_prefix(lm, examples, edits=examples, path=path, progress=False)
    MappedTensors(path, writable=True)[tensor][-1] += 1

    def read() -> None:
        store = PrefixStore.load(path, model=lm.entry.name)
        store.padded([example.ids for example in examples[:2]])  # what is whole is read
        store.padded([examples[2].ids])
        store.answers(examples)
        store.recorded(examples, lm.entry.edited[-1])

    with pytest.raises(InputError, match=r"prefix\.safetensors: damaged .*`malmen prefix`"):
        read()


def test_a_short_disk_leaves_the_blocks_to_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=2**30 + 10))
    examples = random_examples("llama", 4)
    full, path = tiny_lm("llama"), tmp_path / "prefix.safetensors"
    record_prefix(full, examples, answered=examples, path=path, progress=False)
    assert caplog.messages == [
        f"{path}: would take 0.0 GB, and the disk has 1.1 GB free: the frozen blocks will run "
        "again every time (after making space, make it again with `malmen prefix`)"
    ]
    assert path.stat().st_size < 2**10
    wanted = logits(full, examples, size=2)
    lm = tiny_lm("llama")
    parts = [PrefixStore.load(path, model=lm.entry.name) for _ in range(2)]
    monkeypatch.undo()
    record_prefix(full, examples, path=path, progress=False)
    parts.append(PrefixStore.load(path, model=lm.entry.name))  # one that is whole makes no whole
    replay(lm, PrefixStore.merged(parts))
    assert torch.equal(logits(lm, examples, size=2), wanted)
    batch = lm.batches(examples, size=4)[0]
    assert torch.equal(lm.unedited_logits(batch), lm.logits(batch).detach())


@kinds
def test_a_disk_with_little_room_holds_no_keys_and_value_gradients(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    examples = random_examples(kind, 4)
    full, path = tiny_lm(kind), tmp_path / "prefix.safetensors"
    options: Any = {"answered": examples, "edits": examples, "path": path, "progress": False}
    record_prefix(full, examples, **options)
    size = path.stat().st_size
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: free._replace(free=2**30 + size))
    store = record_prefix(full, examples, **options)
    assert [message.partition(",")[0] for message in caplog.messages] == [
        f"{path}: holds no keys and value gradients"
    ]
    assert path.stat().st_size < size
    assert store.recorded(examples, full.entry.edited[0]) is None
    lm = replayed(tiny_lm(kind), store)
    wanted = logits(full, examples, size=4)
    assert_close(unedited_logits(lm, examples, size=4), wanted)
    assert capture(lm, lm.batches(examples, size=4)).keys() == lm.layers.keys()


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
        replay(lm, record_prefix(tiny_lm(kind), random_examples(kind, 1), progress=False))


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
