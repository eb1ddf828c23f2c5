"""What the stages of meta-training, editing and evaluation will need, computed before they start.

Sizes follow from shapes. What a batch of the language model or of the hyper-network needs while it
runs is found by running it on shapes alone (:mod:`malmen.planning.meta_run`); what grows with the
number of edits is counted here, by the same steps that the code takes. What waits for the backward
pass rests in the host's memory, which on a processor is the same; many keys and value gradients are
in files.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from malmen.editor import HyperNetworkEditor, LeastSquaresEditor
from malmen.experiment.cards import printed_name, trained
from malmen.lm.batches import Batch, Example, make_batches
from malmen.lm.catalogue import Entry
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.lm.model_tree import build
from malmen.meta_gradient import keeping_graphs
from malmen.normal_equation import cheaper_form
from malmen.planning.meta_run import META, MetaRun
from malmen.recording.capture import capture, run_edit_tuples
from malmen.settings import HyperSettings
from malmen.support.errors import InputError

__all__ = ["DOUBLE", "SINGLE", "TYPICAL", "Layer", "Lengths", "Plan", "Planner", "Stage"]

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
        answers = [len(example.positions) for example in examples]
        return cls(
            tokens=sum(sizes) / len(sizes),
            answers=sum(answers) / len(answers),
            longest=max(sizes),
        )


TYPICAL = {
    "completion": Lengths(tokens=19.6, answers=3.2, longest=64),
    "verdict": Lengths(tokens=16, answers=1, longest=128),
}
"""Lengths to plan with before there are rows, by their shape. Those of zsRE with Natural Questions
were measured on slices of the data; of the longest tuples, and of FEVER, they are assumptions."""


@dataclass(frozen=True)
class Stage:
    """A stage and what it needs at its peak, in bytes.

    Attributes:
        name: What goes on.
        device: By what it is for, on the device that computes.
        host: The same in the host's memory, beside what the program itself takes.
    """

    name: str
    device: Mapping[str, int]
    host: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """The stages of a procedure.

    Attributes:
        title: What it is.
        stages: In their order.
        files: Bytes of temporary files.
    """

    title: str
    stages: Sequence[Stage]
    files: int = 0

    def __str__(self) -> str:
        return (
            f"{self.title}: {self.device / 1e9:.1f} GB where it computes, {self.host / 1e9:.1f} GB "
            f"more of the host's memory, {self.files / 1e9:.1f} GB of temporary files"
        )

    def table(self) -> str:
        """Return what every stage needs, in GB (10⁹ bytes), as Markdown."""
        rows = [[stage.name, *_shown(stage.device), *_shown(stage.host)] for stage in self.stages]
        headers = ["stage", "device, GB", "for", "host, GB", "for"]
        return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)

    @property
    def device(self) -> int:
        """Bytes on the device at the peak of the neediest stage."""
        return max(sum(stage.device.values()) for stage in self.stages)

    @property
    def host(self) -> int:
        """Bytes of the host's memory at the peak of the neediest stage."""
        return max(sum(stage.host.values()) for stage in self.stages)

    @property
    def together(self) -> int:
        """Bytes at the peak of the neediest stage where device and host are one."""
        return max(sum(stage.device.values()) + sum(stage.host.values()) for stage in self.stages)


