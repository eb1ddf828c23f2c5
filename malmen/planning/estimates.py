"""What a run of the paper's language models takes: downloads, disk, memory and hours, by rule.

Sizes are computed from shapes (:mod:`malmen.planning.memory_plan`). Hours are floating-point
operations, counted here, divided by the rates of one stated GPU, plus a stated time for every
batch: estimates of an order of magnitude, which no such GPU has confirmed.
"""

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from tabulate import tabulate
from torch import nn

from malmen.data.downloads.table import PREFIX, sources
from malmen.editor import LeastSquaresEditor
from malmen.experiment.cards import MALMEN, Card, find
from malmen.experiment.jobs import Jobs
from malmen.lm.batches import Batch
from malmen.lm.catalogue import lookup
from malmen.lm.language_model import LanguageModel
from malmen.planning.memory_plan import DOUBLE, SINGLE, Layer, Planner
from malmen.recording.tails import Tails
from malmen.settings import FineTuningSettings, HyperSettings, MemitSettings, TokenSettings

__all__ = ["BASIS", "Cost", "Machine", "cost_table", "costs", "shortcomings"]

RATES = {"bfloat16": 1.0e14, "float32": 6.5e12, "float64": 6.5e12}
"""Floating-point operations a second in matrix products: a third of an A100's peaks."""

HOST_RATE = 3.0e11
"""The same in double precision on the host: 20 GFLOP/s on each of 16 cores."""

SECONDS_A_BATCH = 0.1
"""What a batch of facts takes beyond its operations, all passes of a step together."""

SECONDS_A_STEP = 0.1
"""What a step of meta-training takes beyond its operations."""

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

