"""Scaling curves: ES, GS and LS of one language model against the number of edits."""

from collections.abc import Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from malmen.experiment.cards import marked, notes, of_title, titles
from malmen.figures.drawing import INFERRED, SKY, TEXT_WIDTH, Caption, Drawing, figure_number
from malmen.lm.catalogue import Entry, catalogue, lookup
from malmen.results.comparison import PRE_EDIT, aggregate, editor_order
from malmen.results.per_fact import read_all, sources
from malmen.support.errors import InputError

__all__ = ["PANELS", "curve_names", "draw_scaling_curve", "label_counts", "looks", "scaling_curve"]

PANELS: dict[str, str] = {
    "es": "Edit success (ES), %",
    "gs": "Generalisation success (GS), %",
    "ls": "Locality success (LS), %",
}

_INFERRED_FIGURES = ("06", "07")
_MOST_TICK_LABELS = 6

# Lines of editors whose cards give none; marker and dashes tell them apart in grey print.
_OTHER_LINES: tuple[dict[str, Any], ...] = (
    {"color": SKY, "marker": "P", "linestyle": (0, (8, 2))},
    {"color": "#000000", "marker": "X", "linestyle": (0, (2, 1))},
)


def curve_names() -> list[str]:
    """Return the scaling curves that there are, each of one or more LMs."""
    return sorted({entry.figure for entry in catalogue().values() if entry.figure})


def scaling_curve(name: str, evaluations: Sequence[Path]) -> Drawing:
    """Draw ES, GS and LS against the number of edits, one line an editor.

    The data drawn are, as fractions, the rows of `malmen.results.comparison.aggregate` for the
    panels' measures, of the one LM whose figure the catalogue says this is.

    Raises:
        InputError: If a file is not one of per-fact results, if they are of several LMs, or of
            one whose scaling curve is another figure.
    """
    frame, metadata = read_all(evaluations)
    lms = sorted(set(frame["lm"]))
    if len(lms) > 1:
        raise InputError(f"figure {name}: evaluations of several LMs ({', '.join(lms)})")
    entry = lookup(lms[0])
    if entry.figure != name:
        raise InputError(
            f"figure {name}: the scaling curve of LM '{entry.name}' is figure {entry.figure}"
        )
    means = aggregate(frame, titles())
    means = means[means["metric"].isin(PANELS)].reset_index(drop=True)
    caption = _caption(entry, editors=set(means["editor"]), origins=sources(metadata))
    return Drawing(draw_scaling_curve(means), caption, means)


def draw_scaling_curve(means: pd.DataFrame) -> Figure:
    """Draw rows of `malmen.results.comparison.aggregate` of one LM, a panel a measure."""
    figure = Figure(figsize=(TEXT_WIDTH, 2.5), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
    for axes, letter, (metric, label) in zip(panels, "abc", PANELS.items(), strict=True):
        _draw_panel(axes, means[means["metric"] == metric])
        axes.set_title(f"({letter}) {label}")
    panels[1].set_xlabel("number of edits (log scale)")
    handles, labels = panels[0].get_legend_handles_labels()
    shape = {"ncols": len(labels), "handlelength": 3, "columnspacing": 1.4}
    figure.legend(handles, labels, loc="outside upper center", **shape)
    return figure


def _draw_panel(axes: Axes, means: pd.DataFrame) -> None:
    counts = np.unique(means["edits"])
    left, right = counts[0] / 2**0.3, counts[-1] * 2**0.3
    axes.set_xscale("log", base=2)
    axes.set(xlim=(left, right), ylim=(0, 100))
    axes.grid(axis="y")
    label_counts(axes, counts)
    editors = editor_order(means["editor"], titles())
    lines = looks(editor for editor in editors if editor != PRE_EDIT)
    for editor in editors:
        curve = means[means["editor"] == editor]
        value, low, high = (100 * curve[name].to_numpy() for name in ("value", "low", "high"))
        edits = curve["edits"].to_numpy()
        # Unclipped: a line or a marker at 0 or 100% is as whole as the others.
        if editor == PRE_EDIT:
            # From edge to edge: a level, visible for a single count as well.
            edges = np.concatenate([[left], edits, [right]])
            level = np.pad(value, 1, mode="edge")
            axes.plot(edges, level, color="0.4", linestyle="--", label=editor, clip_on=False)
            continue
        line = lines[editor]
        axes.fill_between(edits, low, high, color=line["color"], alpha=0.18, linewidth=0)
        axes.vlines(edits, low, high, color=line["color"], linewidth=0.8)  # a band needs two counts
        axes.plot(edits, value, **line, label=marked(editor), clip_on=False)


def looks(editors: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Return the look of each editor's line: what its card gives, or one that is free."""
    others, cards = cycle(_OTHER_LINES), {editor: of_title(editor) for editor in editors}
    return {
        editor: {"color": card.color, "marker": card.marker, "linestyle": card.dashes}
        if card is not None and card.color
        else next(others)
        for editor, card in cards.items()
    }


def label_counts(axes: Axes, counts: np.ndarray) -> None:
    """Put a tick at every count, and labels at as many as there is room for."""
    every = -(-len(counts) // _MOST_TICK_LABELS)
    labels = ["" if index % every else f"{count}" for index, count in enumerate(counts[::-1])]
    axes.xaxis.set_major_locator(FixedLocator(counts.tolist()))
    axes.xaxis.set_major_formatter(FixedFormatter(labels[::-1]))
    axes.xaxis.set_minor_locator(NullLocator())


def _caption(entry: Entry, *, editors: set[str], origins: Sequence[str]) -> Caption:
    answers = "of the verdict" if entry.task == "verdict" else "over tokens, teacher-forced,"
    whose = (
        f"{entry.title} stands in for {entry.stands_for}, which the paper's "
        f"{figure_number(entry.figure or '')} edits: compare the shape of the curves, not their "
        "values."
    )
    is_papers = entry.figure and entry.figure.isdigit()
    parts = [
        whose if entry.stands_for else "" if is_papers else "The paper does not edit this LM.",
        f"ES, GS and LS are mean accuracies {answers} on edited facts, equivalent prompts and "
        "unrelated prompts, against the number of facts edited at once.",
        "Lines: means over edit sets and facts; bands: 95% intervals from a bootstrap over both; "
        "grey dashes: the LM before editing.",
        *notes(editors),
        INFERRED if entry.figure in _INFERRED_FIGURES else "",
        f"Data and models: {'; '.join(origins)}." if origins else "",
    ]
    headline = f"Scaling curve of {entry.stands_for or entry.title}"
    return Caption(headline, " ".join(filter(None, parts)))
