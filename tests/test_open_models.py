"""The whole workflow, by the real snakemake and commands, on language models of a user's file."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml
from checkouts import Checkout
from tiny_folders import write_lines, zsre_line
from tiny_models import tiny_tokenizer
from transformers import (
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

pytestmark = pytest.mark.slow

FILE = """\
tiny_qwen:
  folder: models/tiny_qwen
tiny_pythia:
  title: Tiny Pythia
  folder: models/tiny_pythia
"""

SIZES = {
    "vocab_size": 300,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "initializer_range": 0.2,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 1,
    "pad_token_id": 0,
}

ROWS = {"train": 24, "validation": 8, "evaluation": 16}

SECTION = {  # of random weights GeoNames would keep no row: they know none of the unrelated facts
    "sources": {split: {"files": [f"{split}.jsonl"]} for split in ROWS},
    "rows": ROWS,
    "edits": [4, 8],
    "sets": 2,
    "training": [{"edits": 4, "steps": 3}, {"edits": 8, "steps": 1}],
    "editors": {},
}

CONFIGURATION = {
    "models": ["my_models.yaml"],
    "run": {"language_models": ["tiny_qwen", "tiny_pythia"]},
    "language_models": {"tiny_qwen": SECTION, "tiny_pythia": SECTION},
    "ablations": {"language_model": "tiny_qwen"},
    "memory": {"language_model": "tiny_pythia"},
    "answers": {"language_model": "tiny_qwen"},
}


def write(folder: Path, model: PreTrainedModel) -> None:
    model.save_pretrained(folder)
    tiny_tokenizer("gpt2").save_pretrained(folder)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A copy of the repository with the real `malmen`, two models and the file that adds them."""
    checkout = Checkout.create(tmp_path)
    command = f'#!/bin/sh\nexec {sys.executable} -m malmen "$@"\n'
    (tmp_path / "bin" / "malmen").write_text(command, encoding="utf-8")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        qwen = Qwen2ForCausalLM(Qwen2Config(num_key_value_heads=1, **SIZES))
        write(tmp_path / "models" / "tiny_qwen", qwen)
        write(tmp_path / "models" / "tiny_pythia", GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES)))
    (tmp_path / "my_models.yaml").write_text(FILE, encoding="utf-8")
    first = 0
    for split, count in ROWS.items():
        lines = [zsre_line(i) for i in range(first, first + count)]
        write_lines(tmp_path / f"{split}.jsonl", lines)
        first += count
    return checkout


def test_five_lines_take_two_models_from_their_folders_to_the_report(checkout: Checkout) -> None:
    assert len(FILE.splitlines()) == 5
    (checkout.folder / "mine.yaml").write_text(yaml.safe_dump(CONFIGURATION), encoding="utf-8")
    files = ("--configfile", "config/smoke.yaml", "mine.yaml")
    run = checkout.snakemake(*files, PYTHONPATH=str(checkout.folder), OMP_NUM_THREADS="1")
    assert run.returncode == 0, run.stderr[-4000:]
    results = checkout.folder / "results" / "smoke"
    assert "Tiny Pythia" in (results / "summary.md").read_text(encoding="utf-8")
    assert (results / "report.html").is_file()
    for lm in ("tiny_qwen", "tiny_pythia"):
        assert (results / "figures" / f"figure_{lm}.pdf").is_file()
        for editor in ("malmen", "mend", "ft", "ultraedit", "memit"):
            scores = pd.read_parquet(results / "evaluations" / lm / f"{editor}.parquet")
            assert sorted(scores["edits"].unique()) == [4, 8]
            assert set(scores["lm"]) == {lm}
