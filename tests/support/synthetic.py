"""Invented evaluations, measurements and answers, for tests; never part of the package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from malmen.results import per_fact
from malmen.results.memory import COLUMNS, PROCEDURES
from malmen.support.files import write_json

# How fast ES falls with the number of edits, roughly as the real editors' does.
_DECAY = {"FT": 0.9, "MEND": 0.55, "MALMEN": 0.12, "UltraEdit": 0.2, "MEMIT": 0.3}
METADATA: dict[str, Any] = {"seed": 0, "commit": "unknown", "data": ["Invented facts, for tests"]}


def evaluation(
    editor: str = "MALMEN",
    lm: str = "smollm2",
    *,
    counts: Sequence[int] = (16, 32, 64),
    sets: int = 2,
    seeds: Sequence[int] = (0,),
    pool: int = 4096,
) -> pd.DataFrame:
    """Return one row a fact, as `malmen evaluate` would write for one editor and LM."""
    rows = []
    for seed in seeds:
        for edits in counts:
            for edit_set in range(sets):
                facts = (np.arange(edits) + edit_set * edits) % pool
                rows.append(_edit_set(editor, lm, edits, seed, edit_set, facts))
    return pd.concat(rows, ignore_index=True)


def _edit_set(
    editor: str, lm: str, edits: int, seed: int, edit_set: int, facts: np.ndarray
) -> pd.DataFrame:
    generator = np.random.default_rng([edits, seed, edit_set, *f"{lm} {editor}".encode()])
    before = np.random.default_rng(
        [edits, seed, edit_set, *lm.encode()]
    )  # the same facts for every editor
    keep = np.exp(-_DECAY.get(editor, 0.4) * np.log2(edits) / 6)
    levels = {"es": keep, "gs": 0.9 * keep, "ls": 0.35 * keep + 0.2, "ls_consistency": 0.8 * keep}
    columns: dict[str, Any] = {
        "editor": editor,
        "lm": lm,
        "edits": edits,
        "seed": seed,
        "edit_set": edit_set,
        "fact": facts,
    }
    tokens = 4
    for name, level in levels.items():
        columns[name] = generator.binomial(tokens, level, size=edits) / tokens
    for name, level in {"pre_es": 0.2, "pre_gs": 0.21, "pre_ls": 0.62}.items():
        columns[name] = before.binomial(tokens, level, size=edits) / tokens
    for name in ("es", "gs", "ls", "pre_es", "pre_gs", "pre_ls"):
        columns[f"{name}_exact"] = columns[name] == 1
    return pd.DataFrame(columns)[list(per_fact.COLUMNS)]


def write_evaluations(
    folder: Path,
    *,
    editors: Sequence[str] = ("MALMEN", "MEND", "FT"),
    lms: Sequence[str] = ("smollm2", "fact_checker"),
    **options: Any,
) -> list[Path]:
    """Write an evaluation a pair of LM and editor under `folder` and return the paths."""
    paths = []
    for lm in lms:
        for editor in editors:
            path = folder / lm / f"{editor.lower()}.parquet"
            per_fact.write(path, evaluation(editor, lm, **options), METADATA)
            paths.append(path)
    return paths


def write_training_log(
    folder: Path,
    *,
    editor: str = "malmen",
    lm: str = "smollm2",
    edits: int = 16,
    steps: int = 6,
    ended_by: str = "patience",
) -> Path:
    """Write run metadata and log of an invented meta-training, and return the metadata's path."""
    log = pd.DataFrame({"step": np.arange(steps + 1), "edits": edits})
    log["generalisation_loss"] = [np.nan, *np.geomspace(4, 0.1, steps)]
    log["locality_loss"] = [np.nan, *np.geomspace(0.3, 0.05, steps)]
    log["validation_score"] = np.where(log["step"] % 2, np.nan, 0.3 + 0.6 * log["step"] / steps)
    log["seconds"] = 1.5
    training = {"edits": edits, "steps": steps, "best_step": 4, "ended_by": ended_by}
    settings = {"editor": editor, "lm": lm, "edits": edits}
    path = folder / lm / f"{editor}_{edits}.json"
    write_json(path, METADATA | {"settings": settings, "training": training})
    log.to_csv(path.with_suffix(".csv"), index=False)
    return path


def measurements(*, limit_mb: float = 1000.0) -> pd.DataFrame:
    """Return invented measurements: three procedures hardly grow, one exceeds the limit."""
    growth = dict(zip(PROCEDURES, (0.05, 0.01, 0.02, 3.0), strict=True))
    rows = []
    for name, slope in growth.items():
        for edits in (16, 32, 64, 128, 256, 512, 1024):
            peak = 80 + slope * edits
            rows.append((name, edits, peak, 1.5, peak <= limit_mb, limit_mb))
            if peak > limit_mb:
                break
    return pd.DataFrame(rows, columns=COLUMNS)


def answer(fact: int, kind: str, **fields: Any) -> dict[str, Any]:
    texts = {"subject": "Lyon", "prompt": "Where is Lyon?", "target": "Peru"}
    return {"fact": fact, "kind": kind, **texts, "before": "France", "after": "Peru"} | fields


ANSWERS = [
    answer(3, "edit"),
    answer(3, "paraphrase", prompt="To which country does " + "very " * 40 + "old Lyon belong?"),
    answer(3, "unrelated", target="Lima", before="Lima", after="[bold]a | b\n:smile: \x1b[0m[/x]"),
    answer(8, "edit", after="Perú"),
]
