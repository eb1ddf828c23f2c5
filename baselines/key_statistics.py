"""Statistics of the keys of a language model: what MEMIT weighs every change of a layer with."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from malmen.lm.batches import Example
from malmen.lm.blocks import block_of, inputs_of, on_the_host, run_through
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError
from malmen.support.files import read_safetensors, write_safetensors
from malmen.support.progress import Progress

__all__ = ["KeyStatistics", "key_statistics"]

FORMAT = "malmen-key-statistics-1"

REMEDY = "make them with `malmen key-statistics`"

SORTED = 16
"""Batches' worth of texts that are sorted by length together, which spares padding."""


@dataclass(frozen=True)
class KeyStatistics:
    """The uncentred covariance C of the keys of every edited layer.

    Attributes:
        covariances: by layer, (d, d) in double precision: the mean of k kᵀ over tokens. They rest
            in the host's memory.
        source: what it was computed from: language model, digests of its weights and of the
            texts, numbers of texts and tokens.
    """

    covariances: Mapping[str, Tensor]
    source: Mapping[str, Any]

    def factor(self, layer: str) -> Tensor:
        """Return L of C = LLᵀ, lower triangular, (d, d).

        Raises:
            InputError: C is singular: there were too few texts.
        """
        covariance = self.covariances[layer]
        factor, info = torch.linalg.cholesky_ex(covariance)
        if info.item() != 0:
            raise InputError(
                f"the covariance of {len(covariance)} key features of {layer} is singular: "
                f"{self.source['tokens']} tokens are too few; {REMEDY} from more texts"
            )
        return factor

    def save(self, path: Path) -> None:
        """Write the statistics with a checksum."""
        content = {"format": FORMAT, "checksum": _digest(self.covariances), **self.source}
        write_safetensors(path, self.covariances, content)

    @classmethod
    def load(cls, path: Path, lm: LanguageModel) -> "KeyStatistics":
        """Read the statistics of a language model.

        Raises:
            InputError: the file is missing, damaged or no file of statistics, or the statistics
                are of other weights or other layers.
        """
        covariances, source = read_safetensors(path)
        if source.pop("format", None) != FORMAT:
            raise InputError(f"{path}: no key statistics; {REMEDY}")
        if source.pop("checksum") != _digest(covariances):
            raise InputError(f"{path}: damaged (its checksum differs); {REMEDY} again")
        if source["model"] != lm.entry.name or source["weights"] != _weights(lm):
            raise InputError(
                f"{path}: statistics of {source['model']}, weights {source['weights']}; asked for "
                f"{lm.entry.name}, weights {_weights(lm)}; {REMEDY} again"
            )
        missing = [layer for layer in lm.layers if layer not in covariances]
        if missing:
            raise InputError(f"{path}: no statistics of {', '.join(missing)}; {REMEDY} again")
        return cls({layer: covariances[layer] for layer in lm.layers}, source)


@torch.no_grad()
def key_statistics(
    lm: LanguageModel,
    texts: Iterable[str],
    *,
    total: int,
    length: int,
    text_batch: int = 8,
    progress: bool = True,
) -> KeyStatistics:
    """Stream texts through a language model and average k kᵀ over all their tokens.

    Memory depends on the batch, not on the number of texts. Sums are in double precision: a
    covariance is ill-conditioned, and single precision would leave it indefinite. They take as
    much room as several blocks, so the blocks above the layers leave the device meanwhile.

    Args:
        lm: the language model, unedited, all blocks present.
        texts: any number of them.
        total: texts to take; fewer if there are no more.
        length: tokens taken of a text, at most.
        text_batch: texts at a time.
        progress: show progress.

    Returns:
        The statistics of every layer that ``lm`` edits.

    Raises:
        InputError: no text holds a token.
    """
    layers = list(lm.layers)
    top = max(block_of(lm, layer) for layer in layers)
    taken, tokens, corpus = 0, 0, hashlib.sha256()
    remaining = islice(texts, total)
    stage = f"key statistics of {lm.entry.title}"
    with (
        Progress(stage, total=total, unit="texts", show=progress) as bar,
        inputs_of(lm, layers) as inputs,
        on_the_host(lm, above=top),
    ):
        sums = {
            layer: torch.zeros(d, d, dtype=torch.float64, device=lm.device)
            for layer, (d, _) in lm.shapes.items()
        }
        while chunk := list(islice(remaining, SORTED * text_batch)):
            for text in chunk:
                corpus.update(text.encode() + b"\0")
            for batch in lm.batches(_examples(lm, chunk, length=length), size=text_batch):
                run_through(lm, batch, top)
                for layer in layers:
                    keys = inputs[layer][batch.tokens].double()
                    sums[layer].addmm_(keys.T, keys)
                tokens += len(batch.tokens)
            taken += len(chunk)
            bar.update(len(chunk), tokens=tokens)
    if not tokens:
        raise InputError("no texts to compute key statistics from")
    source = {
        "model": lm.entry.name,
        "weights": _weights(lm),
        "corpus": corpus.hexdigest()[:16],
        "texts": taken,
        "tokens": tokens,
    }
    return KeyStatistics({layer: s / tokens for layer, s in sums.items()}, source)


def _examples(lm: LanguageModel, texts: list[str], *, length: int) -> list[Example]:
    ids = lm.tokenizer(texts, truncation=True, max_length=length)["input_ids"]
    return [Example(tuple(i), (0,), (0,)) for i in ids if i]  # nothing is predicted


def _weights(lm: LanguageModel) -> str:
    return _digest(dict(lm.model.named_parameters()))


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """Return a digest of names, dtypes and bits."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        flat = tensor.detach().cpu().contiguous().flatten()
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(flat.view(torch.uint8).numpy().data)
    return state.hexdigest()[:16]