BACKWARD = 4 / 3
"""Operations of a backward pass relative to the forward pass, when few weights have gradients."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What the jobs of one rule take for one language model, or for all.

    Attributes:
        rule: The rule.
        what: The language model, or what else tells it from others.
        jobs: How many there are.
        download, disk: Bytes of all jobs.
        device, host: Bytes of the neediest job.
        files: Bytes of its temporary files.
        hours: Of all jobs, one after another.
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
    found = list(_downloads(config, names))
    for name in names:
        found += _LanguageModelCosts(Jobs(config), name).all()
    return found


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
    lines = []
    if disk > machine.disk:
        lines.append(
            f"{disk / 1e9:.0f} GB of disk are needed, {machine.disk / 1e9:.0f} GB are free"
        )
    neediest = max(found, key=lambda cost: cost.host)
    if neediest.host > machine.host:
        lines.append(
            f"{neediest.rule} of {neediest.what} needs {neediest.host / 1e9:.0f} GB of memory, "
            f"there are {machine.host / 1e9:.0f} GB"
        )
    neediest = max(found, key=lambda cost: cost.device)
    there = "there is none" if machine.gpu is None else f"there are {machine.gpu / 1e9:.0f} GB"
    if neediest.device > (machine.gpu or 0):
        lines.append(
            f"{neediest.rule} of {neediest.what} needs a GPU of {neediest.device / 1e9:.0f} GB, "
            f"{there}"
        )
    return lines


def _downloads(config: Mapping[str, Any], names: list[str]) -> Iterator[Cost]:
    """Yield the costs of what arrives."""
    splits = [s for name in names for s in config["language_models"][name]["sources"].values()]
    paths = [path for split in splits for path in (*split["files"], split.get("unrelated", ""))]
    files = {path.removeprefix(PREFIX) for path in paths if path.startswith(PREFIX)}
    size = sum(
        max((v.size or 0 for v in sources()[f].versions), default=0) or BYTES_OF_A_FILE
        for f in files
    )
    hours = size / BYTES_A_SECOND / 3600
    yield Cost(
        rule="download", what="data", jobs=len(files), download=size, disk=2 * size, hours=hours
    )


class _LanguageModelCosts:
    """The costs of one language model."""

    def __init__(self, run: Jobs, name: str) -> None:
        self.run, self.config, self.name, self.entry = run, run.config, name, lookup(name)
        self.settings, self.schedule = run.settings(name), run.schedule(name)
        self.planner = Planner(self.entry)
        self.largest = max(self.settings["edits"])
        self.cards = {editor: find(editor) for editor in run.editors(name)}

    def all(self) -> list[Cost]:
        """Return the costs of every rule that runs the language model."""
        found = [self.fetch()]
        if self.entry.base:
            found.append(self.fact_checker())
        found.append(self.prefix())
        if self.run.weighing(self.name):
            found.append(self.key_statistics())
        found += [self.train(name) for name, card in self.cards.items() if card.training]
        if self.run.ablated == self.name:
            found.append(self.ablations())
        return [*found, *(self.evaluate(name) for name in self.cards)]

    def hyper(self, editor: str) -> dict[str, Any]:
        """Return an editor's hyper-parameters, as far as they are set or have defaults."""
        return {
            **asdict(find(editor).settings()),
            **self.run.hyper_parameters(self.name, editor),
        }

    def network_settings(self, editor: str) -> HyperSettings:
        known = {field.name for field in fields(HyperSettings)}
        return HyperSettings(**{k: v for k, v in self.hyper(editor).items() if k in known})

    # --- operations ---

    def passes(self, *, lowest: int = 0) -> float:
        """Return the operations of a forward pass over a tuple, from a block on."""
        lengths, lm = self.planner.lengths, self.planner.lm
        blocks = lm.model.get_submodule(self.entry.blocks)
        assert isinstance(blocks, nn.ModuleList)
        weights = lengths.tokens * sum(_size(block) for block in blocks[lowest:])
        if lm.model.config.is_encoder_decoder:
            weights += lengths.answers * _size(lm.model.get_submodule("decoder.block"))
        if self.entry.task == "completion":
            weights += lengths.answers * _size(lm.model.get_output_embeddings())
        return 2 * weights

    def seconds(self, operations: float, *, batches: float = 0, dtype: str | None = None) -> float:
        """Return the seconds of passes of the language model, in a dtype other than its own."""
        return operations / RATES[dtype or self.entry.dtype] + batches * SECONDS_A_BATCH

    @cached_property
    def upper(self) -> float:
        return self.passes(lowest=self.entry.frozen)

    def network(self, editor: str, edits: int, *, times: float) -> float:
        """Return the seconds of forward passes of the hyper-network."""
        settings = self.network_settings(editor)
        layers = self.planner.layers(edits, settings.cached)
        width = 2 * settings.rank * settings.n_blocks
        operations = sum(2 * one.tokens * width * (one.d + one.value_size) for one in layers)
        return times * operations / RATES["float32"]

    def solving(self, editor: str, edits: int) -> float:
        """Return the seconds of the normal equation, forward and backward."""
        if not issubclass(find(editor).load(), LeastSquaresEditor):
            return 0
        layers = self.planner.layers(edits, str(self.hyper(editor)["cached"]))
        return sum(_solving(layer) for layer in layers) / RATES["float64"]

    # --- rules ---

    def fetch(self) -> Cost:
        base = lookup(self.entry.base) if self.entry.base else self.entry
        parameters = sum(p.numel() for p in self.planner.lm.model.parameters())
        size = parameters * SINGLE  # what is published is in single precision
        hours = size / BYTES_A_SECOND / 3600
        return Cost(
            rule="fetch",
            what=base.name,
            download=size,
            disk=self.planner.weights,
            host=size + self.planner.weights,
            hours=hours,
        )

    def fact_checker(self) -> Cost:
        about = self.config["fact_checker"]
        claims = min(about["claims"], self.settings["rows"]["train"]) * about["epochs"]
        return Cost(
            rule="fact_checker",
            what=self.name,
            disk=self.planner.weights,
            device=5 * self.planner.weights,  # weights, gradients, moments of AdamW, a batch
            hours=self.seconds(3 * claims * self.passes(), batches=claims / 64) / 3600,
        )

    def prefix(self) -> Cost:
        rows = sum(self.settings["rows"].values())
        plan = self.planner.prefix(rows=rows)
        work = rows * (3 * self.passes() + BACKWARD * self.upper)
        return Cost(
            rule="prefix",
            what=self.name,
            disk=self.planner.prefix_bytes(rows),
            device=plan.device,
            hours=self.seconds(work, batches=3 * rows / 32) / 3600,
        )

    def step_seconds(self, editor: str, edits: int) -> float:
        """Return the seconds of a step of meta-training."""
        batches = edits / self.hyper(editor)["fact_batch"]
        passes = self.seconds(edits * 3 * (1 + BACKWARD) * self.upper, batches=batches)
        rest = self.network(editor, edits, times=4) + self.solving(editor, edits)
        return passes + rest + SECONDS_A_STEP

    def train(self, editor: str) -> Cost:
        settings = self.network_settings(editor)
        plans = [self.planner.meta_training(editor, settings, edits=m) for m in self.schedule]
        seconds = sum(
            steps * self.step_seconds(editor, edits) for edits, steps in self.schedule.items()
        )
        return Cost(
            rule="train",
            what=f"{self.name}, {editor}",
            jobs=len(self.schedule),
            disk=(len(self.schedule) + 3) * self.planner.network_bytes(editor, settings),
            device=max(plan.device for plan in plans),
            host=max(plan.host for plan in plans),
            files=max(plan.files for plan in plans),
            hours=seconds / 3600,
        )

    def ablations(self) -> Cost:
        largest = max(self.config["ablations"]["edits"])
        stages, variants = self.run.variant_schedule(), self.run.variants
        all_tokens = {**asdict(self.network_settings(MALMEN.name)), "cached": "all"}
        plan = self.planner.meta_training(MALMEN.name, HyperSettings(**all_tokens), edits=largest)
        seconds = len(variants) * sum(
            steps * self.step_seconds(MALMEN.name, edits) for edits, steps in stages.items()
        )
        return Cost(
            rule="ablation_train",
            what=self.name,
            jobs=len(variants) * len(stages),
            disk=len(variants)
            * len(stages)
            * self.planner.network_bytes(MALMEN.name, self.network_settings(MALMEN.name)),
            device=plan.device,
            host=plan.host,
            files=plan.files,
            hours=seconds / 3600,
        )

    def evaluate(self, editor: str) -> Cost:
        """Return the cost of an evaluation; of editing, as far as the editor's settings tell it."""
        facts = sum(self.settings["edits"]) * self.settings["sets"]
        pool = self.largest * self.settings["sets"]
        kind = self.cards[editor].settings
        if issubclass(kind, MemitSettings):
            return self.evaluate_memit(editor, facts, pool)
        scored = self.seconds(3 * (facts + pool) * self.upper, batches=3 * (facts + pool) / 32)
        plan, seconds = dict[str, Any](), 0.0
        if issubclass(kind, FineTuningSettings):
            plan, seconds = self.tuning(editor, facts)
        elif issubclass(kind, TokenSettings):
            plan, seconds = self.editing(editor, facts)
        return Cost(
            rule="evaluate",
            what=f"{self.name}, {editor}",
            **plan,
            hours=(scored + seconds) / 3600,
        )

    def editing(self, editor: str, facts: int) -> tuple[dict[str, Any], float]:
        """Return bytes at the largest count, by field of a cost, and the seconds of all edits."""
        settings = self.network_settings(editor)
        has_network = self.cards[editor].training is not None
        kind = editor if has_network else MALMEN.name
        plan = self.planner.editing(kind, settings, edits=self.largest)
        batches = facts / settings.fact_batch
        seconds = self.seconds(facts * (1 + BACKWARD) * self.upper, batches=batches)
        seconds += sum(self.solving(editor, count) for count in self.settings["edits"]) / 2
        if has_network:
            seconds += self.network(editor, facts, times=1)
        return {"device": plan.device, "host": plan.host, "files": plan.files}, seconds

    def tuning(self, editor: str, facts: int) -> tuple[dict[str, Any], float]:
        """Return the same of fine-tuning."""
        about = self.hyper(editor)
        [first, *_] = self.planner.editing(MALMEN.name, HyperSettings(), edits=1).stages
        shifts = sum(d * value_size * SINGLE for d, value_size in self.planner.lm.shapes.values())
        # Weights before and now, gradients and two moments of AdamW, and what it updates them by.
        device = self.planner.upper_weights + 6 * shifts + first.device["a batch"]
        passes = about["epochs"] * facts
        work = passes * (1 + BACKWARD) * self.upper
        return {"device": device}, self.seconds(work, batches=passes / about["fact_batch"])

    # --- MEMIT ---

    @cached_property
    def memit(self) -> Card:
        """The editor that needs statistics of keys."""
        return self.cards[self.run.weighing(self.name)[0]]

    @cached_property
    def memit_planner(self) -> Planner:
        """The language model with the layers that MEMIT edits, in its precision."""
        entry = self.entry.editing(self.memit.modules or "edited")
        if self.hyper(self.memit.name).get("precision") == "float32":
            entry = replace(entry, dtype="float32")
        return Planner(entry)

    @property
    def memit_sizes(self) -> list[int]:
        """Return the key sizes of the layers that MEMIT edits."""
        return [d for d, _ in self.memit_planner.lm.shapes.values()]

    @property
    def memit_top(self) -> int:
        highest = self.memit_planner.entry.edited[-1].removeprefix(f"{self.entry.blocks}.")
        return 1 + int(highest.split(".")[0])

    def key_statistics(self) -> Cost:
        about = self.config["statistics"]
        tokens = about["samples"] * about["length"]
        covariances = sum(DOUBLE * d**2 for d in self.memit_sizes)
        per_token = self.passes() - self.passes(lowest=self.memit_top)
        operations = tokens * per_token / self.planner.lengths.tokens
        products = tokens * sum(2 * d**2 for d in self.memit_sizes)
        lm = self.memit_planner
        seconds = self.seconds(operations, batches=about["samples"] / 32, dtype=lm.entry.dtype)
        blocks = lm.lm.model.get_submodule(self.entry.blocks)
        assert isinstance(blocks, nn.ModuleList)
        lower = lm.weights - sum(map(_bytes, blocks[self.memit_top :]))
        batch = 8 * about["length"] * max(self.memit_sizes) * (DOUBLE + SINGLE)
        return Cost(
            rule="key_statistics",
            what=self.name,
            disk=covariances,
            device=max(lm.weights, lower + covariances + batch),
            host=lm.weights - lower + 2 * covariances,
            hours=(seconds + products / RATES["float64"]) / 3600,
        )

    def evaluate_memit(self, editor: str, facts: int, pool: int) -> Cost:
        memit: MemitSettings = self.cards[editor].settings(**self.hyper(editor))
        lm = self.memit_planner
        seconds_of = partial(self.seconds, dtype=lm.entry.dtype)
        scored = seconds_of(3 * (facts + pool) * self.passes(), batches=3 * (facts + pool) / 32)
        d, prompts = max(self.memit_sizes), memit.contexts + 1
        above = self.passes(lowest=self.memit_top)
        values = pool * prompts * (self.passes() + memit.v_steps * (1 + BACKWARD) * above)
        seconds = seconds_of(values, batches=pool / memit.fact_batch * memit.v_steps)
        counts, layers = self.settings["edits"], len(self.memit_sizes)
        seconds += len(counts) * layers * 8 * d**3 / HOST_RATE
        spread = sum(counts) * layers * prompts * (self.passes() - above)
        seconds += seconds_of(spread, batches=sum(counts) * layers / memit.fact_batch)
        batch = lm.batch(memit.fact_batch * prompts)
        running = lm.peak(lambda: _search(lm.lm, batch, block=self.memit_top - 1), "search")
        edited = SINGLE * sum(d * value_size for d, value_size in lm.lm.shapes.values())
        solving = DOUBLE * (7 * d * min(d, pool) + 2 * d**2)
        return Cost(
            rule="evaluate",
            what=f"{self.name}, {editor}",
            device=lm.weights + edited + running,
            host=2 * layers * DOUBLE * d**2 + solving,
            hours=(scored + seconds) / 3600,
        )


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


def _bytes(module: nn.Module) -> int:
    return sum(p.numel() * p.itemsize for p in module.parameters())


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _solving(layer: Layer) -> float:
    """Return the operations of the normal equation, forward and backward."""
    d, value_size, n = layer.d, layer.value_size, layer.tokens
    order = n if layer.is_dual else d
    return 2 * d * n * order + order**3 / 3 + 8 * d * value_size * n + 8 * value_size * order**2
