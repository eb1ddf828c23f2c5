"""Tokenised tuples and padded batches of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, overload

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

__all__ = ["Batch", "Batches", "Example", "LossWeights", "make_batches"]

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
        rows: (answers,) row of each answer position.
        columns: (answers,) column of each answer position.
        targets: (answers,) expected token.
        weights: (answers,) 1 / number of answers of the fact, so that a weighted sum over answers
            is a sum of per-fact means, however facts are batched; or 1 / number of answers of the
            batch (:data:`LossWeights`).
        facts: (answers,) index of the fact among all examples given to :func:`make_batches`.
        examples: the examples, in order of rows.
        loss_weights: which of the two ``weights`` are.
        decoder_input_ids: (b, s) of an encoder-decoder, padded on the right.
        decoder_attention_mask: (b, s) of an encoder-decoder.
    """

    input_ids: Tensor
    attention_mask: Tensor
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

    @cached_property
    def tokens(self) -> Tensor:
        """Index of each token of the input, none of the padding, among all positions, (n,)."""
        is_token = self.attention_mask[:, -self.input_ids.shape[1] :]  # it may tell of earlier ones
        return is_token.flatten().nonzero().squeeze(1)


class Batches(Sequence[Batch]):
    """Batches that are padded when they are asked for: all at once would grow with the examples.

    Args:
        examples: in any order; :attr:`Batch.facts` refers to this order.
        groups: indices of the examples of every batch.
        device: of the tensors.
        loss_weights: what weighs equally in a loss.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        groups: Sequence[Sequence[int]],
        *,
        device: torch.device | str,
        loss_weights: LossWeights = "facts",
    ) -> None:
        self._examples, self._groups = examples, groups
        self._device, self._loss_weights = device, loss_weights

    def __len__(self) -> int:
        return len(self._groups)

    @overload
    def __getitem__(self, index: int) -> Batch: ...

    @overload
    def __getitem__(self, index: slice) -> "Batches": ...

    def __getitem__(self, index: int | slice) -> "Batch | Batches":
        if isinstance(index, slice):
            return Batches(
                self._examples,
                self._groups[index],
                device=self._device,
                loss_weights=self._loss_weights,
            )
        return _pad(self._examples, self._groups[index], self._device, self._loss_weights)


def make_batches(
    examples: Sequence[Example],
    *,
    size: int,
    device: torch.device | str = "cpu",
    loss_weights: LossWeights = "facts",
) -> Batches:
    """Put examples in batches of at most ``size``, those of like length together.

    Args:
        examples: in any order; :attr:`Batch.facts` refers to this order.
        size: largest number of examples in a batch.
        device: of the tensors.
        loss_weights: what weighs equally in a loss.

    Returns:
        The batches, shortest examples first.
    """
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].ids))
    groups = [order[start : start + size] for start in range(0, len(order), size)]
    return Batches(examples, groups, device=device, loss_weights=loss_weights)


def _pad(
    examples: Sequence[Example],
    group: Sequence[int],
    device: torch.device | str,
    loss_weights: LossWeights,
) -> Batch:
    members = [examples[i] for i in group]
    answers = [len(example.positions) for example in members]
    counts = torch.tensor(answers)
    together = counts if loss_weights == "facts" else counts.sum().expand_as(counts)

    def flat(values: list[tuple[int, ...]]) -> Tensor:
        return torch.tensor([v for value in values for v in value], device=device)

    input_ids, attention_mask = _padded([example.ids for example in members], device)
    decoder_input_ids, decoder_attention_mask = None, None
    if members[0].decoder_ids:
        decoder_input_ids, decoder_attention_mask = _padded(
            [example.decoder_ids for example in members], device
        )
    return Batch(
        input_ids=input_ids,
        attention_mask=attention_mask,
        rows=torch.arange(len(group)).repeat_interleave(counts).to(device),
        columns=flat([example.positions for example in members]),
        targets=flat([example.targets for example in members]),
        weights=(1 / together.double()).repeat_interleave(counts).to(device),
        facts=torch.tensor(group).repeat_interleave(counts).to(device),
        examples=tuple(members),
        loss_weights=loss_weights,
        decoder_input_ids=decoder_input_ids,
        decoder_attention_mask=decoder_attention_mask,
    )


def _padded(sequences: list[tuple[int, ...]], device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Return token ids padded on the right, and 1 where a token is."""
    ids = [torch.tensor(sequence) for sequence in sequences]
    mask = [torch.ones_like(i) for i in ids]
    return (
        pad_sequence(ids, batch_first=True).to(device),
        pad_sequence(mask, batch_first=True).to(device),
    )
