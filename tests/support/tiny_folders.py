"""Folders of tiny language models that fit the real entries of the catalogue, and rows for them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tiny_models import tiny_tokenizer
from transformers import (
    AutoConfig,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

from malmen.lm.catalogue import Entry, lookup
from malmen.lm.model_tree import auto_class

BLOCKS = {
    "smollm2": 30,
    "fact_checker": 6,
    "minilm": 6,
    "bert_base": 12,
}  # as many as the real ones have

_SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}

_DECODER = {
    "vocab_size": 300,  # many tokens for a prompt, so many positions
    "n_positions": 1024,
    "n_embd": 16,
    "n_inner": 24,
    "n_head": 2,
    "initializer_range": 0.2,
}
_BUILT = {  # instead of the sizes in the catalogue, by type of model
    "gpt2": _DECODER,
    "gptj": {**_DECODER, "rotary_dim": 4},
    "t5": {"vocab_size": 300, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_heads": 2},
    "bert": _SIZES,
}


def write_lm(folder: Path, name: str, *, seed: int = 0) -> Path:
    """Write a random language model that has the edited layers of the catalogue's ``name``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _model(name).save_pretrained(folder)
    kind = "bert" if lookup(name).task == "verdict" or not lookup(name).edited else "llama"
    tiny_tokenizer(kind).save_pretrained(folder)
    return folder


def _model(name: str) -> PreTrainedModel:
    if shape := lookup(name).built or lookup(name).published:
        return _built(lookup(name), **{**shape, **_BUILT[shape["model_type"]]})
    sizes = {**_SIZES, "num_hidden_layers": BLOCKS[name]}
    if name == "smollm2":
        return LlamaForCausalLM(LlamaConfig(num_key_value_heads=1, initializer_range=0.2, **sizes))
    if name == "fact_checker":
        return BertForSequenceClassification(BertConfig(num_labels=1, **sizes))
    return BertModel(BertConfig(**sizes))


def _built(entry: Entry, **config: Any) -> PreTrainedModel:
    tokens = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0, "decoder_start_token_id": 0}
    made = AutoConfig.for_model(**{**config, **tokens})
    model: PreTrainedModel = auto_class(entry, made).from_config(made)
    return model


def zsre_line(i: int, **changes: object) -> dict[str, object]:
    """Return the fields of a question row; ``changes`` replace them."""
    fields = {
        "subject": f"City {i}",
        "src": f"Where is City {i}?",
        "rephrase": [f"City {i} is in"],
        "ans": ["Peru", "France"][i % 2],
        "loc": f"What is the capital of Land {i}?",
        "loc_ans": "Lima",
    }
    return {**fields, **changes}


def write_lines(path: Path, lines: Sequence[dict[str, object] | str]) -> Path:
    """Write JSON lines; text stands in the file as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{line}\n" for line in text), encoding="utf-8")
    return path
