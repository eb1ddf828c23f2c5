from pathlib import Path

import pytest
import torch
from tiny_models import (
    ARCHITECTURES,
    HIDDEN,
    INNER,
    VOCABULARY,
    answers_in_order,
    bits,
    plain_logits,
    plain_loss,
    random_examples,
    random_shifts,
    tiny_entry,
    tiny_lm,
    tiny_model,
    tiny_tokenizer,
)
from torch import nn
from transformers.pytorch_utils import Conv1D

from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError

DTYPES = (torch.float32, torch.bfloat16)
DECODERS = ("llama", "gpt2", "gptj")
GENERATORS = (*DECODERS, "t5")

kinds = pytest.mark.parametrize("kind", ARCHITECTURES)
dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)


# --- logits ---


@kinds
@pytest.mark.parametrize("size", [1, 3, 100])
def test_logits_are_those_of_the_full_forward_at_the_answers(kind: str, size: int) -> None:
    lm = tiny_lm(kind)
    examples = random_examples(kind, 7)
    batches = lm.batches(examples, size=size)
    with torch.no_grad():
        found = answers_in_order(batches, [lm.logits(batch) for batch in batches])
        wanted = torch.cat([plain_logits(lm, example) for example in examples])
    assert found.shape == (
        sum(len(example.positions) for example in examples),
        1 if kind == "bert" else VOCABULARY,
    )
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12 * wanted.abs().max().item())


@kinds
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_logits_come_in_at_least_single_precision(kind: str, dtype: torch.dtype) -> None:
    lm = tiny_lm(kind, dtype=dtype)
    (batch,) = lm.batches(random_examples(kind, 2), size=2)
    assert lm.logits(batch).dtype == (dtype if dtype == torch.float64 else torch.float32)


# --- layers and shifts ---


@kinds
def test_shapes_are_in_features_and_out_features(kind: str) -> None:
    lm = tiny_lm(kind)
    assert lm.shapes == {
        name: (HIDDEN, INNER) if name.endswith("wi_0") else (INNER, HIDDEN)
        for name in lm.entry.edited
    }
    assert list(lm.zero_shifts()) == list(lm.entry.edited)
    for name, shift in lm.zero_shifts().items():
        assert shift.shape == lm.shapes[name][::-1]


