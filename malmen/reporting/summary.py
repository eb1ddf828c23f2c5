"""The end of a run: Table 1, the claims, what was made, answers before and after editing."""

import json
import os
from collections.abc import Iterable, Sequence
from io import StringIO
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from malmen.figures.drawing import figure_number, read_caption
from malmen.lm.catalogue import lookup
from malmen.results.per_fact import read_metadata, sources
from malmen.support.errors import InputError
from malmen.support.files import atomic, read_json

__all__ = ["WIDTH", "plain", "read_answers", "summarise"]

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
        answers: Files `<lm>.json` of `malmen answers`: lists of objects with fact (the number of
            the edited fact), kind ("edit", "paraphrase" or "unrelated"), subject, prompt, target,
            before and after.
        out: The Markdown file.
        models: Folders of LMs made here, whose accuracy before editing is shown.
        runs: Run metadata, as in a report; the data and models that they used are credited.
        claims: `claims.md`; the terminal is shown its first line.

    Raises:
        InputError: If Table 1 or a listed file is missing, or a file of answers is malformed.
    """
    for path in (*tables, *figures, *filter(None, [claims])):
        if not path.is_file():
            raise InputError(f"{path}: no such file")
    shown = {path.suffix: path for path in tables if path.stem == "table_1"}
    for suffix in (".md", ".csv"):
        if suffix not in shown:
            raise InputError(f"table_1{suffix} is not among --tables")
    changes = {path.stem: read_answers(path)[:_FACTS_SHOWN] for path in answers}
    credited = sources(map(read_metadata, runs))

    table = shown[".md"].read_text("utf-8")
    notes = [_accuracy(folder) for folder in models]
    verdicts = "" if claims is None else claims.read_text("utf-8")
    with atomic(out) as temporary:
        text = _markdown(table, notes, verdicts, tables, figures, changes, credited, out.parent)
        temporary.write_text(text, encoding="utf-8")
    if verdicts:
        notes.append(verdicts.splitlines()[0])
    paths = [*tables, *figures, *filter(None, [claims]), out]
    print(_terminal(pd.read_csv(shown[".csv"]), notes, paths, changes, credited), end="")


def read_answers(path: Path) -> list[list[dict[str, Any]]]:
    """Read answers before and after editing.

    Returns:
        The answers of each edited fact together, in the order of the file.

    Raises:
        InputError: Naming the file, and the entry (from 0) and field that are wrong.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file (make it with `malmen answers`)") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error})") from error
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{path}: not a list of answers")
    facts: dict[int, list[dict[str, Any]]] = {}
    for index, entry in enumerate(entries):
        for field, kind in _FIELDS.items():
            if not isinstance(entry, dict) or not isinstance(entry.get(field), kind):
                raise InputError(
                    f"{path}: entry {index}: field '{field}' is not of type {kind.__name__}"
                )
        if entry["kind"] not in _KINDS:
            choices = ", ".join(_KINDS)
            raise InputError(f"{path}: entry {index}: field 'kind' is not one of {choices}")
        facts.setdefault(entry["fact"], []).append(entry)
    return list(facts.values())


def _accuracy(folder: Path) -> str:
    entry = lookup(folder.name)
    shares: dict[str, float] = read_json(folder / "accuracy.json")
    what = "verdicts on claims" if entry.task == "verdict" else "tokens of answers"
    found = "; ".join(f"{name.replace('_', ' ')} {_percent(x)} %" for name, x in shares.items())
    return f"{entry.title}, {what} right before editing: {found}."