@dataclass(frozen=True)
class Layer:
    """An edited layer, the tokens cached at it, and how the editor reconciles their rows.

    The rows enter the shift through their moment, a matrix of its size; or, where few tokens make
    the dual form cheaper, as they are.
    """

    d: int
    value_size: int
    tokens: int
    is_summed: bool = False
    """Whether the shift is a sum over tokens (MEND), not the answer of least squares."""

    @property
    def record(self) -> int:
        """Bytes of its keys and value gradients."""
        return self.tokens * (self.d + self.value_size) * SINGLE

    @property
    def shift(self) -> int:
        """Bytes of its shift."""
        return self.d * self.value_size * SINGLE

    @property
    def is_dual(self) -> bool:
        """Whether the rows enter as they are."""
        d, value_size = self.d, self.value_size
        return (
            not self.is_summed and cheaper_form(d=d, n=self.tokens, value_size=value_size) == "dual"
        )

    @property
    def leaf(self) -> int:
        """Bytes of what the shift knows of the rows, which is kept until its gradient is there."""
        if self.is_dual:
            return self.tokens * self.value_size * SINGLE
        return self.shift if self.is_summed else DOUBLE * self.d * self.value_size

    @property
    def solving(self) -> int:
        """Bytes while the shift is made, beside it and its leaf."""
        d, value_size, n = self.d, self.value_size, self.tokens
        if self.is_summed:
            return self.shift
        if self.is_dual:  # keys, also in double; UᵀU, the system, its factor; D and Y; S
            return self.tokens * d * SINGLE + DOUBLE * (
                d * n + 3 * n**2 + 3 * n * value_size + d * value_size
            )
        return DOUBLE * (3 * d**2 + 2 * d * value_size)  # UUᵀ, the system, its factor; S, a copy

    @property
    def waiting(self) -> int:
        """Bytes that wait for the backward pass."""
        d, value_size, n = self.d, self.value_size, self.tokens
        if self.is_summed:
            return 0
        if self.is_dual:
            return DOUBLE * (d * n + n**2 + n * value_size)
        return DOUBLE * (d**2 + d * value_size)

    @property
    def solving_back(self) -> int:
        """Bytes where it computes for the backward pass of the shift."""
        d, value_size, n = self.d, self.value_size, self.tokens
        if self.is_summed:
            return self.shift
        if self.is_dual:
            return self.waiting + DOUBLE * (d * value_size + 2 * n * value_size)
        return self.waiting + DOUBLE * 2 * d * value_size  # the gradient of S, and of DUᵀ


class Planner:
    """Computes plans for a language model of the catalogue.

    Args:
        entry: The language model; the catalogue has to give its shape.
        lengths: Of the tuples.

    Raises:
        InputError: The catalogue gives no shape.
    """

    @classmethod
    def of(cls, lm: LanguageModel, facts: Sequence[EncodedFact]) -> "Planner":
        """Return a planner for a loaded language model and its facts, with their real sizes."""
        shape = lm.model.config.to_dict()
        dtype: Any = str(lm.model.dtype).removeprefix("torch.")
        entry = replace(lm.entry, published=shape, dtype=dtype)
        return cls(entry, lengths=Lengths.of(facts))

    def __init__(self, entry: Entry, *, lengths: Lengths | None = None) -> None:
        self.entry = entry
        self.lengths = lengths or TYPICAL[entry.task]
        model = build(entry).to(getattr(torch, entry.dtype))
        tokenizer: Any = None  # nothing is tokenised
        self.lm = LanguageModel(model, tokenizer, entry)
        self._peaks: dict[tuple[Any, ...], int] = {}

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

    @cached_property
    def weights(self) -> int:
        """Bytes of the whole language model."""
        return _bytes_of(self.lm.model)

    @cached_property
    def upper_weights(self) -> int:
        """Bytes of the language model without its frozen blocks."""
        blocks = self.lm.model.get_submodule(self.entry.blocks)
        assert isinstance(blocks, nn.ModuleList)
        return self.weights - sum(_bytes_of(block) for block in blocks[: self.entry.frozen])

    def layers(self, edits: int, cached: str, *, is_summed: bool = False) -> list[Layer]:
        """Return the edited layers with the tokens that are cached at each."""
        layers = []
        for name, (d, value_size) in self.lm.shapes.items():
            per_fact = self.lengths.answers
            if self.lm.model.config.is_encoder_decoder:
                per_fact = per_fact if self.lm.is_in_decoder(name) else self.lengths.tokens
            elif cached == "all":
                per_fact = self.lengths.tokens
            layers.append(Layer(d, value_size, round(edits * per_fact), is_summed))
        return layers

    def batch(self, size: int) -> Batch:
        """Return the largest batch: as many of the longest tuples as it takes."""
        answers = round(self.lengths.answers)
        ids = (1,) * self.lengths.longest
        if self.entry.task == "verdict":
            example = Example(ids, (0,), (1,))
        elif self.lm.model.config.is_encoder_decoder:
            example = Example(ids, tuple(range(answers)), (1,) * answers, (0,) * answers)
        else:
            positions = tuple(range(len(ids) - answers, len(ids)))
            example = Example(ids, positions, (1,) * answers)
        [batch] = make_batches([example] * size, size=size, device=META)
        return batch

    def meta_training(self, editor: str, settings: HyperSettings, *, edits: int) -> Plan:
        """Plan a step of meta-training."""
        needs = _Needs(self, editor, settings, edits=edits)
        title = f"a step of {printed_name(editor)}'s meta-training, {edits:,} edits"
        return Plan(title, needs.step(), files=needs.files)

    def editing(self, editor: str, settings: HyperSettings, *, edits: int) -> Plan:
        """Plan an edit and its evaluation."""
        needs = _Needs(self, editor, settings, edits=edits)
        title = f"an edit with {printed_name(editor)} and its evaluation, {edits:,} edits"
        return Plan(title, needs.edit(), files=needs.files)

    def network_bytes(self, editor: str, settings: HyperSettings) -> int:
        """Return the bytes of an editor's hyper-network."""
        return _bytes_of(_Needs(self, editor, settings, edits=1).editor)

    def prefix(self, *, rows: int, fact_batch: int = 32) -> Plan:
        """Plan the pass through all blocks that stores what the frozen ones compute."""
        batch = self.batch(fact_batch)
        peak = self.peak(lambda: run_edit_tuples(self.lm, batch), "stored", fact_batch)
        needs = {"language model": self.weights, "a batch": peak}
        stage = Stage("all blocks, and back to the edited ones", needs, {})
        return Plan(f"the stored prefix of {rows:,} rows", [stage])

    def prefix_bytes(self, rows: int) -> int:
        """Return the bytes on disk of what is stored of rows: states, and those at answers.

        Keys and value gradients are not counted: they are left out where the disk is short.
        """
        config, itemsize = self.lm.model.config, self.lm.model.dtype.itemsize
        verdict = self.entry.task == "verdict"
        at_answers = 1 if verdict else self.lengths.answers * config.hidden_size
        per_tuple = self.lengths.tokens * config.hidden_size + at_answers
        return round(3 * rows * per_tuple * itemsize)


