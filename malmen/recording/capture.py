"""Recording keys and value gradients at the edited layers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from malmen.lm.batches import Batch, Example
from malmen.lm.kinds import Cached
from malmen.lm.language_model import LanguageModel
from malmen.recording.spill import SpilledVectors, Vectors

__all__ = ["Record", "Recorded", "cached_count", "capture", "run_edit_tuples"]

Recorded = Mapping[str, tuple[Tensor, Tensor]]
"""Keys (n, d) and value gradients (n, d') of every edited layer, one of each a cached token."""

Record = Mapping[str, tuple[Vectors, Vectors]]
"""The same of any number of edit tuples, in memory or in files."""


def capture(
    lm: LanguageModel,
    batches: Sequence[Batch],
    *,
    cached: Cached = "ans",
    memory_mb: float = math.inf,
) -> Record:
    """Return keys and value gradients of edit tuples: stored ones, or by running them.

    Args:
        lm: the language model, unedited.
        batches: the edit tuples.
        cached: which tokens. An encoder-decoder's are always all, on both sides.
        memory_mb: what takes more memory than this is kept in temporary files.

    Returns:
        Keys and value gradients, in at least single precision.
    """
    record = _blank(lm, batches, cached=cached, memory_mb=memory_mb)
    done = dict.fromkeys(record, 0)
    for batch in batches:
        recorded = _stored(lm, batch, cached) if batch.loss_weights == "facts" else None
        if recorded is None:
            _, recorded = run_edit_tuples(lm, batch, cached=cached)
        for name, pair in recorded.items():
            for whole, part in zip(record[name], pair, strict=True):
                if isinstance(whole, SpilledVectors):
                    whole.append(part)
                else:
                    whole[done[name] : done[name] + len(part)] = part
            done[name] += len(pair[0])
    return record


def run_edit_tuples(
    lm: LanguageModel, batch: Batch, *, cached: Cached = "ans"
) -> tuple[Tensor, Recorded]:
    """Run edit tuples forward and back.

    The fine-tuning loss is the sum over answers that the batch's weights say: by default one over
    facts of the mean over a fact's answers, so that a value gradient depends neither on the fact's
    batch nor on the number of facts.

    Returns:
        The logits at answers; keys and value gradients of cached tokens, tuple after tuple.
    """
    with torch.enable_grad(), _perturbed(lm) as (keys, deltas):
        logits = lm.logits(batch, whole=cached == "all")
        losses = lm.objective.loss(logits, batch.targets)
        loss = (losses * batch.weights.to(losses.dtype)).sum()
        gradients = torch.autograd.grad(loss, [deltas[name] for name in lm.layers])
    recorded = {}
    for name, gradient in zip(lm.layers, gradients, strict=True):
        at = _places(lm, batch, name, cached, seen=gradient.shape[:-1])
        recorded[name] = (keys[name].flatten(0, -2)[at], gradient.flatten(0, -2)[at])
    return logits.detach(), recorded


def cached_count(lm: LanguageModel, edit: Example, layer: str, cached: Cached = "ans") -> int:
    """Return the number of cached tokens of an edit tuple at a layer."""
    return len(edit.ids if lm.kind.caches_input(layer, cached) else edit.positions)


def _blank(
    lm: LanguageModel, batches: Sequence[Batch], *, cached: Cached, memory_mb: float
) -> dict[str, tuple[Vectors, Vectors]]:
    """Return what is to be filled: files, or memory that is taken at once.

    Pieces that were joined at the end would be in memory twice.
    """
    edits = [edit for batch in batches for edit in batch.examples]
    counts = {layer: sum(cached_count(lm, e, layer, cached) for e in edits) for layer in lm.layers}
    dtype = torch.promote_types(lm.model.dtype, torch.float32)
    size = sum(counts[layer] * sum(shape) for layer, shape in lm.shapes.items()) * dtype.itemsize

    def blank(layer: str, width: int) -> Vectors:
        if size > memory_mb * 2**20:
            return SpilledVectors(width, dtype=dtype, device=lm.device)
        return torch.empty(counts[layer], width, dtype=dtype, device=lm.device)

    return {layer: (blank(layer, d), blank(layer, out)) for layer, (d, out) in lm.shapes.items()}


def _stored(lm: LanguageModel, batch: Batch, cached: Cached) -> Recorded | None:
    """Return what a store holds of a batch, unless it lacks any of it."""
    recorded = {}
    for layer in lm.layers:
        is_kept = lm.kind.caches_input(layer, cached) == lm.kind.caches_input(layer, "ans")
        if lm.stored is None or not is_kept:
            return None
        pair = lm.stored.recorded(batch.examples, layer)
        if pair is None:
            return None
        recorded[layer] = (pair[0].to(lm.device), pair[1].to(lm.device))
    return recorded


@contextmanager
def _perturbed(lm: LanguageModel) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Add δ = 0 to every edited layer's output: ∇v is the gradient with respect to δ.

    The lowest δ is the graph's only root, so nothing is differentiated below it, and no weight
    collects a gradient.
    """
    keys: dict[str, Tensor] = {}
    deltas: dict[str, Tensor] = {}

    def perturb(name: str, module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        keys[name] = args[0].detach()
        deltas[name] = torch.zeros_like(output, requires_grad=True)
        return output + deltas[name]

    with ExitStack() as stack:
        for name, layer in lm.layers.items():
            stack.enter_context(layer.register_forward_hook(partial(perturb, name)))
        yield keys, deltas


def _places(
    lm: LanguageModel, batch: Batch, layer: str, cached: Cached, *, seen: torch.Size
) -> Tensor:
    """Return where cached tokens lie among all that a layer has ``seen``, tuple after tuple.

    It has seen every position, (b, t) or (b·t,); or tokens alone, or answers alone.
    """
    if lm.kind.caches_input(layer, cached):
        return batch.tokens
    if seen == batch.answers.shape:
        return torch.arange(len(batch.answers), device=lm.device)
    if seen == batch.tokens.shape:
        return torch.searchsorted(batch.tokens, batch.answers)
    return batch.answers
