"""How time and memory grow: of a step with the number of edits, of the solve with the key size.

Everything here runs on the CPU, and stands beside what the matrix products alone would take at
the machine's rate.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.contests import Sides, new_editor, released_step, train
from benchmarks.normal_equation import time_forms
from benchmarks.shapes import Shape, random_facts
from benchmarks.timing import at_once, take_turns
from malmen.experiment.memory import in_child
from malmen.lm.encoding import EncodedFact
from malmen.lm.language_model import LanguageModel
from malmen.normal_equation import Form
from malmen.support.progress import Progress

__all__ = [
    "FORMS",
    "OURS",
    "RELEASED",
    "SPILLED",
    "Sizes",
    "memory_of_steps",
    "product_counter",
    "product_rate",
    "slope",
    "solve_operations",
    "time_of_solves",
    "time_of_steps",
]

OURS, SPILLED, RELEASED = "ours", "ours, keys on disk", "released"
FORMS: tuple[Form, ...] = ("primal", "dual")

TOKENS = 128
"""Tokens a batch of the hyper-network: few, so that batches are full where memory is compared."""

COUNTED = 128
"""Edits up to which multiplications are counted; from there on they are proportional to edits."""


@dataclass(frozen=True)
class Sizes:
    """What is measured.

    Attributes:
        edits: numbers of edits whose step is timed.
        memory_edits: numbers of edits whose step's memory is measured.
        released: largest number of edits of the released procedure, which takes longer.
        key_sizes: d, of the solve.
        columns: n, of the solve.
        value_size: d', of the solve.
    """

    edits: Sequence[int]
    memory_edits: Sequence[int]
    released: int
    key_sizes: Sequence[int]
    columns: int
    value_size: int


def memory_of_steps(shape: Shape, sizes: Sizes) -> pd.DataFrame:
    """Measure the peak memory of a meta-training step, each in a process of its own.

    Must come before anything is differentiated in this process: autograd cannot be used on both
    sides of a fork.

    Returns:
        One row a measurement: procedure, edits, peak_mb above the loaded language model and its
        prefix states, keys_mb: size of the step's keys and value gradients in single precision.
    """
    sides = Sides.of(shape, torch.device("cpu"))
    facts = random_facts(shape, max(sizes.memory_edits))
    stored = sides.replayed(facts)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        steps: dict[str, Step] = {
            OURS: partial(_step, shape, stored),
            SPILLED: partial(_step, shape, stored, memory_mb=0),
            RELEASED: partial(_released_step, sides, Path(folder)),
        }
        measured = [
            (name, m)
            for name in steps
            for m in sizes.memory_edits
            if name != RELEASED or m <= sizes.released
        ]
        stage = f"memory of a step, {shape.title}"
        with Progress(stage, total=len(measured), unit="measurements") as bar:
            for name, edits in measured:
                peak, _ = in_child(partial(steps[name], facts[:edits]))
                rows.append((name, edits, peak, _keys_mb(stored, facts[:edits])))
                bar.update(1, MB=f"{peak:,.0f} ({name}, {edits} edits)")
    return pd.DataFrame(rows, columns=["procedure", "edits", "peak_mb", "keys_mb"])


def time_of_steps(shape: Shape, sizes: Sizes) -> pd.DataFrame:
    """Time a meta-training step on stored prefix states.

    Returns:
        One row a procedure and number of edits: procedure, edits, seconds (median of up to five
        turns), operations of the matrix products (of ours).
    """
    sides = Sides.of(shape, torch.device("cpu"))
    facts = random_facts(shape, max(sizes.edits))
    stored = sides.replayed(facts)
    operations = _step_operations(shape, stored, facts)
    rows: list[tuple[str, int, float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for edits in sizes.edits:
            some = facts[:edits]
            tasks = {OURS: at_once(partial(_step, shape, stored, some))}
            if edits <= sizes.released:
                released = partial(_released_step, sides, Path(folder), some)
                tasks[RELEASED] = at_once(released)
            turns = min(5, max(1, ONCE // edits))
            runs = take_turns(f"step, {shape.title}, {edits} edits", tasks, turns=turns)
            rows += [
                (name, edits, median(run.seconds), operations(edits)) for name, run in runs.items()
            ]
    return pd.DataFrame(rows, columns=["procedure", "edits", "seconds", "operations"])


ONCE = 512
"""Edits from which on a step is timed once."""

Step = Callable[[Sequence[EncodedFact]], None]


def product_counter() -> FlopCounterMode:
    """Return a counter of the operations of matrix products, those that add in place included."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: _addmm})


def _addmm(sum_shape: Any, a: Any, b: Any, **_: Any) -> int:
    return int(2 * a[0] * a[1] * b[1])


def _step_operations(
    shape: Shape, lm: LanguageModel, facts: Sequence[EncodedFact]
) -> Callable[[int], float]:
    """Return a function from edits to the operations of our step's matrix products."""

    def counted(edits: int) -> float:
        with product_counter() as counter:
            _step(shape, lm, facts[:edits])
        return float(counter.get_total_flops())

    most = min(COUNTED, len(facts))
    return lambda edits: counted(edits) if edits < most else counted(most) * edits / most


def time_of_solves(sizes: Sizes) -> pd.DataFrame:
    """Time the solve, both gradients included, in double precision against the key size.

    Returns:
        One row a measurement: form, d, seconds, operations.
    """
    n, value_size = sizes.columns, sizes.value_size
    rows = []
    with Progress("solve", total=len(sizes.key_sizes), unit="key sizes") as bar:
        for d in sizes.key_sizes:
            seconds = time_forms(d, n, value_size, torch.float64, SOLVES)
            rows += [
                (form, d, seconds[form], solve_operations(form, d, n, value_size)) for form in FORMS
            ]
            bar.update(1)
    return pd.DataFrame(rows, columns=["form", "d", "seconds", "operations"])


SOLVES = 3
"""Turns of a solve, after one that is not counted."""


def solve_operations(form: str, d: int, n: int, value_size: int) -> float:
    """Return the operations of a solve: Gram matrix, factor, two pairs of solves, two products."""
    order = d if form == "primal" else n
    return 2 * d * n * order + order**3 / 3 + 4 * value_size * order**2 + 4 * value_size * n * d


def product_rate(dtype: torch.dtype, *, size: int = 1536, turns: int = 10) -> float:
    """Return the operations a second of the best of several products of two square matrices."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(size, size, generator=generator, dtype=dtype)
    seconds = []
    for _ in range(turns):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    return 2 * size**3 / min(seconds)


def slope(x: ArrayLike, y: ArrayLike) -> float:
    """Return the exponent of the power law y ~ xᵏ that fits best in logarithms."""
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])


def _step(shape: Shape, lm: LanguageModel, facts: Sequence[EncodedFact], **changes: Any) -> None:
    train(new_editor(lm, shape, token_batch=TOKENS, graph_tokens=TOKENS, **changes), lm, facts)


def _released_step(sides: Sides, folder: Path, facts: Sequence[EncodedFact]) -> None:
    released_step(sides.released(folder, token_batch=TOKENS), facts)


def _keys_mb(lm: LanguageModel, facts: Sequence[EncodedFact]) -> float:
    """Return the size of the keys and value gradients of the facts in MB (2²⁰ bytes)."""
    tokens = sum(len(fact.edit.positions) for fact in facts)
    numbers = sum(d + value_size for d, value_size in lm.shapes.values())
    return tokens * numbers * torch.float32.itemsize / 2**20