class _Needs:
    """What a procedure with a hyper-network needs, stage by stage."""

    def __init__(
        self, planner: Planner, editor: str, settings: HyperSettings, *, edits: int
    ) -> None:
        if editor not in trained():
            raise InputError(f"no plan for {editor!r}; choose from {', '.join(trained())}")
        self.planner, self.settings = planner, settings
        with META:
            self.editor: HyperNetworkEditor = trained()[editor].build(
                layers=planner.lm.shapes, settings=settings
            )
        is_summed = not isinstance(self.editor, LeastSquaresEditor)
        self.layers = planner.layers(edits, settings.cached, is_summed=is_summed)
        record = sum(layer.record for layer in self.layers)
        is_spilled = record > settings.memory_mb * 2**20
        self.files = record if is_spilled else 0
        self.record = {} if is_spilled else {"keys and value gradients": record}
        self.shifts = sum(layer.shift for layer in self.layers)

    def step(self) -> list[Stage]:
        """Return the stages of a step of meta-training, in their order."""
        learned = sum(p.numel() for p in self.editor.parameters()) * SINGLE
        always = {
            "language model": self.planner.upper_weights,
            "hyper-network": _bytes_of(self.editor),
            "its gradients": learned,
            "its moments (Adam)": 2 * learned,
        }
        leaves = sum(layer.leaf for layer in self.layers)
        made = self.record | {"shifts": self.shifts, "what they are made of": leaves}
        made |= {"graphs of the hyper-network": self.graphs}
        back = always | made | {"gradients of both": self.shifts + leaves}
        waiting = {"waits for the backward pass": sum(layer.waiting for layer in self.layers)}
        return [
            *self.recording(always),
            self.reconciling(always, made, waiting),
            Stage(
                "edited language model",
                always
                | made
                | {"edited weights": self.shifts, "their gradients": self.shifts}
                | {"a batch": self.batch_edited},
                waiting,
            ),
            Stage(
                "back through the shifts",
                back | {"solving": max(layer.solving_back for layer in self.layers)},
                waiting,
            ),
            Stage(
                "hyper-network with a graph",
                back
                | {"a batch": self.batch_of_network(is_trained=True)}
                | {"moments of a batch": 3 * max(layer.shift for layer in self.layers)},
                waiting,
            ),
            Stage("step of Adam", always | self.record | {"update": 2 * learned}, {}),
        ]

    def edit(self) -> list[Stage]:
        """Return the stages of an edit and of its evaluation."""
        always = {
            "language model": self.planner.upper_weights,
            "hyper-network": _bytes_of(self.editor),
        }
        leaf = max(layer.leaf for layer in self.layers)
        made = self.record | {"shifts": self.shifts, "what one is made of": leaf}
        waiting = {"factor of a layer": max(layer.waiting for layer in self.layers)}
        return [
            self.recording(always)[0],
            self.reconciling(always, made, waiting),
            Stage(
                "evaluation",
                always
                | {"shifts": self.shifts, "edited weights": self.shifts}
                | {"a batch": self.batch_scored},
                {},
            ),
        ]

    def recording(self, always: Mapping[str, int]) -> list[Stage]:
        """Return the stages that make the record and take it in."""
        largest = max(
            min(self.settings.token_batch, one.tokens) * max(one.d, one.value_size)
            for one in self.layers
        )
        return [
            Stage(
                "keys and value gradients",
                {**always, **self.record, "a batch": self.batch_recorded},
                {},
            ),
            Stage(
                "running normalisation",
                {**always, **self.record, "a batch": 3 * DOUBLE * largest},
                {},
            ),
        ]

    def reconciling(
        self, always: Mapping[str, int], made: Mapping[str, int], waiting: Mapping[str, int]
    ) -> Stage:
        """Return the stage that makes shifts of rows, a batch of the hyper-network at a time."""
        return Stage(
            "shifts",
            {**always, **made, "solving": max(layer.solving for layer in self.layers)}
            | {"a batch": self.batch_of_network(is_trained=False)},
            waiting,
        )

    # --- batches, on shapes alone ---

    @property
    def batch_recorded(self) -> int:
        lm, size, cached = self.planner.lm, self.settings.fact_batch, self.settings.cached
        batch = self.planner.batch(size)
        return self.planner.peak(
            lambda: capture(lm, [batch], cached=cached), "recorded", size, cached
        )

    @property
    def batch_edited(self) -> int:
        lm, size = self.planner.lm, self.settings.fact_batch
        batch, weights = self.planner.batch(size), lm.edited_weights(lm.zero_shifts())

        def run() -> None:
            before = lm.unedited_logits(batch)
            with lm.swapped(weights):
                divergences = lm.objective.divergence(lm.logits(batch), before)
            divergences.sum().backward()

        return self.planner.peak(run, "edited", size)

    @property
    def batch_scored(self) -> int:
        lm, size = self.planner.lm, self.settings.fact_batch
        batch, weights = self.planner.batch(size), lm.edited_weights(lm.zero_shifts())

        def run() -> None:
            with torch.no_grad(), lm.swapped(weights):
                lm.objective.predict(lm.logits(batch))

        return self.planner.peak(run, "scored", size)

    def batch_of_network(self, *, is_trained: bool) -> int:
        """Return what a batch of the hyper-network needs, for the layer where that is most."""
        shapes = dict.fromkeys(zip(self.planner.lm.layers, self.layers, strict=True))
        return max(self._network(name, layer, is_trained=is_trained) for name, layer in shapes)

    @property
    def graphs(self) -> int:
        """Return what the graphs take that are kept between the phases of a step."""
        layers = dict(zip(self.planner.lm.layers, self.layers, strict=True))
        counts = {name: layer.tokens for name, layer in layers.items()}
        kept = keeping_graphs(counts, at_most=self.settings.graph_tokens)
        return sum(
            self._network(name, layers[name], is_trained=True)
            * -(-layers[name].tokens // self.settings.token_batch)
            for name in kept
            if layers[name].is_dual
        )

    def _network(self, name: str, layer: Layer, *, is_trained: bool) -> int:
        n = min(self.settings.token_batch, layer.tokens)
        u, g = torch.empty(n, layer.d, device=META), torch.empty(n, layer.value_size, device=META)

        def run() -> None:
            with torch.set_grad_enabled(is_trained):
                total = self.editor.outputs(name, u, g).sum()
            if is_trained:
                total.backward()

        key = (n, layer.d, layer.value_size, self.settings, layer.is_summed, is_trained)
        return self.planner.peak(run, "network", *key)


def _shown(parts: Mapping[str, int]) -> tuple[str, str]:
    """Return the sum in GB, and the parts that show in one decimal, the largest first."""
    largest = sorted(parts.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in largest if size >= 5e7)
    return f"{sum(parts.values()) / 1e9:.1f}", shown


def _bytes_of(module: nn.Module) -> int:
    """Return the bytes of parameters and buffers, shared ones once."""
    tensors = {id(t): t for t in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.itemsize for tensor in tensors.values())
