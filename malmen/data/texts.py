"""Texts that statistics of a language model are computed over."""

import gzip
import random
from collections.abc import Iterator, Sequence
from itertools import groupby, islice
from pathlib import Path

import torch

from malmen.data import geonames
from malmen.data.geonames import Fact
from malmen.data.records import read_records
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError
from malmen.support.progress import Progress

__all__ = ["desk_texts", "read_texts", "sample_texts", "stream_dataset"]


def desk_texts(
    lm: LanguageModel, facts: Sequence[Fact], *, n: int, length: int, seed: int
) -> list[str]:
    """Make a small corpus without any download: half of it facts, half sampled from ``lm``.

    Only subjects that are never edited occur, and none that locality is evaluated on. A sampled
    text begins with the first word of a fact's.

    Args:
        lm: the language model, unedited.
        facts: all facts.
        n: number of texts.
        length: tokens sampled a text, at most.
        seed: of all draws.

    Returns:
        The texts, facts first.

    Raises:
        InputError: there are fewer facts than asked for.
    """
    prompts = geonames.all_prompts(geonames.split_subjects(facts, seed=seed)["unrelated_train"])
    half = (n + 1) // 2
    if not 0 < half <= len(prompts):
        raise InputError(f"{n} texts asked for; the facts give 1 to {2 * len(prompts)}")
    drawn = random.Random(seed).sample(prompts, half)
    stated = [f"{prompt} {answer}" for prompt, answer in drawn]
    starts = [text.split()[0] for text in stated[: n - half]]
    return stated + sample_texts(lm, starts, length=length, seed=seed)


@torch.no_grad()
def sample_texts(
    lm: LanguageModel,
    starts: Sequence[str],
    *,
    length: int,
    seed: int,
    top_k: int = 0,
    counts_start: bool = False,
    text_batch: int = 128,
    progress: bool = True,
) -> list[str]:
    """Let a language model go on from each start, every token drawn from its distribution.

    Args:
        lm: the language model.
        starts: beginnings of texts.
        length: tokens to add, fewer where the text ends.
        seed: of the draws.
        top_k: draw among so many most likely tokens; 0 draws from all.
        counts_start: whether the tokens of the start count towards ``length``.
        text_batch: texts at a time.
        progress: show progress.

    Returns:
        One text a start, in the same order.
    """
    ids = [lm.tokenizer(start)["input_ids"] for start in starts]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    texts = [""] * len(ids)
    devices = [lm.device] if lm.device.type == "cuda" else []
    stage = f"texts sampled from {lm.entry.title}"
    with (
        Progress(stage, total=len(ids), unit="texts", show=progress) as bar,
        torch.random.fork_rng(devices=devices),  # transformers draws from the global generator
    ):
        torch.manual_seed(seed)
        for _, members in groupby(order, key=lambda i: len(ids[i])):  # nothing is padded
            while chosen := list(islice(members, text_batch)):
                inputs = torch.tensor([ids[i] for i in chosen], device=lm.device)
                tokens = lm.model.generate(
                    input_ids=inputs,
                    attention_mask=torch.ones_like(inputs),
                    max_new_tokens=max(1, length - counts_start * inputs.shape[1]),
                    do_sample=True,
                    temperature=1.0,
                    top_k=top_k,
                    top_p=1.0,
                    pad_token_id=lm.tokenizer.pad_token_id,
                )
                decoded = lm.tokenizer.batch_decode(tokens, skip_special_tokens=True)
                for i, text in zip(chosen, decoded, strict=True):
                    texts[i] = text
                bar.update(len(chosen))
    return texts


def read_texts(path: Path) -> Iterator[str]:
    """Yield the texts of a file: the lines of a ``.txt``, the field ``text`` of a ``.jsonl``.

    Either may be gzipped.

    Raises:
        InputError: the file is missing, or is neither.
    """
    if path.name.removesuffix(".gz").endswith(".txt"):
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8") as file:
            yield from (line.strip() for line in file if line.strip())
    else:
        yield from (record.text("text") for record in read_records(path))


def stream_dataset(name: str, *, seed: int) -> Iterator[str]:
    """Yield the texts of a data set of the Hugging Face hub in a random order.

    Files are read piece by piece, in the pieces that they are stored in (row groups), and what is
    not read is not downloaded; nor is anything kept on disk. The pieces are drawn from all files;
    texts are mixed among ten pieces at a time, so that those of a piece are spread, not scattered.
    The hub's client asks again where a connection breaks or a server is busy. For the paper's
    statistics, 100,000 samples of Wikipedia, give ``wikimedia/wikipedia:20231101.en``.

    Args:
        name: NAME or NAME:CONFIGURATION; its training split has to have a field ``text``.
        seed: of the order.

    Raises:
        InputError: there is no such configuration, no training split, or no field ``text`` in it.
        OSError: there is no such data set, or the hub cannot be reached.
    """
    from datasets import load_dataset

    path, _, configuration = name.partition(":")
    try:
        rows = load_dataset(path, configuration or None, split="train", streaming=True)
    except ValueError as error:
        raise InputError(f"data set {name}: {error}") from error
    for row in rows.reshard().shuffle(seed=seed):
        if "text" not in row:
            raise InputError(f"data set {name}: no field 'text', but {', '.join(map(repr, row))}")
        yield row["text"]
