"""Language models of a given shape with random weights, and random facts for them.

Time depends on shapes alone, so nothing has to be downloaded to measure it.
"""

import random
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTJConfig,
    GPTJForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from baselines.memit_values import Question
from malmen.lm.batches import Example
from malmen.lm.catalogue import Entry
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel

__all__ = [
    "GPT2",
    "GPTJ",
    "SMALL",
    "TINY",
    "VALUES",
    "Shape",
    "examples_of",
    "language_model",
    "random_contexts",
    "random_facts",
    "random_model",
    "random_questions",
]

PROMPT_TOKENS = range(8, 28)
ANSWER_TOKENS = (1, 2, 2, 3, 3, 4, 4, 6)
"""Drawn with equal chances. Sequences of zsRE with those of Natural Questions have 19.6 tokens in
the mean, their answers 3.2; these have 19.6 and 3.1."""

_FEED_FORWARD = {"gpt2": "mlp.c_proj", "gptj": "mlp.fc_out"}


@dataclass(frozen=True)
class Shape:
    """The shape of a language model and of its hyper-network; the last blocks are edited.

    Attributes:
        family: architecture.
        title: what it is called in results.
        width: h; keys are 4 h wide, as everywhere in both families.
        blocks: number of blocks.
        edited: how many of them are edited.
        heads: attention heads of a block.
        vocabulary: tokens.
        rank: of the hyper-network's blocks.
    """

    family: Literal["gpt2", "gptj"]
    title: str
    width: int
    blocks: int
    edited: int
    heads: int
    vocabulary: int
    rank: int

    @property
    def entry(self) -> Entry:
        """What the catalogue would say of it."""
        frozen = self.blocks - self.edited
        layer = _FEED_FORWARD[self.family]
        return Entry(
            name=f"{self.family}-{self.width}",
            title=self.title,
            blocks="transformer.h",
            frozen=frozen,
            edited=tuple(f"transformer.h.{i}.{layer}" for i in range(frozen, self.blocks)),
        )


GPT2 = Shape("gpt2", "GPT-2-124M shape", 768, 12, 6, 12, 50257, 1920)
GPTJ = Shape("gptj", "GPT-J proportions, 1/8 wide", 512, 28, 6, 16, 6300, 240)
VALUES = Shape("gpt2", "GPT-2 proportions, 1/4 wide", 192, 12, 6, 3, 12564, 480)
SMALL = Shape("gpt2", "GPT-2, 4 blocks of width 96", 96, 4, 2, 4, 1024, 96)
TINY = Shape("gpt2", "tiny GPT-2", 16, 3, 2, 2, 300, 8)
"""For tests of the benchmark itself: its times mean nothing."""


def random_model(shape: Shape, *, device: torch.device | str = "cpu") -> PreTrainedModel:
    """Return the bare model; equal shapes have equal weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: PreTrainedModel
        if shape.family == "gpt2":
            model = GPT2LMHeadModel(
                GPT2Config(
                    vocab_size=shape.vocabulary,
                    n_embd=shape.width,
                    n_layer=shape.blocks,
                    n_head=shape.heads,
                    n_positions=256,
                    bos_token_id=0,
                    eos_token_id=0,
                )
            )
        else:
            model = GPTJForCausalLM(
                GPTJConfig(
                    vocab_size=shape.vocabulary,
                    n_embd=shape.width,
                    n_layer=shape.blocks,
                    n_head=shape.heads,
                    rotary_dim=shape.width // shape.heads // 4,  # as in GPT-J
                    n_positions=256,
                    bos_token_id=0,
                    eos_token_id=0,
                )
            )
    return model.eval().to(device)


def language_model(model: PreTrainedModel, shape: Shape) -> LanguageModel:
    """Wrap a model without changing it: the modules are copies, the weights are shared."""
    shared = chain(model.parameters(), model.buffers())
    copy = deepcopy(model, {id(tensor): tensor for tensor in shared})
    return LanguageModel(copy, _tokenizer(shape), shape.entry)


def random_facts(shape: Shape, n: int, *, seed: int = 0) -> list[EncodedFact]:
    """Return facts whose tuples are as long as those of zsRE and Natural Questions."""
    draw = random.Random(seed)

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(draw.randrange(1, shape.vocabulary) for _ in range(count))

    def example(targets: tuple[int, ...]) -> Example:
        prompt = tokens(draw.choice(PROMPT_TOKENS))
        first = len(prompt) - 1
        positions = tuple(range(first, first + len(targets)))
        return Example(prompt + targets[:-1], positions, targets)

    facts = []
    for _ in range(n):
        answer, other = (tokens(draw.choice(ANSWER_TOKENS)) for _ in range(2))
        facts.append(EncodedFact(example(answer), example(answer), example(other)))
    return facts


def examples_of(facts: Sequence[EncodedFact]) -> list[Example]:
    """Return the three tuples of every fact."""
    return [example for f in facts for example in (f.edit, f.equivalent, f.unrelated)]


def random_questions(shape: Shape, n: int, *, seed: int = 0) -> list[Question]:
    """Return questions about subjects of two words, for MEMIT."""
    draw = random.Random(seed)
    words = partial(_words, shape, draw)
    questions = []
    for _ in range(n):
        start, subject = words(draw.randint(2, 5)), words(2)
        prompt = f"{start} {subject} {words(draw.randint(4, 8))}"
        end = len(start) + 1 + len(subject)
        questions.append(Question(prompt, words(draw.choice(ANSWER_TOKENS)), subject, end))
    return questions


def random_contexts(shape: Shape, n: int, *, length: int, seed: int = 0) -> list[str]:
    """Return contexts that MEMIT writes facts behind, of ``length`` tokens, the empty one first."""
    draw = random.Random(seed)
    return ["", *(f"{_words(shape, draw, length)} " for _ in range(n - 1))]


def _words(shape: Shape, draw: random.Random, count: int) -> str:
    return " ".join(f"w{draw.randrange(1, shape.vocabulary)}" for _ in range(count))


def _tokenizer(shape: Shape) -> PreTrainedTokenizerFast:
    """Return a tokenizer to which every word w1, w2, ... is a token, and any other word w0."""
    vocabulary = {f"w{i}": i for i in range(shape.vocabulary)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="w0")
