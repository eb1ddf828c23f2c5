import re
from pathlib import Path

import pandas as pd
import pytest
from synthetic import METADATA, evaluation, write_evaluations
from synthetic_run import Run, write_run

from malmen.experiment.cards import titles
from malmen.results import per_fact
from malmen.results.comparison import PRE_EDIT, aggregate
from malmen.results.metrics import METRICS
from malmen.support.errors import InputError
from malmen.tables.conventions import outside_numbers
from malmen.tables.score_tables import VARIANTS, table_1, table_1b, table_2
from malmen.tables.typesetting import Cell, Grid


@pytest.fixture
def evaluations(tmp_path: Path) -> list[Path]:
    return write_evaluations(tmp_path / "results" / "desk" / "evaluations")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return write_run(tmp_path_factory.mktemp("run"))


def cell(grid: Grid, row: int, column: str) -> Cell:
    return grid.cell(grid.rows[row], column)


# --- Table 1 -------------------------------------------------------------------------------------


def test_table_1_holds_the_aggregate_at_the_largest_count(evaluations: list[Path]) -> None:
    frame, _ = per_fact.read_all(evaluations)
    means = aggregate(frame, titles())
    means = means[means["edits"] == 64].set_index(["lm", "editor", "metric"])
    data = table_1(evaluations=evaluations).data
    assert list(data["editor"]) == 2 * [PRE_EDIT, "FT", "MEND", "MALMEN"]
    assert set(data["edits"]) == {64}
    for row in data.to_dict("records"):
        for metric in METRICS:
            if row["editor"] == PRE_EDIT and metric == "ls_consistency":
                assert pd.isna(row[metric])
                continue
            mean = means.loc[(row["lm"], row["editor"], metric)]
            found = [row[metric], row[f"{metric}_low"], row[f"{metric}_high"]]
            assert found == [mean["value"], mean["low"], mean["high"]]
            assert row["n_facts"] == mean["n_facts"]
            assert row["n_sets"] == mean["n_sets"]


def test_table_1_prints_its_data_as_percentages(evaluations: list[Path]) -> None:
    table = table_1(evaluations=evaluations)
    (grid,) = table.grids
    names = {name: metric.heading for name, metric in METRICS.items()}
    assert len(grid.rows) == len(table.data) == 8
    for index, row in enumerate(table.data.to_dict("records")):
        assert cell(grid, index, "Editor").text == row["editor"]
        for metric, name in names.items():
            texts = [f"{100 * row[metric + end]:.1f}" for end in ("", "_low", "_high")]
            interval = f"[{texts[1]}, {texts[2]}]" if metric in ("es", "gs", "ls") else ""
            expected = ("–", "") if pd.isna(row[metric]) else (texts[0], interval)
            found = cell(grid, index, name)
            assert (found.text, found.interval) == expected


def test_the_best_editor_is_bold_and_the_lm_before_editing_never(evaluations: list[Path]) -> None:
    table = table_1(evaluations=evaluations)
    (grid,) = table.grids
    for lm in set(table.data["lm"]):
        rows = [index for index, name in enumerate(table.data["lm"]) if name == lm]
        for column in grid.columns[3:-1]:
            cells = {cell(grid, i, "Editor").text: cell(grid, i, column) for i in rows}
            assert not cells.pop(PRE_EDIT).bold
            top = max(float(one.text) for one in cells.values())
            assert all(one.bold == (float(one.text) == top) for one in cells.values()), column


def test_a_single_editor_is_not_bold(tmp_path: Path) -> None:
    path = tmp_path / "malmen.parquet"
    per_fact.write(path, evaluation(), METADATA)
    (grid,) = table_1(evaluations=[path]).grids
    assert not any(isinstance(one, Cell) and one.bold for row in grid.rows for one in row)


def test_the_caption_says_what_is_shown(evaluations: list[Path]) -> None:
    caption = table_1(evaluations=evaluations).caption
    for part in ("desk scale", "SmolLM2-135M: 64 edits", "95% intervals", "Invented facts"):
        assert part in caption


