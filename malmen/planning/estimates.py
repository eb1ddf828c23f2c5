"""What a run of the paper's language models takes: downloads, disk, memory and hours, by rule.

Sizes are computed from shapes (:mod:`malmen.planning.sizes`). Hours are floating-point
operations, counted here, divided by the rates of one stated GPU, plus a stated time for every
batch: estimates of an order of magnitude, which no such GPU has confirmed.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate

from malmen.data.downloads.table import PREFIX, sources
from malmen.experiment.cards import MALMEN, Card, find
from malmen.experiment.jobs import Jobs
from malmen.lm.batches import Batch
from malmen.lm.blocks import block_of
from malmen.lm.catalogue import lookup
from malmen.lm.language_model import LanguageModel
from malmen.planning.memory_plan import Plan, Planner
from malmen.planning.sizes import DOUBLE, SINGLE, bytes_of, count_of
from malmen.recording.tails import Tails
from malmen.settings import (
    FineTuningSettings,
    HyperSettings,
    MemitSettings,
    OracleSettings,
    TokenSettings,
)

__all__ = ["BASIS", "Cost", "Machine", "cost_table", "costs", "shortcomings"]

RATES = {"bfloat16": 1.0e14, "float32": 6.5e12, "float64": 6.5e12}
"""Floating-point operations a second in matrix products: a third of an A100's peaks."""

HOST_RATE = 3.0e11
"""The same in double precision on the host: 20 GFLOP/s on each of 16 cores."""

SECONDS_A_BATCH = SECONDS_A_STEP = 0.1
"""What a batch of facts, all its passes together, and what a step of meta-training take beyond
their operations."""

BYTES_A_SECOND = 5.0e7
"""Of the network."""

BASIS = (
    "sizes are computed from shapes; hours are counted operations at a third of the peaks of one "
    f"A100 (MEMIT's solves: {HOST_RATE / 1e9:.0f} GFLOP/s of the host), {SECONDS_A_BATCH} s more "
    f"for a batch of facts and {BYTES_A_SECOND / 1e6:.0f} MB/s of network"
)
"""What the estimates rest on, in words."""

BYTES_OF_A_FILE = 6.0e7
"""Of a data file whose size the table does not say."""

BATCH = 32
"""Facts that the language model takes at a time where no setting says it."""

BACKWARD = 4 / 3
"""Operations of a backward pass relative to the forward pass, when few weights have gradients."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the jobs of one rule take for one language model, or for all.

    Attributes:
        what: The language model, or what else tells it from others.
        jobs: How many there are; bytes to download, bytes on disk and hours are those of all.
        device, host, files: Bytes of memory and of temporary files of the neediest.
    """

    rule: str
    what: str
    jobs: int = 1
    download: float = 0
    disk: float = 0
    device: float = 0
    host: float = 0
    files: float = 0
    hours: float = 0


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What there is.

    Attributes:
        disk: Bytes that are free, or taken by what earlier runs have made.
        host: Bytes of memory.
        gpu: Bytes of the GPU's memory; None without one.
    """

    disk: float
    host: float
    gpu: float | None

    @classmethod
    def here(cls) -> "Machine":
        """Look at this machine, and at the folder where the workflow runs."""
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        gpu = torch.cuda.mem_get_info()[1] if torch.cuda.is_available() else None
        made = [path for folder in ("resources", "results") for path in Path(folder).rglob("*")]
        taken = sum(path.stat().st_size for path in made if path.is_file())
        return cls(disk=shutil.disk_usage(Path.cwd()).free + taken, host=memory, gpu=gpu)


def costs(config: Mapping[str, Any]) -> list[Cost]:
    """Return the costs of a configuration, as far as the paper's language models have any."""
    names = [name for name in config["run"]["language_models"] if lookup(name).published]
    run = Jobs(config)
    of_each = (_LanguageModelCosts(run, name).all() for name in names)
    return [_downloads(config, names), *chain.from_iterable(of_each)]


