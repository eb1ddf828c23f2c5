import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import evaluation

from malmen.results.bootstrap import bootstrap
from malmen.results.comparison import (
    MEASURES,
    PRE_EDIT,
    aggregate,
    editor_order,
    level,
    paired_difference,
)
from malmen.results.metrics import METRICS
from malmen.support.errors import InputError


def at_64(editor: str) -> pd.DataFrame:
    return evaluation(editor, counts=(64,))


@pytest.mark.parametrize("measure", METRICS)
def test_a_level_is_the_mean_with_its_bootstrap_interval(measure: str) -> None:
    frame = at_64("MALMEN")
    found = level(frame, measure, seed=3)
    expected = bootstrap(frame[measure], frame["edit_set"], seed=3)
    assert found.interval == pytest.approx(expected, abs=1e-12)


def test_the_score_is_the_harmonic_mean() -> None:
    frame = at_64("MALMEN")
    means = frame[["es", "gs", "ls"]].mean()
    found = level(frame, "score")
    assert found.value == pytest.approx(3 / (1 / means).sum())
    assert found.interval.low < found.value < found.interval.high


@pytest.mark.parametrize("zero", ["es", "gs", "ls"])
def test_an_editor_that_gives_up_one_measure_has_no_score(zero: str) -> None:
    assert level(at_64("MALMEN").assign(**{zero: 0.0}), "score").interval == (0, 0, 0)


@given(
    measure=st.sampled_from([m for m in MEASURES if not m.endswith("exact")]),
    seed=st.integers(0, 99),
)
def test_an_editor_does_not_differ_from_itself(measure: str, seed: int) -> None:
    frame = at_64("MEND")
    assert paired_difference(frame, frame, measure, seed=seed) == (0, 0, 0)


@given(shift=st.sampled_from([-0.25, 0.25, 0.5]), seed=st.integers(0, 9))
def test_a_constant_difference_has_no_width(shift: float, seed: int) -> None:
    frame = at_64("MEND").assign(gs=lambda f: f["gs"] / 4 + 0.25)
    shifted = frame.assign(gs=frame["gs"] + shift)
    found = paired_difference(shifted, frame, "gs", seed=seed)
    assert found == pytest.approx((shift,) * 3, abs=1e-12)


def test_pairing_narrows_the_interval_and_leaves_the_difference() -> None:
    frame = at_64("MEND")
    better = frame.assign(es=np.minimum(frame["es"] + 0.25 * (frame.index % 8 == 0), 1))
    paired = paired_difference(better, frame, "es")
    apart = (level(better, "es", seed=0) - level(frame, "es", seed=1)).interval
    assert paired.value == pytest.approx(apart.value)
    assert paired.high - paired.low < 0.5 * (apart.high - apart.low)


def test_only_facts_that_both_edited_count() -> None:
    frame = at_64("MALMEN")
    fewer = at_64("MEND").query("fact < 40")
    expected = paired_difference(frame.query("fact < 40"), fewer, "es")
    assert paired_difference(frame, fewer, "es") == expected
    with pytest.raises(InputError, match="no fact was edited by both"):
        paired_difference(frame, fewer.assign(edits=63), "es")


def test_aggregate_gives_the_means_of_every_editor_and_of_the_lm_before_editing() -> None:
    frame = pd.concat([evaluation("MALMEN", seeds=(0, 1)), evaluation("FT")], ignore_index=True)
    means = aggregate(frame, resamples=20)
    assert list(means["editor"].unique()) == [PRE_EDIT, "FT", "MALMEN"]
    assert list(means["metric"].unique()[: len(METRICS) - 1]) == [
        name for name in METRICS if name != "ls_consistency"
    ]
    for row in means.to_dict("records"):
        rows = frame[frame["edits"] == row["edits"]]
        column = row["metric"]
        if row["editor"] == PRE_EDIT:
            column = f"pre_{column}"
            rows = rows.drop_duplicates(["seed", "edit_set", "fact"])
        else:
            rows = rows[rows["editor"] == row["editor"]]
        assert row["value"] == pytest.approx(rows[column].mean(), abs=1e-12)
        assert row["n_facts"] == rows["fact"].nunique() == 2 * row["edits"]
        assert row["n_sets"] == (2 if row["editor"] == "FT" else 4)
        assert row["low"] <= row["value"] <= row["high"]


def test_aggregate_does_not_depend_on_row_order_or_other_editors() -> None:
    malmen, ft = evaluation("MALMEN"), evaluation("FT")
    together = aggregate(pd.concat([malmen, ft], ignore_index=True))
    shuffled = pd.concat([ft, malmen]).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(aggregate(shuffled), together, check_exact=True)
    alone = aggregate(malmen)
    others = together[together["editor"] != "FT"].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, others, check_exact=True)


def test_editor_order() -> None:
    editors = ["Zeta", "MALMEN", "Alpha", "FT", PRE_EDIT, "MEMIT", "FT"]
    found = editor_order(editors, ["FT", "MEND", "MEMIT", "MALMEN"])
    assert found == [PRE_EDIT, "FT", "MEMIT", "MALMEN", "Alpha", "Zeta"]
