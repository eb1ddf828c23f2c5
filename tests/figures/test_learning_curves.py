from pathlib import Path

import pytest
from figure_checks import assert_legible
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from synthetic import write_training_log

from malmen.figures.learning_curves import PANELS, draw_learning_curves, learning_curves
from malmen.support.errors import InputError
from malmen.support.files import read_json, write_json

COUNTS = (4, 16, 64)


def write_logs(folder: Path, *, lms: tuple[str, ...] = ("smollm2",)) -> list[Path]:
    """Write trainings that end by patience and by budget, MEND's after half of MALMEN's steps."""
    return [
        write_training_log(folder, editor=editor, lm=lm, edits=edits, steps=steps, ended_by=by)
        for lm in lms
        for editor, steps, by in (("malmen", 12, "patience"), ("mend", 6, "budget"))
        for edits in COUNTS
    ]


def lines_of(figure: Figure, panel: int, marker: str) -> list[Line2D]:
    return [line for line in figure.axes[panel].get_lines() if line.get_marker() == marker]


@pytest.mark.parametrize("panel", range(len(PANELS)))
def test_what_is_drawn_is_the_data(tmp_path: Path, panel: int) -> None:
    drawing = learning_curves(write_logs(tmp_path))
    column = list(PANELS)[panel]
    curves = [line for line in lines_of(drawing.figure, panel, "None") if len(line.get_xdata())]
    assert len(curves) == 2 * len(COUNTS)
    trainings = drawing.data.groupby(["editor", "seed", "edits"])
    for line, ((_, _, edits), steps) in zip(curves, trainings, strict=True):
        drawn = steps[steps[column].notna()]
        scale = 100 if column == "validation_score" else 1
        assert list(line.get_ydata()) == list(scale * drawn[column])
        expected = COUNTS.index(edits) + drawn["step"] / 12  # the most that an editor took
        assert list(line.get_xdata()) == pytest.approx(list(expected))


def test_ends_say_what_ended_a_training_and_dots_what_is_best(tmp_path: Path) -> None:
    drawing = learning_curves(write_logs(tmp_path))
    fills = {
        marker: {line.get_fillstyle() for line in lines_of(drawing.figure, 0, marker)}
        for marker in ("o", "s")  # of MALMEN and of MEND
    }
    assert fills == {"o": {"full"}, "s": {"none"}}
    dots = lines_of(drawing.figure, 0, ".")
    assert len(dots) == 2 * len(COUNTS)
    assert [float(line.get_xdata()[0]) % 1 for line in dots] == pytest.approx(len(dots) * [4 / 12])
    text = drawing.caption.text
    assert "no longer improved (3 trainings)" in text
    assert "budget of steps was spent (3)" in text


@pytest.mark.parametrize("lms", [("smollm2",), ("fact_checker", "gpt2_desk", "smollm2")])
def test_the_figure_is_legible(tmp_path: Path, lms: tuple[str, ...]) -> None:
    frame = learning_curves(write_logs(tmp_path, lms=lms)).data
    assert_legible(lambda: draw_learning_curves(frame))


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--trained"):
        learning_curves([])
    path = write_training_log(tmp_path)
    path.with_suffix(".csv").unlink()
    with pytest.raises(InputError, match=r"malmen_16.csv: no such file"):
        learning_curves([path])
    write_json(path, {name: value for name, value in read_json(path).items() if name == "settings"})
    with pytest.raises(InputError, match=r"malmen_16.json: field 'training' is missing"):
        learning_curves([path])