def cost_table(found: list[Cost]) -> str:
    """Return the costs as Markdown, with their sums."""
    largest = {f.name: max(getattr(c, f.name) for c in found) for f in fields(Cost)[5:8]}
    summed = {n: sum(getattr(c, n) for c in found) for n in ("jobs", "download", "disk", "hours")}
    total = Cost(rule="all", what="largest memory, sums of the rest", **largest, **summed)
    headers = ["rule", "of", "jobs", "download", "disk", "GPU", "host", "temporary", "hours"]
    rows = [
        [c.rule, c.what, c.jobs]
        + [f"{size / 1e9:.1f} GB" for size in (c.download, c.disk, c.device, c.host, c.files)]
        + [f"{c.hours:.1f}"]
        for c in (*found, total)
    ]
    return tabulate(rows, headers=headers, tablefmt="github", disable_numparse=True)


def shortcomings(found: list[Cost], machine: Machine) -> list[str]:
    """Say what the machine is too small for; nothing if it is large enough."""
    disk = sum(cost.disk for cost in found)
    disk += max(max(cost.download, cost.files) for cost in found)
    host = max(found, key=lambda cost: cost.host)
    gpu = max(found, key=lambda cost: cost.device)
    there = "there is none" if machine.gpu is None else f"there are {_gb(machine.gpu)}"
    lines = [
        (disk, machine.disk, f"{_gb(disk)} of disk are needed, {_gb(machine.disk)} are free"),
        (
            host.host,
            machine.host,
            f"{host.rule} of {host.what} needs {_gb(host.host)} of memory, "
            f"there are {_gb(machine.host)}",
        ),
        (
            gpu.device,
            machine.gpu or 0,
            f"{gpu.rule} of {gpu.what} needs a GPU of {_gb(gpu.device)}, {there}",
        ),
    ]
    return [line for needed, there_is, line in lines if needed > there_is]


def _gb(size: float) -> str:
    return f"{size / 1e9:.0f} GB"


def _downloads(config: Mapping[str, Any], names: list[str]) -> Cost:
    """Return the costs of what arrives."""
    splits = [s for name in names for s in config["language_models"][name]["sources"].values()]
    paths = [path for split in splits for path in (*split["files"], split.get("unrelated", ""))]
    files = {path.removeprefix(PREFIX) for path in paths if path.startswith(PREFIX)}
    sizes = [max((v.size or 0 for v in sources()[f].versions), default=0) for f in files]
    size = sum(size or BYTES_OF_A_FILE for size in sizes)
    return Cost(
        rule="download",
        what="data",
        jobs=len(files),
        download=size,
        disk=2 * size,
        hours=size / BYTES_A_SECOND / 3600,
    )


def _seconds(planner: Planner, operations: float, *, batches: float) -> float:
    """Return what passes of a language model take."""
    return operations / RATES[planner.entry.dtype] + batches * SECONDS_A_BATCH