def test_editors_are_compared_at_their_largest_common_count(tmp_path: Path) -> None:
    paths = write_evaluations(tmp_path, editors=("MALMEN",), lms=("smollm2",))
    paths += write_evaluations(tmp_path, editors=("MEND",), lms=("smollm2",), counts=(16, 32))
    assert set(table_1(evaluations=paths).data["edits"]) == {32}
    paths += write_evaluations(tmp_path, editors=("FT",), lms=("smollm2",), counts=(128,))
    with pytest.raises(InputError, match="'smollm2': no number of edits that FT, MEND, MALMEN"):
        table_1(evaluations=paths)


def test_editors_of_one_lm_do_not_lower_the_count_of_another(tmp_path: Path) -> None:
    paths = write_evaluations(tmp_path, editors=("MALMEN", "MEND"), lms=("smollm2",))
    paths += write_evaluations(tmp_path, editors=("MEMIT",), lms=("gptj_desk",), counts=(16,))
    data = table_1(evaluations=paths).data
    assert dict(zip(data["lm"], data["edits"], strict=True)) == {"smollm2": 64, "gptj_desk": 16}


def test_rows_of_editors_that_were_not_evaluated_are_empty(run: Run) -> None:
    without = [path for path in run.evaluations if path.parts[-2:] != ("gptj_desk", "ft.parquet")]
    table = table_1(evaluations=without)
    (grid,) = table.grids
    # The fact checker has no modules for MEMIT, hence no row for it.
    assert list(table.data["editor"]) == [
        *(PRE_EDIT, "FT", "MEND", "UltraEdit", "MALMEN"),
        *(PRE_EDIT, "FT", "MEND", "UltraEdit", "MEMIT", "MALMEN"),
    ]
    empty = grid.rows[6]
    assert [grid.cell(empty, name).text for name in grid.columns[:2]] == [
        "GPT-J (desk), in place of GPT-J (6B)",
        "64",
    ]
    assert {grid.cell(empty, name).text for name in grid.columns[3:]} == {"–"}
    assert table.data.loc[6, list(METRICS)].isna().all()


def test_ultraedit_is_marked_as_later_than_the_paper(run: Run) -> None:
    table = table_1(evaluations=run.evaluations)
    (grid,) = table.grids
    assert sum(grid.cell(row, "Editor").text == "UltraEdit†" for row in grid.rows) == 2
    assert "later than the paper" in table.notes[0]
    assert "UltraEdit" in set(table.data["editor"])


def test_what_ended_a_training_stands_beside_its_scores(tmp_path: Path) -> None:
    paths = write_evaluations(tmp_path, editors=("MALMEN", "FT"), lms=("smollm2",), counts=(16,))
    frame, metadata = per_fact.read(paths[0])
    for seed, ended_by in enumerate(("patience", "budget")):
        trainings = {"trainings": {"16": {"ended_by": ended_by}}}
        path = tmp_path / f"{seed}.parquet"
        per_fact.write(path, frame.assign(seed=seed), metadata | trainings)
        paths.append(path)
    table = table_1(evaluations=paths[1:])
    ended = dict(zip(table.data["editor"], table.data["ended_by"], strict=True))
    assert ended == {PRE_EDIT: "", "FT": "", "MALMEN": "budget and patience"}
    (grid,) = table.grids
    assert [grid.cell(row, "Editor").text for row in grid.rows] == [PRE_EDIT, "FT", "MALMEN§"]
    assert table.notes[-1].startswith("§ Meta-training ended by its budget")


def test_an_oracle_is_marked_and_never_the_best(tmp_path: Path) -> None:
    paths = write_evaluations(tmp_path, editors=("MALMEN", "FT", "Oracle"), lms=("smollm2",))
    rows, metadata = per_fact.read(paths[2])
    per_fact.write(paths[2], rows.assign(es=1.0, es_exact=True), metadata)
    table = table_1(evaluations=paths)
    (grid,) = table.grids
    assert [grid.cell(row, "Editor").text for row in grid.rows][-1] == "Oracle‡"
    best = [row for row in grid.rows if grid.cell(row, "ES").bold]
    assert [grid.cell(row, "Editor").text for row in best] == ["MALMEN"]
    assert "‡ Oracle is no editor: it sees what is evaluated." in table.notes


def test_other_editors_join_by_their_data_alone(tmp_path: Path) -> None:
    editors = ("MALMEN", "UltraEdit", "FT", "A_new & better|one")
    paths = write_evaluations(tmp_path, editors=editors, lms=("smollm2",))
    found = list(table_1(evaluations=paths).data["editor"])
    assert found == [PRE_EDIT, "FT", "UltraEdit", "MALMEN", "A_new & better|one"]


