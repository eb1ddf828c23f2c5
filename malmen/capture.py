"""Recording keys and value gradients at the edited layers."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from malmen.batches import Batch
from malmen.models.language_model import LanguageModel

__all__ = ["Cached", "Record", "capture"]

Cached = Literal["ans", "all"]
"""Cached tokens: where an answer token is predicted, or every token."""

Record = dict[str, tuple[Tensor, Tensor]]
"""Keys (n, d) and value gradients (n, d') of every edited layer, one row a cached token."""


def capture(lm: LanguageModel, batches: Iterable[Batch], *, cached: Cached = "ans") -> Record:
    """Run edit tuples forward and backward; keep keys and value gradients of cached tokens.

    The fine-tuning loss is a sum over facts of the mean over a fact's answers, so a value
    gradient depends neither on the fact's batch nor on the number of facts.

    Args:
        lm: the language model, unedited.
        batches: the edit tuples.
        cached: which tokens. An encoder-decoder's are always all, on both sides: no position of
            its encoder predicts an answer.

    Returns:
        Keys and value gradients, in at least single precision and in the host's memory: with many
        facts they are the largest thing that there is, and no GPU would hold them.
    """
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in lm.layers}
    for batch in batches:
        with _perturbed(lm) as (keys, deltas), torch.enable_grad():
            losses = lm.objective.loss(lm.logits(batch), batch.targets)
            loss = (losses * batch.weights.to(losses.dtype)).sum()
            gradients = torch.autograd.grad(loss, [deltas[name] for name in lm.layers])
        for name, gradient in zip(lm.layers, gradients, strict=True):
            at = _cached_tokens(lm, batch, name, cached)
            dtype = torch.promote_types(gradient.dtype, torch.float32)
            parts[name].append((keys[name][at].to("cpu", dtype), gradient[at].to("cpu", dtype)))
    return {name: _joined(parts.pop(name)) for name in lm.layers}  # one layer is held twice at most


def _joined(rows: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    return torch.cat([u for u, _ in rows]), torch.cat([g for _, g in rows])


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
