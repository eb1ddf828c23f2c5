from collections.abc import Mapping
from typing import Any

import pytest
import torch
from tiny_models import ARCHITECTURES, bits, random_shifts, tiny_lm, tiny_tokenizer
from torch import nn

from malmen.lm.generation import LONGEST, STOPS, Answer, Writer, prompt_of
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError

writing = pytest.mark.parametrize("kind", [kind for kind in ARCHITECTURES if kind != "bert"])

PROMPTS = [
    "What is the capital of France?",
    "Lima",
    "The capital of Peru is",
    "Who",
    "What is the capital of Peru?",
    "The capital",
]

ENDS = list(range(0, 300, 11))


def ending_lm(kind: str, **options: Any) -> LanguageModel:
    """A tiny language model many of whose tokens end an answer, so that some end early."""
    lm = tiny_lm(kind, **options)
    lm.model.generation_config.eos_token_id = ENDS
    return lm


def prompts_of(lm: LanguageModel) -> list[tuple[int, ...]]:
    return [tuple(lm.tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]


def weights_of(lm: LanguageModel, seed: int) -> Mapping[str, nn.Parameter]:
    return lm.edited_weights(random_shifts(lm, scale=30.0, seed=seed))


def generated(lm: LanguageModel, ids: tuple[int, ...], **options: Any) -> list[int]:
    """What `generate` of transformers writes, up to and with the first token that ends it."""
    inputs = torch.tensor([ids])
    tokens = lm.model.generate(
        inputs,
        attention_mask=torch.ones_like(inputs),
        max_new_tokens=LONGEST,
        do_sample=False,
        pad_token_id=0,
        **options,
    )[0]
    written = tokens[1 if lm.model.config.is_encoder_decoder else len(ids) :].tolist()
    for number, token in enumerate(written, 1):
        text = lm.tokenizer.decode(written[:number]).lstrip()
        if token in ENDS or any(stop in text for stop in STOPS):
            return written[:number]
    return written


@writing
@pytest.mark.parametrize("size", [1, 100])
def test_answers_are_those_of_transformers_however_they_are_batched(kind: str, size: int) -> None:
    lm = ending_lm(kind)
    writer = Writer(lm, prompts_of(lm), size=size)
    lengths = set()
    for seed in range(3):  # the first is before any edit
        weights = weights_of(lm, seed) if seed else {}
        answers = writer.answers(weights)
        with lm.swapped(weights):
            wanted = [generated(lm, ids) for ids in prompts_of(lm)]
        assert [list(answer.tokens) for answer in answers] == wanted
        lengths |= {len(tokens) for tokens in wanted}
    assert len(lengths) > 1  # answers end at different tokens


@writing
def test_edits_below_and_above_are_seen(kind: str) -> None:
    """Wherever the lowest edited block lies: nothing of what is kept depends on the edit."""
    for blocks in ([0], [1], [2], [0, 2]):
        lm = ending_lm(kind, edited_blocks=blocks)
        writer = Writer(lm, prompts_of(lm))
        weights = weights_of(lm, 1)
        with lm.swapped(weights):
            wanted = [generated(lm, ids) for ids in prompts_of(lm)]
        assert [list(answer.tokens) for answer in writer.answers(weights)] == wanted


@writing
def test_frozen_blocks_run_once_over_a_prompt(kind: str) -> None:
    lm = tiny_lm(kind, edited_blocks=(2,))
    lowest = lm.model.get_submodule(lm.entry.blocks)[0]
    seen: list[int] = []
    lowest.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[1]))
    prompts = [ids for ids in prompts_of(lm) if len(ids) > 1]
    writer = Writer(lm, prompts)
    for _ in range(3):
        writer.answers()
    assert [length for length in seen if length > 1] == [max(map(len, prompts))]
    assert lm.model.get_submodule(lm.entry.blocks)[0] is lowest


@writing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_model_is_whole_afterwards(kind: str, dtype: torch.dtype) -> None:
    lm = tiny_lm(kind, dtype=dtype)
    before = bits(lm.model)
    writer = Writer(lm, prompts_of(lm))
    unedited = writer.answers()
    assert writer.answers(weights_of(lm, 1)) != unedited
    assert writer.answers() == unedited
    assert bits(lm.model) == before


def test_an_answer_ends_before_a_newline_or_a_full_stop() -> None:
    lm = tiny_lm("gpt2")
    writer = Writer(lm, prompts_of(lm)[:1])
    ends = {
        "Lima. Peru": "Lima",
        "Lima\nPeru": "Lima",
        " Lima ": "Lima",
        "\n\nLima\n": "Lima",
        "": "",
        ".5": "",
    }
    for text, wanted in ends.items():
        assert writer.read(lm.tokenizer(text)["input_ids"]).text == wanted


def test_an_answer_has_at_most_so_many_tokens() -> None:
    lm = tiny_lm("llama")
    for answer in Writer(lm, prompts_of(lm)).answers():
        assert isinstance(answer, Answer)
        assert len(answer.tokens) <= LONGEST


@writing
def test_the_prompt_of_an_example_is_what_stands_before_its_answer(kind: str) -> None:
    lm = tiny_lm(kind)
    for prompt in PROMPTS:
        asked = prompt_of(lm, lm.encode(prompt, "Lima Peru"))
        assert asked == tuple(lm.tokenizer(prompt)["input_ids"])


def test_a_chat_template_is_filled_in() -> None:
    lm = tiny_lm("llama")
    example = lm.encode("The capital of Peru is", "Lima")
    with pytest.raises(InputError, match="tiny llama has no chat template"):
        prompt_of(lm, example, chat=True)
    tokenizer = tiny_tokenizer.__wrapped__("llama")
    tokenizer.chat_template = "{% for m in messages %}A {{ m['content'] }} B{% endfor %}"
    lm.tokenizer = tokenizer
    ids = prompt_of(lm, example, chat=True)
    assert lm.tokenizer.decode(ids) == "A The capital of Peru is B"
