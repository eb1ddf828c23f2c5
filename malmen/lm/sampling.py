"""Texts that a language model goes on with, sampled from its distribution."""

from collections.abc import Sequence
from itertools import groupby, islice

import torch

from malmen.lm.language_model import LanguageModel
from malmen.support.progress import Progress

__all__ = ["sample_texts"]


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
