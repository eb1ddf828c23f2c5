from typing import Any

import torch
from tiny_models import tiny_lm

from malmen.lm.sampling import sample_texts

STARTS = ["The", "What is", "A", "Where", "The"]


def sample(**options: Any) -> list[str]:
    given = {"length": 5, "seed": 0, "progress": False, **options}
    return sample_texts(tiny_lm("gpt2"), STARTS, **given)


def test_every_text_goes_on_from_its_start() -> None:
    lm = tiny_lm("gpt2")
    for start, text in zip(STARTS, sample(), strict=True):
        assert text.startswith(start)
        assert len(text) > len(start)
        [ids] = lm.tokenizer([start])["input_ids"]
        assert len(text.encode()) > len(ids)


def test_texts_are_of_the_seed() -> None:
    assert sample() == sample()
    assert sample() != sample(seed=1)
    first, *_, last = sample()
    assert first != last  # the same start twice


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    sample()
    assert torch.equal(torch.get_rng_state(), before)


def test_texts_have_the_distribution_of_the_language_model() -> None:
    lm = tiny_lm("llama")
    n = 2000
    texts = sample_texts(lm, ["A"] * n, length=1, seed=0, text_batch=n, progress=False)
    [batch] = lm.batches([lm.encode("A", "B")], size=1)
    probabilities = lm.logits(batch)[0].softmax(dim=-1)
    tokens = probabilities.argsort(descending=True).tolist()
    token = next(t for t in tokens if lm.tokenizer.decode([t]).isalnum())  # not half a letter
    expected, word = probabilities[token].item(), lm.tokenizer.decode([token])
    share = sum(text == f"A{word}" for text in texts) / n
    assert abs(share - expected) < 5 * (expected * (1 - expected) / n) ** 0.5
