from collections.abc import Iterable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scrambled import scrambled_editor
from tiny_models import (
    ARCHITECTURES,
    BLOCKS,
    answers_in_order,
    bits,
    plain_cached,
    plain_divergence,
    plain_logits,
    plain_loss,
    random_facts,
    tiny_entry,
    tiny_model,
    tiny_tokenizer,
)
from transformers import AutoConfig, PreTrainedConfig

from baselines.ultraedit import UltraEdit
from malmen.lm.architecture import derive
from malmen.lm.catalogue import Entry, catalogue, lookup
from malmen.lm.language_model import LanguageModel
from malmen.lm.model_tree import split_name
from malmen.meta_gradient import meta_gradient
from malmen.settings import TokenSettings
from malmen.support.errors import InputError

SHAPED = [
    name for name, entry in catalogue().items() if entry.edited and (entry.built or entry.published)
]
HEADS = {"bert": "BertForSequenceClassification"}

kinds = pytest.mark.parametrize("kind", ARCHITECTURES)


def shaped(entry: Entry) -> PreTrainedConfig:
    shape = dict(entry.built or entry.published or {})
    return AutoConfig.for_model(**shape, architectures=[HEADS.get(shape["model_type"], "LMHead")])


def derived(model_type: str, **shape: object) -> Entry:
    config = AutoConfig.for_model(model_type, **{"architectures": ["ForCausalLM"], **shape})
    return derive(config, name="mine")


def derived_entry(kind: str) -> Entry:
    """Return a tiny model's entry as it would be without any of the fields that are derived."""
    model = tiny_model(kind)
    model.config.architectures = [type(model).__name__]  # as in its folder
    return derive(model.config, name=kind)


# --- what is found ---


@pytest.mark.parametrize("name", SHAPED)
def test_of_shipped_models_the_catalogue_names_the_same_layers(name: str) -> None:
    entry = lookup(name)
    found = derive(shaped(entry), name=name)
    assert found.task == entry.task
    assert found.blocks == entry.blocks
    assert in_blocks(found.edited) <= in_blocks(entry.edited)
    uppermost = {path for path in entry.edited if split_name(path)[1] >= found.frozen}
    if shaped(entry).is_encoder_decoder:  # edited on either side, in first and last layers
        assert {path for path in uppermost if path.endswith("wo")} <= set(found.edited)
        return
    assert uppermost <= set(found.edited)
    assert in_blocks(found.alternative) == in_blocks(entry.alternative)
    if entry.memit:
        assert found.memit == entry.memit


def in_blocks(paths: Iterable[str]) -> set[tuple[str, str]]:
    """Return paths without the number of the block."""
    return {(stack, rest) for stack, _, rest in map(split_name, paths)}


@kinds
def test_of_tiny_models_the_last_block_is_edited(kind: str) -> None:
    found = derived_entry(kind)
    by_hand = tiny_entry(kind, edited_blocks=(BLOCKS - 1,))
    assert (found.task, found.blocks, found.frozen) == (
        by_hand.task,
        by_hand.blocks,
        by_hand.frozen,
    )
    assert set(found.edited) <= set(by_hand.edited)
    assert len(found.edited) == (2 if kind == "t5" else 1)  # of both sides
    assert len(found.alternative) == len(found.edited)
    assert not {*found.alternative} & {*found.edited}
    assert bool(found.memit) == (kind not in ("bert", "t5"))


