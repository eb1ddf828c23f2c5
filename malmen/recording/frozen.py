"""What an unedited language model computes, stored once and replayed.

Nothing below the first edited block ever changes, so its output for a token sequence is the same
in every step, editor and count. The states of all distinct sequences are stored once; the lower
blocks are then replaced by modules that hand the stored states to the first edited block, and the
language model's own forward does the rest.

Of some examples, what enters the language-model head at their answers is stored, too: the logits
before an edit then cost the head alone. Of edit tuples, keys and value gradients are stored: they
are taken before any edit, so an editor need not run the language model at all.
"""

import logging
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from malmen.lm.batches import Batch, Example
from malmen.lm.blocks import BlockOutput, StandIn, blocks_of, outputs_of, run_through
from malmen.lm.language_model import LanguageModel
from malmen.recording.capture import Recorded, run_edit_tuples
from malmen.recording.mapped import MappedTensors, Shapes, file_size
from malmen.recording.store import FORMAT, Contents, PrefixStore, names_at
from malmen.support.errors import InputError
from malmen.support.files import atomic
from malmen.support.progress import Progress

__all__ = ["PrefixStore", "record_prefix", "replay"]

RESERVE = 2**30
"""Bytes of a disk that a file of states leaves free."""

RECORD_SHARE = 0.25
"""Share of what is free on a disk that keys and value gradients may take: they are the largest part
of a file, and spare less time than the states."""

logger = logging.getLogger(__name__)

_Run = Callable[[LanguageModel, PrefixStore, Batch], BlockOutput]


@torch.no_grad()
def record_prefix(
    lm: LanguageModel,
    examples: Iterable[Example],
    *,
    answered: Iterable[Example] = (),
    edits: Iterable[Example] = (),
    path: Path | None = None,
    fact_batch: int = 32,
    progress: bool = True,
) -> PrefixStore:
    """Run the frozen blocks once over every distinct sequence.

    Args:
        lm: the language model, all blocks present.
        examples: repeated sequences are run once.
        answered: those of the examples that are run to the end, so that what enters the head at
            their answers is stored, too.
        edits: edit tuples among the examples, which are also run back, so that keys and value
            gradients of the tokens that predict an answer (of an encoder-decoder: of all tokens)
            are stored, too.
        path: file that everything is written to as it is computed; in memory without one. If the
            disk has too little room, keys and value gradients are left out of the file, or all is;
            a warning says so.
        fact_batch: sequences at a time.
        progress: show progress.

    Returns:
        The store, in the model's dtype.
    """
    _check_frozen(lm)
    contents = _contents(lm, examples, answered, edits)
    fill = partial(_fill, lm, size=fact_batch, progress=progress)
    if path is None:
        shapes = _shapes(lm, contents)
        tensors = {name: torch.zeros(shape, dtype=dtype) for name, (dtype, shape) in shapes.items()}
        store = PrefixStore.blank(tensors, contents)
        fill(store, contents)
        return store
    with atomic(path) as temporary:
        contents, shapes = _fitting(lm, contents, path)
        about = {"format": FORMAT, "model": lm.entry.name}
        mapped = MappedTensors.create(temporary, shapes, about)
        if shapes:
            fill(PrefixStore.blank(mapped, contents, release=mapped.release), contents)
    return PrefixStore.load(path, model=lm.entry.name)


def _contents(
    lm: LanguageModel,
    examples: Iterable[Example],
    answered: Iterable[Example],
    edits: Iterable[Example],
) -> Contents:
    """Return what is stored; an edit tuple is run to the end, so its answers come with it."""
    once = list(dict.fromkeys(edits))
    whole = list(dict.fromkeys((*once, *answered)))
    sequences = list(dict.fromkeys(example.ids for example in (*examples, *whole)))
    layers = {layer: lm.kind.caches_input(layer, "ans") for layer in lm.layers}
    return Contents(sequences, whole, len(once), layers)


def _shapes(lm: LanguageModel, contents: Contents) -> Shapes:
    dtype = lm.model.dtype
    sizes = {"states": (dtype, lm.model.config.hidden_size)}
    sizes["answers"] = (dtype, lm.kind.head_size(lm.model))
    for layer, widths in lm.shapes.items():
        of_layer = lm.layers[layer].weight.dtype
        sizes |= {n: (of_layer, size) for n, size in zip(names_at(layer), widths, strict=True)}
    return contents.shapes(sizes)


def _fitting(lm: LanguageModel, contents: Contents, path: Path) -> tuple[Contents, Shapes]:
    """Return what the disk has room for, and its shapes; say so if it is not all."""
    free = shutil.disk_usage(path.parent).free
    without = replace(contents, edits=0, layers={})
    size, rest = (file_size(_shapes(lm, part)) for part in (contents, without))
    if rest + RESERVE > free:
        logger.warning(
            "%s: would take %.1f GB, and the disk has %.1f GB free: the frozen blocks will run "
            "again every time (after making space, make it again with `malmen prefix`)",
            *(path, rest / 1e9, free / 1e9),
        )
        return without, {}
    if size - rest > RECORD_SHARE * (free - rest - RESERVE):
        logger.warning(
            "%s: holds no keys and value gradients, which would take %.1f GB where the disk has "
            "%.1f GB free: they will be computed again every time",
            *(path, (size - rest) / 1e9, free / 1e9),
        )
        return without, _shapes(lm, without)
    return contents, _shapes(lm, contents)


