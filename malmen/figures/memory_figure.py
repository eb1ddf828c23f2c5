"""Figure 8: peak memory against the number of edits."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from malmen.figures.drawing import (
    BLUE,
    GREEN,
    INFERRED,
    SKY,
    TEXT_WIDTH,
    VERMILION,
    Caption,
    Drawing,
)
from malmen.figures.scaling_curves import label_counts
from malmen.results.memory import EDITING, PLAIN, PROCEDURES, SPILLED, TRAINING, read
from malmen.support.errors import InputError

__all__ = ["draw_memory", "memory_figure"]

_LINES: dict[str, dict[str, Any]] = {
    TRAINING: {"color": BLUE, "marker": "o", "linestyle": "-"},
    SPILLED: {"color": GREEN, "marker": "^", "linestyle": (0, (1, 1))},
    EDITING: {"color": SKY, "marker": "D", "linestyle": (0, (3, 1.5, 1, 1.5))},
    PLAIN: {"color": VERMILION, "marker": "s", "linestyle": (0, (5, 1.5))},
}


def memory_figure(inputs: Sequence[Path]) -> Drawing:
    """Draw what `malmen memory` measured, from its file.

    Raises:
        InputError: If there is not exactly one file, or it is malformed.
    """
    if len(inputs) != 1:
        raise InputError(f"figure 08: {len(inputs)} files given; it is drawn from one")
    frame = read(inputs[0])
    ends = [
        f"{name} exceeds the limit of {group['limit_mb'].iloc[0]:,.0f} MB at "
        f"{group['edits'].iloc[-1]:,} edits."
        for name, group in frame.groupby("procedure", sort=False)
        if not group["fits"].all()
    ]
    text = [
        "Peak memory above the loaded LM, each measurement in a process of its own.",
        "In one graph: back-propagation from the meta loss through the edited LM and the shifts to "
        "the hyper-network, all facts in one batch (Figure 1); MALMEN: two phases, each in batches "
        "of its own (Figure 2). The hyper-network is the same. On disk: the step's keys and value "
        "gradients are written to temporary files and read back in batches.",
        *(ends or ["Every measurement fits the limit."]),
        INFERRED,
    ]
    caption = Caption("Peak memory against the number of edits", " ".join(text))
    return Drawing(draw_memory(frame), caption, frame)


def draw_memory(frame: pd.DataFrame) -> Figure:
    """Draw measurements with the columns of `malmen.results.memory`, a line a procedure."""
    figure = Figure(figsize=(0.62 * TEXT_WIDTH, 2.9), layout="constrained")
    axes = figure.subplots()
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    label_counts(axes, np.unique(frame["edits"]))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.grid(axis="y")
    axes.set_xlabel("number of edits (log scale)")
    axes.set_ylabel("peak memory, MB (log scale)")
    for name in PROCEDURES:
        curve = frame[frame["procedure"] == name]
        axes.plot(curve["edits"], curve["peak_mb"], **_LINES[name], label=name)
        over = curve[~curve["fits"]]
        axes.plot(over["edits"], over["peak_mb"], "x", color="black", markersize=9, zorder=3)
    limit = frame["limit_mb"].max()
    axes.axhline(limit, color="0.4", linestyle="--", linewidth=1)
    note = f"limit: {limit:,.0f} MB (× no longer fits)"
    across = axes.get_yaxis_transform()
    axes.text(0.01, limit * 1.02, note, transform=across, va="bottom", color="0.3")
    figure.legend(loc="outside upper center", handlelength=3.2)
    return figure
