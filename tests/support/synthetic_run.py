"""The files of an invented run, for tests of what reads many of them; never part of the package."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from known_editors import TITLES
from synthetic import METADATA, evaluation

from malmen.results import memory as memory_results
from malmen.results import per_fact
from malmen.tables.score_tables import VARIANTS

COUNTS = (16, 32, 64)
LIMIT_MB = 1000.0


@dataclass(frozen=True)
class Run:
    """Where the files of a run lie."""

    folder: Path
    evaluations: list[Path]
    ablations: list[Path]
    trained: list[Path]
    statistics: list[Path]
    memory: Path


def write_run(
    folder: Path,
    *,
    editors: Sequence[str] = TITLES,
    lms: Sequence[str] = ("gptj_desk", "fact_checker"),
    ablated: str = "gptj_desk",
    trained_at: Sequence[int] = COUNTS,
) -> Run:
    """Write everything that tables and claims are made of, under `folder/results/desk`."""
    folder = folder / "results" / "desk"
    evaluations = [
        write_evaluation(folder / "evaluations" / lm / f"{editor.lower()}.parquet", editor, lm)
        for lm in lms
        for editor in editors
        if editor != "MEMIT" or lm == "gptj_desk"
    ]
    ablations = [
        write_evaluation(
            folder / "ablations" / ablated / f"{variant}.parquet",
            "MEND" if variant == "sum" else "MALMEN",
            ablated,
            spoil=index,
        )
        for index, variant in enumerate(VARIANTS)
        if variant != "malmen"
    ]
    trained = [
        write_training(folder / "editors" / lm / f"{editor}_{edits}.json", editor, lm, edits)
        for lm in lms
        for editor in ("malmen", "mend")
        for edits in trained_at
    ]
    statistics = [write_metadata(folder / "statistics" / "gptj_desk.json", {}, seconds=7.0)]
    memory = folder / "memory.csv"
    write_memory(memory)
    return Run(folder, evaluations, ablations, trained, statistics, memory)


def write_evaluation(path: Path, editor: str, lm: str, *, spoil: int = 0) -> Path:
    """Write an evaluation; `spoil` facts in a hundred are got wrong besides."""
    frame = evaluation(editor, lm, counts=COUNTS)
    wrong = frame.index % 100 < 5 * spoil
    frame.loc[wrong, ["es", "gs"]] = 0.0
    frame.loc[wrong, ["es_exact", "gs_exact"]] = False
    editing = [
        {"edits": edits, "edit_set": edit_set, "seconds": 0.01 * edits * (edit_set + 1)}
        for edits in COUNTS
        for edit_set in (0, 1)
    ]
    per_fact.write(path, frame, METADATA | {"editing": editing, "peak_memory_mb": 100.0})
    return path


def write_training(path: Path, editor: str, lm: str, edits: int) -> Path:
    """Write the metadata of a training of three steps of a second, and its log."""
    write_metadata(path, {"editor": editor, "lm": lm, "edits": edits}, memory=200.0 + edits)
    pd.DataFrame({"step": [1, 2, 3], "seconds": [1.0] * 3}).to_csv(
        path.with_suffix(".csv"), index=False
    )
    return path


def write_metadata(
    path: Path, settings: dict[str, Any], *, seconds: float = 99.0, memory: float = 50.0
) -> Path:
    """Write the metadata of a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    metadata = {"settings": settings, "wall_seconds": seconds, "peak_memory_mb": memory}
    path.write_text(json.dumps(metadata), encoding="utf-8")
    return path


def write_memory(path: Path, *, plain: Sequence[float] = (100, 200, 400, 800, 1600)) -> None:
    """Write memory measurements: flat but for one graph, which takes `plain` MB."""
    counts = [2**index for index in range(len(plain))]
    rows = [
        (procedure, edits, peak, 0.1, peak <= LIMIT_MB, LIMIT_MB)
        for procedure in memory_results.PROCEDURES
        for edits, peak in zip(
            counts,
            plain if procedure == memory_results.PLAIN else [300.0] * len(plain),
            strict=True,
        )
    ]
    pd.DataFrame(rows, columns=list(memory_results.COLUMNS)).to_csv(path, index=False)
