"""The end of a run: Table 1, the claims, what was made, answers before and after editing."""

import os
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from malmen.figures.drawing import figure_number, read_caption
from malmen.lm.catalogue import lookup
from malmen.reporting.pages import plain, write_page
from malmen.results.metrics import HEADLINE, METRICS
from malmen.results.per_fact import read_metadata, sources
from malmen.support.errors import InputError
from malmen.support.files import read_json
from malmen.tables.typesetting import percent

__all__ = ["WIDTH", "Answers", "read_answers", "summarise"]

WIDTH = 100  # columns, also where the output goes to a file
_FACTS_SHOWN = 5
_FIELDS: dict[str, type] = {
    "fact": int,
    "kind": str,
    "subject": str,
    "prompt": str,
    "target": str,
    "before": str,
    "after": str,
}
_KINDS = ("edit", "paraphrase", "unrelated")

Answers = list[list[dict[str, Any]]]
"""What `malmen answers` writes, the answers of each edited fact together."""


def summarise(
    tables: Sequence[Path],
    figures: Sequence[Path],
    answers: Sequence[Path],
    out: Path,
    *,
    models: Sequence[Path] = (),
    runs: Sequence[Path] = (),
    claims: Path | None = None,
) -> None:
    """Print what a run showed to the terminal and write it, in full, as Markdown.

    Args:
        tables: The files of the tables; Table 1 is shown, from `table_1.md` and `table_1.csv`.
        figures: The files of the figures, listed with their captions.
        answers: Files `<lm>.json` of `malmen answers`, of which the first facts are shown.
        out: The Markdown file.
        models: Folders of LMs made here, whose accuracy before editing is shown.
        runs: Run metadata, as in a report; the data and models that they used are credited.
        claims: `claims.md`; the terminal is shown its first line.

    Raises:
        InputError: If Table 1 or a listed file is missing, or a file of answers is malformed.
    """
    made = [*tables, *figures, *([claims] if claims else [])]
    for path in made:
        if not path.is_file():
            raise InputError(f"{path}: no such file")
    shown = {path.suffix: path for path in tables if path.stem == "table_1"}
    for suffix in (".md", ".csv"):
        if suffix not in shown:
            raise InputError(f"table_1{suffix} is not among --tables")
    changes = {path.stem: read_answers(path)[:_FACTS_SHOWN] for path in answers}
    changes = {lookup(lm).title: facts for lm, facts in changes.items()}
    credited = sources(map(read_metadata, runs))
    notes = [_accuracy(folder) for folder in models]
    verdicts = claims.read_text("utf-8") if claims else ""
    write_page(
        out,
        "summary.md.j2",
        table=shown[".md"].read_text("utf-8").rstrip(),
        notes=notes,
        claims=verdicts.rstrip(),
        figures=[_figure(path, out) for path in sorted(figures) if path.suffix == ".png"],
        files=[(path.name, _link(path, out)) for path in (*tables, *figures)],
        answers=changes,
        credited=credited,
    )
    notes += verdicts.splitlines()[:1]
    print(_terminal(pd.read_csv(shown[".csv"]), notes, [*made, out], changes, credited), end="")


def read_answers(path: Path) -> Answers:
    """Read answers before and after editing.

    Returns:
        The answers of each edited fact together, in the order of the file.

    Raises:
        InputError: Naming the file, and the entry (from 0) and field that are wrong.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file (make it with `malmen answers`)")
    entries = read_json(path)
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: not a list of answers")
    facts: dict[int, list[dict[str, Any]]] = {}
    for index, entry in enumerate(entries):
        where = f"{path}: entry {index}"
        for field, kind in _FIELDS.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(field), kind):
                raise InputError(f"{where}: field '{field}' is not of type {kind.__name__}")
        if entry["kind"] not in _KINDS:
            raise InputError(f"{where}: field 'kind' is not one of {', '.join(_KINDS)}")
        facts.setdefault(entry["fact"], []).append(entry)
    return list(facts.values())


def _accuracy(folder: Path) -> str:
    entry = lookup(folder.name)
    shares: dict[str, float] = read_json(folder / "accuracy.json")
    what = "verdicts on claims" if entry.task == "verdict" else "tokens of answers"
    found = "; ".join(f"{name.replace('_', ' ')} {percent(x)} %" for name, x in shares.items())
    return f"{entry.title}, {what} right before editing: {found}."


def _figure(path: Path, out: Path) -> dict[str, str]:
    caption = read_caption(path)
    title = f"{figure_number(path.stem.removeprefix('figure_'))}: {caption.headline}"
    return {"title": title, "text": caption.text, "path": _link(path, out)}


def _link(path: Path, page: Path) -> str:
    return Path(os.path.relpath(path, page.parent)).as_posix()


def _terminal(
    table_1: pd.DataFrame,
    notes: Iterable[str],
    paths: Iterable[Path],
    changes: Mapping[str, Answers],
    credited: Sequence[str],
) -> str:
    page = StringIO()
    # Text as it is: an LM's answer may hold what rich takes for markup, colour codes or emoji.
    console = Console(
        file=page, width=WIDTH, color_system=None, markup=False, emoji=False, highlight=False
    )
    for (lm, edits), block in table_1.groupby(["lm", "edits"], sort=False):
        console.print(f"\n{lookup(str(lm)).title}, {edits:,} edits: accuracy in % [95% interval]")
        console.print(_scores(block))
    for note in notes:
        console.print(note + "\n")
    for title, facts in changes.items():
        console.print(f"Answers of {title}, before -> after editing")
        console.print(_answers(facts))
    console.print("Made:", *(f"  {path}" for path in paths), sep="\n", soft_wrap=True)
    if credited:
        console.print(f"\nData and models: {'; '.join(credited)}.")
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().splitlines())


def _scores(rows: pd.DataFrame) -> Table:
    metrics = (*HEADLINE, "ls_consistency", "es_exact")
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Editor", no_wrap=True)
    for metric in metrics:
        table.add_column(METRICS[metric].heading, justify="right", no_wrap=True)
    for row in rows.to_dict("records"):
        table.add_row(row["editor"], *(_score(row, metric) for metric in metrics))
    return table


def _score(row: Mapping[Any, Any], metric: str) -> str:
    low, high = (percent(row[f"{metric}_{end}"]) for end in ("low", "high"))
    return percent(row[metric]) + (f" [{low}, {high}]" if metric in HEADLINE else "")


def _answers(facts: Answers) -> Table:
    table = Table(box=SIMPLE_HEAD, width=WIDTH)
    table.add_column("", no_wrap=True)
    for heading, ratio in (("Prompt", 5), ("Target", 2), ("Before -> after", 4)):
        table.add_column(heading, ratio=ratio)
    for fact in facts:
        for entry in fact:
            before, after = (plain(entry[when]) or "(nothing)" for when in ("before", "after"))
            prompt, target = plain(entry["prompt"]), plain(entry["target"])
            table.add_row(entry["kind"], prompt, target, f"{before} -> {after}")
        table.add_section()
    return table
