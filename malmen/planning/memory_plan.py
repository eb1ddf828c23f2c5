"""What the stages of meta-training and of editing will need, computed before they start.

What waits for the backward pass rests in the host's memory, which on a processor is the same; many
keys and value gradients are in files.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from tabulate import tabulate

from malmen.editor import HyperNetworkEditor
from malmen.experiment.cards import printed_name, trained
from malmen.meta_gradient import keeping_graphs
from malmen.planning.meta_run import META
from malmen.planning.sizes import SINGLE, Sizes, bytes_of, count_of
from malmen.settings import HyperSettings
from malmen.support.errors import InputError

__all__ = ["Plan", "Planner", "Stage"]

Parts = Mapping[str, int]
"""Bytes by what they are for."""


@dataclass(frozen=True)
class Stage:
    """A stage and what it needs at its peak.

    Attributes:
        name: What goes on.
        device: On the device that computes.
        host: In the host's memory, beside what the program itself takes.
    """

    name: str
    device: Parts
    host: Parts


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


class Planner(Sizes):
    """The sizes of a language model, and the plans that follow from them."""

    def meta_training(self, editor: str, settings: HyperSettings, *, edits: int) -> Plan:
        """Plan a step of meta-training.

        Raises:
            InputError: The editor has no hyper-network.
        """
        held = _Held(self, editor, settings, edits)
        own = held.own | {
            "its gradients": held.learned,
            "its moments (Adam)": 2 * held.learned,
        }
        shifts, leaves = held.all("shift"), held.all("leaf")
        made = own | held.record | {"shifts": shifts, "what they are made of": leaves}
        made |= {"graphs of the hyper-network": held.graphs()}
        changed = {"edited weights": shifts, "their gradients": shifts}
        back = made | {"gradients of both": shifts + leaves}
        waiting = {"waits for the backward pass": held.all("waiting")}
        products = {"cross products of a batch": 3 * held.most("shift")}
        batch = self.edited(settings.fact_batch, is_trained=True)
        stages = [
            held.recording(own),
            held.making(made, waiting),
            Stage("edited language model", made | changed | {"a batch": batch}, waiting),
            Stage("back through the shifts", back | {"solving": held.most("returning")}, waiting),
            Stage(
                "hyper-network with a graph",
                back | {"a batch": held.batch(is_trained=True)} | products,
                waiting,
            ),
            Stage("step of Adam", own | held.record | {"update": 2 * held.learned}, {}),
        ]
        title = f"a step of {printed_name(editor)}'s meta-training, {edits:,} edits"
        return Plan(title, stages, files=held.files)

    def editing(self, editor: str, settings: HyperSettings, *, edits: int) -> Plan:
        """Plan an edit and its evaluation.

        Raises:
            InputError: The editor has no hyper-network.
        """
        held = _Held(self, editor, settings, edits)
        shifts = held.all("shift")
        made = held.own | held.record | {"shifts": shifts, "what one is made of": held.most("leaf")}
        batch = self.edited(settings.fact_batch, is_trained=False)
        scored = {"shifts": shifts, "edited weights": shifts, "a batch": batch}
        stages = [
            held.recording(held.own),
            held.making(made, {"factor of a layer": held.most("waiting")}),
            Stage("evaluation", held.own | scored, {}),
        ]
        title = f"an edit with {printed_name(editor)} and its evaluation, {edits:,} edits"
        return Plan(title, stages, files=held.files)


class _Held:
    """What an editor with a hyper-network holds."""

    def __init__(self, sizes: Sizes, name: str, settings: HyperSettings, edits: int) -> None:
        if name not in trained():
            raise InputError(f"no plan for {name!r}; choose from {', '.join(trained())}")
        with META:
            self.editor: HyperNetworkEditor = trained()[name].build(
                layers=sizes.lm.shapes, settings=settings
            )
        self.sizes, self.settings = sizes, settings
        self.layers = sizes.layers(edits, settings.cached, type(self.editor))
        self.learned = SINGLE * count_of([self.editor])
        self.own = {"language model": sizes.upper_weights, "hyper-network": bytes_of([self.editor])}
        record = self.all("record")
        is_spilled = record > settings.memory_mb * 2**20
        self.files = record if is_spilled else 0
        self.record = {} if is_spilled else {"keys and value gradients": record}

    def all(self, what: str) -> int:
        """Return something of all layers."""
        return sum(getattr(layer, what) for layer in self.layers.values())

    def most(self, what: str) -> int:
        """Return something of the layer that has most of it."""
        return max(getattr(layer, what) for layer in self.layers.values())

    def recording(self, own: Parts) -> Stage:
        """Return the stage that makes the record."""
        batch = self.sizes.recorded(self.settings.fact_batch, self.settings.cached)
        return Stage("keys and value gradients", {**own, **self.record, "a batch": batch}, {})

    def making(self, made: Parts, waiting: Parts) -> Stage:
        """Return the stage that makes the shifts, a batch of the hyper-network at a time."""
        needs = {"solving": self.most("making"), "a batch": self.batch(is_trained=False)}
        return Stage("shifts", {**made, **needs}, waiting)

    def batch(self, *, is_trained: bool) -> int:
        """Return what a batch of the hyper-network needs, for the layer where that is most."""
        return max(self._batch(name, is_trained=is_trained) for name in self.layers)

    def graphs(self) -> int:
        """Return what the graphs take that are kept between the phases of a step."""
        counts = {name: layer.tokens for name, layer in self.layers.items()}
        kept = keeping_graphs(counts, at_most=self.settings.graph_tokens)
        return sum(
            self._batch(name, is_trained=True) * -(-counts[name] // self.settings.token_batch)
            for name in kept
            if self.layers[name].form == "dual"
        )

    def _batch(self, name: str, *, is_trained: bool) -> int:
        layer = self.layers[name]
        n = min(self.settings.token_batch, layer.tokens)
        u, g = torch.empty(n, layer.d, device=META), torch.empty(n, layer.value_size, device=META)

        def run() -> None:
            with torch.set_grad_enabled(is_trained):
                total = self.editor.outputs(name, u, g).sum()
            if is_trained:
                total.backward()

        key = (type(self.editor), n, layer.d, layer.value_size, self.settings, is_trained)
        return self.sizes.peak(run, *key)


def _shown(parts: Parts) -> tuple[str, str]:
    """Return the sum in GB, and the parts that show in one decimal, the largest first."""
    largest = sorted(parts.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{name} {size / 1e9:.1f}" for name, size in largest if size >= 5e7)
    return f"{sum(parts.values()) / 1e9:.1f}", shown
