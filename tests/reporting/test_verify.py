import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml
from synthetic_run import Run, write_run

from malmen.__main__ import main
from malmen.reporting.claims import evaluate_claims
from malmen.reporting.predicates import Evidence
from malmen.reporting.verify import TOLERANCES, make_reference, verify
from malmen.support.errors import InputError
from malmen.tables import make_table

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with tables and claims."""
    run = write_run(tmp_path_factory.mktemp("run"))
    tables = run.folder / "tables"
    make_table("1", tables, evaluations=run.evaluations)
    make_table("2", tables, evaluations=[run.evaluations[4], *run.ablations])
    make_table("5", tables, evaluations=run.evaluations, trained=run.trained)
    claims = ROOT / "workflow" / "claims.yaml"
    evaluate_claims(claims, Evidence(evaluations=run.evaluations), run.folder)
    return run


@pytest.fixture(scope="module")
def reference(finished: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("reference")
    (out / "tables").mkdir()
    (out / "tables" / "stale.csv").touch()
    written = make_reference(finished.folder, out)
    assert written == sorted(written, key=lambda path: path.name == "metadata.json")
    assert {path for path in out.rglob("*") if path.is_file()} == set(written)
    return out


@pytest.fixture
def later(finished: Run, tmp_path: Path) -> Path:
    """A copy of the run, to be changed."""
    copy = tmp_path / "results" / "desk"
    shutil.copytree(finished.folder, copy)
    return copy


def change(path: Path, column: str, by: float, *, row: int = 1) -> None:
    frame = pd.read_csv(path)
    frame.loc[row, column] += by
    frame.to_csv(path, index=False)


def test_a_run_agrees_with_itself(
    reference: Path, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verify(reference, finished.folder) == []
    assert "nothing moved in 4 files" in capsys.readouterr().out


def test_a_share_may_move_by_its_tolerance(reference: Path, later: Path) -> None:
    table = later / "tables" / "table_1.csv"
    row = pd.read_csv(table).loc[1]
    allowed = max(0.02, row["es_high"] - row["es"], row["es"] - row["es_low"])
    change(table, "es", 0.99 * allowed)
    change(table, "es_low", -0.5)  # ends of intervals are not compared on their own
    assert verify(reference, later) == []
    change(table, "es", 0.02 * allowed)
    (moved,) = verify(reference, later)
    assert (moved.file, moved.row, moved.column) == (
        "tables/table_1.csv",
        f"{row['lm']}, {row['editor']}, {row['edits']}",
        "es",
    )
    assert float(moved.now) > float(moved.reference)
    assert str(moved).endswith(f"(tolerance: {allowed:.3g})")


def test_points_count_where_the_interval_is_narrower(
    reference: Path, later: Path, tmp_path: Path
) -> None:
    content = yaml.safe_load(TOLERANCES.read_text("utf-8"))
    path = tmp_path / "verify.yaml"
    change(later / "tables" / "table_1.csv", "ls", 0.3)
    for points, moves in ((31, 0), (29, 1)):
        path.write_text(yaml.safe_dump(content | {"points": points}))
        assert len(verify(reference, later, tolerances=path)) == moves


def test_counts_are_exact(reference: Path, later: Path) -> None:
    change(later / "tables" / "table_1.csv", "n_facts", 1)
    (moved,) = verify(reference, later)
    assert (moved.column, moved.tolerance) == ("n_facts", "0")


def test_times_and_memory_are_shown_as_ratios(
    reference: Path, later: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = later / "tables" / "table_5.csv"
    frame = pd.read_csv(table)
    frame["editing_seconds"] *= 3
    frame.to_csv(table, index=False)
    assert verify(reference, later) == []
    printed = capsys.readouterr().out
    assert "table_5.csv: editing_seconds: 3.00 times the reference (3.00 to 3.00)" in printed


def test_a_changed_verdict_is_reported(reference: Path, later: Path) -> None:
    claims = later / "claims.csv"
    text = claims.read_text("utf-8")
    claims.write_text(text.replace(",holds,", ",does not hold,", 1), encoding="utf-8")
    (moved,) = verify(reference, later)
    assert (moved.file, moved.column) == ("claims.csv", "status")
    assert (moved.reference, moved.now) == ("holds", "does not hold")


def test_rows_columns_and_files_that_come_or_go_are_reported(reference: Path, later: Path) -> None:
    table = later / "tables" / "table_1.csv"
    frame = pd.read_csv(table)
    frame.loc[1, "editor"] = "New"
    frame.drop(columns="n_sets").to_csv(table, index=False)
    (later / "tables" / "table_5.csv").unlink()
    moved = verify(reference, later)
    found = {(one.file, one.column, one.now) for one in moved}
    assert ("tables/table_1.csv", "", "missing") in found
    assert ("tables/table_1.csv", "", "a row") in found
    assert ("tables/table_1.csv", "n_sets", "no column") in found
    assert ("tables/table_5.csv", "", "missing") in found


def test_files_without_an_entry_are_compared_by_position(tmp_path: Path) -> None:
    for name, cell in (("reference", "1"), ("results", "2")):
        path = tmp_path / name / "figures" / "figure_03.csv"
        path.parent.mkdir(parents=True)
        path.write_text(f"module,blocks\na,5\na,{cell}\n")
    (moved,) = verify(tmp_path / "reference", tmp_path / "results")
    assert str(moved) == "figures/figure_03.csv: row 2: blocks: was 1, is 2 (tolerance: 0)"


def test_the_reference_says_where_it_comes_from(
    reference: Path, finished: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    verify(reference, finished.folder)
    assert "reference: commit unknown; processor unknown" in capsys.readouterr().out


def test_what_cannot_be_compared_is_named(reference: Path, later: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no tables, figures or claims there"):
        make_reference(tmp_path / "none", tmp_path / "out")
    with pytest.raises(InputError, match="no reference there"):
        verify(tmp_path / "none", later)
    tolerances = tmp_path / "verify.yaml"
    for text, message in (
        ("points: 2", "not as its heading says"),
        ("points: 2\nfiles: [{fils: x}]", "not as its heading says .*fils"),
        ("[", "not YAML"),
        ("points: 2\nfiles: [{files: '*', key: [lm]}]", "two rows are"),
        ("points: 2\nfiles: [{files: '*', key: [planet]}]", "no column 'planet'"),
    ):
        tolerances.write_text(text)
        with pytest.raises(InputError, match=message):
            verify(reference, later, tolerances=tolerances)
    with pytest.raises(InputError, match="no such file"):
        verify(reference, later, tolerances=tmp_path / "none.yaml")


def test_the_tolerances_name_columns_that_exist(reference: Path) -> None:
    content = yaml.safe_load(TOLERANCES.read_text("utf-8"))
    entries = {entry.pop("files"): entry for entry in content["files"]}
    for path in reference.rglob("*.csv"):
        entry = entries[path.relative_to(reference).as_posix()]
        named = {column for columns in entry.values() for column in columns}
        assert named <= set(pd.read_csv(path).columns)


def test_the_command_ends_with_status_1_if_a_cell_moved(
    finished: Run, later: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def malmen(*words: object) -> None:
        monkeypatch.setattr("sys.argv", ["malmen", *map(str, words)])
        main()

    reference = tmp_path / "reference"
    malmen("reference", "--results", finished.folder, "--out", reference)
    malmen("verify", "--reference", reference, "--results", later)
    change(later / "tables" / "table_1.csv", "n_facts", 1)
    with pytest.raises(SystemExit) as stop:
        malmen("verify", "--reference", reference, "--results", later)
    assert stop.value.code == 1