def test_attention_projections_can_be_edited_too() -> None:
    lm = tiny_lm("llama", edited=("model.layers.1.self_attn.k_proj",))
    assert set(lm.shapes.values()) == {(HIDDEN, HIDDEN // 2)}


@kinds
def test_a_shift_adds_itself_to_what_the_layer_puts_out(kind: str) -> None:
    lm = tiny_lm(kind)
    shifts = random_shifts(lm)
    generator = torch.Generator().manual_seed(0)
    weights = lm.edited_weights(shifts)
    for name, layer in lm.layers.items():
        keys = torch.randn(5, lm.shapes[name][0], dtype=torch.float64, generator=generator)
        before = layer(keys)
        with lm.swapped(weights):
            after = layer(keys)
        torch.testing.assert_close(after - before, keys @ shifts[name].T)


@kinds
def test_edited_logits_and_their_gradient_are_those_of_plain_autograd(kind: str) -> None:
    lm = tiny_lm(kind)
    (example,) = random_examples(kind, 1)
    shifts = {name: s.requires_grad_() for name, s in random_shifts(lm).items()}
    logits = plain_logits(lm, example, shifts)
    plain_loss(logits, example).backward()

    weights = lm.edited_weights({name: shift.detach() for name, shift in shifts.items()})
    (batch,) = lm.batches([example], size=1)
    with lm.swapped(weights):
        found = lm.logits(batch)
    (lm.objective.loss(found, batch.targets) * batch.weights).sum().backward()
    torch.testing.assert_close(found, logits, rtol=1e-12, atol=1e-12)
    for name, gradient in lm.shift_gradients(weights).items():
        torch.testing.assert_close(gradient, shifts[name].grad, rtol=1e-10, atol=1e-13)


@kinds
def test_shifts_between_undoes_edited_weights(kind: str) -> None:
    lm = tiny_lm(kind)
    shifts = random_shifts(lm)
    found = lm.shifts_between(lm.edited_weights(lm.zero_shifts()), lm.edited_weights(shifts))
    for name, shift in shifts.items():
        torch.testing.assert_close(found[name], shift)


@kinds
def test_weights_without_a_loss_have_a_gradient_of_zeros(kind: str) -> None:
    lm = tiny_lm(kind)
    gradients = lm.shift_gradients(lm.edited_weights(lm.zero_shifts()))
    for name, gradient in gradients.items():
        assert gradient.shape == lm.shapes[name][::-1]
        assert not gradient.any()


# --- swapping ---


@kinds
@dtypes
def test_base_weights_return_bit_for_bit(kind: str, dtype: torch.dtype) -> None:
    lm = tiny_lm(kind, dtype=dtype)
    before = bits(lm.model)
    parameters = list(lm.model.parameters())
    examples = random_examples(kind, 2)
    (batch,) = lm.batches(examples, size=2)
    logits = lm.logits(batch)
    for seed in range(100):
        weights = lm.edited_weights(random_shifts(lm, scale=0.01 * seed, seed=seed))
        with lm.swapped(weights):
            if seed % 20 == 19:
                assert not torch.equal(lm.logits(batch), logits)
    assert bits(lm.model) == before
    assert all(a is b for a, b in zip(lm.model.parameters(), parameters, strict=True))
    assert not any(p.requires_grad for p in lm.model.parameters())
    assert torch.equal(lm.logits(batch), logits)


@kinds
@dtypes
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_base_weights_return_when_something_goes_wrong(
    kind: str, dtype: torch.dtype, error: type[BaseException]
) -> None:
    lm = tiny_lm(kind, dtype=dtype)
    before = bits(lm.model)
    parameters = list(lm.model.parameters())
    with pytest.raises(error), lm.swapped(lm.edited_weights(random_shifts(lm))):
        raise error
    assert bits(lm.model) == before
    assert all(a is b for a, b in zip(lm.model.parameters(), parameters, strict=True))


@kinds
def test_base_weights_return_when_swapping_in_fails_half_way(kind: str) -> None:
    lm = tiny_lm(kind)
    before = bits(lm.model)
    weights = lm.edited_weights(random_shifts(lm))
    weights[lm.entry.edited[1]] = "no weight"  # type: ignore[assignment]
    with pytest.raises(TypeError), lm.swapped(weights):
        pass
    assert bits(lm.model) == before


@kinds
@dtypes
def test_a_backward_pass_leaves_nothing_on_base_weights(kind: str, dtype: torch.dtype) -> None:
    lm = tiny_lm(kind, dtype=dtype)
    weights = lm.edited_weights(random_shifts(lm))
    (batch,) = lm.batches(random_examples(kind, 3), size=3)
    with lm.swapped(weights):
        lm.objective.loss(lm.logits(batch), batch.targets).sum().backward()
    assert all(p.grad is None for p in lm.model.parameters())
    assert all(w.grad is not None and w.grad.dtype == torch.float32 for w in weights.values())


@kinds
def test_edited_layers_of_a_bfloat16_model_run_in_single_precision(kind: str) -> None:
    lm = tiny_lm(kind, dtype=torch.bfloat16)
    weights = lm.edited_weights(random_shifts(lm, scale=1e-4))
    (batch,) = lm.batches(random_examples(kind, 3), size=3)
    seen = {}
    handles = [
        layer.register_forward_hook(
            lambda module, args, output, name=name: seen.update({name: (args[0], output)})
        )
        for name, layer in lm.layers.items()
    ]
    with lm.swapped(weights), torch.no_grad():
        logits = lm.logits(batch)
    for handle in handles:
        handle.remove()
    assert logits.isfinite().all()
    for name, (keys, output) in seen.items():
        layer, weight = lm.layers[name], weights[name]
        assert weight.dtype == keys.dtype == torch.float32
        assert output.dtype == torch.bfloat16
        matrix = weight.T if isinstance(layer, nn.Linear) else weight
        bias = 0 if layer.bias is None else layer.bias.float()
        torch.testing.assert_close(output, (keys @ matrix + bias).bfloat16())


@kinds
def test_a_small_shift_survives_beside_bfloat16_weights(kind: str) -> None:
    lm = tiny_lm(kind, dtype=torch.bfloat16)
    shifts = random_shifts(lm, scale=1e-4)
    zero = lm.edited_weights(lm.zero_shifts())
    kept = lm.shifts_between(zero, lm.edited_weights(shifts))
    for name, shift in shifts.items():
        # Rounding to float32 is at most half a unit in the last place of the weight.
        largest = lm.layers[name].weight.float().abs().max()
        assert (kept[name] - shift).abs().max() <= largest * 2**-24
        assert (kept[name] - shift).norm() <= 1e-3 * shift.norm()
        # In the weight's own dtype nearly all of it would be lost.
        transposed = isinstance(lm.layers[name], Conv1D)
        base = lm.layers[name].weight.T if transposed else lm.layers[name].weight
        merged = (base.float() + shift).bfloat16().float() - base.float()
        assert (merged - shift).norm() > 0.5 * shift.norm()


@kinds
def test_no_shift_changes_nothing(kind: str) -> None:
    lm = tiny_lm(kind, dtype=torch.float32)
    (batch,) = lm.batches(random_examples(kind, 3), size=3)
    logits = lm.logits(batch)
    with lm.swapped(lm.edited_weights(lm.zero_shifts())):
        assert torch.equal(lm.logits(batch), logits)
    with lm.swapped({}):
        assert torch.equal(lm.logits(batch), logits)


# --- tokenisation ---


@pytest.mark.parametrize("kind", DECODERS)
def test_an_answer_is_predicted_from_the_token_before(kind: str) -> None:
    lm = tiny_lm(kind)
    example = lm.encode("The capital of France is", "Paris, France")
    prompt = lm.tokenizer("The capital of France is")["input_ids"]
    whole = lm.tokenizer("The capital of France is Paris, France")["input_ids"]
    assert example.ids == tuple(whole[:-1])  # the last token is predicted, never read
    assert example.targets == tuple(whole[len(prompt) :])
    assert len(example.targets) > 1
    assert [whole[i + 1] for i in example.positions] == list(example.targets)


@pytest.mark.parametrize("kind", GENERATORS)
def test_blanks_round_an_answer_do_not_matter(kind: str) -> None:
    lm = tiny_lm(kind)
    assert lm.encode("Capital of Peru?", "  Lima\n") == lm.encode("Capital of Peru?", "Lima")


@pytest.mark.parametrize("kind", GENERATORS)
@pytest.mark.parametrize("answer", ["", " ", "\n\t "])
def test_an_empty_answer_is_refused(kind: str, answer: str) -> None:
    with pytest.raises(InputError, match=r"the answer of \('Capital of Peru\?', .*nothing"):
        tiny_lm(kind).encode("Capital of Peru?", answer)


def test_an_encoder_reads_the_prompt_and_a_decoder_begins_the_answer() -> None:
    lm = tiny_lm("t5")
    example = lm.encode("The capital of France is", "Paris, France")
    assert example.ids == tuple(lm.tokenizer("The capital of France is")["input_ids"])
    assert example.targets == tuple(lm.tokenizer(" Paris, France")["input_ids"])
    assert len(example.targets) > 1
    assert example.decoder_ids == (lm.model.config.decoder_start_token_id, *example.targets[:-1])
    assert example.positions == tuple(range(len(example.targets)))


def test_an_empty_prompt_is_refused() -> None:
    with pytest.raises(InputError, match=r"the prompt of \('', 'Lima'\) tokenises to nothing"):
        tiny_lm("llama").encode("", "Lima")


@pytest.mark.parametrize("kind", ["gpt2", "gptj", "bert"])
def test_a_prompt_of_more_tokens_than_positions_is_refused(kind: str) -> None:
    lm = tiny_lm(kind)
    answer = "SUPPORTS" if kind == "bert" else "Lima"
    positions = lm.model.config.max_position_embeddings
    words = 1
    with pytest.raises(InputError, match=rf"have \d+ tokens, and tiny {kind} reads at most "):  # noqa: PT012
        while True:
            example = lm.encode("Peru " * words, answer)
            words += 1
    assert positions - 8 <= len(example.ids) <= positions  # the last one fitted, and it runs
    lm.logits(*lm.batches([example], size=1))


def test_relative_positions_have_no_end() -> None:
    lm = tiny_lm("t5")
    example = lm.encode("Peru " * 500, "Lima")
    assert lm.logits(*lm.batches([example], size=1)).isfinite().all()


@pytest.mark.parametrize(("label", "target"), [("SUPPORTS", 1), ("REFUTES", 0)])
def test_a_claim_is_judged_at_its_first_token(label: str, target: int) -> None:
    lm = tiny_lm("bert")
    example = lm.encode("Lima is the capital of Peru.", label)
    assert example.positions == (0,)
    assert example.targets == (target,)
    assert lm.tokenizer.convert_ids_to_tokens(example.ids)[0] == "[CLS]"
    assert lm.tokenizer.convert_ids_to_tokens(example.ids)[-1] == "[SEP]"


# --- construction ---


def test_a_module_that_does_not_exist_is_named() -> None:
    with pytest.raises(
        InputError, match=r"LlamaForCausalLM has no module model\.layers\.1\.mlp\.x"
    ):
        tiny_lm("llama", edited=("model.layers.1.mlp.x",))
    with pytest.raises(InputError, match=r"no module model\.layers\.7\.mlp\.down_proj"):
        tiny_lm("llama", edited_blocks=(7,))


@pytest.mark.parametrize(
    ("edited", "found"), [("mlp", "LlamaMLP"), ("input_layernorm", "LlamaRMSNorm")]
)
def test_a_module_that_is_not_linear_is_named(edited: str, found: str) -> None:
    with pytest.raises(InputError, match=rf"{edited} is a {found}; only linear layers"):
        tiny_lm("llama", edited=(f"model.layers.1.{edited}",))


@kinds
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_a_saved_folder_loads(tmp_path: Path, kind: str, dtype: torch.dtype | None) -> None:
    model = tiny_model(kind, dtype=torch.float32)
    model.save_pretrained(tmp_path)
    tiny_tokenizer(kind).save_pretrained(tmp_path)
    lm = LanguageModel.load(tmp_path, tiny_entry(kind), dtype=dtype)
    assert lm.model.dtype == (dtype or torch.float32)
    assert not lm.model.training
    assert bits(lm.model) == bits(model.to(dtype or torch.float32))
    answer = "SUPPORTS" if kind == "bert" else "Lima"
    same = LanguageModel(model, tiny_tokenizer(kind), tiny_entry(kind))
    example = lm.encode("Capital of Peru", answer)
    assert example == same.encode("Capital of Peru", answer)
    if dtype is None:  # what the configuration says of the forward has survived, too
        one, other = (m.logits(*m.batches([example], size=1)) for m in (lm, same))
        torch.testing.assert_close(one, other)


def test_a_folder_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere: no language model there"):
        LanguageModel.load(tmp_path / "nowhere", tiny_entry("llama"))
