"""Tokenised tuples and padded batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = ["Batch", "Batches", "Example", "LossWeights"]

LossWeights = Literal["facts", "tokens"]
"""What weighs equally in a loss: every fact, however it is batched; or, as released, every answer
token of a batch, and every batch."""


@dataclass(frozen=True)
class Example:
    """One tuple (prompt, answer) as a language model reads it.

    Attributes:
        ids: token ids of the input; a decoder's input ends before the last answer token.
        positions: where an answer token is predicted (a fact checker: position 0; an
            encoder-decoder: positions of its decoder).
        targets: the answer token expected at each position (a fact checker: 0 or 1).
        decoder_ids: token ids of the decoder's input, where an encoder reads ``ids``.
    """

    ids: tuple[int, ...]
    positions: tuple[int, ...]
    targets: tuple[int, ...]
    decoder_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Padded examples. "Answers" are all answer positions of the batch, row after row.

    Attributes:
        input_ids: (b, t), padded on the right.
        attention_mask: (b, t), 1 where a token is.
        tokens: (n,) index of each token of the input, none of the padding, among all positions.
        rows: (answers,) row of each answer position.
        columns: (answers,) column of each answer position.
        targets: (answers,) expected token.
        weights: (answers,) 1 / number of answers of the fact, so that a weighted sum over answers
            is a sum of per-fact means, however facts are batched; or 1 / number of answers of the
            batch (:data:`LossWeights`).
        facts: (answers,) index of the fact among all examples of :class:`Batches`.
        examples: the examples, in order of rows.
        loss_weights: which of the two ``weights`` are.
        decoder_input_ids: (b, s) of an encoder-decoder, padded on the right.
        decoder_attention_mask: (b, s) of an encoder-decoder.
    """

    input_ids: Tensor
    attention_mask: Tensor
    tokens: Tensor
    rows: Tensor
    columns: Tensor
    targets: Tensor
    weights: Tensor
    facts: Tensor
    examples: tuple[Example, ...]
    loss_weights: LossWeights = "facts"
    decoder_input_ids: Tensor | None = None
    decoder_attention_mask: Tensor | None = None

    def __len__(self) -> int:
        return len(self.examples)

    @cached_property
    def answers(self) -> Tensor:
        """Index of each answer position among all positions of the batch, (answers,)."""
        ids = self.input_ids if self.decoder_input_ids is None else self.decoder_input_ids
        return self.rows * ids.shape[1] + self.columns


class Batches(Sequence[Batch]):
    """Batches of examples of like length, the shortest first.

    They are padded when they are asked for: all at once would grow with the examples.

    Args:
        examples: in any order; :attr:`Batch.facts` refers to this order.
        size: largest number of examples in a batch.
        device: of the tensors.
        loss_weights: what weighs equally in a loss.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        size: int,
        device: torch.device | str = "cpu",
        loss_weights: LossWeights = "facts",
    ) -> None:
        order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
        self._groups = [order[start : start + size] for start in range(0, len(order), size)]
        self._examples, self._device, self._loss_weights = examples, device, loss_weights

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]  # nobody slices
        group = self._groups[index]
        members = [self._examples[i] for i in group]
        counts = torch.tensor([len(example.positions) for example in members])
        together = counts if self._loss_weights == "facts" else counts.sum().expand_as(counts)
        ids, mask = _padded([example.ids for example in members])
        tensors: dict[str, Any] = {
            "input_ids": ids,
            "attention_mask": mask,
            "tokens": mask.flatten().nonzero().squeeze(1),
            "rows": torch.arange(len(group)).repeat_interleave(counts),
            "columns": torch.tensor([at for example in members for at in example.positions]),
            "targets": torch.tensor([token for example in members for token in example.targets]),
            "weights": (1 / together.double()).repeat_interleave(counts),
            "facts": torch.tensor(group).repeat_interleave(counts),
        }
        if members[0].decoder_ids:
            ids, mask = _padded([example.decoder_ids for example in members])
            tensors |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
        there = {name: tensor.to(self._device) for name, tensor in tensors.items()}
        return Batch(**there, examples=tuple(members), loss_weights=self._loss_weights)


def _padded(sequences: list[tuple[int, ...]]) -> tuple[Tensor, Tensor]:
    """Return token ids padded on the right, and 1 where a token is."""
    ids = [torch.tensor(sequence) for sequence in sequences]
    masks = [torch.ones_like(i) for i in ids]
    return pad_sequence(ids, batch_first=True), pad_sequence(masks, batch_first=True)
