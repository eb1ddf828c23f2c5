"""Speed and memory of ours beside the released procedures: all that `make bench` measures.

Writes `summary.csv` and `summary.md` (ratios), `figure_complexity.{pdf,png,csv}` and `machine.json`
to the folder of results. A GPU is used where there is one.

    python -m benchmarks.speed
"""

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from benchmarks.complexity import (
    OURS,
    SPILLED,
    Sizes,
    memory_of_steps,
    product_rate,
    time_of_solves,
    time_of_steps,
)
from benchmarks.complexity_figure import complexity_figure, curves
from benchmarks.contests import FIRST, STORED, Sides, editing, meta_training, values
from benchmarks.shapes import GPT2, GPTJ, SMALL, TINY, VALUES, Shape
from malmen.experiment.provenance import run_metadata
from malmen.figures.drawing import save
from malmen.lm.onednn import is_faster, route_products
from malmen.support.files import atomic, write_json

__all__ = ["main"]

FLAT = 1.1
"""Largest growth of a peak of memory that counts as flat."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Attributes:
        shapes: language models of meta-training and of editing, with the targets of the first.
        edits: numbers of edits of meta-training; the fewest are those of editing.
        values: language model of MEMIT's values.
        block: behind which the values are: as far up as in the paper's GPT-J.
        facts: number of values.
        alone: those of them that are optimised one at a time.
        small: language model of the complexity.
        sizes: of the complexity.
        flat: fewest and most edits between which memory is compared.
        warm_up: edits of steps that are not counted.
    """

    shapes: Mapping[Shape, Mapping[str, float]]
    edits: tuple[int, ...]
    values: Shape
    block: int
    facts: int
    alone: int
    small: Shape
    sizes: Sizes
    flat: tuple[int, int]
    warm_up: int


FULL = Plan(
    shapes={GPT2: {FIRST: 2.5, STORED: 4.0}, GPTJ: {STORED: 5.0}},
    edits=(64, 256),
    values=VALUES,
    block=3,
    facts=64,
    alone=4,
    small=SMALL,
    sizes=Sizes(
        edits=[2**k for k in range(3, 15)],
        memory_edits=[*(2**k for k in range(3, 13)), 2**14],
        released=2**10,
        key_sizes=[2**k for k in range(7, 13)],
        columns=128,
        value_size=128,
    ),
    flat=(2**6, 2**12),
    warm_up=8,
)

QUICK = Plan(
    shapes={TINY: {FIRST: 2.5, STORED: 4.0}},
    edits=(3,),
    values=TINY,
    block=0,
    facts=4,
    alone=2,
    small=TINY,
    sizes=Sizes(
        edits=[2, 4, 8],
        memory_edits=[2, 4],
        released=4,
        key_sizes=[8, 16],
        columns=12,
        value_size=4,
    ),
    flat=(2, 4),
    warm_up=1,
)
"""Shows that the benchmark runs, in seconds; its numbers mean nothing."""


def main() -> None:
    """Measure, write and print."""
    started = time.perf_counter()
    arguments = _arguments()
    plan = QUICK if arguments.quick else FULL
    if is_faster():  # for both sides
        route_products()
    memory = memory_of_steps(plan.small, plan.sizes)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")

    rows = [*_contests(plan, device, turns=arguments.turns), *_flatness(memory, plan)]
    summary, out_dir = pd.DataFrame(rows), arguments.out_dir
    with atomic(out_dir / "summary.csv") as temporary:
        summary.to_csv(temporary, index=False, float_format="%.5g")
    paths = save(partial(complexity_figure, **_growth(plan, memory)), "complexity", out_dir)
    settings = {"device": str(device), "threads": torch.get_num_threads(), **vars(arguments)}
    about = run_metadata(seed=0, settings=settings, started=started)
    write_json(out_dir / "machine.json", about)
    with atomic(out_dir / "summary.md") as temporary:
        temporary.write_text(_text(summary, about), encoding="utf-8")
    print(f"\n{_table(summary)}\n")
    names = ["summary.csv", "summary.md", "machine.json", *(path.name for path in paths)]
    print(f"{out_dir}: {', '.join(names)} [{about['wall_seconds']:.0f} s]")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--out-dir", type=Path, default=Path("results/bench"), help="of the files")
    parser.add_argument("--turns", type=int, default=3, help="one less of what takes long")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that it runs")
    arguments = parser.parse_args()
    if arguments.turns < 1:
        parser.error(f"--turns {arguments.turns}: at least one")
    return arguments


