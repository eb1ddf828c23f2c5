"""Pre-training of a language model on facts: a tokenizer of its own, then its weights from random.

The catalogue says what is built (``built``, the words of a transformers configuration); everything
else is the same for every architecture: each learns to answer prompts.
"""

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import (
    AutoConfig,
    PreTrainedTokenizerFast,
    get_cosine_schedule_with_warmup,
)

from malmen.lm.batches import Batch, Example
from malmen.lm.catalogue import Entry, catalogue
from malmen.lm.kinds import EncoderDecoder, kind_of
from malmen.lm.language_model import LanguageModel
from malmen.lm.predictions import predict
from malmen.lm.weights.settings import PretrainingSettings
from malmen.support.errors import InputError
from malmen.support.files import atomic_folder, write_json
from malmen.support.progress import Progress

__all__ = ["pretrain", "train_tokenizer"]

MEASURED = 1000
"""Prompts that an accuracy is the mean of."""

POOL = 4
"""Batches whose lessons are sorted by length together."""

PAD, END = "<pad>", "<eos>"


def pretrain(
    entry: Entry,
    known: Sequence[tuple[str, str]],
    held_out: Sequence[tuple[str, str]],
    *,
    names: Iterable[str],
    out: Path,
    settings: PretrainingSettings,
    seed: int,
) -> dict[str, float]:
    """Pre-train a language model on facts and write it to ``out`` with its accuracy.

    Args:
        entry: of the catalogue, with ``built``.
        known: (prompt, answer) to learn.
        held_out: (prompt, answer) about other subjects.
        names: further words that the tokenizer has to spell well.
        out: model folder; ``accuracy.json`` stands beside the weights. It appears complete or
            not at all.
        settings: hyper-parameters.
        seed: of initialisation and order. One seed gives the same weights, bit for bit, on one
            machine with one thread.

    Returns:
        Token accuracy, teacher-forced, on (a sample of) the known and the held-out prompts.

    Raises:
        InputError: ``entry`` is not built here, or there is nothing to learn.
        ArithmeticError: the loss is no longer finite.
    """
    lm = _random_lm(entry, [*names, *(f"{p} {a}" for p, a in known)], seed=seed)
    lessons = [lm.encode(prompt, f"{answer}{END}") for prompt, answer in known]
    _teach(lm, lessons, settings=settings, seed=seed)
    accuracy = {
        name: _accuracy(lm, pairs, size=settings.batch_size, seed=seed)
        for name, pairs in (("known", known), ("held_out", held_out))
    }
    with atomic_folder(out) as made:
        lm.model.save_pretrained(made)
        lm.tokenizer.save_pretrained(made)
        write_json(made / "accuracy.json", accuracy)
    return accuracy


def train_tokenizer(
    texts: Iterable[str], *, vocabulary: int, ends_prompts: bool
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer.

    A word is spelt alike at the beginning of a text and within it.

    Args:
        texts: what it is trained on; any other text is spelt too, if need be byte by byte.
        vocabulary: number of tokens, special ones included; fewer if the texts offer no more.
        ends_prompts: whether a text is closed by the end token, as T5 wants it of its encoder.

    Returns:
        The tokenizer, padding token 0.

    Raises:
        InputError: the vocabulary is too small for bytes and special tokens.
    """
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    if vocabulary < len(alphabet) + 2:
        raise InputError(
            f"vocab_size {vocabulary} is too small for {len(alphabet)} bytes and 2 special tokens"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[PAD, END],
        initial_alphabet=sorted(alphabet),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    if ends_prompts:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {END}", special_tokens=[(END, tokenizer.token_to_id(END))]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=END)


def _random_lm(entry: Entry, texts: Iterable[str], *, seed: int) -> LanguageModel:
    """Return the language model that the catalogue describes, with random weights."""
    if entry.built is None:
        built = ", ".join(name for name, other in catalogue().items() if other.built)
        raise InputError(f"{entry.name} is not pre-trained here; choose from {built}")
    config = AutoConfig.for_model(**entry.built)
    kind = kind_of(entry.task, config)
    has_encoder = isinstance(kind, EncoderDecoder)
    tokenizer = train_tokenizer(texts, vocabulary=config.vocab_size, ends_prompts=has_encoder)
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    if has_encoder:
        config.decoder_start_token_id = tokenizer.pad_token_id
    with torch.random.fork_rng():  # transformers initialises from the global generator
        torch.manual_seed(seed)
        model = kind.auto_class.from_config(config)
    return LanguageModel(model, tokenizer, entry)


def _teach(
    lm: LanguageModel, lessons: Sequence[Example], *, settings: PretrainingSettings, seed: int
) -> None:
    """Minimise the mean cross-entropy of the lessons' tokens by AdamW, without dropout."""
    if not lessons:
        raise InputError(f"{lm.entry.name}: no facts to learn")
    lm.model.requires_grad_(True)
    optimizer = torch.optim.AdamW(lm.model.parameters(), settings.learning_rate, weight_decay=0.0)
    steps = settings.epochs * math.ceil(len(lessons) / settings.batch_size)
    schedule = get_cosine_schedule_with_warmup(optimizer, round(settings.warmup * steps), steps)
    draw = random.Random(seed)
    with Progress(f"{lm.entry.title} learns facts", total=steps, unit="steps") as bar:
        for _ in range(settings.epochs):
            for batch in _shuffled(lm, lessons, size=settings.batch_size, draw=draw):
                loss = lm.objective.loss(lm.logits(batch), batch.targets).mean()
                if not loss.isfinite():
                    raise ArithmeticError(
                        f"{lm.entry.name}: the loss is {loss.item()} (lower the learning rate, "
                        f"now {settings.learning_rate})"
                    )
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(lm.model.parameters(), settings.clip)
                optimizer.step()
                schedule.step()
                bar.update(loss=loss.item())
    lm.model.requires_grad_(False)


def _shuffled(
    lm: LanguageModel, lessons: Sequence[Example], *, size: int, draw: random.Random
) -> Iterator[Batch]:
    """Yield all lessons once, in random batches of roughly like length.

    Sorting a few batches at a time saves padding. Sorting all lessons would put one wording of one
    relation into each batch, and training on those is several times slower.
    """
    order = draw.sample(lessons, len(lessons))
    pools = [order[start : start + POOL * size] for start in range(0, len(order), POOL * size)]
    batches = [batch for pool in pools for batch in lm.batches(pool, size=size)]
    yield from draw.sample(batches, len(batches))


def _accuracy(
    lm: LanguageModel, pairs: Sequence[tuple[str, str]], *, size: int, seed: int
) -> float:
    sample = random.Random(seed).sample(pairs, min(MEASURED, len(pairs)))
    examples = [lm.encode(*pair) for pair in sample]
    return predict(lm, examples, size=size).accuracy().mean().item()
