"""The paper's figures from per-fact results, as PDF and PNG, with the data drawn as CSV."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

from malmen.catalogue import lookup
from malmen.errors import InputError
from malmen.files import atomic
from malmen.results import PRE_EDIT, aggregate, editor_order, read_all, sources

__all__ = ["FIGURES", "PANELS", "ScalingCurve", "draw_scaling_curve"]

PANELS: dict[str, str] = {
    "es": "Edit success (ES), %",
    "gs": "Generalisation success (GS), %",
    "ls": "Locality success (LS), %",
}

_STYLE: Any = {
    "font.size": 8,
    "axes.labelsize": 9,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "pdf.fonttype": 42,  # TrueType: text that can be searched and edited
}
_TEXT_WIDTH = 7.0  # inches
_MOST_TICK_LABELS = 6

# Okabe and Ito's colours, told apart by people with any colour vision; marker and dashes tell the
# lines apart in grey print.
_LINES: dict[str, dict[str, Any]] = {
    "MALMEN": {"color": "#0072B2", "marker": "o", "linestyle": "-"},
    "MEND": {"color": "#D55E00", "marker": "s", "linestyle": (0, (5, 1.5))},
    "FT": {"color": "#009E73", "marker": "^", "linestyle": (0, (3, 1.5, 1, 1.5))},
    "UltraEdit": {"color": "#CC79A7", "marker": "D", "linestyle": (0, (1, 1))},
    "MEMIT": {"color": "#E69F00", "marker": "v", "linestyle": (0, (5, 1, 1, 1, 1, 1))},
}
_OTHER_LINES = (
    {"color": "#56B4E9", "marker": "P", "linestyle": (0, (8, 2))},
    {"color": "#000000", "marker": "X", "linestyle": (0, (2, 1))},
)


@dataclass(frozen=True)
class ScalingCurve:
    """A figure of ES, GS and LS against the number of edits, one line an editor.

    Attributes:
        name: As in the file names, `figure_<name>.*`.
        lm: The LM that was edited.
        caption: What stands below the figure; also the subject in the PDF's properties.
    """

    name: str
    lm: str
    caption: str

    @property
    def title(self) -> str:
        """The figure's name in print, such as "Figure 4"."""
        return f"Figure {self.name.lstrip('0')}"

    def __call__(self, evaluations: Sequence[Path], out_dir: Path) -> list[Path]:
        """Draw the figure.

        Equal evaluations give equal bytes. The CSV holds exactly what is drawn, as fractions: the
        rows of `malmen.results.aggregate` for this LM and the panels' measures.

        Args:
            evaluations: Per-fact results; those of other LMs are passed over.
            out_dir: Folder for `figure_<name>.pdf`, `.png` and `.csv`.

        Returns:
            The three paths.

        Raises:
            InputError: If a file is not one of per-fact results, or none is of this LM.
        """
        frame, metadata = read_all(evaluations)
        frame = frame[frame["lm"] == self.lm]
        if frame.empty:
            names = ", ".join(map(str, evaluations))
            raise InputError(f"figure {self.name}: no evaluation of LM '{self.lm}' in {names}")
        means = aggregate(frame)
        means = means[means["metric"].isin(PANELS)].reset_index(drop=True)
        stem = Path(out_dir) / f"figure_{self.name}"
        with mpl.rc_context(_STYLE):
            self._save(draw_scaling_curve(means), stem, sources(metadata))
        with atomic(stem.with_suffix(".csv")) as temporary:
            means.to_csv(temporary, index=False)
        return [stem.with_suffix(suffix) for suffix in (".pdf", ".png", ".csv")]

    def _save(self, figure: Figure, stem: Path, origins: Sequence[str]) -> None:
        title = f"{self.title}: scaling curve of {lookup(self.lm).title}"
        about = " ".join([self.caption, *(f"{origin}." for origin in origins)])
        # Dates and versions would make the bytes differ from run to run or machine to machine.
        undated = {"CreationDate": None, "Producer": None, "Creator": None}
        with atomic(stem.with_suffix(".pdf")) as temporary:
            figure.savefig(temporary, metadata=undated | {"Title": title, "Subject": about})
        with atomic(stem.with_suffix(".png")) as temporary:
            unversioned = {"Software": None, "Title": title, "Description": about}
            figure.savefig(temporary, dpi=200, metadata=unversioned)


