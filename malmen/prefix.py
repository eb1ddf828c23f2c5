"""The frozen prefix: hidden states below the first edited block, computed once and replayed.

Nothing below the first edited block ever changes, so its output for a token sequence is the same
in every step, editor and count. The states of all distinct sequences are stored once; the lower
blocks are then replaced by modules that hand the stored states to the first edited block, and the
language model's own forward does the rest.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers.models.t5.modeling_t5 import T5Block

from malmen.batches import Batch, Example
from malmen.errors import InputError
from malmen.files import read_safetensors, write_safetensors
from malmen.models.language_model import LanguageModel
from malmen.progress import Progress

__all__ = ["PrefixStore", "record_prefix", "replay"]

FORMAT = "malmen-prefix-2"


class PrefixStore:
    """States entering the first edited block, for every stored token sequence.

    Args:
        sequences: the token sequences.
        states: (tokens, h), the sequences' states one after another.
        arity: length of the tuple that a block of this architecture returns; 0 for states alone.
    """

    def __init__(self, sequences: Sequence[tuple[int, ...]], states: Tensor, *, arity: int) -> None:
        self.states = states
        self.arity = arity
        lengths = torch.tensor([len(ids) for ids in sequences])
        starts = (lengths.cumsum(0) - lengths).tolist()
        self._start = dict(zip(sequences, starts, strict=True))

    def __len__(self) -> int:
        return len(self._start)

    @classmethod
    def merged(cls, stores: "Sequence[PrefixStore]") -> "PrefixStore":
        """Return one store of all sequences of several stores of the same language model."""
        rows: dict[tuple[int, ...], Tensor] = {}
        for store in stores:
            rows |= {ids: store.states[i : i + len(ids)] for ids, i in store._start.items()}
        return cls(list(rows), torch.cat(list(rows.values())), arity=stores[0].arity)

    def padded(self, sequences: Iterable[tuple[int, ...]]) -> Tensor:
        """Return the states of a batch, (b, t, h), padded with zeros on the right.

        Raises:
            InputError: a sequence was not stored.
        """
        rows = []
        for ids in sequences:
            start = self._start.get(ids)
            if start is None:
                raise InputError(
                    f"the prefix store holds no sequence {ids[:8]}...: it was made from other "
                    "facts or another tokenizer; make it again with `malmen prefix`"
                )
            rows.append(self.states[start : start + len(ids)])
        return pad_sequence(rows, batch_first=True)

    def save(self, path: Path, *, model: str) -> None:
        """Write the store; ``model`` names the language model it belongs to."""
        ids = [torch.tensor(sequence, dtype=torch.int32) for sequence in self._start]
        tensors = {
            "states": self.states.contiguous(),
            "ids": torch.cat(ids),
            "lengths": torch.tensor([len(i) for i in ids], dtype=torch.int32),
        }
        metadata = {"format": FORMAT, "model": model, "arity": self.arity}
        write_safetensors(path, tensors, metadata)

    @classmethod
    def load(cls, path: Path, *, model: str) -> "PrefixStore":
        """Read a store.

        Raises:
            InputError: it is missing, is no prefix store, or belongs to another language model.
        """
        tensors, metadata = read_safetensors(path)
        if metadata.get("format") != FORMAT or metadata.get("model") != model:
            raise InputError(
                f"{path}: not a prefix store of {model} (it says {metadata}); make it again "
                "with `malmen prefix`"
            )
        pieces = tensors["ids"].split(tensors["lengths"].tolist())
        sequences = [tuple(piece.tolist()) for piece in pieces]
        return cls(sequences, tensors["states"], arity=metadata["arity"])


@torch.no_grad()
def record_prefix(
    lm: LanguageModel, examples: Iterable[Example], *, fact_batch: int = 32, progress: bool = True
) -> PrefixStore:
    """Run the frozen blocks once over every distinct sequence.

    Args:
        lm: the language model, all blocks present.
        examples: repeated sequences are run once.
        fact_batch: sequences at a time.
        progress: show progress.

    Returns:
        The store, states in the model's dtype.
    """
    distinct = list({example.ids: example for example in examples}.values())
    rows: dict[tuple[int, ...], Tensor] = {}
    arity = 0
    tokens = sum(len(example.ids) for example in distinct)
    stage = f"frozen prefix of {lm.entry.title}"
    with Progress(stage, total=tokens, unit="tokens", show=progress) as bar:
        for batch in lm.batches(distinct, size=fact_batch):
            states, arity = _run_prefix(lm, batch)
            for example, row in zip(batch.examples, states.cpu(), strict=True):
                rows[example.ids] = row[: len(example.ids)]
            bar.update(int(batch.attention_mask.sum()))
    return PrefixStore(list(rows), torch.cat(list(rows.values())), arity=arity)


def replay(lm: LanguageModel, store: PrefixStore) -> None:
    """Make ``lm`` start from stored states; its frozen blocks are dropped from memory.

    From now on every sequence that ``lm`` runs has to be in the store.
    """
    blocks, first = _blocks(lm), lm.entry.frozen
    frozen = tuple(f"{lm.entry.blocks}.{index}." for index in range(first))
    if below := [layer for layer in lm.layers if layer.startswith(frozen)]:
        raise InputError(f"{below[0]} lies in a frozen block: edit it without a prefix store")
    stored = _Stored(arity=store.arity)
    _hand_on_position_bias(blocks[0], blocks[first])
    for index in range(first):  # the list keeps its length: some models look up blocks by index
        blocks[index] = stored

    def look_up(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        masks = kwargs["attention_mask"].bool()
        sequences = (
            tuple(ids[mask].tolist()) for ids, mask in zip(kwargs["input_ids"], masks, strict=True)
        )
        stored.states = store.padded(sequences).to(lm.device)

    lm.model.register_forward_pre_hook(look_up, with_kwargs=True)


def _hand_on_position_bias(lowest: Any, remaining: Any) -> None:
    """Let the lowest block that remains compute what T5's first block computes for all."""
    if isinstance(lowest, T5Block):
        source: Any = lowest.layer[0]
        source, target = source.SelfAttention, remaining.layer[0].SelfAttention
        target.relative_attention_bias = source.relative_attention_bias
        target.has_relative_attention_bias = True