def _contests(plan: Plan, device: torch.device, *, turns: int) -> list[dict[str, Any]]:
    """Compare ours with the released procedures; return the rows of the summary."""
    rows = []
    for shape, targets in plan.shapes.items():
        sides = Sides.of(shape, device)
        meta_training(sides, edits=plan.warm_up, turns=1, targets=targets)
        fewest = min(plan.edits)
        for edits in plan.edits:  # the longer ones take a turn less
            some = turns if edits == fewest else max(1, turns - 1)
            rows += meta_training(sides, edits=edits, turns=some, targets=targets)
        rows.append(editing(sides, edits=fewest, turns=turns))
    rows.append(
        values(
            Sides.of(plan.values, device),
            facts=plan.facts,
            alone=plan.alone,
            block=plan.block,
            turns=max(1, turns - 1),
        )
    )
    return [comparison.row() for comparison in rows]


def _flatness(memory: pd.DataFrame, plan: Plan) -> list[dict[str, Any]]:
    """Return the rows that say how much the peak of our step grows."""
    fewest, most = plan.flat
    compared = memory[memory["edits"].between(fewest, most)]
    ours, spilled = (
        compared[compared["procedure"] == name].set_index("edits") for name in (OURS, SPILLED)
    )
    where = f"{plan.small.title}, {fewest:,} to {most:,} edits, largest to that at {fewest:,}"
    peaks = {
        f"peak memory of a step beyond the stored keys, {where}": ours["peak_mb"] - ours["keys_mb"],
        f"peak memory of a step, keys on disk, {where}": spilled["peak_mb"],
    }
    ratios = {work: float(peak.max() / peak[fewest]) for work, peak in peaks.items()}
    return [
        {"work": work, "ratio": ratio, "target": f"<= {FLAT:g}", "met": ratio <= FLAT}
        for work, ratio in ratios.items()
    ]


def _growth(plan: Plan, memory: pd.DataFrame) -> dict[str, Any]:
    """Measure what the figure draws beside the memory; return its arguments."""
    sizes = plan.sizes
    steps, solves = time_of_steps(plan.small, sizes), time_of_solves(sizes)
    rates = {name: product_rate(getattr(torch, name)) for name in ("float32", "float64")}
    stated = ", ".join(f"{rate / 1e9:.0f} GFLOP/s in {name}" for name, rate in rates.items())
    return {
        "frame": curves(steps, memory, solves, rates),
        "shape": plan.small.title,
        "solve": f"n = {sizes.columns}, d' = {sizes.value_size}, double precision",
        "machine": f"{torch.get_num_threads()} threads, {stated}",
    }


def _text(summary: pd.DataFrame, about: Mapping[str, Any]) -> str:
    """Return the summary for people."""
    hardware, commit = about["hardware"], about["commit"][:12]
    return f"""# Speed

{_table(summary)}

Ratios are of medians; in brackets, the smallest and the largest of a turn. Both sides ran by turns.
Differences of results are explained in `docs/speed.md`.

- {hardware["gpu"] or hardware["cpu"]}, {about["settings"]["threads"]} threads of
  {hardware["cores"]} cores, {hardware["memory_gb"]} GB
- torch {about["versions"]["torch"]}, commit {commit}{", with changes" if about["dirty"] else ""}
- {about["wall_seconds"]:.0f} s in all, {about["created"]}

Growth with the number of edits and the key size: `figure_complexity.pdf`.
"""


def _table(summary: pd.DataFrame) -> str:
    """Return the ratios, then what they are of, in Markdown."""
    table = [
        {
            "ratio": f"{row['ratio']:.2f}" + _between(row["ratio_low"], row["ratio_high"]),
            "target": row["target"],
            "met": "yes" if row["met"] else "no",
            "ours, s": _seconds(row["ours_s"]),
            "released, s": _seconds(row["plain_s"]),
            "difference": "" if pd.isna(row["difference"]) else f"{row['difference']:.0e}",
            "work": row["work"],
        }
        for row in summary.to_dict("records")
    ]
    return str(pd.DataFrame(table).to_markdown(index=False, disable_numparse=True))


def _between(low: float, high: float) -> str:
    return "" if pd.isna(low) else f" [{low:.2f}, {high:.2f}]"


def _seconds(seconds: float) -> str:
    return "" if pd.isna(seconds) else f"{seconds:.3g}"


if __name__ == "__main__":
    main()