def _fill(
    lm: LanguageModel, store: PrefixStore, contents: Contents, *, size: int, progress: bool
) -> None:
    """Run edit tuples forward and back, other answers to the end, the rest through the prefix."""
    edits, answered = contents.answers[: contents.edits], contents.answers[contents.edits :]
    whole = {example.ids for example in contents.answers}
    lower = [Example(ids, (0,), (0,)) for ids in contents.sequences if ids not in whole]
    parts: list[tuple[_Run, Sequence[Example]]] = [
        (partial(_record_whole, are_edits=True), edits),
        (_record_whole, answered),
        (_record_lower, lower),
    ]
    tokens = sum(len(example.ids) for _, examples in parts for example in examples)
    stage = f"frozen prefix of {lm.entry.title}"
    arity = 0
    with Progress(stage, total=tokens, unit="tokens", show=progress) as bar:
        for record, examples in parts:
            for batch in lm.batches(examples, size=size):
                output = record(lm, store, batch)
                sequences = [example.ids for example in batch.examples]
                store.put("states", sequences, output.states.flatten(0, 1)[batch.tokens])
                arity = output.arity
                bar.update(len(batch.tokens))
    store.finish(arity=arity)


def _record_lower(lm: LanguageModel, store: PrefixStore, batch: Batch) -> BlockOutput:
    return run_through(lm, batch, lm.entry.frozen - 1, whole=False)


def _record_whole(
    lm: LanguageModel, store: PrefixStore, batch: Batch, *, are_edits: bool = False
) -> BlockOutput:
    recorded: Recorded = {}
    with (
        _head_inputs(lm, are_logits_read=are_edits) as inputs,
        outputs_of(lm, lm.entry.frozen - 1) as outputs,
    ):
        if are_edits:
            logits, recorded = run_edit_tuples(lm, batch)
        else:
            logits = lm.logits(batch)
    store.put("answers", batch.examples, inputs[-1] if inputs else logits)
    for layer, pair in recorded.items():
        for name, vectors in zip(names_at(layer), pair, strict=True):
            store.put(name, batch.examples, vectors)
    return outputs[-1]


@contextmanager
def _head_inputs(lm: LanguageModel, *, are_logits_read: bool) -> Iterator[list[Tensor]]:
    """Yield a list of what enters the language-model head; a fact checker has no such head."""
    inputs: list[Tensor] = []

    def keep(head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        inputs.append(args[0].detach())
        return args if are_logits_read else (args[0][:0],)

    with lm.kind.head(lm.model).register_forward_pre_hook(keep):
        yield inputs


def replay(lm: LanguageModel, store: PrefixStore) -> None:
    """Make ``lm`` start from stored states; its frozen blocks are dropped from memory.

    From now on every sequence that ``lm`` runs has to be in the store. A store that had no room
    for its states leaves the language model as it is.
    """
    if not store.is_whole:
        return
    _check_frozen(lm)
    blocks, first = blocks_of(lm), lm.entry.frozen
    frozen = tuple(f"{lm.entry.blocks}.{index}." for index in range(first))
    if below := [layer for layer in lm.layers if layer.startswith(frozen)]:
        raise InputError(f"{below[0]} lies in a frozen block: edit it without a prefix store")
    stand_in, rest = StandIn(), (None,) * (store.arity - 1)  # of what a block returns
    _hand_on_position_bias(blocks[0], blocks[first])
    for index in range(first):  # the list keeps its length: some models look up blocks by index
        blocks[index] = stand_in

    def look_up(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        masks = kwargs["attention_mask"].bool()
        sequences = (
            tuple(ids[mask].tolist()) for ids, mask in zip(kwargs["input_ids"], masks, strict=True)
        )
        states = store.padded(sequences).to(lm.device)
        stand_in.output = (states, *rest) if store.arity else states

    lm.model.register_forward_pre_hook(look_up, with_kwargs=True)
    lm.stored = store


def _hand_on_position_bias(lowest: Any, remaining: Any) -> None:
    """Let the lowest block that remains compute what T5's first block computes for all.

    Other models of its family have blocks of classes of their own.
    """
    for path, source in lowest.named_modules():
        if getattr(source, "has_relative_attention_bias", False):
            target = remaining.get_submodule(path)
            target.relative_attention_bias = source.relative_attention_bias
            target.has_relative_attention_bias = True


def _check_frozen(lm: LanguageModel) -> None:
    if lm.entry.frozen == 0:
        raise InputError(f"{lm.entry.name}: block 0 is edited, so no block is frozen below it")