class _Stored(nn.Module):
    """Stands in for every frozen block: whatever comes in, the stored states go out."""

    def __init__(self, *, arity: int) -> None:
        super().__init__()
        self.states: Tensor | None = None
        self.arity = arity

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return (self.states, *[None] * (self.arity - 1)) if self.arity else self.states


class _Reached(Exception):
    """The last frozen block has run: nothing above it has to."""

    def __init__(self, output: Any) -> None:
        self.output = output


def _run_prefix(lm: LanguageModel, batch: Batch) -> tuple[Tensor, int]:
    """Return the last frozen block's states (b, t, h), and the length of the tuple they came in."""

    def stop(module: nn.Module, args: Any, output: Any) -> None:
        raise _Reached(output)

    handle = _blocks(lm)[lm.entry.frozen - 1].register_forward_hook(stop)
    try:
        lm.logits(batch)
    except _Reached as reached:
        if isinstance(reached.output, tuple):
            return reached.output[0], len(reached.output)
        return reached.output, 0
    finally:
        handle.remove()
    raise RuntimeError(f"{lm.entry.name}: its forward never ran the blocks {lm.entry.blocks}")


def _blocks(lm: LanguageModel) -> nn.ModuleList:
    blocks = lm.model.get_submodule(lm.entry.blocks)
    assert isinstance(blocks, nn.ModuleList)
    if lm.entry.frozen == 0:
        raise InputError(f"{lm.entry.name}: block 0 is edited, so no block is frozen below it")
    return blocks
