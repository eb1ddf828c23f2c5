"""Tiny language models with random weights, random facts for them, and plain computations.

What begins with ``plain_`` is what the package computes, written the slow and obvious way: one
sequence at a time, unpadded, every position, by autograd alone.
"""

import random
from collections.abc import Mapping, Sequence
from functools import cache
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.func import functional_call
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    GemmaConfig,
    GemmaForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.models.gptj.modeling_gptj import GPTJAttention
from transformers.pytorch_utils import Conv1D

from malmen.experiment.cards import trained
from malmen.lm.batches import Batch, Example
from malmen.lm.catalogue import Entry
from malmen.lm.encoding import EncodedFact
from malmen.lm.kinds import Cached
from malmen.lm.language_model import LanguageModel

KINDS = ("llama", "gpt2", "bert", "t5")
"""A decoder of Linear layers without bias, one of Conv1D layers with bias, a fact checker, and an
encoder-decoder that is edited on both sides, in layers of two shapes."""

ARCHITECTURES = (*KINDS, "gptj", "qwen2", "gemma", "opt", "neox")
"""The same and decoders that differ in their forward: a parallel block (GPT-J, GPT-NeoX), biases in
attention alone (Qwen2), scaled embeddings that are the head, too (Gemma), states that a block
flattens (OPT)."""

UNCUT = ("t5", "opt")
"""Those whose feed-forwards see every position."""

EDITORS = {name: card.load() for name, card in trained().items()}
"""The classes of the editors that are meta-trained, by name."""

VOCABULARY = 300
HIDDEN, INNER, BLOCKS = 16, 24, 3  # a feed-forward is INNER wide; T5 has BLOCKS on either side

_TOKENS = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
_SIZES = {"vocab_size": VOCABULARY, "initializer_range": 0.3}

_MODELS: dict[str, Any] = {
    "llama": lambda: LlamaForCausalLM(
        LlamaConfig(
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=BLOCKS,
            num_attention_heads=2,
            num_key_value_heads=1,
            **_SIZES,
            **_TOKENS,
        )
    ),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            n_embd=HIDDEN,
            n_inner=INNER,
            n_layer=BLOCKS,
            n_head=2,
            n_positions=64,
            **_SIZES,
            **_TOKENS,
        )
    ),
    "gptj": lambda: GPTJForCausalLM(
        GPTJConfig(
            n_embd=HIDDEN,
            n_inner=INNER,
            n_layer=BLOCKS,
            n_head=2,
            rotary_dim=4,
            n_positions=64,
            **_SIZES,
            **_TOKENS,
        )
    ),
    "qwen2": lambda: Qwen2ForCausalLM(
        Qwen2Config(
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=BLOCKS,
            num_attention_heads=2,
            num_key_value_heads=1,
            **_SIZES,
            **_TOKENS,
        )
    ),
    "gemma": lambda: GemmaForCausalLM(
        GemmaConfig(
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=BLOCKS,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=12,  # attention is wider than the states, as in the published model
            **_SIZES,
            **_TOKENS,
        )
    ),
    "opt": lambda: OPTForCausalLM(
        OPTConfig(
            hidden_size=HIDDEN,
            ffn_dim=INNER,
            num_hidden_layers=BLOCKS,
            num_attention_heads=2,
            max_position_embeddings=64,
            word_embed_proj_dim=HIDDEN // 2,
            vocab_size=VOCABULARY,
            init_std=0.3,
            **_TOKENS,
        )
    ),
    "neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=BLOCKS,
            num_attention_heads=2,
            max_position_embeddings=64,
            **_SIZES,
            **_TOKENS,
        )
    ),
    "bert": lambda: BertForSequenceClassification(
        BertConfig(
            hidden_size=HIDDEN,
            intermediate_size=INNER,
            num_hidden_layers=BLOCKS,
            num_attention_heads=2,
            max_position_embeddings=64,
            num_labels=1,
            **_SIZES,
            **_TOKENS,
        )
    ),
    "t5": lambda: T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY,
            d_model=HIDDEN,
            d_kv=HIDDEN // 2,
            d_ff=INNER,
            num_layers=BLOCKS,
            num_heads=2,
            relative_attention_num_buckets=8,
            relative_attention_max_distance=16,
            initializer_factor=0.5,  # the head is the embeddings: with 1, one answer takes it all
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
            **_TOKENS,
        )
    ),
}

_BLOCKS = {
    "llama": "model.layers",
    "gpt2": "transformer.h",
    "gptj": "transformer.h",
    "qwen2": "model.layers",
    "gemma": "model.layers",
    "opt": "model.decoder.layers",
    "neox": "gpt_neox.layers",
    "bert": "bert.encoder.layer",
    "t5": "encoder.block",
}

