"""Recording keys and value gradients at the edited layers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from malmen.batches import Batch
from malmen.models.language_model import LanguageModel
from malmen.spill import Rows, SpilledRows

__all__ = ["Cached", "Record", "capture"]

Cached = Literal["ans", "all"]
"""Cached tokens: where an answer token is predicted, or every token."""

Record = Mapping[str, tuple[Rows, Rows]]
"""Keys (n, d) and value gradients (n, d') of every edited layer, one row a cached token."""

_Place = list[Tensor] | SpilledRows


def capture(
    lm: LanguageModel,
    batches: Sequence[Batch],
    *,
    cached: Cached = "ans",
    memory_mb: float = math.inf,
) -> Record:
    """Run edit tuples forward and backward; keep keys and value gradients of cached tokens.

    The fine-tuning loss is a sum over facts of the mean over a fact's answers, so a value
    gradient depends neither on the fact's batch nor on the number of facts.

    Args:
        lm: the language model, unedited.
        batches: the edit tuples.
        cached: which tokens. An encoder-decoder's are always all, on both sides: no position of
            its encoder predicts an answer.
        memory_mb: what takes more memory than this is kept in temporary files.

    Returns:
        Keys and value gradients, in at least single precision.
    """
    dtype = torch.promote_types(lm.model.dtype, torch.float32)
    kept = _places(lm, batches, cached=cached, memory_mb=memory_mb, dtype=dtype)
    for batch in batches:
        with _perturbed(lm) as (keys, deltas), torch.enable_grad():
            losses = lm.objective.loss(lm.logits(batch), batch.targets)
            loss = (losses * batch.weights.to(losses.dtype)).sum()
            gradients = torch.autograd.grad(loss, [deltas[name] for name in lm.layers])
        for name, gradient in zip(lm.layers, gradients, strict=True):
            at = _cached_tokens(lm, batch, name, cached)
            for place, rows in zip(kept[name], (keys[name], gradient), strict=True):
                place.append(rows[at].to(dtype))
    # Joined layer by layer, so that no more than one layer's rows are there twice.
    return {name: (_joined(u), _joined(g)) for name in lm.layers for u, g in [kept.pop(name)]}


def _places(
    lm: LanguageModel,
    batches: Sequence[Batch],
    *,
    cached: Cached,
    memory_mb: float,
    dtype: torch.dtype,
) -> dict[str, tuple[_Place, _Place]]:
    """Return where the keys and value gradients of every layer are collected."""
    tokens = {
        name: sum(len(_cached_tokens(lm, batch, name, cached)[0]) for batch in batches)
        for name in lm.layers
    }
    size = sum(tokens[name] * sum(shape) * dtype.itemsize for name, shape in lm.shapes.items())
    if size <= memory_mb * 2**20:
        return {name: ([], []) for name in lm.layers}

    def spilled(size: int) -> SpilledRows:
        return SpilledRows(size, dtype=dtype, device=lm.device)

    return {name: (spilled(d), spilled(value)) for name, (d, value) in lm.shapes.items()}


def _joined(place: _Place) -> Rows:
    return place if isinstance(place, SpilledRows) else torch.cat(place)


@contextmanager
def _perturbed(lm: LanguageModel) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Add δ = 0 to every edited layer's output: ∇v is the gradient with respect to δ.

    The lowest δ is the graph's only root, so nothing is differentiated below it, and no weight
    collects a gradient.
    """
    keys: dict[str, Tensor] = {}
    deltas: dict[str, Tensor] = {}

    def watch(name: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
            keys[name] = args[0].detach()
            deltas[name] = torch.zeros_like(output, requires_grad=True)
            return output + deltas[name]

        return layer.register_forward_hook(hook)

    handles = [watch(name, layer) for name, layer in lm.layers.items()]
    try:
        yield keys, deltas
    finally:
        for handle in handles:
            handle.remove()


def _cached_tokens(
    lm: LanguageModel, batch: Batch, layer: str, cached: Cached
) -> tuple[Tensor, ...]:
    if batch.decoder_attention_mask is not None:
        of_decoder = lm.is_in_decoder(layer)
        mask = batch.decoder_attention_mask if of_decoder else batch.attention_mask
        return mask.nonzero(as_tuple=True)
    if cached == "ans":
        return batch.rows, batch.columns
    return batch.attention_mask.nonzero(as_tuple=True)
