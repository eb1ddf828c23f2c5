"""Bytes and operations of a language model and of its edited layers, from shapes alone.

What a batch needs while it runs is found by running it on shapes (:mod:`malmen.planning.meta_run`);
what grows with the number of edits is counted, by the steps that the code takes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, Self

import torch
from torch import nn

from malmen.editor import LeastSquaresEditor, TokenEditor
from malmen.lm.batches import Batch, Batches
from malmen.lm.blocks import blocks_of
from malmen.lm.catalogue import Entry
from malmen.lm.encoding import EncodedFact
from malmen.lm.kinds import Cached, Decoder, EncoderDecoder
from malmen.lm.language_model import LanguageModel
from malmen.lm.model_tree import build
from malmen.normal_equation import cheaper_form
from malmen.planning.meta_run import META, MetaRun
from malmen.recording.capture import capture

__all__ = ["DOUBLE", "SINGLE", "TYPICAL", "Layer", "Lengths", "Sizes", "bytes_of", "count_of"]

SINGLE, DOUBLE = 4, 8  # bytes of a number


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """How many tokens the tuples of facts have.

    Attributes:
        tokens: Of a tuple, its answer included; a mean.
        answers: Of an answer; a mean.
        longest: Of the longest tuple.
    """

    tokens: float
    answers: float
    longest: int

    @classmethod
    def of(cls, facts: Sequence[EncodedFact]) -> "Lengths":
        """Measure facts."""
        examples = [example for f in facts for example in (f.edit, f.equivalent, f.unrelated)]
        sizes = [len(example.ids) for example in examples]
        answers = sum(len(example.positions) for example in examples)
        count = len(examples)
        return cls(tokens=sum(sizes) / count, answers=answers / count, longest=max(sizes))


TYPICAL = {
    "completion": Lengths(tokens=19.6, answers=3.2, longest=64),
    "verdict": Lengths(tokens=16, answers=1, longest=128),
}
"""Lengths to plan with before there are rows, by task. Those of zsRE with Natural Questions
were measured on slices of the data; of the longest tuples, and of FEVER, they are assumptions."""


class Layer:
    """An edited layer: bytes of what making its shift takes, and operations.

    The shift is a sum over tokens (MEND); or the answer of least squares, by the primal form, which
    knows the tokens by sums of the layer's size, or by the dual form, which knows each.

    Args:
        d, value_size: Of its keys and values.
        tokens: Those that are cached at it.
        editor: The class of the editor.

    Attributes:
        form: "sum", "primal" or "dual".
        record: Keys and value gradients.
        shift: The shift.
        leaf: What the shift is made of, which is kept until its gradient is there.
        making: While the shift is made, beside it and its leaf.
        waiting: What waits for the backward pass.
        returning: Where it computes for the backward pass of the shift.
        solving: Operations of the normal equation and of its backward pass.
    """

    def __init__(self, d: int, value_size: int, tokens: int, editor: type[TokenEditor]) -> None:
        self.d, self.value_size, self.tokens = d, value_size, tokens
        v, n = value_size, tokens
        self.form, order = "sum", 0
        self.record = SINGLE * n * (d + v)
        self.shift = self.leaf = self.making = self.returning = SINGLE * d * v
        self.waiting, self.solving = 0, 0.0
        if not issubclass(editor, LeastSquaresEditor):
            return
        self.form = cheaper_form(d=d, n=n, value_size=v)
        if self.form == "dual":
            order = n
            self.leaf = SINGLE * n * v
            # Keys, also in double; UᵀU, the system, its factor; D and two answers; S.
            self.making = SINGLE * n * d + DOUBLE * (d * n + 3 * n**2 + 3 * n * v + d * v)
            self.waiting = DOUBLE * (d * n + n**2 + n * v)
            self.returning = self.waiting + DOUBLE * (d * v + 2 * n * v)
        else:
            order = d
            self.leaf = DOUBLE * d * v
            self.making = DOUBLE * (3 * d**2 + 2 * d * v)  # UUᵀ, the system, its factor; S, a copy
            self.waiting = DOUBLE * (d**2 + d * v)
            self.returning = self.waiting + DOUBLE * 2 * d * v  # the gradients of S and of DUᵀ
        self.solving = 2 * d * n * order + order**3 / 3 + 8 * d * v * n + 8 * v * order**2


class Sizes:
    """Bytes and operations of a language model.

    Args:
        entry: The language model; the catalogue has to give its shape.
        lengths: Of the tuples; typical ones, if not given.

    Raises:
        InputError: The catalogue gives no shape.
    """

    @classmethod
    def of(cls, lm: LanguageModel, facts: Sequence[EncodedFact]) -> Self:
        """Return the sizes of a loaded language model, with the real lengths of its facts."""
        dtype: Any = str(lm.model.dtype).removeprefix("torch.")
        entry = replace(lm.entry, published=lm.model.config.to_dict(), dtype=dtype)
        return cls(entry, lengths=Lengths.of(facts))

    def __init__(self, entry: Entry, *, lengths: Lengths | None = None) -> None:
        self.entry = entry
        self.lengths = lengths or TYPICAL[entry.task]
        tokenizer: Any = None  # nothing is tokenised
        self.lm = LanguageModel(build(entry).to(getattr(torch, entry.dtype)), tokenizer, entry)
        self._peaks: dict[tuple[Any, ...], int] = {}

    @property
    def blocks(self) -> nn.ModuleList:
        """The blocks, the lower of which may be frozen."""
        return blocks_of(self.lm)

    @cached_property
    def weights(self) -> int:
        """Bytes of the whole language model."""
        return bytes_of([self.lm.model])

    @cached_property
    def upper_weights(self) -> int:
        """Bytes of the language model without its frozen blocks."""
        return self.weights - bytes_of(self.blocks[: self.entry.frozen])

    @property
    def shifts(self) -> int:
        """Bytes of the shifts of all edited layers."""
        return SINGLE * sum(d * value_size for d, value_size in self.lm.shapes.values())

    def passes(self, *, lowest: int = 0) -> float:
        """Return the operations of a forward pass over a tuple, from a block on."""
        model, kind, lengths = self.lm.model, self.lm.kind, self.lengths
        weights = lengths.tokens * count_of(self.blocks[lowest:])
        if isinstance(kind, EncoderDecoder):
            weights += lengths.answers * count_of([model.get_submodule("decoder.block")])
        weights += lengths.answers * count_of([kind.head(model)])
        return 2 * weights

    def layers(self, edits: int, cached: Cached, editor: type[TokenEditor]) -> dict[str, Layer]:
        """Return the edited layers by name."""
        layers = {}
        for name, (d, value_size) in self.lm.shapes.items():
            caches_input = self.lm.kind.caches_input(name, cached)
            per_fact = self.lengths.tokens if caches_input else self.lengths.answers
            layers[name] = Layer(d, value_size, round(edits * per_fact), editor)
        return layers

    def frozen_states(self, rows: int) -> int:
        """Return the bytes on disk of what the frozen blocks hand on, and the last at answers.

        Keys and value gradients are not counted: they are left out where the disk is short.
        """
        model, lengths = self.lm.model, self.lengths
        at_answers = lengths.answers * self.lm.kind.head_size(model)
        numbers = lengths.tokens * model.config.hidden_size + at_answers
        return round(3 * rows * numbers * model.dtype.itemsize)

    # --- a batch while it runs ---

    def batch(self, size: int) -> Batch:
        """Return the largest batch: as many of the longest tuples as it takes."""
        kind, answer = self.lm.kind, (1,) * round(self.lengths.answers)
        read = len(answer) - 1 if isinstance(kind, Decoder) else 0  # of the answer, by the input
        longest = min(self.lengths.longest, self.lm.longest)
        example = kind.example((1,) * (longest - read), answer)
        [batch] = Batches([example] * size, size=size, device=META)
        return batch

    def peak(self, run: Callable[[], object], *key: Any) -> int:
        """Return the bytes that a piece of work needs while it runs; ``key`` tells it from others.

        What it leaves behind the first time, such as gradients, is not counted.
        """
        if key not in self._peaks:
            with MetaRun() as count:
                run()
                before = count.restart()
                run()
            self._peaks[key] = count.peak - before
        return self._peaks[key]

    def recorded(self, size: int, cached: Any = "ans") -> int:
        """Return the bytes of a batch of edit tuples, forward and back."""
        batch = self.batch(size)
        return self.peak(lambda: capture(self.lm, [batch], cached=cached), "recorded", size, cached)

    def edited(self, size: int, *, is_trained: bool) -> int:
        """Return the bytes of a batch with edited weights, whose gradients may be asked for."""
        lm, batch = self.lm, self.batch(size)
        weights = lm.edited_weights(lm.zero_shifts())

        def run() -> None:
            before = lm.unedited_logits(batch) if is_trained else None
            with torch.set_grad_enabled(is_trained), lm.swapped(weights):
                logits = lm.logits(batch)
                if before is None:
                    lm.objective.predict(logits)
                else:
                    lm.objective.divergence(logits, before).sum().backward()

        return self.peak(run, "edited", size, is_trained)


def count_of(modules: Iterable[nn.Module]) -> int:
    """Return how many parameters modules have."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def bytes_of(modules: Iterable[nn.Module]) -> int:
    """Return the bytes of parameters and buffers, shared ones once."""
    found = chain.from_iterable((*module.parameters(), *module.buffers()) for module in modules)
    return sum(tensor.numel() * tensor.itemsize for tensor in {id(t): t for t in found}.values())
