"""Learning curves: validation score and both losses of every meta-training against its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from malmen.experiment.cards import marked, printed_name, titles
from malmen.figures.drawing import TEXT_WIDTH, Caption, Drawing
from malmen.figures.scaling_curves import looks
from malmen.lm.catalogue import lookup
from malmen.results.comparison import editor_order
from malmen.support.errors import InputError
from malmen.support.files import read_json

__all__ = ["PANELS", "draw_learning_curves", "learning_curves"]

SCORE = "validation_score"
PANELS: dict[str, str] = {
    SCORE: "Validation score, %",
    "generalisation_loss": "Generalisation loss",
    "locality_loss": "Locality loss",
}
"""What is drawn against the steps, a column of panels each."""

ENDS = {"patience": "full", "budget": "none"}
"""How the marker at a training's end is filled, by what ended it."""

_MOST_TICK_LABELS = 5


def learning_curves(trained: Sequence[Path]) -> Drawing:
    """Draw the learning curves of a run.

    Args:
        trained: Run metadata of trained editors (.json), their logs (.csv) beside them.

    Raises:
        InputError: If there is none, or a file is missing or not what it should be.
    """
    if not trained:
        raise InputError("learning curves: no run metadata of a trained editor given (--trained)")
    frame = pd.concat(map(_log, trained), ignore_index=True)
    ends = frame.groupby(["lm", "editor", "seed", "edits"])["ended_by"].first().value_counts()
    text = [
        "Score: harmonic mean of ES, GS and LS-consistency on the validation facts; losses: the "
        "two terms of the meta loss, means over a step's facts.",
        "Numbers of edits share the width, whatever their steps (the most that an editor took, in "
        "brackets); each starts from the best editor of the one before, and the black dot is its "
        "own.",
        f"Ends: filled where the score no longer improved ({ends.get('patience', 0)} trainings), "
        f"open where the budget of steps was spent ({ends.get('budget', 0)}).",
    ]
    caption = Caption("Learning curves of meta-training", " ".join(text))
    return Drawing(draw_learning_curves(frame), caption, frame)


def _log(metadata_file: Path) -> pd.DataFrame:
    """Return a training's log, with what its run metadata say of it."""
    metadata, log = read_json(metadata_file), Path(metadata_file).with_suffix(".csv")
    try:
        settings, training = metadata["settings"], metadata["training"]
        about = {
            "lm": settings["lm"],
            "editor": printed_name(settings["editor"]),
            "seed": metadata["seed"],
            **{name: training[name] for name in ("best_step", "ended_by")},
        }
        return pd.read_csv(log).reindex(columns=["edits", "step", *PANELS]).assign(**about)
    except KeyError as error:
        raise InputError(f"{metadata_file}: field {error} is missing (`malmen train`)") from error
    except FileNotFoundError as error:
        raise InputError(f"{log}: no such file (`malmen train` writes it)") from error


def draw_learning_curves(frame: pd.DataFrame) -> Figure:
    """Draw a row of panels an LM: score and losses, one line an editor and seed.

    Args:
        frame: The steps of all trainings: lm, editor, seed, edits, step, the columns of `PANELS`
            (NaN at a step without), best_step and ended_by.
    """
    lms = sorted(set(frame["lm"]), key=lambda lm: lookup(lm).figure or lm)
    figure = Figure(figsize=(TEXT_WIDTH, 0.6 + 1.7 * len(lms)), layout="constrained")
    grid = figure.subplots(len(lms), len(PANELS), squeeze=False)
    lines = looks(editor_order(frame["editor"], titles()))
    for lm, row in zip(lms, grid, strict=True):
        of_lm = frame[frame["lm"] == lm]
        for axes, column in zip(row, PANELS, strict=True):
            _prepare(axes, column, of_lm.groupby("edits")["step"].max())
            if column != SCORE and _spans_a_decade(of_lm[column]):
                axes.set_yscale("log")
                axes.yaxis.set_minor_formatter(NullFormatter())
            for (editor, _, _), training in of_lm.groupby(["editor", "seed", "edits"]):
                _draw_training(axes, _placed(training, of_lm), column, lines[editor])
        row[0].set_ylabel(lookup(lm).title)
    for axes, title in zip(grid[0], PANELS.values(), strict=True):
        axes.set_title(title)
    grid[-1][1].set_xlabel("edits at once (steps)")
    figure.legend(
        handles=[Line2D([], [], label=marked(editor), **line) for editor, line in lines.items()],
        loc="outside upper center",
        ncols=len(lines),
        frameon=False,
        handlelength=3,
    )
    return figure


def _prepare(axes: Axes, column: str, steps: pd.Series) -> None:
    """Mark the counts on the horizontal axis, whose unit is all steps of a count."""
    axes.set_xlim(0, len(steps))
    axes.set_xticks(range(len(steps) + 1), labels=[""] * (len(steps) + 1))
    every = -(-len(steps) // _MOST_TICK_LABELS)
    labelled = range(len(steps) - 1, -1, -every)
    texts = [f"{steps.index[index]}\n({steps.iloc[index]})" for index in labelled]
    axes.set_xticks([index + 0.5 for index in labelled], labels=texts, minor=True)
    axes.tick_params(axis="x", which="minor", length=0)
    axes.grid()
    axes.set_axisbelow(True)
    if column == SCORE:
        axes.set_ylim(0, 100)


def _spans_a_decade(values: pd.Series) -> bool:
    """Tell whether a logarithmic axis has two labels at least."""
    return bool(values.min() > 0 and values.max() / values.min() >= 100)


def _placed(training: pd.DataFrame, of_lm: pd.DataFrame) -> pd.DataFrame:
    """Return a training with the place of every step on the horizontal axis, in a column `x`."""
    edits = training["edits"].iloc[0]
    before = of_lm["edits"][of_lm["edits"] < edits].nunique()
    share = training["step"] / of_lm["step"][of_lm["edits"] == edits].max()
    return training.assign(x=before + share)


def _draw_training(axes: Axes, training: pd.DataFrame, column: str, line: dict[str, Any]) -> None:
    drawn = training[training[column].notna()]
    x, y = drawn["x"], drawn[column] * (100 if column == SCORE else 1)
    axes.plot(x, y, color=line["color"], linestyle=line["linestyle"], linewidth=1)
    end = line | {"linestyle": "none", "fillstyle": ENDS[training["ended_by"].iloc[0]]}
    axes.plot(x.tail(1), y.tail(1), **end, markersize=4, clip_on=False)
    if column == SCORE:
        best = drawn["step"] == drawn["best_step"]
        axes.plot(x[best], y[best], ".", color="black", markersize=4, zorder=3, clip_on=False)