# --- Table 1b ------------------------------------------------------------------------------------


def test_numbers_of_other_papers_stand_as_those_print_them() -> None:
    table = table_1b()
    (grid,) = table.grids
    assert len(grid.rows) == len(table.data) == 12 + 4 + 2
    row = table.data.query("paper == 'MeG' and edits == 10000 and editor == 'MALMEN'").iloc[0]
    assert list(row[["es", "gs", "ls"]]) == ["98.54", "79.09", "81.41"]
    last = grid.rows[-1]
    assert [grid.cell(last, name).text for name in ("Editor", "ES", "GS", "LS")] == [
        *("MEND", "88", "–", "–")
    ]
    assert "Numbers of other papers" in table.caption


def test_every_paper_says_where_it_stands_and_how_it_measures() -> None:
    notes = table_1b().notes
    for paper, note in zip(outside_numbers()["scores"], notes, strict=True):
        assert note == f"{paper['paper']}, {paper['source']}: {paper['protocol']}"
        assert paper["source"]
        assert paper["protocol"]


# --- Table 2 -------------------------------------------------------------------------------------


def full(run: Run) -> Path:
    return next(
        path for path in run.evaluations if path.parts[-2:] == ("gptj_desk", "malmen.parquet")
    )


def test_table_2_compares_every_variant_at_every_count(run: Run) -> None:
    data = table_2(evaluations=[full(run), *run.ablations]).data
    assert list(data["variant"]) == 3 * list(VARIANTS)
    assert list(data["edits"].unique()) == [16, 32, 64]
    whole = data[data["variant"] == "malmen"].set_index("edits")
    for row in data[data["variant"] != "malmen"].to_dict("records"):
        for metric in ("es", "gs", "ls"):
            difference = row[metric] - whole.loc[row["edits"], metric]
            assert row[f"{metric}_difference"] == pytest.approx(difference, abs=1e-12)
            low, high = (row[f"{metric}_difference_{end}"] for end in ("low", "high"))
            assert low <= row[f"{metric}_difference"] <= high
    assert whole.filter(like="difference").isna().all().all()


def test_table_2_prints_differences_of_the_variants_alone(run: Run) -> None:
    scores, differences = table_2(evaluations=[full(run), *run.ablations]).grids
    assert len(scores.rows) == 24
    assert len(differences.rows) == 21
    for row in differences.rows:
        found = differences.cell(row, "ES")
        assert re.fullmatch(r"[+−]\d+\.\d", found.text)
        low, high = found.interval.strip("[]").split(", ")
        if low[0] != high[0]:
            assert not found.bold


def test_counts_of_the_full_editor_alone_are_left_out(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "fixed_lambda.parquet"
    per_fact.write(path, evaluation("MALMEN", "gptj_desk", counts=(32,)), METADATA)
    data = table_2(evaluations=[full(run), path]).data
    assert list(data["edits"]) == [32, 32]
    assert (data["es_difference"].dropna() == 0).all()  # the same rows


def test_other_variants_join_by_their_file_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "no_graph.parquet"
    per_fact.write(path, evaluation("FT", "gptj_desk"), METADATA)
    table = table_2(evaluations=[path, full(run), run.ablations[0]])
    assert list(table.data["variant"].unique()) == ["malmen", "all_tokens", "no_graph"]
    scores, _ = table.grids
    assert cell(scores, 2, "Variant").text == "no graph"


def test_table_2_needs_the_full_editor(run: Run) -> None:
    for files in (run.ablations, [full(run)]):
        with pytest.raises(InputError, match=r"needs MALMEN \(malmen.parquet\) and a variant"):
            table_2(evaluations=files)


def test_a_curve_of_one_language_model_has_no_empty_line_on_another(tmp_path: Path) -> None:
    paths = write_evaluations(tmp_path, editors=("MALMEN", "FT"), lms=("smollm2", "gpt2_desk"))
    frame, metadata = per_fact.read(next(p for p in paths if "smollm2" in str(p)))
    alone = tmp_path / "alone.parquet"
    per_fact.write(alone, frame.assign(editor="MALMEN trained at 4"), metadata)
    data = table_1(evaluations=[*paths, alone]).data
    assert list(data[data["editor"] == "MALMEN trained at 4"]["lm"]) == ["smollm2"]
