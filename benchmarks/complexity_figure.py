"""The figure of how time and memory grow: step time, step memory, time of the solve."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from benchmarks.complexity import FORMS, OURS, RELEASED, slope
from malmen.figures.drawing import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    TEXT_WIDTH,
    VERMILION,
    Caption,
    Drawing,
)

__all__ = ["BEYOND", "KEYS", "LIMIT", "MEMORY", "SOLVE", "STEP", "complexity_figure", "curves"]

STEP, MEMORY, SOLVE = "step time, s", "step memory, MB", "solve time, s"
LIMIT, KEYS, BEYOND = "products", "stored keys", "ours without keys"


def _limit(form: object) -> str:
    """Return the name of the line of the matrix products that a form consists of."""
    return f"{LIMIT}, {form}"


_LINES: dict[str, dict[str, Any]] = {
    OURS: {"color": BLUE, "marker": "o"},
    BEYOND: {"color": GREEN, "marker": "D", "linestyle": (0, (3, 1.5, 1, 1.5))},
    RELEASED: {"color": VERMILION, "marker": "s", "linestyle": (0, (5, 1.5))},
    "primal": {"color": ORANGE, "marker": "^"},
    "dual": {"color": PURPLE, "marker": "v", "linestyle": (0, (5, 1.5))},
}
_REFERENCE: dict[str, Any] = {"color": "0.35", "linestyle": ":", "linewidth": 1.2}
_LINES |= {_limit(form): _REFERENCE | {"color": _LINES[form]["color"]} for form in FORMS}

_FITTED = 4
"""Points at the upper end that a slope is fitted to: below, fixed costs hide it."""


def curves(
    steps: pd.DataFrame, memory: pd.DataFrame, solves: pd.DataFrame, rates: dict[str, float]
) -> pd.DataFrame:
    """Return what is drawn: panel, line, x (edits, or key size), value, slope of the line.

    Args:
        steps: of `time_of_steps`.
        memory: of `memory_of_steps`.
        solves: of `time_of_solves`.
        rates: operations a second of a matrix product, by "float32" and "float64".
    """
    ours = memory[memory["procedure"] == OURS]
    fewest = steps[steps["procedure"] == OURS]
    lines = [
        *((STEP, name, g["edits"], g["seconds"]) for name, g in steps.groupby("procedure")),
        (STEP, LIMIT, fewest["edits"], fewest["operations"] / rates["float32"]),
        *((MEMORY, name, g["edits"], g["peak_mb"]) for name, g in memory.groupby("procedure")),
        (MEMORY, BEYOND, ours["edits"], ours["peak_mb"] - ours["keys_mb"]),
        (MEMORY, KEYS, ours["edits"], ours["keys_mb"]),
        *((SOLVE, form, g["d"], g["seconds"]) for form, g in solves.groupby("form")),
        *(
            (SOLVE, _limit(form), g["d"], g["operations"] / rates["float64"])
            for form, g in solves.groupby("form")
        ),
    ]
    frames = [
        pd.DataFrame({"x": x.to_numpy(), "value": value.to_numpy()}).assign(
            panel=panel, line=line, slope=slope(x.tail(_FITTED), value.tail(_FITTED))
        )
        for panel, line, x, value in lines
    ]
    return pd.concat(frames, ignore_index=True)[["panel", "line", "x", "value", "slope"]]


def complexity_figure(frame: pd.DataFrame, *, shape: str, solve: str, machine: str) -> Drawing:
    """Draw the three panels.

    Args:
        frame: Of `curves`.
        shape: What the steps ran on.
        solve: The sizes of the solve.
        machine: What everything ran on, with its rates.
    """
    stated = "; ".join(
        f"{str(panel).partition(',')[0]}: {_slopes(lines)}"
        for panel, lines in frame.groupby("panel", sort=False)
    )
    text = [
        f"Left and middle: a meta-training step on {shape}, ours on stored prefix states, against "
        "the number of edits; memory is the peak above the loaded language model and its prefix "
        "states, each measurement in a process of its own. Right: the normal equation with both "
        f"of its gradients, {solve}, against the key size.",
        "Dots: what the matrix products alone would take at the rate of one large product.",
        f"{machine}.",
        f"Exponents of power laws fitted to the {_FITTED} largest sizes: {stated}.",
    ]
    caption = Caption(
        "Time and memory against the number of edits and the key size", " ".join(text)
    )
    return Drawing(draw_complexity(frame), caption, frame)


def _slopes(lines: pd.DataFrame) -> str:
    slopes = lines.drop_duplicates("line")
    return ", ".join(f"{r['line']} {r['slope']:.2f}" for r in slopes.to_dict("records"))


def draw_complexity(frame: pd.DataFrame) -> Figure:
    """Draw the panels of `curves`; all axes are logarithmic."""
    figure = Figure(figsize=(TEXT_WIDTH, 3.5), layout="constrained")
    panels = {str(panel): lines for panel, lines in frame.groupby("panel")}
    titles = {STEP: "(a) time of a step", MEMORY: "(b) memory of a step", SOLVE: "(c) solve"}
    for axes, (panel, title) in zip(figure.subplots(1, 3), titles.items(), strict=True):
        _panel(axes, panels[panel])
        axes.set_title(title, loc="left")
        axes.set_xlabel("key size d" if panel == SOLVE else "number of edits")
        axes.set_ylabel("peak, MB" if panel == MEMORY else "seconds")
    return figure


def _panel(axes: Axes, lines: pd.DataFrame) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for name, line in lines.groupby("line", sort=False):
        style = _LINES.get(str(name), _REFERENCE) | {"markersize": 3.5}
        label = f"{name} ({line['slope'].iloc[0]:.2f})"
        axes.plot(line["x"], line["value"], **{"linewidth": 1.3} | style, label=label)
    counts = np.unique(lines["x"])
    axes.set_xticks(counts[:: -(-len(counts) // 5)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_locator(LogLocator(numticks=8))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
    axes.grid(axis="y")
    axes.legend(
        frameon=False,
        fontsize=7,
        handlelength=2.4,
        title="line (slope)",
        title_fontsize=7,
        loc="upper center",
        bbox_to_anchor=(0.42, -0.2),
    )