def _markdown(
    table: str,
    notes: Sequence[str],
    verdicts: str,
    tables: Iterable[Path],
    figures: Iterable[Path],
    changes: dict[str, list[list[dict[str, Any]]]],
    credited: Sequence[str],
    folder: Path,
) -> str:
    lines = ["# Summary", "", "## Table 1", "", table.rstrip(), ""]
    lines += [line for note in notes for line in (note, "")]
    lines += ["## Claims", "", verdicts.rstrip(), ""] if verdicts else []
    lines += ["## Figures", ""]
    for path in sorted(path for path in figures if path.suffix == ".png"):
        caption = read_caption(path)
        title = f"{figure_number(path.stem.removeprefix('figure_'))}: {caption.headline}"
        lines += [f"![{title}]({_relative(path, folder)})", "", f"**{title}.** {caption.text}", ""]
    lines += ["## Files", ""]
    lines += [f"- [{path.name}]({_relative(path, folder)})" for path in (*tables, *figures)]
    for lm, facts in changes.items():
        lines += ["", f"## Answers of {lookup(lm).title} before and after editing", ""]
        lines += ["| | prompt | target | before | after |", "|:--|:--|:--|:--|:--|"]
        for entry in (entry for fact in facts for entry in fact):
            cells = [entry[name] for name in ("kind", "prompt", "target", "before", "after")]
            lines += [f"| {' | '.join(map(_markdown_cell, cells))} |"]
    lines += ["", "## Data and models that are not ours", ""] if credited else []
    lines += [f"- {source}" for source in credited]
    return "\n".join(lines) + "\n"


def _relative(path: Path, folder: Path) -> str:
    return Path(os.path.relpath(path, folder)).as_posix()


def plain(text: str) -> str:
    """Return text on one line, without the control characters an LM may emit."""
    return " ".join("".join(sign if sign.isprintable() else " " for sign in text).split())


def _markdown_cell(text: str) -> str:
    return plain(text).replace("|", r"\|")


def _terminal(
    table_1: pd.DataFrame,
    notes: Iterable[str],
    paths: Iterable[Path],
    changes: dict[str, list[list[dict[str, Any]]]],
    credited: Sequence[str],
) -> str:
    page = StringIO()
    # Text as it is: an LM's answer may hold what rich takes for markup, colour codes or emoji.
    console = Console(
        file=page, width=WIDTH, color_system=None, markup=False, emoji=False, highlight=False
    )
    rows: list[dict[str, Any]] = table_1.to_dict("records")  # type: ignore[assignment]
    for (lm, edits), block in groupby(rows, key=itemgetter("lm", "edits")):
        console.print(f"\n{lookup(lm).title}, {edits:,} edits: accuracy in % [95% interval]")
        console.print(_scores(block))
    for note in notes:
        console.print(note + "\n")
    for lm, facts in changes.items():
        console.print(f"Answers of {lookup(lm).title}, before -> after editing")
        console.print(_answers(facts))
    console.print("Made:", *(f"  {path}" for path in paths), sep="\n", soft_wrap=True)
    if credited:
        console.print(f"\nData and models: {'; '.join(credited)}.")
    return "".join(f"{line.rstrip()}\n" for line in page.getvalue().splitlines())


def _scores(rows: Iterable[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("Editor", no_wrap=True)
    for name in ("ES", "GS", "LS", "LS-cons.", "ES exact"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        scores = [_score(row, metric) for metric in ("es", "gs", "ls")]
        rest = [_percent(row[metric]) for metric in ("ls_consistency", "es_exact")]
        table.add_row(row["editor"], *scores, *rest)
    return table


def _score(row: dict[str, Any], metric: str) -> str:
    low, high = _percent(row[f"{metric}_low"]), _percent(row[f"{metric}_high"])
    return f"{_percent(row[metric])} [{low}, {high}]"


def _percent(fraction: float) -> str:
    return "-" if pd.isna(fraction) else f"{100 * fraction:.1f}"


def _answers(facts: Iterable[Sequence[dict[str, Any]]]) -> Table:
    table = Table(box=SIMPLE_HEAD, width=WIDTH)
    table.add_column("", no_wrap=True)
    table.add_column("Prompt", ratio=5)
    table.add_column("Target", ratio=2)
    table.add_column("Before -> after", ratio=4)
    for fact in facts:
        for index, entry in enumerate(fact):
            table.add_row(
                entry["kind"],
                plain(entry["prompt"]),
                plain(entry["target"]),
                " -> ".join(plain(entry[when]) or "(nothing)" for when in ("before", "after")),
                end_section=index == len(fact) - 1,
            )
    return table