class _LanguageModelCosts:
    """The costs of one language model."""

    def __init__(self, run: Jobs, name: str) -> None:
        self.run, self.config, self.name, self.entry = run, run.config, name, lookup(name)
        self.settings = run.settings(name)
        self.counts = self.settings["edits"]
        self.facts = self.settings["sets"] * sum(self.counts)
        self.pool = self.settings["sets"] * max(self.counts)
        self.scored = 3 * (self.facts + self.pool)  # tuples: after every edit, and before
        self.planner = Planner(self.entry)
        self.whole = self.planner.passes()
        self.upper = self.planner.passes(lowest=self.entry.frozen)

    def all(self) -> Iterator[Cost]:
        """Yield the costs of every rule that runs the language model."""
        yield self.fetch()
        if self.entry.base:
            yield self.fact_checker()
        yield self.frozen_states()
        cards = [find(editor) for editor in self.run.editors(self.name)]
        for card in [card for card in cards if card.statistics][:1]:
            yield _MemitCosts(self, card).key_statistics()
        for card in [card for card in cards if card.training]:
            yield self.train(card, self.run.schedule(self.name))
        if self.run.ablated == self.name:
            stages, runs = self.run.variant_schedule(), len(self.run.variants)
            found = self.train(MALMEN, stages, runs=runs, cached="all")
            yield replace(found, rule="ablation_train", what=self.name)
        for card in cards:
            is_memit = issubclass(card.settings, MemitSettings)
            yield _MemitCosts(self, card).evaluate() if is_memit else self.evaluate(card)

    def cost(self, rule: str, what: str = "", *, seconds: float, **needs: Any) -> Cost:
        return Cost(rule=rule, what=what or self.name, hours=seconds / 3600, **needs)

    def by(self, card: Card) -> str:
        return f"{self.name}, {card.name}"

    def hyper(self, card: Card) -> Any:
        """Return an editor's settings."""
        return _only(card.settings, self.run.hyper_parameters(self.name, card.name))

    def fetch(self) -> Cost:
        size = SINGLE * count_of([self.planner.lm.model])  # as it is published
        return self.cost(
            "fetch",
            self.entry.base or self.name,
            download=size,
            disk=self.planner.weights,
            host=size + self.planner.weights,
            seconds=size / BYTES_A_SECOND,
        )

    def fact_checker(self) -> Cost:
        about = self.config["fact_checker"]
        claims = min(about["claims"], self.settings["rows"]["train"]) * about["epochs"]
        return self.cost(
            "fact_checker",
            disk=self.planner.weights,
            device=5 * self.planner.weights,  # weights, gradients, moments of AdamW, a batch
            seconds=_seconds(self.planner, 3 * claims * self.whole, batches=claims / 64),
        )

    def frozen_states(self) -> Cost:
        rows = sum(self.settings["rows"].values())
        operations = rows * (3 * self.whole + BACKWARD * self.upper)
        return self.cost(
            "prefix",
            disk=self.planner.frozen_states(rows),
            device=self.planner.weights + self.planner.recorded(BATCH),
            seconds=_seconds(self.planner, operations, batches=3 * rows / BATCH),
        )

    def train(
        self, card: Card, stages: Mapping[int, int], *, runs: int = 1, **changes: Any
    ) -> Cost:
        """Return the cost of runs of training, planned with some settings changed."""
        settings = self.hyper(card)
        planned = replace(settings, **changes)
        plans = [self.planner.meta_training(card.name, planned, edits=m) for m in stages]
        network = plans[0].stages[0].device["hyper-network"]
        seconds = 0.0
        for edits, steps in stages.items():
            operations = 3 * edits * (1 + BACKWARD) * self.upper
            passes = _seconds(self.planner, operations, batches=edits / settings.fact_batch)
            shifts = self.making_shifts(card, edits, is_trained=True)
            seconds += steps * (passes + shifts + SECONDS_A_STEP)
        return self.cost(
            "train",
            self.by(card),
            jobs=runs * len(stages),
            disk=runs * len(stages) * 3 * network,  # with the moments of Adam
            **_neediest(plans),
            seconds=runs * seconds,
        )

    def making_shifts(self, card: Card, edits: int, *, is_trained: bool) -> float:
        """Return the seconds of hyper-network and normal equation, forward or both ways."""
        settings = self.hyper(card)
        layers = self.planner.layers(edits, settings.cached, card.load()).values()
        solving = sum(layer.solving for layer in layers) / RATES["float64"]
        if not card.training:
            return solving / 2
        width = 2 * settings.rank * settings.n_blocks
        network = sum(2 * one.tokens * width * (one.d + one.value_size) for one in layers)
        network /= RATES["float32"]
        return 4 * network + solving if is_trained else network + solving / 2

    def evaluate(self, card: Card) -> Cost:
        """Return the cost of an evaluation; of editing, as far as the editor's settings tell it."""
        settings, needs, passes, seconds = self.hyper(card), dict[str, float](), 0, 0.0
        if isinstance(settings, FineTuningSettings | OracleSettings):
            tuples = 3 if isinstance(settings, OracleSettings) else 1  # of a fact
            passes = settings.epochs * self.facts * tuples
            # Weights before and now, gradients and two moments of AdamW, and what it updates by.
            device = self.planner.upper_weights + 6 * self.planner.shifts
            needs = {"device": device + self.planner.recorded(settings.fact_batch)}
        elif isinstance(settings, TokenSettings):
            passes = self.facts
            plan = self.planner.editing(
                card.name if card.training else MALMEN.name,
                _only(HyperSettings, asdict(settings)),
                edits=max(self.counts),
            )
            needs = _neediest([plan])
            seconds = sum(self.making_shifts(card, m, is_trained=False) for m in self.counts)
        operations = (self.scored + passes * (1 + BACKWARD)) * self.upper
        batches = self.scored / BATCH + (passes / settings.fact_batch if passes else 0)
        seconds += _seconds(self.planner, operations, batches=batches)
        return self.cost("evaluate", self.by(card), **needs, seconds=seconds)


