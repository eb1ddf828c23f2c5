"""Peak memory of meta-training and editing against the number of edits.

Every measurement runs in a child process of its own, forked once the language model is loaded:
what one measurement leaves behind cannot hide what the next one needs.
"""

import ctypes
import multiprocessing
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn
from torch.func import functional_call
from transformers.pytorch_utils import Conv1D

from baselines.mend import MEND
from malmen.editor import HyperNetworkEditor
from malmen.experiment.loading import encode, load
from malmen.experiment.options import Measuring
from malmen.experiment.provenance import peak_memory_mb, run_metadata
from malmen.lm.batches import Batch
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.malmen import MALMEN
from malmen.meta_gradient import meta_gradient
from malmen.recording.capture import Record
from malmen.recording.spill import in_memory
from malmen.results.memory import COLUMNS, EDITING, PLAIN, SPILLED, TRAINING
from malmen.settings import HyperSettings
from malmen.support.errors import InputError
from malmen.support.files import atomic, write_json
from malmen.support.progress import Progress

__all__ = ["PROCEDURES", "measure", "measure_memory", "plain_meta_gradient"]

_M_MMAP_THRESHOLD = -3  # of malloc.h
_MMAP_BYTES = 2**16  # blocks from this size on are mapped one by one

Procedure = Callable[[LanguageModel, Sequence[EncodedFact], HyperSettings], None]


def measure_memory(options: Measuring, settings: HyperSettings) -> None:
    """Measure on a language model and rows, and write what was found.

    Raises:
        InputError: As of `measure`, or a file cannot be used.
    """
    # oneDNN keeps what it compiles for every shape, which would count as the procedures' memory.
    model = load(options.lm, options.weights, prefixes=[options.prefix], fast=False, device="cpu")
    torch.manual_seed(options.seed)
    facts = encode(model, options.rows, seed=options.seed)
    found = measure(model, facts, settings, edits=options.edits, limit_mb=options.limit_mb)
    with atomic(options.out) as temporary:
        found.to_csv(temporary, index=False)
    choices = {key: getattr(options, key) for key in ("lm", "edits", "limit_mb")}
    metadata = run_metadata(
        seed=options.seed, settings=choices | asdict(settings), started=options.started
    )
    write_json(options.out.with_suffix(".json"), metadata)


def measure(
    lm: LanguageModel,
    facts: Sequence[EncodedFact],
    settings: HyperSettings,
    *,
    edits: Sequence[int],
    limit_mb: float,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure every procedure at every number of edits, until it no longer fits.

    Args:
        lm: The language model, on the CPU. This process must not have differentiated anything
            yet: autograd cannot be used on both sides of a fork.
        facts: As many as the largest number of edits, at least.
        settings: Hyper-parameters of the editors.
        edits: Numbers of facts edited at once.
        limit_mb: Memory above the loaded language model from which on a procedure does not fit.
            The measurement that finds out is let through: with counts that double, a machine
            needs a little more than twice as much.
        progress: Show progress.

    Returns:
        One row a measurement; the row that exceeds the limit is its procedure's last.

    Raises:
        InputError: If there are fewer facts than edits.
    """
    counts = sorted(set(edits))
    if not counts or not 0 < counts[0] <= counts[-1] <= len(facts):
        raise InputError(f"--edits: name numbers between 1 and {len(facts)}, the facts there are")
    rows = []
    total = len(PROCEDURES) * len(counts)
    stage = f"peak memory on {lm.entry.title}"
    with Progress(stage, total=total, unit="measurements", show=progress) as bar:
        for name, run in PROCEDURES.items():
            for index, count in enumerate(counts):
                peak, seconds = in_child(partial(run, lm, facts[:count], settings))
                fits = peak <= limit_mb
                rows.append((name, count, round(peak, 1), round(seconds, 3), fits, limit_mb))
                bar.update(1, MB=f"{peak:,.0f} ({name}, {count} edits)")
                if not fits:
                    bar.update(len(counts) - index - 1)
                    break
    return pd.DataFrame(rows, columns=COLUMNS)


def in_child(work: Callable[[], object]) -> tuple[float, float]:
    """Run ``work`` in a forked child with one thread.

    Returns:
        The child's peak memory in MB above what it started with, and the seconds it took.

    Raises:
        RuntimeError: If the child fails; what it says stands above.
    """
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_report, args=(work, sender))
    child.start()
    sender.close()
    try:
        found: tuple[float, float] = receiver.recv()
    except EOFError as error:
        child.join()
        raise RuntimeError(f"a measurement ended with exit status {child.exitcode}") from error
    child.join()
    return found


def _report(work: Callable[[], object], sender: Connection) -> None:
    torch.set_num_threads(1)
    _return_freed_memory()
    before, started = peak_memory_mb(), time.perf_counter()
    work()
    sender.send((peak_memory_mb() - before, time.perf_counter() - started))


def _return_freed_memory() -> None:
    """Have freed tensors leave the process at once.

    glibc keeps them for later, in pieces that no longer fit: several times what is in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)


