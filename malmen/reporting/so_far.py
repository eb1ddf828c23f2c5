"""What a run has found so far: a few lines after every evaluation, long before the summary."""

from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from malmen.experiment.cards import titles
from malmen.lm.catalogue import lookup
from malmen.results.comparison import PRE_EDIT, editor_order
from malmen.results.metrics import HEADLINE, METRICS
from malmen.results.per_fact import read

__all__ = ["print_so_far"]

WIDTH = 100


def print_so_far(folder: Path) -> None:
    """Print, to stderr, every evaluation of a run at its largest number of edits.

    Args:
        folder: ``evaluations`` of a run, holding LM/EDITOR.parquet.
    """
    table = Table(box=SIMPLE_HEAD, title="so far, accuracy in %", title_justify="left")
    table.add_column("LM")
    table.add_column("Editor")
    for name in ("Edits", *(METRICS[metric].title for metric in HEADLINE)):
        table.add_column(name, justify="right")
    frames = [read(path)[0] for path in sorted(folder.glob("*/*.parquet"))]
    for lm, frame in pd.concat(frames).groupby("lm") if frames else ():
        for row in _rows(frame):
            table.add_row(lookup(str(lm)).title, *row)
    Console(stderr=True, width=WIDTH, color_system=None, highlight=False).print(table)


def _rows(frame: pd.DataFrame) -> list[list[str]]:
    """Return editor, edits and scores of each editor on one LM, before editing first."""
    largest = frame["edits"] == frame.groupby("editor")["edits"].transform("max")
    frame = frame[largest]
    before = frame[["edits", *(f"pre_{metric}" for metric in HEADLINE)]].set_axis(
        ["edits", *HEADLINE], axis="columns"
    )
    everything = pd.concat([before.assign(editor=PRE_EDIT), frame[["editor", "edits", *HEADLINE]]])
    return [
        [
            editor,
            f"{group['edits'].max():,}",
            *(f"{100 * group[metric].mean():.1f}" for metric in HEADLINE),
        ]
        for editor in editor_order(everything["editor"], titles())
        for group in [everything[everything["editor"] == editor]]
    ]
