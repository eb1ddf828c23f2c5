from pathlib import Path

import pytest
from figure_checks import assert_legible
from synthetic import measurements

from malmen.figures.memory_figure import draw_memory, memory_figure
from malmen.results.memory import PLAIN, PROCEDURES
from malmen.support.errors import InputError


def test_what_is_drawn_is_the_data() -> None:
    frame = measurements()
    [axes] = draw_memory(frame).axes
    lines = {str(line.get_label()): line for line in axes.get_lines()}
    for name in PROCEDURES:
        curve = frame[frame["procedure"] == name]
        assert list(lines[name].get_xdata()) == list(curve["edits"])
        assert list(lines[name].get_ydata()) == list(curve["peak_mb"])
    crosses = [
        (line.get_xdata(), line.get_ydata())
        for line in axes.get_lines()
        if line.get_marker() == "x" and len(line.get_xdata())
    ]
    [last] = frame[~frame["fits"]].to_dict("records")
    assert [(list(x), list(y)) for x, y in crosses] == [([last["edits"]], [last["peak_mb"]])]


@pytest.mark.parametrize("limit_mb", [200.0, 1000.0, 50_000.0])
def test_the_figure_is_legible(limit_mb: float) -> None:
    assert_legible(lambda: draw_memory(measurements(limit_mb=limit_mb)))


def test_the_caption_says_where_memory_ends(tmp_path: Path) -> None:
    path = tmp_path / "memory.csv"
    measurements().to_csv(path, index=False)
    text = memory_figure([path]).caption.text
    assert f"{PLAIN} exceeds the limit of 1,000 MB at 512 edits." in text
    assert text.count("exceeds") == 1
    measurements(limit_mb=1e6).to_csv(path, index=False)
    assert "Every measurement fits the limit." in memory_figure([path]).caption.text


def test_it_is_drawn_from_one_file() -> None:
    with pytest.raises(InputError, match="figure 08: 0 files given"):
        memory_figure([])
