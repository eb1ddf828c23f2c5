"""A frozen language model with linear layers to edit."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D

from malmen.lm.batches import Batch, Batches, Example, LossWeights
from malmen.lm.catalogue import Entry
from malmen.lm.kinds import kind_of
from malmen.lm.model_tree import auto_class
from malmen.lm.shortcuts import Reading, cut_feed_forwards, cut_head, fuse_gelu
from malmen.lm.weights import manifest
from malmen.support.errors import InputError, quoted

__all__ = ["LanguageModel"]


class Stored(Protocol):
    """What is known of examples before any edit (:class:`malmen.recording.store.PrefixStore`)."""

    def answers(self, examples: Sequence[Example]) -> Tensor | None:
        """Return what enters the head at the answers of a batch, if it is stored."""
        ...

    def recorded(self, examples: Sequence[Example], layer: str) -> tuple[Tensor, Tensor] | None:
        """Return keys and value gradients of a batch of edit tuples, if they are stored."""
        ...


class LanguageModel:
    """A frozen language model: its weights are read-only, edits are swapped in and out.

    Args:
        model: any model of transformers with a language-model head or a one-logit classifier.
        tokenizer: its tokenizer.
        entry: which modules are edited, and what its facts look like.
    """

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, entry: Entry
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.entry = entry
        self.kind = kind_of(entry.task, model.config)
        self.objective = self.kind.objective
        self.layers = {name: _linear(model, name) for name in entry.edited}
        self.device = model.device
        self.stored: Stored | None = None
        for layer in self.layers.values():
            _cast_to_weight(layer)
        self._reading = Reading()
        cut_head(self.kind.head(model), self._reading)
        cut_feed_forwards(model.get_submodule(entry.blocks), self._reading)
        fuse_gelu(model)

    @classmethod
    def load(
        cls, folder: Path, entry: Entry, *, dtype: torch.dtype | None = None
    ) -> "LanguageModel":
        """Read a model folder as transformers writes it; no code of the folder is executed.

        The weights lie in ordinary memory until :meth:`to` moves them.

        Raises:
            InputError: the folder holds no model, or a downloaded one that has changed.
        """
        config = _config(folder)
        manifest.verify(folder)
        options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        tokenizer = _tokenizer(folder)
        try:
            kind = auto_class(entry, config)
            model = kind.from_pretrained(folder, use_safetensors=True, **options)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{folder}: its weights cannot be read: {error}") from error
        return cls(model, tokenizer, entry)

    @classmethod
    def shell(cls, folder: Path, entry: Entry) -> "LanguageModel":
        """Read a model folder without its weights: what is left can encode, and nothing else.

        Raises:
            InputError: the folder holds no model, or no tokenizer.
        """
        config = _config(folder)
        with torch.device("meta"):
            model = auto_class(entry, config).from_config(config)
        return cls(model, _tokenizer(folder), entry)

    def to(self, device: torch.device | str) -> "LanguageModel":
        """Move to a device what there is of the model: without its frozen blocks, only the rest."""
        self.model.to(device)
        self.device = self.model.device
        return self

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d, d') of every edited layer: in-features and out-features."""
        shapes = {}
        for name, layer in self.layers.items():
            value_size, key_size = _oriented(layer, layer.weight).shape
            shapes[name] = (key_size, value_size)
        return shapes

    @property
    def longest(self) -> int:
        """Tokens that it reads at most: as many as it has positions, if they are numbered."""
        positions = getattr(self.model.config, "max_position_embeddings", None) or sys.maxsize
        if self.entry.task == "verdict" and self.tokenizer is not None:  # RoBERTa counts from 2
            positions = min(positions, self.tokenizer.model_max_length)
        return int(positions)

    def encode(self, prompt: str, answer: str) -> Example:
        """Tokenise a prompt and its answer (a fact checker: a claim and its label).

        Raises:
            InputError: the prompt or the answer tokenises to nothing, or they are too long, or the
                vocabulary cannot spell the answer.
        """
        ids = self.tokenizer(prompt)["input_ids"]
        targets = self.kind.targets(self.tokenizer, answer)
        if not ids or not targets:
            empty = "answer" if ids else "prompt"
            raise InputError(
                f"the {empty} of ({quoted(prompt)}, {quoted(answer)}) tokenises to nothing: leave "
                "the row out"
            )
        if self.entry.task == "completion" and self.tokenizer.unk_token_id in targets:
            raise InputError(  # it would be right whatever it stands for
                f"the vocabulary of {self.entry.title} cannot spell the answer {quoted(answer)} "
                f"(a part becomes {self.tokenizer.unk_token}): leave the row out"
            )
        example = self.kind.example(ids, targets)
        if len(example.ids) > self.longest:
            raise InputError(
                f"{quoted(prompt)} and its answer have {len(example.ids)} tokens, and "
                f"{self.entry.title} reads at most {self.longest}: leave the row out"
            )
        return example

    def batches(
        self, examples: Sequence[Example], *, size: int, loss_weights: LossWeights = "facts"
    ) -> Batches:
        """Put examples in batches of at most ``size`` facts."""
        return Batches(examples, size=size, device=self.device, loss_weights=loss_weights)

    def logits(self, batch: Batch, *, whole: bool = False) -> Tensor:
        """Return the logits at the answer positions.

        Args:
            batch: the examples.
            whole: whether feed-forwards run on every token, also where nobody reads what they make
                (:mod:`malmen.lm.shortcuts`), to be looked at.

        Returns:
            (answers, vocabulary), or (claims, 1) of a fact checker, in at least single precision.
        """
        with self._reading.of(batch, whole=whole):
            return _in_single_precision(self.model(**self.kind.inputs(batch)).logits)

    @torch.no_grad()
    def unedited_logits(self, batch: Batch) -> Tensor:
        """Return :meth:`logits` before any edit, without a graph.

        Where it is stored what enters the head (:func:`malmen.recording.frozen.replay`), only the
        head runs.
        """
        stored = self.stored.answers(batch.examples) if self.stored else None
        if stored is None:
            return self.logits(batch)
        return _in_single_precision(self.kind.head(self.model)(stored.to(self.device)))

    def edited_weights(self, shifts: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
        """Return W + S of every edited layer, in at least single precision.

        The base weights keep their dtype: bf16 cannot hold a small shift. Shifts may lie in the
        host's memory. Every result is a leaf, so a loss under :meth:`swapped` leaves ∇_S in its
        ``grad``.
        """
        weights = {}
        for name, shift in shifts.items():
            weight = self.layers[name].weight
            dtype = torch.promote_types(weight.dtype, torch.float32)
            merged = weight.to(dtype) + _oriented(self.layers[name], shift).to(weight.device, dtype)
            weights[name] = nn.Parameter(merged)
        return weights

    def shift_gradients(self, weights: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return ∇_S (d', d) from the gradients that :meth:`edited_weights` have collected."""
        return {
            name: torch.zeros_like(_oriented(self.layers[name], weight))
            if weight.grad is None
            else _oriented(self.layers[name], weight.grad)
            for name, weight in weights.items()
        }

    def zero_shifts(self) -> dict[str, Tensor]:
        """Return a shift of zeros for every edited layer."""
        return {
            name: torch.zeros_like(_oriented(layer, layer.weight))
            for name, layer in self.layers.items()
        }

    def shifts_between(
        self, before: Mapping[str, Tensor], after: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Return the shift (d', d) that leads from one set of edited weights to another."""
        return {
            name: _oriented(self.layers[name], after[name].detach() - weight.detach())
            for name, weight in before.items()
        }

    @contextmanager
    def swapped(self, weights: Mapping[str, nn.Parameter]) -> Iterator[None]:
        """Run with edited weights in place of the base weights.

        The base weights are never written to: the very same parameters return on exit, so they
        are restored bit for bit in any dtype.
        """
        base = {name: dict(self.layers[name].named_parameters(recurse=False)) for name in weights}
        try:
            for name, edited in weights.items():
                layer = self.layers[name]
                layer.weight = edited
                if layer.bias is not None:  # a layer runs in one dtype, its weight's
                    layer.bias = nn.Parameter(layer.bias.to(edited.dtype), requires_grad=False)
            yield
        finally:
            for name, originals in base.items():
                for kind, original in originals.items():
                    setattr(self.layers[name], kind, original)


def _config(folder: Path) -> PreTrainedConfig:
    if not (folder / "config.json").exists():
        raise InputError(f"{folder}: no language model there (config.json is missing)")
    return AutoConfig.from_pretrained(folder)


def _tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(folder)
    except Exception as error:  # transformers raises whatever its parts do
        what = str(error).partition("\n")[0]
        raise InputError(
            f"{folder}: no tokenizer that can be read: {what} (copy tokenizer.json there)"
        ) from error
    return tokenizer


def _linear(model: nn.Module, name: str) -> nn.Linear | Conv1D:
    try:
        layer = model.get_submodule(name)
    except AttributeError as error:
        raise InputError(f"{type(model).__name__} has no module {name} to edit") from error
    if not isinstance(layer, nn.Linear | Conv1D):
        raise InputError(f"{name} is a {type(layer).__name__}; only linear layers can be edited")
    return layer


def _oriented(layer: nn.Module, weight: Tensor) -> Tensor:
    """Turn a weight of ``layer`` into a (d', d) matrix and back: Conv1D stores (d, d')."""
    return weight.T if isinstance(layer, Conv1D) else weight


def _in_single_precision(logits: Tensor) -> Tensor:
    """Return logits in at least single precision.

    In half precision, a small divergence between two sets of logits would be mostly rounding.
    """
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _cast_to_weight(layer: nn.Linear | Conv1D) -> None:
    """Let a layer of a half-precision model run with an edited weight of higher precision."""
    dtype = layer.weight.dtype

    def enter(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0].to(layer.weight.dtype),)

    def leave(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        return output.to(dtype)

    layer.register_forward_pre_hook(enter)
    layer.register_forward_hook(leave)
