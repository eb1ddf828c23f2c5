"""Folders of tiny language models that fit the real entries of the catalogue, and rows for them."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_models import tiny_tokenizer
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
)

BLOCKS = {"smollm2": 30, "fact_checker": 6, "minilm": 6}  # as many as the real ones have

_SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "pad_token_id": 0,
}


def write_lm(folder: Path, name: str, *, seed: int = 0) -> Path:
    """Write a random language model that has the edited layers of the catalogue's ``name``."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        _model(name).save_pretrained(folder)
    tiny_tokenizer("llama" if name == "smollm2" else "bert").save_pretrained(folder)
    return folder


def _model(name: str) -> PreTrainedModel:
    sizes = {**_SIZES, "num_hidden_layers": BLOCKS[name]}
    if name == "smollm2":
        return LlamaForCausalLM(LlamaConfig(num_key_value_heads=1, initializer_range=0.2, **sizes))
    if name == "fact_checker":
        return BertForSequenceClassification(BertConfig(num_labels=1, **sizes))
    return BertModel(BertConfig(**sizes))


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
