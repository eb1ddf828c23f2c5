from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import METADATA, evaluation, write_evaluations

from malmen.results import per_fact
from malmen.results.per_fact import METRICS, PRE_EDIT, aggregate, bootstrap
from malmen.support.errors import InputError


@st.composite
def samples(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw accuracies of a few tokens in up to four edit sets of unequal size."""
    sizes = draw(st.lists(st.integers(1, 30), min_size=1, max_size=4))
    tokens = draw(st.integers(1, 5))
    generator = np.random.default_rng(draw(st.integers(0, 2**32)))
    level = draw(st.sampled_from([0.0, 0.02, 0.5, 0.97, 1.0]))
    values = generator.binomial(tokens, level, size=sum(sizes)) / tokens
    return values, np.repeat(np.arange(len(sizes)), sizes)


@given(sample=samples(), seed=st.integers(0, 100))
def test_the_interval_contains_the_mean(sample: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    values, sets = sample
    value, low, high = bootstrap(values, sets, seed=seed, resamples=200)
    assert value == pytest.approx(values.mean(), abs=1e-12)
    assert values.min() <= low <= value <= high <= values.max()


@given(sample=samples(), seed=st.integers(0, 100))
def test_the_order_of_facts_does_not_matter(
    sample: tuple[np.ndarray, np.ndarray], seed: int
) -> None:
    values, sets = sample
    order = np.random.default_rng(seed).permutation(len(values))
    assert bootstrap(values, sets, seed=seed, resamples=50) == bootstrap(
        values[order], sets[order], seed=seed, resamples=50
    )


@given(value=st.floats(0, 1), n=st.integers(1, 50), sets=st.integers(1, 4))
def test_equal_values_have_an_interval_of_no_width(value: float, n: int, sets: int) -> None:
    found = bootstrap(np.full(n, value), np.arange(n) % sets, seed=0, resamples=20)
    assert found == (value, value, value)


def test_the_interval_shrinks_with_the_number_of_facts() -> None:
    widths = []
    for n in (16, 64, 256, 1024):
        _, low, high = bootstrap(np.arange(n) % 2, np.zeros(n), seed=0)
        widths.append(high - low)
    ratios = np.array(widths[:-1]) / np.array(widths[1:])
    np.testing.assert_allclose(ratios, 2, rtol=0.15)  # as the square root of n


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    n = 4000
    _, low, high = bootstrap(np.arange(n) % 2, np.zeros(n), seed=0, resamples=4000)
    assert high - low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(n), rel=0.05)


def test_a_difference_between_sets_widens_the_interval() -> None:
    values, n = np.repeat([0.2, 0.8, 0.2, 0.8], 200), 800
    together = bootstrap(values, np.zeros(n), seed=0)
    apart = bootstrap(values, np.arange(n) // 200, seed=0)
    assert together.value == apart.value
    assert apart.high - apart.low > 5 * (together.high - together.low)


def test_multinomial_draws_match_drawing_facts_one_by_one() -> None:
    generator = np.random.default_rng(3)
    sets = np.repeat([0, 1, 2], [40, 60, 80])
    values = generator.binomial(3, 0.4 + 0.2 * sets) / 3
    means = []
    for _ in range(4000):
        drawn = generator.integers(3, size=3)
        facts = [generator.choice(values[sets == one], size=(sets == one).sum()) for one in drawn]
        means.append(np.concatenate(facts).mean())
    found = bootstrap(values, sets, seed=0, resamples=4000)
    np.testing.assert_allclose(found[1:], np.quantile(means, [0.025, 0.975]), atol=0.02)


def test_parquet_round_trip(tmp_path: Path) -> None:
    frame = evaluation(seeds=(0, 1))
    path = tmp_path / "new" / "malmen.parquet"
    per_fact.write(
        path, frame[frame.columns[::-1]], METADATA | {"settings": {"eta": 1e-4, "é": None}}
    )
    found, metadata = per_fact.read(path)
    pd.testing.assert_frame_equal(found, frame, check_dtype=False, check_exact=True)
    assert metadata == METADATA | {"settings": {"eta": 1e-4, "é": None}}
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gs": None}, "column 'gs' is missing"),
        ({"note": "x"}, "column 'note' is unknown"),
        ({"es": 1.5}, r"column 'es', row 0: 1.5 is not in \[0, 1\]"),
        ({"pre_ls": -0.25}, r"column 'pre_ls', row 0: -0.25 is not in \[0, 1\]"),
        ({"ls": float("nan")}, "column 'ls', row 0: nan"),
        ({"es": "high"}, "column 'es' holds string, not floating"),
        ({"es_exact": 1.0}, "column 'es_exact' holds floating, not boolean"),
        ({"edits": 0}, "column 'edits', row 0: 0 is not at least 1"),
        ({"edits": 1.0}, "column 'edits' holds floating, not integer"),
        ({"lm": ""}, "column 'lm', row 0"),
        ({"fact": 3}, "column 'fact': evaluated twice .*fact 3"),
    ],
)
def test_bad_columns_name_file_and_column(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    frame = evaluation()
    for name, value in change.items():
        frame = frame.drop(columns=name) if value is None else frame.assign(**{name: value})
    path = tmp_path / "bad.parquet"
    with pytest.raises(InputError, match=f"bad.parquet: {message}"):
        per_fact.write(path, frame, METADATA)
    assert not list(tmp_path.iterdir())

    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({b"malmen": b"{}"}), path)
    with pytest.raises(InputError, match=f"bad.parquet: {message}"):
        per_fact.read(path)


def test_files_that_are_no_evaluations(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.parquet: no such file"):
        per_fact.read(tmp_path / "absent.parquet")
    text = tmp_path / "text.parquet"
    text.write_text("not Parquet", encoding="utf-8")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        per_fact.read(text)
    plain = tmp_path / "plain.parquet"
    evaluation().to_parquet(plain)
    with pytest.raises(InputError, match="no run metadata"):
        per_fact.read(plain)
    empty = tmp_path / "empty.parquet"
    with pytest.raises(InputError, match="no rows"):
        per_fact.write(empty, evaluation().head(0), METADATA)
    with pytest.raises(InputError, match="no evaluations given"):
        per_fact.read_all([])


def test_an_evaluation_given_twice_is_refused(tmp_path: Path) -> None:
    paths = write_evaluations(tmp_path)
    frame, metadata = per_fact.read_all(paths)
    assert len(metadata) == len(paths)
    assert set(frame["editor"]) == {"MALMEN", "MEND", "FT"}
    with pytest.raises(InputError, match="evaluated twice"):
        per_fact.read_all([*paths, paths[0]])


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
    found = per_fact.editor_order(editors, ["FT", "MEND", "MEMIT", "MALMEN"])
    assert found == [PRE_EDIT, "FT", "MEMIT", "MALMEN", "Alpha", "Zeta"]


def test_scale_of(tmp_path: Path) -> None:
    inside = tmp_path / "results" / "desk" / "evaluations" / "smollm2" / "ft.parquet"
    assert per_fact.scale_of([inside]) == "desk"
    assert per_fact.scale_of([Path("results/smoke/x.parquet")]) == "smoke"
    assert per_fact.scale_of([Path("/elsewhere/ft.parquet")]) is None