_EDITED = {  # the edited layers map INNER to HIDDEN, and T5's also HIDDEN to INNER
    "llama": ["model.layers.{}.mlp.down_proj"],
    "gpt2": ["transformer.h.{}.mlp.c_proj"],
    "gptj": ["transformer.h.{}.mlp.fc_out"],
    "qwen2": ["model.layers.{}.mlp.down_proj"],
    "gemma": ["model.layers.{}.mlp.down_proj"],
    "opt": ["model.decoder.layers.{}.fc2"],
    "neox": ["gpt_neox.layers.{}.mlp.dense_4h_to_h"],
    "bert": ["bert.encoder.layer.{}.output.dense"],
    "t5": [
        f"{side}.{name}"
        for side in ("encoder.block.{}.layer.1", "decoder.block.{}.layer.2")
        for name in ("DenseReluDense.wi_0", "DenseReluDense.wo")
    ],
}


def tiny_entry(kind: str, *, edited_blocks: Sequence[int] = (1, 2), **changes: Any) -> Entry:
    """Return the catalogue entry of a tiny model, edited in some of its three blocks."""
    fields = {
        "name": f"tiny_{kind}",
        "title": f"tiny {kind}",
        "task": "verdict" if kind == "bert" else "completion",
        "blocks": _BLOCKS[kind],
        "frozen": min(edited_blocks),
        "edited": tuple(pattern.format(i) for i in edited_blocks for pattern in _EDITED[kind]),
    }
    return Entry(**{**fields, **changes})


def tiny_model(kind: str, *, dtype: torch.dtype = torch.float64, seed: int = 0) -> PreTrainedModel:
    """Return a model with random weights and biases."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model: PreTrainedModel = _MODELS[kind]()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    if kind == "gptj" and dtype == torch.float64:
        _attend_in_double_precision(model)
    return model.to(dtype)


def _attend_in_double_precision(gptj: PreTrainedModel) -> None:
    """Let GPT-J's attention do what its other layers do: it asks for single precision by name."""
    plain = GPTJAttention._attn
    double = SimpleNamespace(**{**vars(torch), "float32": torch.float64})
    exact = FunctionType(plain.__code__, {**plain.__globals__, "torch": double})
    exact.__defaults__ = plain.__defaults__
    for module in gptj.modules():
        if isinstance(module, GPTJAttention):
            module._attn = MethodType(exact, module)


def tiny_lm(
    kind: str, *, dtype: torch.dtype = torch.float64, seed: int = 0, **entry: Any
) -> LanguageModel:
    """Return a tiny language model; further arguments are those of :func:`tiny_entry`."""
    model = tiny_model(kind, dtype=dtype, seed=seed)
    return LanguageModel(model, tiny_tokenizer(kind), tiny_entry(kind, **entry))


@cache
def tiny_tokenizer(kind: str) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer trained on a few sentences; BERT's adds [CLS] and [SEP]."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["[PAD]", "[CLS]", "[SEP]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    corpus = ["What is the capital of France? Paris", "The capital of Peru is Lima."]
    tokenizer.train_from_iterator(corpus, trainer)
    if kind == "bert":
        tokenizer.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")


def random_example(kind: str, draw: random.Random) -> Example:
    """Return an example of 3 to 9 tokens and, where there is a decoder, 1 to 3 answers."""
    ids = tuple(draw.randrange(3, VOCABULARY) for _ in range(draw.randint(3, 9)))
    if kind == "bert":
        return Example(ids, (0,), (draw.randrange(2),))
    answers = draw.randint(1, 3)
    targets = tuple(draw.randrange(3, VOCABULARY) for _ in range(answers))
    if kind == "t5":
        return Example(ids, tuple(range(answers)), targets, (0, *targets[:-1]))
    return Example(ids, tuple(range(len(ids) - answers, len(ids))), targets)


def random_examples(kind: str, n: int, *, seed: int = 0) -> list[Example]:
    draw = random.Random(seed)
    return [random_example(kind, draw) for _ in range(n)]


def random_facts(kind: str, n: int, *, seed: int = 0) -> list[EncodedFact]:
    """Return facts of three unrelated examples each."""
    examples = random_examples(kind, 3 * n, seed=seed)
    return [EncodedFact(*examples[3 * i : 3 * i + 3]) for i in range(n)]


def examples_of(facts: Sequence[EncodedFact]) -> list[Example]:
    return [example for f in facts for example in (f.edit, f.equivalent, f.unrelated)]