def draw_scaling_curve(means: pd.DataFrame) -> Figure:
    """Draw aggregated results of one LM: a panel a measure, shared axes, one legend above.

    Args:
        means: Rows of `malmen.results.aggregate` with the metrics of `PANELS`, of one LM.
    """
    figure = Figure(figsize=(_TEXT_WIDTH, 2.5), layout="constrained")
    panels = figure.subplots(1, len(PANELS), sharex=True, sharey=True)
    for axes, letter, (metric, label) in zip(panels, "abc", PANELS.items(), strict=True):
        _draw_panel(axes, means[means["metric"] == metric])
        axes.set_title(f"({letter}) {label}")
    panels[1].set_xlabel("number of edits (log scale)")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        loc="outside upper center",
        ncols=len(labels),
        frameon=False,
        handlelength=3.2,
    )
    return figure


def _draw_panel(axes: Axes, means: pd.DataFrame) -> None:
    counts = np.unique(means["edits"])
    left, right = counts[0] / 2**0.3, counts[-1] * 2**0.3
    axes.set_xscale("log", base=2)
    axes.set_xlim(left, right)
    axes.set_ylim(0, 100)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    _label_counts(axes, counts)
    others = iter(_OTHER_LINES * len(means))
    for editor in editor_order(means["editor"]):
        curve = means[means["editor"] == editor]
        value, low, high = (100 * curve[name].to_numpy() for name in ("value", "low", "high"))
        edits = curve["edits"].to_numpy()
        if editor == PRE_EDIT:
            # From edge to edge: a level, visible for a single count as well.
            edges = np.concatenate([[left], edits, [right]])
            level = np.pad(value, 1, mode="edge")
            axes.plot(edges, level, color="0.4", linestyle="--", linewidth=1.4, label=editor)
            continue
        line = _LINES.get(editor) or next(others)
        axes.fill_between(edits, low, high, color=line["color"], alpha=0.18, linewidth=0)
        axes.vlines(edits, low, high, color=line["color"], linewidth=0.8)  # a band needs two counts
        # Unclipped: a marker at 0 or 100% is as whole as the others.
        axes.plot(edits, value, **line, markersize=4, linewidth=1.4, label=editor, clip_on=False)


def _label_counts(axes: Axes, counts: np.ndarray) -> None:
    """Put a tick at every count, and labels at as many as there is room for."""
    every = -(-len(counts) // _MOST_TICK_LABELS)
    labels = ["" if index % every else f"{count}" for index, count in enumerate(counts[::-1])]
    axes.xaxis.set_major_locator(FixedLocator(counts.tolist()))
    axes.xaxis.set_major_formatter(FixedFormatter(labels[::-1]))
    axes.xaxis.set_minor_locator(NullLocator())


_READING = (
    "on edited facts, equivalent prompts and unrelated prompts, against the number of facts "
    "edited at once. Lines: means over edit sets and facts; bands: 95% intervals from a bootstrap "
    "over both; grey dashes: the LM before editing."
)

FIGURES: dict[str, ScalingCurve] = {
    "04": ScalingCurve(
        name="04",
        lm="fact_checker",
        caption=(
            "Scaling curve of the fact checker. The paper's Figure 4 edits BERT-base (110M) on "
            "FEVER; here MiniLM-L6 (22M), fine-tuned as a fact checker, stands in for it, so "
            "compare the shape of the curves, not their values. ES, GS and LS are mean "
            "accuracies of the verdict " + _READING
        ),
    ),
    "S1": ScalingCurve(
        name="S1",
        lm="smollm2",
        caption=(
            "Scaling curve of SmolLM2-135M (instruction-tuned), a decoder that the paper does not "
            "edit. ES, GS and LS are mean token accuracies under teacher forcing " + _READING
        ),
    ),
}
"""The figures by name; each takes evaluation files and an output folder."""
