"""Recording keys and value gradients at the edited layers."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from malmen.lm.batches import Batch, Example
from malmen.lm.blocks import block_of
from malmen.lm.language_model import LanguageModel
from malmen.recording.spill import Rows, SpilledRows
from malmen.recording.tails import Tails

__all__ = ["Cached", "Record", "Tokens", "cached_count", "capture", "run_edit_tuples"]

Cached = Literal["ans", "all"]
"""Cached tokens: where an answer token is predicted, or every token."""

Tokens = Mapping[str, tuple[Tensor, Tensor]]
"""Keys (n, d) and value gradients (n, d') of every edited layer, one row a cached token."""

Record = Mapping[str, tuple[Rows, Rows]]
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
        cached: which tokens. An encoder-decoder's are always all, on both sides: no position of
            its encoder predicts an answer.
        memory_mb: what takes more memory than this is kept in temporary files.

    Returns:
        Keys and value gradients, in at least single precision.
    """
    kept = _places(lm, batches, cached=cached, memory_mb=memory_mb)
    for batch in batches:
        tokens = _stored(lm, batch, cached) if batch.loss_weights == "facts" else None
        if tokens is None:
            _, tokens = run_edit_tuples(lm, batch, cached=cached)
        for name, pair in tokens.items():
            for place, rows in zip(kept[name], pair, strict=True):
                place.append(rows)
    return {name: (_rows(keys), _rows(gradients)) for name, (keys, gradients) in kept.items()}


def run_edit_tuples(
    lm: LanguageModel, batch: Batch, *, cached: Cached = "ans"
) -> tuple[Tensor, Tokens]:
    """Run edit tuples forward and back.

    The fine-tuning loss is the sum over answers that the batch's weights say: by default one over
    facts of the mean over a fact's answers, so that a value gradient depends neither on the fact's
    batch nor on the number of facts.

    A decoder's answers influence no token before them: where those alone are cached, the way back
    is that of the sequences' ends.

    Returns:
        The logits at answers; keys and value gradients of cached tokens, tuple after tuple.
    """
    with ExitStack() as stack:
        logits_of = partial(lm.logits, batch, whole=cached == "all")
        below = _block_below(lm)
        if cached == "ans" and below is not None:
            starts = [example.positions[0] for example in batch.examples]
            tails = Tails(lm, batch, block=below, starts=starts)
            logits_of = partial(stack.enter_context(tails.replayed()), tails.states)
            batch = tails.batch
        keys, deltas = stack.enter_context(_perturbed(lm))
        stack.enter_context(torch.enable_grad())
        logits = logits_of()
        losses = lm.objective.loss(logits, batch.targets)
        loss = (losses * batch.weights.to(losses.dtype)).sum()
        gradients = torch.autograd.grad(loss, [deltas[name] for name in lm.layers])
    tokens = {}
    for name, gradient in zip(lm.layers, gradients, strict=True):
        at = _cached_rows(lm, batch, name, cached, seen=gradient.shape[:-1])
        tokens[name] = (keys[name].flatten(0, -2)[at], gradient.flatten(0, -2)[at])
    return logits.detach(), tokens


def _block_below(lm: LanguageModel) -> int | None:
    """Return the block below the edited ones, if the ends of sequences can be run from there."""
    if lm.entry.task == "verdict" or lm.model.config.is_encoder_decoder or lm.stored is not None:
        return None
    lowest = min(block_of(lm, layer) for layer in lm.layers)
    return lowest - 1 if lowest > 0 else None


def cached_count(lm: LanguageModel, edit: Example, layer: str, *, cached: Cached = "ans") -> int:
    """Return the number of cached tokens of an edit tuple at a layer."""
    if lm.model.config.is_encoder_decoder:
        return len(edit.decoder_ids if lm.is_in_decoder(layer) else edit.ids)
    return len(edit.positions if cached == "ans" else edit.ids)


def _stored(lm: LanguageModel, batch: Batch, cached: Cached) -> Tokens | None:
    """Return what a store holds of a batch, unless it lacks any of it."""
    if lm.stored is None or (cached == "all" and not lm.model.config.is_encoder_decoder):
        return None
    tokens = {}
    for name in lm.layers:
        pair = lm.stored.tokens(batch.examples, name)
        if pair is None:
            return None
        tokens[name] = (pair[0].to(lm.device), pair[1].to(lm.device))
    return tokens


class _InMemory:
    """Rows in memory that is taken at once: joined at the end, they would be there twice."""

    def __init__(self, count: int, size: int, *, dtype: torch.dtype, device: torch.device) -> None:
        self.rows = torch.empty(count, size, dtype=dtype, device=device)
        self._count = 0

    def append(self, rows: Tensor) -> None:
        self.rows[self._count : self._count + len(rows)] = rows
        self._count += len(rows)


_Place = _InMemory | SpilledRows


def _places(
    lm: LanguageModel, batches: Sequence[Batch], *, cached: Cached, memory_mb: float
) -> dict[str, tuple[_Place, _Place]]:
    """Return where the keys and value gradients of every layer are collected."""
    edits = [edit for batch in batches for edit in batch.examples]
    dtype = torch.promote_types(lm.model.dtype, torch.float32)
    counts = {
        name: sum(cached_count(lm, edit, name, cached=cached) for edit in edits)
        for name in lm.layers
    }
    size = sum(counts[name] * sum(shape) * dtype.itemsize for name, shape in lm.shapes.items())

    def place(name: str, width: int) -> _Place:
        if size > memory_mb * 2**20:
            return SpilledRows(width, dtype=dtype, device=lm.device)
        return _InMemory(counts[name], width, dtype=dtype, device=lm.device)

    return {name: (place(name, d), place(name, value)) for name, (d, value) in lm.shapes.items()}


def _rows(place: _Place) -> Rows:
    return place.rows if isinstance(place, _InMemory) else place


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


def _cached_rows(
    lm: LanguageModel, batch: Batch, layer: str, cached: Cached, *, seen: torch.Size
) -> Tensor:
    """Return the rows of cached tokens among those that a layer has ``seen``, tuple after tuple."""
    if seen == (batch.input_ids.numel(),):  # some blocks flatten their states
        seen = batch.input_ids.shape
    if len(seen) == 2:  # (b, t), padding among them
        if cached == "ans" and not lm.model.config.is_encoder_decoder:
            return batch.answers
        counts = [cached_count(lm, edit, layer, cached=cached) for edit in batch.examples]
        is_token = torch.arange(seen[1]) < torch.tensor(counts)[:, None]
        return is_token.flatten().nonzero().squeeze(1).to(lm.device)
    if seen[0] == len(batch.answers):
        return torch.arange(seen[0], device=lm.device)
    return torch.searchsorted(batch.tokens, batch.answers)
