"""What a run has found so far: a few lines after every evaluation, long before the summary."""

from pathlib import Path

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from malmen.experiment.cards import titles
from malmen.lm.catalogue import lookup
from malmen.results.comparison import editor_order, pre_edit_rows
from malmen.results.metrics import HEADLINE, METRICS
from malmen.results.per_fact import read
from malmen.tables.typesetting import percent

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
        largest = frame[frame["edits"] == frame.groupby("editor")["edits"].transform("max")]
        shown = pd.concat([largest, pre_edit_rows(largest)]).groupby("editor")
        means = shown.agg({"edits": "max", **dict.fromkeys(HEADLINE, "mean")})
        for editor in editor_order(means.index, titles()):
            edits, *scores = means.loc[editor]
            table.add_row(lookup(str(lm)).title, editor, f"{edits:,.0f}", *map(percent, scores))
    Console(stderr=True, width=WIDTH, color_system=None, highlight=False).print(table)