@given(blocks=st.integers(1, 40))
def test_the_uppermost_quarter_is_edited_and_at_least_one_block(blocks: int) -> None:
    found = derived("gpt2", n_layer=blocks, n_embd=8, n_head=2)
    edited = [int(path.split(".")[2]) for path in found.edited]
    assert edited == list(range(found.frozen, blocks))
    assert len(edited) == max(1, blocks // 4)
    memit = [int(path.split(".")[2]) for path in found.memit]
    assert memit == list(range(memit[0], memit[-1] + 1))
    assert memit[-1] <= blocks // 3


@pytest.mark.parametrize(
    ("model_type", "last", "first"),
    [
        ("phi3", "mlp.down_proj", "mlp.gate_up_proj"),  # gate and layer in one product
        ("gemma2", "mlp.down_proj", "mlp.up_proj"),
        ("mistral", "mlp.down_proj", "mlp.up_proj"),
        ("falcon", "mlp.dense_4h_to_h", "mlp.dense_h_to_4h"),
        ("bloom", "mlp.dense_4h_to_h", "mlp.dense_h_to_4h"),
    ],
)
def test_the_names_of_layers_do_not_matter(model_type: str, last: str, first: str) -> None:
    found = derived(model_type)
    assert found.edited[-1].endswith(f".{last}")
    assert found.alternative[-1].endswith(f".{first}")


def test_an_inner_size_may_be_the_hidden_size() -> None:
    found = derived("opt", hidden_size=16, ffn_dim=16, num_attention_heads=2)
    assert found.edited[-1] == "model.decoder.layers.11.fc2"
    assert found.alternative[-1] == "model.decoder.layers.11.fc1"


# --- what cannot be edited ---


@pytest.mark.parametrize(
    ("shape", "why"),
    [
        ({"model_type": "mixtral"}, "mine: .*experts is a mixture of experts"),
        ({"model_type": "qwen2_moe"}, "mine: .*experts is a mixture of experts"),
        ({"model_type": "switch_transformers"}, "mine: .*experts.* is a mixture of experts"),
        ({"model_type": "mamba"}, "no list of alike blocks that hold attention"),
        (
            {"model_type": "llama", "quantization_config": {"quant_method": "gptq", "bits": 4}},
            "mine: its weights are quantised.*give a copy in float32",
        ),
        (
            {"model_type": "albert", "architectures": ["AlbertForSequenceClassification"]},
            "its 12 layers share the weights of 1 in albert.encoder",
        ),
        (
            {"model_type": "bert", "architectures": ["BertForSequenceClassification"]},
            "one logit a claim, and this classifier has 2",
        ),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "BertModel neither continues"),
        ({"model_type": "bert", "architectures": None}, "a model without a head neither"),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_what_cannot_be_edited_is_refused_with_the_reason(
    shape: dict[str, object], why: str
) -> None:
    labels = {"num_labels": 1} if shape["model_type"] == "albert" else {}
    with pytest.raises(InputError, match=why):
        derived(**{**labels, **shape})  # type: ignore[arg-type]


# --- models edited as derived ---


@kinds
def test_keys_and_gradients_of_derived_layers_are_plain_ones(kind: str) -> None:
    lm = lm_of(kind)
    facts = random_facts(kind, 5)
    editor = scrambled_editor("malmen", lm)
    record = editor.record(lm, facts)
    edits = sorted((fact.edit for fact in facts), key=lambda edit: len(edit.ids))
    for layer, plain in plain_cached(lm, edits, "ans").items():
        for found, wanted in zip(record[layer], plain, strict=True):
            torch.testing.assert_close(found[:], wanted, rtol=1e-12, atol=1e-12)


@kinds
def test_ultraedit_edits_them_and_leaves_the_weights_as_they_were(kind: str) -> None:
    lm = lm_of(kind)
    facts = random_facts(kind, 4)
    before = bits(lm.model)
    shifts = UltraEdit(lm.shapes, TokenSettings(learning_rate=2.0**-7)).edit(lm, facts)
    assert all(shift.any() for shift in shifts.values())
    batches = lm.batches([fact.edit for fact in facts], size=3)
    with torch.no_grad(), lm.swapped(lm.edited_weights(shifts)):
        found = answers_in_order(batches, [lm.logits(batch) for batch in batches])
    wanted = torch.cat([plain_logits(lm, fact.edit, shifts) for fact in facts])
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)
    assert bits(lm.model) == before


@kinds
def test_a_step_of_malmen_is_plain_autograd(kind: str) -> None:
    lm = lm_of(kind)
    facts = random_facts(kind, 5)
    editor = scrambled_editor("malmen", lm)
    record = editor.record(lm, facts)
    editor.observe(record)
    loss = meta_gradient(editor, lm, record, facts, loc_coef=1.0)
    shifts = {
        name: shift.detach().requires_grad_() for name, shift in editor.edit(lm, facts).items()
    }
    total = torch.zeros((), dtype=torch.float64)
    for fact in facts:
        total = total + plain_loss(plain_logits(lm, fact.equivalent, shifts), fact.equivalent)
        before = plain_logits(lm, fact.unrelated)
        total = total + plain_divergence(plain_logits(lm, fact.unrelated, shifts), before)
    assert loss.total == pytest.approx(total.item() / len(facts), rel=1e-9)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in editor.parameters())


def lm_of(kind: str) -> LanguageModel:
    return LanguageModel(tiny_model(kind), tiny_tokenizer(kind), derived_entry(kind))
