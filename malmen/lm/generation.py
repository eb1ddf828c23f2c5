"""What a language model, edited or not, writes by itself: greedy answers to prompts alone.

Prompts are padded on the left, so that all of a batch go on at once. Padding is never looked at,
and the positions of a prompt's tokens are those that it has alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, EncoderDecoderCache

from malmen.lm.batches import Example
from malmen.lm.blocks import block_of, blocks_of, replaced_below, stopped_behind
from malmen.lm.language_model import LanguageModel
from malmen.support.errors import InputError

__all__ = ["LONGEST", "STOPS", "Answer", "Writer", "prompt_of"]

LONGEST = 32
"""Tokens of an answer, at most."""

STOPS = ("\n", ".")
"""What ends an answer, besides the language model's own end: a newline or a full stop. White space
before an answer is not yet the answer: a chat model may begin with a newline."""


_BEFORE_STOP = re.compile(rf"\s*([^{''.join(STOPS)}]*)")


@dataclass(frozen=True)
class Answer:
    """What was written: all tokens, the one that ended it included, and the text before the end."""

    tokens: tuple[int, ...]
    text: str


def prompt_of(lm: LanguageModel, example: Example, *, chat: bool = False) -> tuple[int, ...]:
    """Return the token ids of an example's prompt, as a user's turn of a chat if that is wanted.

    Raises:
        InputError: the language model's tokenizer has no chat template.
    """
    is_whole = lm.model.config.is_encoder_decoder
    ids = example.ids if is_whole else example.ids[: example.positions[0] + 1]
    if not chat:
        return ids
    if lm.tokenizer.chat_template is None:
        raise InputError(f"{lm.entry.title} has no chat template: ask it without one")
    turns: list[Any] = [{"role": "user", "content": _text(lm, ids)}]
    text = lm.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
    return tuple(lm.tokenizer(text, add_special_tokens=False)["input_ids"])


class Writer:
    """Answers prompts, whatever the edited weights are.

    Nothing below the first edited block changes with an edit: those blocks run over every prompt
    once. What they hand on is kept, with their attention's keys and values.

    Args:
        lm: a language model that completes prompts, all blocks present.
        prompts: token ids of each.
        size: prompts at a time.
    """

    def __init__(
        self, lm: LanguageModel, prompts: Sequence[tuple[int, ...]], *, size: int = 64
    ) -> None:
        self._lm, self._n = lm, len(prompts)
        end = lm.model.generation_config.eos_token_id
        self._ends = set(end if isinstance(end, list) else [end])
        frozen = _frozen_blocks(lm)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        groups = [order[start : start + size] for start in range(0, len(order), size)]
        self._batches = [(g, _Prompts(lm, [prompts[i] for i in g], frozen)) for g in groups]

    def answers(self, weights: Mapping[str, nn.Parameter] | None = None) -> list[Answer]:
        """Answer every prompt, with edited ``weights`` if given."""
        answers = [Answer((), "")] * self._n
        with self._lm.swapped(weights or {}), torch.no_grad():
            for members, prompts in self._batches:
                for i, tokens in zip(members, self._write(prompts), strict=True):
                    answers[i] = self.read(tokens)
        return answers

    def read(self, tokens: Sequence[int]) -> Answer:
        """Return the answer that was written in these tokens."""
        return Answer(tuple(tokens), _BEFORE_STOP.findall(_text(self._lm, tokens))[0].strip())

    def _write(self, prompts: "_Prompts") -> list[list[int]]:
        """Choose the most likely token until every answer has ended."""
        written: list[list[int]] = [[] for _ in range(len(prompts))]
        unfinished = list(range(len(written)))
        has_begun = [False] * len(written)
        run = prompts.begin()
        for _ in range(LONGEST):
            chosen = self._lm.objective.predict(run.logits)
            pieces = self._lm.tokenizer.batch_decode(chosen[:, None])
            going_on = []
            for row, (i, token, piece) in enumerate(
                zip(unfinished, chosen.tolist(), pieces, strict=True)
            ):
                written[i].append(token)
                text = piece if has_begun[i] else piece.lstrip()
                has_begun[i] = has_begun[i] or bool(text)
                if token not in self._ends and not any(stop in text for stop in STOPS):
                    going_on.append(row)
            if not going_on:
                break
            unfinished = [unfinished[row] for row in going_on]
            run.step(chosen, going_on)
        return written


def _text(lm: LanguageModel, tokens: Sequence[int]) -> str:
    return str(lm.tokenizer.decode(list(tokens), skip_special_tokens=True))


def _frozen_blocks(lm: LanguageModel) -> int:
    """Return the number of blocks below the first edited one: of an encoder, if there is one."""
    sees_input = [layer for layer in lm.layers if lm.kind.caches_input(layer, "all")]
    edited = [block_of(lm, layer) for layer in sees_input]
    return min(edited, default=len(blocks_of(lm)))


class _Prompts:
    """A batch of prompts, and what the frozen blocks make of them."""

    def __init__(self, lm: LanguageModel, prompts: Sequence[tuple[int, ...]], frozen: int) -> None:
        self._lm, self._frozen, self._n = lm, frozen, len(prompts)
        ids = [torch.tensor(prompt, device=lm.device) for prompt in prompts]
        mask = [torch.ones_like(i) for i in ids]
        self._ids, self._mask = (
            pad_sequence(part, batch_first=True, padding_side="left") for part in (ids, mask)
        )
        self._output: Any = None
        cache = self._cache()
        if frozen:
            with torch.no_grad(), stopped_behind(lm, frozen - 1) as outputs:
                self._forward(cache)
            [self._output] = outputs
        # An encoder, which sees all of its tokens at once, keeps no keys and values.
        self._kept = [(layer.keys, layer.values) for layer in cache.layers if layer.is_initialized]

    def __len__(self) -> int:
        return self._n

    def begin(self) -> "_Run":
        """Run the other blocks on the prompts."""
        cache = self._cache()
        with replaced_below(self._lm, self._frozen, self._output):
            output = self._forward(cache)
        for index, (keys, values) in enumerate(self._kept):
            cache.update(keys, values, index)
        return _Run(self._lm, self._mask, output)

    def _cache(self) -> Any:
        return DynamicCache(config=self._lm.model.config)

    def _forward(self, cache: Any) -> Any:
        config = self._lm.model.config
        inputs = {"input_ids": self._ids, "attention_mask": self._mask, "use_cache": True}
        if config.is_encoder_decoder:
            start = self._ids.new_full((self._n, 1), config.decoder_start_token_id)
            caches = EncoderDecoderCache(cache, self._cache())
            return self._lm.model(**inputs, past_key_values=caches, decoder_input_ids=start)
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
        return self._lm.model(
            **inputs, past_key_values=cache, position_ids=positions, logits_to_keep=1
        )


class _Run:
    """Answers being written, the unfinished ones.

    Attributes:
        logits: (unfinished, vocabulary) of the next token.
    """

    def __init__(self, lm: LanguageModel, mask: Tensor, output: Any) -> None:
        self._lm, self._mask = lm, mask
        self._encoded: Tensor | None = output.get("encoder_last_hidden_state")
        self._take(output)

    def step(self, tokens: Tensor, going_on: Sequence[int]) -> None:
        """Let some of the rows go on, each with its token."""
        rows = torch.tensor(going_on, device=tokens.device)
        if len(rows) < len(tokens):
            self._cache.batch_select_indices(rows)
            self._mask = self._mask[rows]
        tokens = tokens[rows, None]
        if self._encoded is not None:
            self._encoded = self._encoded[rows]
            inputs = {"decoder_input_ids": tokens, "encoder_outputs": (self._encoded,)}
        else:
            inputs = {"input_ids": tokens, "position_ids": self._mask.sum(dim=1, keepdim=True)}
            self._mask = torch.cat([self._mask, torch.ones_like(tokens)], dim=1)
        output = self._lm.model(
            **inputs, attention_mask=self._mask, past_key_values=self._cache, use_cache=True
        )
        self._take(output)

    def _take(self, output: Any) -> None:
        self.logits, self._cache = output.logits[:, -1], output.past_key_values
