"""A frozen language model with linear layers to edit."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.activations import NewGELUActivation
from transformers.pytorch_utils import Conv1D

from malmen.lm.batches import Batch, Batches, Example, LossWeights, make_batches
from malmen.lm.catalogue import Entry
from malmen.lm.model_tree import auto_class
from malmen.lm.objectives import OBJECTIVES
from malmen.lm.weights import manifest
from malmen.support.errors import InputError

__all__ = ["LanguageModel"]

LABELS = {"REFUTES": 0, "SUPPORTS": 1}


class Stored(Protocol):
    """What is known of examples before any edit (:class:`malmen.recording.store.PrefixStore`)."""

    def answers(self, examples: Sequence[Example]) -> Tensor | None:
        """Return what enters the head at the answers of a batch, if it is stored."""
        ...

    def tokens(self, examples: Sequence[Example], layer: str) -> tuple[Tensor, Tensor] | None:
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
        self.objective = OBJECTIVES[entry.task]
        self.layers = {name: _linear(model, name) for name in entry.edited}
        self.device = model.device
        head = model.get_output_embeddings()
        if entry.task == "completion":
            head.register_forward_pre_hook(self._keep_answers)
        for layer in self.layers.values():
            _cast_to_weight(layer)
        _fuse_activations(model)
        self._cut_feed_forwards()
        self._answers: Tensor | None = None
        self._fed: Batch | None = None
        self.stored: Stored | None = None

    @classmethod
    def load(
        cls, folder: Path, entry: Entry, *, dtype: torch.dtype | None = None
    ) -> "LanguageModel":
        """Read a model folder as transformers writes it; no code of the folder is executed.

        The weights lie in ordinary memory until :meth:`to` moves them.

        Raises:
            InputError: the folder holds no model, or a downloaded one that has changed.
        """
        if not (folder / "config.json").exists():
            raise InputError(f"{folder}: no language model there (config.json is missing)")
        manifest.verify(folder)
        options: dict[str, Any] = {} if dtype is None else {"dtype": dtype}
        kind = auto_class(entry, AutoConfig.from_pretrained(folder))
        model = kind.from_pretrained(folder, use_safetensors=True, **options)
        return cls(model, AutoTokenizer.from_pretrained(folder), entry)

    def to(self, device: torch.device | str) -> "LanguageModel":
        """Move to a device what there is of the model: without its frozen blocks, only the rest."""
        self.model.to(device)
        self.device = self.model.device
        return self

    def is_in_decoder(self, layer: str) -> bool:
        """Tell whether a layer of an encoder-decoder sees the decoder's tokens."""
        return self.model.config.is_encoder_decoder and "decoder" in layer.split(".")

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(d, d') of every edited layer: in-features and out-features."""
        shapes = {}
        for name, layer in self.layers.items():
            value_size, key_size = _oriented(layer, layer.weight).shape
            shapes[name] = (key_size, value_size)
        return shapes

    def encode(self, prompt: str, answer: str) -> Example:
        """Tokenise a prompt and its answer (a fact checker: a claim and its label).

        Raises:
            InputError: the prompt or the answer tokenises to nothing, or they are too long.
        """
        ids = self.tokenizer(prompt)["input_ids"]
        if self.entry.task == "verdict":
            return self._fitting(Example(tuple(ids), (0,), (LABELS[answer],)), prompt)
        targets = self.tokenizer(" " + answer.strip(), add_special_tokens=False)["input_ids"]
        if not ids or not targets or not answer.strip():
            empty = "prompt" if not ids else "answer"
            raise InputError(f"the {empty} of ({prompt!r}, {answer!r}) tokenises to nothing")
        if self.model.config.is_encoder_decoder:
            start = self.model.config.decoder_start_token_id
            positions = tuple(range(len(targets)))
            return Example(tuple(ids), positions, tuple(targets), (start, *targets[:-1]))
        first = len(ids) - 1
        positions = tuple(range(first, first + len(targets)))
        return self._fitting(Example(tuple(ids + targets[:-1]), positions, tuple(targets)), prompt)

    def batches(
        self, examples: Sequence[Example], *, size: int, loss_weights: LossWeights = "facts"
    ) -> Batches:
        """Put examples in batches of at most ``size`` facts."""
        return make_batches(examples, size=size, device=self.device, loss_weights=loss_weights)

    def logits(self, batch: Batch, *, whole: bool = False) -> Tensor:
        """Return the logits at the answer positions.

        Nobody reads what the language-model head and the last block's feed-forward make of other
        tokens, nor what any feed-forward makes of padding: their inputs are cut, and the model's
        own forward does the rest.

        Args:
            batch: the examples.
            whole: whether feed-forwards run on every token all the same, to be looked at.

        Returns:
            (answers, vocabulary), or (claims, 1) of a fact checker, in at least single precision.
        """
        self._answers = batch.answers
        self._fed = None if whole else batch
        try:
            output = self.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                **self._options(batch),
            )
        finally:
            self._answers = self._fed = None
        return _in_single_precision(output.logits)

    @torch.no_grad()
    def unedited_logits(self, batch: Batch) -> Tensor:
        """Return :meth:`logits` before any edit, without a graph.

        Where it is stored what enters the head (:func:`malmen.recording.frozen.replay`), only the
        head runs.
        """
        stored = self.stored.answers(batch.examples) if self.stored else None
        if stored is None:
            return self.logits(batch)
        stored = stored.to(self.device)
        is_logits = self.entry.task == "verdict"
        return _in_single_precision(
            stored if is_logits else self.model.get_output_embeddings()(stored)
        )

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

    def _fitting(self, example: Example, prompt: str) -> Example:
        """Return an example that has no more tokens than the language model has positions."""
        positions = getattr(self.model.config, "max_position_embeddings", None)
        if positions is not None and len(example.ids) > positions:
            raise InputError(
                f"{prompt!r} and its answer have {len(example.ids)} tokens, and {self.entry.title} "
                f"reads at most {positions}: leave the row out"
            )
        return example

    def _options(self, batch: Batch) -> dict[str, Any]:
        options: dict[str, Any] = {"use_cache": False} if self.entry.task == "completion" else {}
        if batch.decoder_input_ids is not None:
            options["decoder_input_ids"] = batch.decoder_input_ids
            options["decoder_attention_mask"] = batch.decoder_attention_mask
        return options

    def _cut_feed_forwards(self) -> None:
        """Let feed-forwards, which work token by token, see what is read of their output alone.

        An encoder-decoder's are left as they are: its decoder has few tokens besides the answers.
        So are those that read something besides the states, or that a block has no function for.
        """
        blocks = self.model.get_submodule(self.entry.blocks)
        for block in blocks:
            for owner, name in (
                (getattr(block, "mlp", None), "forward"),
                (block, "feed_forward_chunk"),
            ):
                if hasattr(owner, name) and len(signature(getattr(owner, name)).parameters) == 1:
                    cut = self._cut(getattr(owner, name), is_last=block is blocks[-1])
                    setattr(owner, name, cut)

    def _cut(
        self, function: Callable[[Tensor], Tensor], *, is_last: bool
    ) -> Callable[[Tensor], Tensor]:
        """Return a function of states (b, t, h) that is zero where nobody reads it."""

        def run(states: Tensor) -> Tensor:
            if self._fed is None:
                return function(states)
            every = states.flatten(0, 1)
            read = self._fed.answers if is_last else self._fed.tokens
            if len(read) == len(every):
                return function(states)
            rows = function(every.index_select(0, read))
            output = rows.new_zeros(len(every), rows.shape[1]).index_copy(0, read, rows)
            return output.view(*states.shape[:2], -1)

        return run

    def _keep_answers(self, head: nn.Module, args: tuple[Tensor]) -> tuple[Tensor] | None:
        if self._answers is None:  # outside `logits`, such as in generation
            return None
        return (args[0].flatten(0, 1).index_select(0, self._answers),)


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


def _fuse_activations(model: nn.Module) -> None:
    """Compute the tanh form of GELU (of GPT-2, GPT-J and T5 v1.1) in one kernel instead of eight.

    It is the same function, in about a third of the time forward and backward on a CPU.
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, NewGELUActivation):
                setattr(parent, name, nn.GELU(approximate="tanh"))


def _cast_to_weight(layer: nn.Linear | Conv1D) -> None:
    """Let a layer of a half-precision model run with an edited weight of higher precision."""
    dtype = layer.weight.dtype

    def enter(module: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
        return (args[0].to(layer.weight.dtype),)

    def leave(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        return output.to(dtype)

    layer.register_forward_pre_hook(enter)
    layer.register_forward_hook(leave)