def random_shifts(lm: LanguageModel, *, scale: float = 0.1, seed: int = 0) -> dict[str, Tensor]:
    """Return shifts whose norm is ``scale`` times that of the weight."""
    generator = torch.Generator().manual_seed(seed)
    shifts = {}
    for name, (d, value_size) in lm.shapes.items():
        weight = lm.layers[name].weight
        dtype = torch.promote_types(weight.dtype, torch.float32)
        shift = torch.randn(value_size, d, generator=generator, dtype=dtype)
        shifts[name] = shift * (scale * weight.to(dtype).norm() / shift.norm())
    return shifts


def bits(model: nn.Module) -> dict[str, bytes]:
    """Return every parameter's and buffer's bits, to be compared exactly."""
    return {name: _bytes(tensor) for name, tensor in model.state_dict().items()}


def _bytes(tensor: Tensor) -> bytes:
    return tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def answers_in_order(batches: Sequence[Batch], rows: Sequence[Tensor]) -> Tensor:
    """Return rows computed batch by batch in the order in which the examples were given."""
    facts = torch.cat([batch.facts for batch in batches])
    return torch.cat(list(rows))[facts.argsort(stable=True)]


# --- plain computations ---


def plain_logits(
    lm: LanguageModel, example: Example, shifts: Mapping[str, Tensor] | None = None
) -> Tensor:
    """Return the logits at an example's answers, differentiable in the shifts."""
    weights = {}
    for name, shift in (shifts or {}).items():
        layer = lm.model.get_submodule(name)
        transposed = shift.T if isinstance(layer, Conv1D) else shift
        weights[f"{name}.weight"] = layer.weight + transposed
    inputs: dict[str, Any] = {"input_ids": torch.tensor([example.ids])}
    if example.decoder_ids:
        inputs["decoder_input_ids"] = torch.tensor([example.decoder_ids])
    if lm.entry.task != "verdict":
        inputs["use_cache"] = False
    logits = functional_call(lm.model, weights, kwargs=inputs).logits[0]
    return logits[None] if lm.entry.task == "verdict" else logits[list(example.positions)]


def plain_loss(logits: Tensor, example: Example) -> Tensor:
    """Return the mean cross-entropy over the answers of one example."""
    if logits.shape[-1] == 1:
        probability = logits[0, 0].sigmoid()
        return -(probability if example.targets[0] else 1 - probability).log()
    chosen = [row.softmax(-1)[t] for row, t in zip(logits, example.targets, strict=True)]
    return -torch.stack(chosen).log().mean()


def plain_divergence(logits: Tensor, reference: Tensor) -> Tensor:
    """Return KL(reference ‖ logits), a mean over the answers of one example."""
    if logits.shape[-1] == 1:
        logits, reference = (torch.cat([x, 0 * x], dim=-1) for x in (logits, reference))
    p, q = reference.softmax(-1), logits.softmax(-1)
    return (p * (p / q).log()).sum(-1).mean()


def plain_record(
    lm: LanguageModel, examples: Sequence[Example]
) -> dict[str, list[tuple[Tensor, Tensor]]]:
    """Return keys and value gradients at every token of each example."""
    record: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in lm.entry.edited}
    for example in examples:
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        handles = [
            lm.model.get_submodule(name).register_forward_hook(_keep_in(seen, name))
            for name in record
        ]
        plain_loss(plain_logits(lm, example), example).backward()
        for handle in handles:
            handle.remove()
        for name, (keys, output) in seen.items():
            assert output.grad is not None
            tokens = (
                keys.detach().flatten(0, -2),
                output.grad.flatten(0, -2),
            )  # OPT has flattened them
            record[name].append(tokens)
    return record


def plain_cached(
    lm: LanguageModel, examples: Sequence[Example], cached: Cached
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return keys and value gradients of the cached tokens, one example after another's.

    An encoder-decoder caches every token: the encoder's predict nothing.
    """
    is_all = cached == "all" or lm.model.config.is_encoder_decoder
    record = {}
    for name, tokens in plain_record(lm, examples).items():
        chosen = [
            (u, g) if is_all else (u[list(example.positions)], g[list(example.positions)])
            for example, (u, g) in zip(examples, tokens, strict=True)
        ]
        record[name] = torch.cat([u for u, _ in chosen]), torch.cat([g for _, g in chosen])
    return record


def _keep_in(seen: dict[str, tuple[Tensor, Tensor]], name: str) -> Any:
    """Return a hook that keeps a layer's input and its output, whose gradient is retained."""

    def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        if output.requires_grad:
            output.retain_grad()
        else:  # the lowest edited layer: nothing below it requires a gradient
            output.requires_grad_()
        seen[name] = args[0], output

    return hook
