from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from synthetic import evaluation, write_evaluations

from malmen import results
from malmen.errors import InputError
from malmen.figures import FIGURES, PANELS, draw_scaling_curve
from malmen.results import PRE_EDIT


def test_the_csv_is_the_aggregate(tmp_path: Path) -> None:
    evaluations = write_evaluations(tmp_path)
    for name, figure in FIGURES.items():
        pdf, png, csv = figure(evaluations, tmp_path / "figures")
        assert [path.name for path in (pdf, png, csv)] == [
            f"figure_{name}{suffix}" for suffix in (".pdf", ".png", ".csv")
        ]
        frame, _ = results.read_all(evaluations)
        means = results.aggregate(frame[frame["lm"] == figure.lm])
        means = means[means["metric"].isin(PANELS)].reset_index(drop=True)
        pd.testing.assert_frame_equal(pd.read_csv(csv), means, check_exact=True, check_dtype=False)


def test_what_is_drawn_is_the_csv() -> None:
    means = results.aggregate(pd.concat([evaluation("MALMEN"), evaluation("FT")]))
    means = means[means["metric"].isin(PANELS)]
    panels = draw_scaling_curve(means).axes
    assert len(panels) == len(PANELS)
    for axes, (metric, label) in zip(panels, PANELS.items(), strict=True):
        assert label in axes.get_title()
        lines = {str(line.get_label()): line for line in axes.get_lines()}
        assert list(lines) == [PRE_EDIT, "FT", "MALMEN"]
        for editor, line in lines.items():
            curve = means[(means["metric"] == metric) & (means["editor"] == editor)]
            drawn = slice(1, -1) if editor == PRE_EDIT else slice(None)
            np.testing.assert_array_equal(np.asarray(line.get_xdata())[drawn], curve["edits"])
            np.testing.assert_array_equal(
                np.asarray(line.get_ydata())[drawn], 100 * curve["value"].to_numpy()
            )
        assert axes.get_ylim() == (0, 100)
        assert [text.get_text() for text in axes.get_xticklabels()] == ["16", "32", "64"]


def test_lines_differ_without_colour() -> None:
    editors = ("FT", "MEND", "UltraEdit", "MEMIT", "MALMEN", "Another", "One more")
    frame = pd.concat([evaluation(editor, counts=(16, 32)) for editor in editors])
    means = results.aggregate(frame, resamples=10)
    axes = draw_scaling_curve(means[means["metric"].isin(PANELS)]).axes[0]
    curves = axes.get_lines()[1:]
    assert len(curves) == len(editors)
    assert len({curve.get_marker() for curve in curves}) == len(editors)
    assert len({to_hex(curve.get_color()) for curve in curves}) == len(editors)


def test_many_counts_keep_their_ticks_and_lose_labels() -> None:
    counts = [2**power for power in range(1, 12)]
    means = results.aggregate(evaluation(counts=counts, sets=1), resamples=10)
    axes = draw_scaling_curve(means[means["metric"].isin(PANELS)]).axes[0]
    assert list(axes.get_xticks()) == counts
    labels = [text.get_text() for text in axes.get_xticklabels()]
    assert [label for label in labels if label] == ["2", "8", "32", "128", "512", "2048"]


def test_a_single_count_is_drawn(tmp_path: Path) -> None:
    evaluations = write_evaluations(tmp_path, counts=(16,), sets=1)
    assert all(path.stat().st_size for path in FIGURES["04"](evaluations, tmp_path))


def test_a_second_run_gives_the_same_bytes(tmp_path: Path) -> None:
    evaluations = write_evaluations(tmp_path)
    for name, figure in FIGURES.items():
        once, again = (figure(evaluations, tmp_path / folder) for folder in ("once", "again"))
        for first, second in zip(once, again, strict=True):
            assert first.read_bytes() == second.read_bytes(), f"{name}{first.suffix}"


def test_the_pdf_has_a_title_no_date_and_real_text(tmp_path: Path) -> None:
    with mpl.rc_context({"pdf.compression": 0}):
        pdf, *_ = FIGURES["04"](write_evaluations(tmp_path), tmp_path)
    content = pdf.read_bytes()
    assert b"/Title (Figure 4: scaling curve of MiniLM fact checker)" in content
    assert b"BERT-base" in content
    assert b"CreationDate" not in content
    assert b"/FontType 42" in content or b"/CIDFontType2" in content
    assert b"/Type3" not in content


def test_an_absent_lm_is_named(tmp_path: Path) -> None:
    evaluations = write_evaluations(tmp_path, lms=("smollm2",))
    with pytest.raises(InputError, match="figure 04: no evaluation of LM 'fact_checker'"):
        FIGURES["04"](evaluations, tmp_path / "figures")
    assert not (tmp_path / "figures").exists()
