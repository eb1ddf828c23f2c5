import json
from pathlib import Path

import pytest
from synthetic import METADATA, evaluation
from synthetic_run import Run, write_run

from malmen.results import per_fact
from malmen.support.errors import InputError
from malmen.tables.costs import costs, table_5


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return write_run(tmp_path)


def test_costs_add_up(run: Run) -> None:
    found = costs(run.evaluations, trained=run.trained, statistics=run.statistics)
    rows = found[found["lm"] == "gptj_desk"].set_index("editor")
    assert list(rows.index) == ["FT", "MEND", "UltraEdit", "MEMIT", "MALMEN"]
    assert set(rows["edits"]) == {64}
    # At 64 edits, two edit sets took 0.64 and 1.28 s; three trainings three steps of 1 s each.
    assert rows["editing_seconds"].to_list() == pytest.approx([0.96] * 5)
    assert rows["training_seconds"].dropna().to_dict() == {"MEND": 9.0, "MALMEN": 9.0}
    assert rows["statistics_seconds"].dropna().to_dict() == {"MEMIT": 7.0}
    assert rows["total_seconds"].to_dict() == pytest.approx(
        {"FT": 0.96, "MEND": 9.96, "UltraEdit": 0.96, "MEMIT": 7.96, "MALMEN": 9.96}
    )
    assert rows["peak_memory_mb"].to_dict() == {
        **dict.fromkeys(("FT", "UltraEdit", "MEMIT"), 100.0),
        **dict.fromkeys(("MEND", "MALMEN"), 264.0),
    }


def test_an_interrupted_training_counts_whole(run: Run) -> None:
    # Its metadata knows the time of the last process only.
    path = run.trained[0]
    path.write_text(json.dumps(json.loads(path.read_text()) | {"wall_seconds": 0.1}))
    found = costs(run.evaluations, trained=run.trained)
    assert found["training_seconds"].dropna().to_list() == [9.0] * 4


def test_table_5_names_the_known_times_as_not_measured_here(run: Run) -> None:
    table = table_5(evaluations=run.evaluations, trained=run.trained)
    assert "12.25 h with MALMEN and 33.75 h with MEMIT" in table.notes[-1]
    assert "second-hand; not measured here" in table.notes[-1]
    assert "desk scale" in table.caption
    (grid,) = table.grids
    malmen = grid.rows[list(table.data["editor"]).index("MALMEN")]
    names = ("Editor", "Training, s", "Statistics, s", "Editing, s", "Peak memory, MB")
    assert [grid.cell(malmen, name).text for name in names] == ["MALMEN", "9.0", "–", "1.0", "264"]


def test_what_is_missing_is_named(run: Run, tmp_path: Path) -> None:
    old = tmp_path / "old.parquet"
    per_fact.write(old, evaluation(), METADATA)
    with pytest.raises(InputError, match=r"old.parquet: the time of editing is not recorded"):
        costs([old])
    run.trained[0].with_suffix(".csv").unlink()
    with pytest.raises(InputError, match=r"malmen_16.csv: no such file"):
        costs(run.evaluations, trained=run.trained)
    run.trained[0].write_text("{}")
    with pytest.raises(InputError, match=r"malmen_16.json: field 'settings' is missing"):
        costs(run.evaluations, trained=run.trained)
    run.trained[0].write_text("{")
    with pytest.raises(InputError, match=r"malmen_16.json: not JSON"):
        costs(run.evaluations, trained=run.trained)
