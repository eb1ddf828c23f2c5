"""The ends of sequences run again: all that a change of one state reaches.

A change behind a block, at one token, reaches the blocks above and the tokens from there on. To
try many changes, the rest is run once: the blocks below hand on what they handed on then, and the
tokens before keep their attention keys and values. No gradient passes through those, either.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from malmen.lm.batches import Batch
from malmen.lm.blocks import StandIn, blocks_of, outputs_of, run_through
from malmen.lm.language_model import LanguageModel

__all__ = ["Tails"]


class Tails:
    """The ends of a decoder's sequences, each from one token on.

    Args:
        lm: a decoder, all blocks present.
        batch: the sequences.
        block: the block behind which states will be changed.
        starts: token of each sequence whose state will be changed: its first answer at the latest.

    Attributes:
        batch: the tails; their answers are those of the sequences.
        states: (b, h), the states that will be changed.
    """

    def __init__(
        self, lm: LanguageModel, batch: Batch, *, block: int, starts: Sequence[int]
    ) -> None:
        self._lm, self._block = lm, block
        self._cache = _Cache(config=lm.model.config)
        top = len(blocks_of(lm)) - 1
        with torch.no_grad(), self._inputs(), outputs_of(lm, block) as outputs:
            run_through(lm, batch, top, whole=block == top)
        [self._output] = outputs
        self._cache.is_complete = True

        device, width = lm.device, batch.input_ids.shape[1]
        lengths = [len(example.ids) for example in batch.examples]
        longest = max(length - start for length, start in zip(lengths, starts, strict=True))
        first = torch.tensor(starts, device=device)
        columns = first[:, None] + torch.arange(longest, device=device)
        is_token = columns < torch.tensor(lengths, device=device)[:, None]
        is_before = torch.arange(width, device=device) < first[:, None]
        self._columns = columns.clamp(max=width - 1)
        self.batch = replace(
            batch,
            input_ids=batch.input_ids.gather(1, self._columns),
            attention_mask=torch.cat([is_before, is_token], dim=1).long(),
            tokens=is_token.flatten().nonzero().squeeze(1),
            columns=batch.columns - first[batch.rows],
        )
        rows = torch.arange(len(batch), device=device)[:, None]
        self._later = self._output.states[rows, self._columns[:, 1:]]
        self.states = self._output.states[rows[:, 0], first]

    @contextmanager
    def replayed(self) -> Iterator[Callable[[Tensor], Tensor]]:
        """Yield a function that takes changed states (b, h) to the logits at the answers."""
        blocks = blocks_of(self._lm)
        skipped = list(blocks[: self._block + 1])
        stand_in = StandIn()

        def logits(states: Tensor) -> Tensor:
            changed = states[:, None].to(self._later.dtype)
            stand_in.output = self._output.replaced(torch.cat([changed, self._later], dim=1))
            return self._lm.logits(self.batch)

        try:
            for index in range(self._block + 1):  # some models look up blocks by index
                blocks[index] = stand_in
            with self._inputs(position_ids=self._columns):
                yield logits
        finally:
            for index, original in enumerate(skipped):
                blocks[index] = original

    @contextmanager
    def _inputs(self, **inputs: Tensor) -> Iterator[None]:
        """Give the model further inputs, the cache among them."""
        further = {"past_key_values": self._cache, "use_cache": True, **inputs}

        def add(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
            return args, {**kwargs, **further}

        with self._lm.model.register_forward_pre_hook(add, with_kwargs=True):
            yield


class _Cache(DynamicCache):
    """Attention keys and values of all tokens; once it is complete, nothing more is kept.

    Those of the tokens to be run again are in it too, and the attention mask leaves them out.
    """

    is_complete = False

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the keys and values of a layer that are kept, and these behind them."""
        if not self.is_complete:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        kept: Any = self.layers[layer_idx]
        keys = torch.cat([kept.keys, key_states], dim=-2)
        return keys, torch.cat([kept.values, value_states], dim=-2)