class _MemitCosts:
    """The costs of an editor that needs statistics of keys, on its own layers and precision."""

    def __init__(self, lm: _LanguageModelCosts, card: Card) -> None:
        self.lm, self.card, self.settings = lm, card, lm.hyper(card)
        entry = lm.entry.editing(card.modules or "edited")
        if getattr(self.settings, "precision", "") == "float32":
            entry = replace(entry, dtype="float32")
        self.planner = Planner(entry)
        self.key_sizes = [d for d, _ in self.planner.lm.shapes.values()]
        self.top = 1 + block_of(self.planner.lm, entry.edited[-1])
        self.above = self.planner.passes(lowest=self.top)
        self.below = lm.whole - self.above

    def key_statistics(self) -> Cost:
        about, planner = self.lm.config["statistics"], self.planner
        tokens = about["samples"] * about["length"]
        covariances = sum(DOUBLE * d**2 for d in self.key_sizes)
        products = tokens * sum(2 * d**2 for d in self.key_sizes)
        batch = 8 * about["length"] * max(self.key_sizes) * (DOUBLE + SINGLE)
        waiting = bytes_of(planner.blocks[self.top :])
        operations = tokens * self.below / planner.lengths.tokens
        seconds = _seconds(planner, operations, batches=about["samples"] / BATCH)
        return self.lm.cost(
            "key_statistics",
            disk=covariances,
            device=max(planner.weights, planner.weights - waiting + covariances + batch),
            host=waiting + 2 * covariances,
            seconds=seconds + products / RATES["float64"],
        )

    def evaluate(self) -> Cost:
        lm, planner, settings = self.lm, self.planner, self.settings
        d, layers = max(self.key_sizes), len(self.key_sizes)
        prompts = settings.contexts + 1
        search = lm.whole + settings.v_steps * (1 + BACKWARD) * self.above
        tuples = lm.pool * search + lm.facts * layers * self.below  # values; keys at every layer
        batches = (lm.pool * settings.v_steps + lm.facts * layers) / settings.fact_batch
        seconds = _seconds(
            planner, lm.scored * lm.whole + prompts * tuples, batches=lm.scored / BATCH + batches
        )
        batch = planner.batch(settings.fact_batch * prompts)
        running = planner.peak(lambda: _search(planner.lm, batch, block=self.top - 1), "search")
        solving = DOUBLE * (7 * d * min(d, lm.pool) + 2 * d**2)
        return lm.cost(
            "evaluate",
            lm.by(self.card),
            device=planner.weights + planner.shifts + running,
            host=2 * layers * DOUBLE * d**2 + solving,
            seconds=seconds + len(lm.counts) * layers * 8 * d**3 / HOST_RATE,
        )


def _only(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """Return settings of a kind from those values that it has."""
    names = {field.name for field in fields(kind)}
    return kind(**{name: value for name, value in values.items() if name in names})


def _neediest(plans: list[Plan]) -> dict[str, float]:
    needs = ("device", "host", "files")
    return {need: max(getattr(plan, need) for plan in plans) for need in needs}


def _search(lm: LanguageModel, batch: Batch, *, block: int) -> None:
    """Take a step of the search for MEMIT's values, whose subjects come first in their prompts."""
    tails = Tails(lm, batch, block=block, starts=[0] * len(batch))
    delta = torch.zeros_like(tails.states, requires_grad=True)
    with torch.enable_grad(), tails.replayed() as logits_with:
        with torch.no_grad():
            before = logits_with(tails.states)
        logits = logits_with(tails.states + delta)
        losses = lm.objective.loss(logits, batch.targets)
        losses = losses + lm.objective.divergence(logits, before)
        losses.sum().backward()