def _train(lm: LanguageModel, facts: Sequence[EncodedFact], settings: HyperSettings) -> None:
    """One step of MALMEN's meta-training, in two phases and in batches."""
    _step(MALMEN(lm.shapes, settings), lm, facts, meta_gradient)


def _from_files(lm: LanguageModel, facts: Sequence[EncodedFact], settings: HyperSettings) -> None:
    """The same with all keys and value gradients in temporary files."""
    _train(lm, facts, replace(settings, memory_mb=0))


def _edit(lm: LanguageModel, facts: Sequence[EncodedFact], settings: HyperSettings) -> None:
    """One edit with MALMEN."""
    MALMEN(lm.shapes, settings).requires_grad_(False).edit(lm, facts)


def _plainly(lm: LanguageModel, facts: Sequence[EncodedFact], settings: HyperSettings) -> None:
    """One step of MEND's meta-training as the paper's Figure 1 has it."""
    settings = replace(settings, fact_batch=len(facts))
    _step(MEND(lm.shapes, settings), lm, facts, plain_meta_gradient)


PROCEDURES: dict[str, Procedure] = {
    TRAINING: _train,
    SPILLED: _from_files,
    EDITING: _edit,
    PLAIN: _plainly,
}
"""What is measured, by its name in the results."""


def _step(
    editor: HyperNetworkEditor,
    lm: LanguageModel,
    facts: Sequence[EncodedFact],
    gradient: Callable[..., Any],
) -> None:
    optimizer = torch.optim.Adam(editor.parameters())
    record = editor.record(lm, facts)
    editor.observe(record)
    gradient(editor, lm, record, facts)
    optimizer.step()


def plain_meta_gradient(
    editor: HyperNetworkEditor,
    lm: LanguageModel,
    record: Record,
    facts: Sequence[EncodedFact],
    *,
    loc_coef: float = 1.0,
) -> float:
    """Do what `meta_gradient` does by back-propagation through one graph, all facts in one batch.

    The graph reaches from the meta loss through the edited language model and the shifts to the
    hyper-network (MEND's procedure; paper, Fig. 1), and all of it is held at once.

    Returns:
        The meta loss.
    """
    weights = {}
    for layer, (keys, gradients) in record.items():
        u, g = in_memory(keys), in_memory(gradients)
        shift = editor.combine(layer, u, editor.outputs(layer, u, g))
        module = lm.layers[layer]
        turned = shift.T if isinstance(module, Conv1D) else shift
        weights[f"model.{layer}.weight"] = module.get_parameter("weight") + turned
    logits = _Logits(lm)
    [equivalent] = lm.batches([fact.equivalent for fact in facts], size=len(facts))
    [unrelated] = lm.batches([fact.unrelated for fact in facts], size=len(facts))
    edited = functional_call(logits, weights, (equivalent,))
    generalisation = _mean(lm.objective.loss(edited, equivalent.targets), equivalent)
    with torch.no_grad():
        before = lm.logits(unrelated)
    edited = functional_call(logits, weights, (unrelated,))
    locality = _mean(lm.objective.divergence(edited, before), unrelated)
    loss = generalisation + loc_coef * locality
    loss.backward()
    return loss.item()


class _Logits(nn.Module):
    """The logits of a language model as a module's forward, for `functional_call`."""

    def __init__(self, lm: LanguageModel) -> None:
        super().__init__()
        self.model = lm.model
        self.forward = lm.logits


def _mean(values: Tensor, batch: Batch) -> Tensor:
    return (values * batch.weights.to(values.dtype)).sum() / len(batch)
