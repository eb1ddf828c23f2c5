from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from figure_checks import assert_legible
from known_editors import TITLES
from matplotlib.colors import to_hex
from synthetic import METADATA, evaluation, write_evaluations

from malmen.experiment.cards import titles
from malmen.figures.drawing import INFERRED
from malmen.figures.scaling_curves import PANELS, draw_scaling_curve, scaling_curve
from malmen.lm.catalogue import catalogue, lookup
from malmen.results import per_fact
from malmen.results.comparison import PRE_EDIT, aggregate
from malmen.support.errors import InputError

CURVES = {entry.figure: name for name, entry in catalogue().items() if entry.figure}


def means(*frames: pd.DataFrame, resamples: int = 10) -> pd.DataFrame:
    found = aggregate(pd.concat(frames), resamples=resamples)
    return found[found["metric"].isin(PANELS)]


def test_the_data_drawn_are_the_aggregate(tmp_path: Path) -> None:
    evaluations = write_evaluations(tmp_path, lms=("smollm2",))
    frame, _ = per_fact.read_all(evaluations)
    expected = aggregate(frame, titles())
    expected = expected[expected["metric"].isin(PANELS)].reset_index(drop=True)
    pd.testing.assert_frame_equal(scaling_curve("S1", evaluations).data, expected)


def test_what_is_drawn_is_the_data() -> None:
    data = means(evaluation("MALMEN"), evaluation("FT"))
    panels = draw_scaling_curve(data).axes
    assert len(panels) == len(PANELS)
    for axes, (metric, label) in zip(panels, PANELS.items(), strict=True):
        assert label in axes.get_title()
        lines = {str(line.get_label()): line for line in axes.get_lines()}
        assert list(lines) == [PRE_EDIT, "FT", "MALMEN"]
        for editor, line in lines.items():
            curve = data[(data["metric"] == metric) & (data["editor"] == editor)]
            drawn = slice(1, -1) if editor == PRE_EDIT else slice(None)
            np.testing.assert_array_equal(np.asarray(line.get_xdata())[drawn], curve["edits"])
            np.testing.assert_array_equal(
                np.asarray(line.get_ydata())[drawn], 100 * curve["value"].to_numpy()
            )
        assert axes.get_ylim() == (0, 100)
        assert [text.get_text() for text in axes.get_xticklabels()] == ["16", "32", "64"]


def test_lines_differ_without_colour() -> None:
    editors = (*TITLES, "Another", "One more")
    axes = draw_scaling_curve(
        means(*(evaluation(editor, counts=(16, 32)) for editor in editors))
    ).axes[0]
    curves = axes.get_lines()[1:]
    assert len(curves) == len(editors)
    assert len({curve.get_marker() for curve in curves}) == len(editors)
    assert len({to_hex(curve.get_color()) for curve in curves}) == len(editors)


@pytest.mark.parametrize("counts", [(16,), tuple(2**power for power in range(1, 12))])
def test_all_editors_are_legible(counts: tuple[int, ...]) -> None:
    frames = [evaluation(editor, counts=counts, sets=1) for editor in TITLES]
    data = means(*frames)
    assert_legible(lambda: draw_scaling_curve(data))
    legend = [text.get_text() for text in draw_scaling_curve(data).legends[0].get_texts()]
    assert legend == [PRE_EDIT, "FT", "MEND", "UltraEdit†", "MEMIT", "MALMEN"]


def test_many_counts_keep_their_ticks_and_lose_labels() -> None:
    counts = [2**power for power in range(1, 12)]
    axes = draw_scaling_curve(means(evaluation(counts=counts, sets=1))).axes[0]
    assert list(axes.get_xticks()) == counts
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert [label for label in labels if label] == ["2", "8", "32", "128", "512", "2048"]


@pytest.mark.parametrize(("name", "lm"), CURVES.items())
def test_the_caption_follows_from_the_language_model(tmp_path: Path, name: str, lm: str) -> None:
    editors = ("FT", "UltraEdit", "MALMEN")
    evaluations = write_evaluations(tmp_path, editors=editors, lms=(lm,), counts=(16,), sets=1)
    caption = scaling_curve(name, evaluations).caption
    entry = lookup(lm)
    assert caption.headline == f"Scaling curve of {entry.stands_for or entry.title}"
    if entry.stands_for:
        assert f"{entry.title} stands in for {entry.stands_for}" in caption.text
    assert ("The paper does not edit this LM." in caption.text) == (lm == "smollm2")
    assert ("of the verdict" in caption.text) == (entry.task == "verdict")
    assert (INFERRED in caption.text) == (name in ("06", "07"))
    assert (
        "† UltraEdit (Gu et al., arXiv 2505.14679, 2025) is later than the paper." in caption.text
    )
    assert all(source in caption.text for source in METADATA["data"])


def test_only_editors_drawn_are_called_late(tmp_path: Path) -> None:
    evaluations = write_evaluations(tmp_path, lms=("smollm2",), counts=(16,), sets=1)
    assert "UltraEdit" not in scaling_curve("S1", evaluations).caption.text


def test_each_figure_is_about_its_own_language_model(tmp_path: Path) -> None:
    evaluations = write_evaluations(tmp_path, lms=("smollm2",), counts=(16,), sets=1)
    with pytest.raises(InputError, match="the scaling curve of LM 'smollm2' is figure S1"):
        scaling_curve("04", evaluations)
    evaluations += write_evaluations(tmp_path, lms=("fact_checker",), counts=(16,), sets=1)
    with pytest.raises(InputError, match=r"several LMs \(fact_checker, smollm2\)"):
        scaling_curve("04", evaluations)
