import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import METADATA, evaluation, write_evaluations

from malmen.results import per_fact
from malmen.results.comparison import PRE_EDIT, aggregate
from malmen.support.errors import InputError


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


def test_scale_of(tmp_path: Path) -> None:
    inside = tmp_path / "results" / "desk" / "evaluations" / "smollm2" / "ft.parquet"
    assert per_fact.scale_of([inside]) == "desk"
    assert per_fact.scale_of([Path("results/smoke/x.parquet")]) == "smoke"
    assert per_fact.scale_of([Path("/elsewhere/ft.parquet")]) is None


def asked(frame: pd.DataFrame, every: int) -> pd.DataFrame:
    """Return results some of whose facts were asked, too."""
    columns = {
        name: np.where(frame["fact"] % every == 0, frame[source].astype(float), np.nan)
        for name, source in {
            "es_generated": "es_exact",
            "pre_es_generated": "pre_es_exact",
            "ls_consistency_generated": "ls_exact",
        }.items()
    }
    return frame.assign(**columns)


def test_measures_of_some_facts_are_averaged_over_these(tmp_path: Path) -> None:
    frame = asked(evaluation(), every=4)
    per_fact.write(tmp_path / "malmen.parquet", frame, METADATA)
    found, _ = per_fact.read(tmp_path / "malmen.parquet")
    pd.testing.assert_frame_equal(found, frame[list(found)])
    means = aggregate(found).set_index(["editor", "edits", "metric"])
    of_count = frame[(frame["edits"] == 64) & (frame["fact"] % 4 == 0)]
    one = means.loc["MALMEN", 64, "es_generated"]
    assert one["value"] == pytest.approx(of_count["es_exact"].mean())
    assert one["n_facts"] == len(of_count)
    before = means.loc[PRE_EDIT, 64, "es_generated"]
    assert before["value"] == pytest.approx(of_count["pre_es_exact"].mean())
    assert (PRE_EDIT, 64, "ls_consistency_generated") not in means.index
    # The others are what they are without.
    without = aggregate(evaluation()).set_index(["editor", "edits", "metric"])
    pd.testing.assert_frame_equal(means.loc[without.index], without)


def test_every_column_of_a_measure_says_what_it_means(tmp_path: Path) -> None:
    path = tmp_path / "malmen.parquet"
    per_fact.write(path, asked(evaluation(), every=4), METADATA)
    schema = pq.read_schema(path)
    for name in ("es", "pre_es", "ls_consistency", "es_generated", "pre_es_generated"):
        meta = json.loads(schema.field(name).metadata[b"metric_meta"])
        assert meta["result_key"] == name.removeprefix("pre_")
        assert set(meta) > {"protocol", "scorer", "comparable_group", "version"}
    assert b"metric_meta" not in (schema.field("fact").metadata or {})
