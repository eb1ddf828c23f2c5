import re
from pathlib import Path

import pandas as pd
import pytest
from synthetic import METADATA, evaluation, write_evaluations

from malmen import results
from malmen.errors import InputError
from malmen.results import METRICS, PRE_EDIT
from malmen.tables import TABLES, escape_latex, table_1


@pytest.fixture
def evaluations(tmp_path: Path) -> list[Path]:
    return write_evaluations(tmp_path / "results" / "desk" / "evaluations")


@pytest.fixture
def made(evaluations: list[Path], tmp_path: Path) -> dict[str, Path]:
    paths = TABLES[1](evaluations, tmp_path / "tables")
    assert [path.name for path in paths] == ["table_1.md", "table_1.tex", "table_1.csv"]
    return {path.suffix: path for path in paths}


def markdown_rows(path: Path) -> list[list[str]]:
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def test_csv_holds_the_aggregate_at_the_largest_count(
    made: dict[str, Path], evaluations: list[Path]
) -> None:
    frame, _ = results.read_all(evaluations)
    means = results.aggregate(frame)
    means = means[means["edits"] == 64].set_index(["lm", "editor", "metric"])
    csv = pd.read_csv(made[".csv"])
    assert list(csv["editor"]) == 2 * [PRE_EDIT, "FT", "MEND", "MALMEN"]
    assert set(csv["edits"]) == {64}
    for row in csv.to_dict("records"):
        for metric in METRICS:
            if row["editor"] == PRE_EDIT and metric == "ls_consistency":
                assert pd.isna(row[metric])
                continue
            mean = means.loc[(row["lm"], row["editor"], metric)]
            found = [row[metric], row[f"{metric}_low"], row[f"{metric}_high"]]
            assert found == [mean["value"], mean["low"], mean["high"]]
            assert row["n_facts"] == mean["n_facts"]
            assert row["n_sets"] == mean["n_sets"]


def test_markdown_and_latex_agree_with_the_csv(made: dict[str, Path]) -> None:
    csv = pd.read_csv(made[".csv"]).to_dict("records")
    header, _, *rows = markdown_rows(made[".md"])
    latex = made[".tex"].read_text("utf-8")
    blocks = re.findall(r"^(?:Pre-edit|FT|MEND|MALMEN) & .*\\\\$", latex, flags=re.MULTILINE)
    assert len(csv) == len(rows) == len(blocks) == 8
    for row, cells, line in zip(csv, rows, blocks, strict=True):
        expected = {"Editor": row["editor"], "Edits": str(row["edits"])}
        for metric, name in METRICS.items():
            texts = [f"{100 * row[metric + end]:.1f}" for end in ("", "_low", "_high")]
            interval = metric in ("es", "gs", "ls")
            expected[name] = f"{texts[0]} [{texts[1]}, {texts[2]}]" if interval else texts[0]
            if pd.isna(row[metric]):
                expected[name] = "–"
        found = dict(zip(header, cells, strict=True))
        assert {name: found[name].replace("**", "") for name in expected} == expected

        plain = re.sub(r"\\textbf\{([^}]*)\}", r"\1", re.sub(r"\{\\tiny ([^}]*)\}", r"\1", line))
        printed = plain.removesuffix(r" \\").replace("--", "–").split(" & ")
        assert printed[:8] == [expected["Editor"], *(expected[name] for name in METRICS.values())]


def test_the_best_editor_is_bold_and_the_lm_before_editing_never(made: dict[str, Path]) -> None:
    header, _, *rows = markdown_rows(made[".md"])
    for lm in {row[0] for row in rows}:
        for column in range(2, 2 + len(METRICS)):
            values = {
                row[1]: float(row[column].replace("*", "").split()[0])
                for row in rows
                if row[0] == lm and row[1] != PRE_EDIT
            }
            best = {editor for editor, value in values.items() if value == max(values.values())}
            bold = {row[1] for row in rows if row[0] == lm and "**" in row[column]}
            assert bold == best, header[column]


def test_latex_is_a_complete_environment(made: dict[str, Path]) -> None:
    text = made[".tex"].read_text("utf-8")
    for part in (r"\begin{table}", r"\end{table}", r"\toprule", r"\midrule", r"\bottomrule"):
        assert part in text
    assert text.count(r"\caption{") == text.count(r"\label{") == 1
    assert not re.search(r"(?<!\\)%", text), "an unescaped % comments the rest of the line out"
    body = [line for line in text.splitlines() if line.endswith(r"\\") and "multi" not in line]
    assert {len(re.findall(r"(?<!\\)&", line)) for line in body} == {9}
    assert "SmolLM2-135M, 64 edits" in text


def test_the_caption_says_what_is_shown(made: dict[str, Path]) -> None:
    caption = made[".md"].read_text("utf-8").splitlines()[0]
    for part in ("desk scale", "SmolLM2-135M: 64 edits", "95% intervals", "Invented facts"):
        assert part in caption


def test_editors_are_compared_at_their_largest_common_count(tmp_path: Path) -> None:
    paths = write_evaluations(tmp_path, editors=("MALMEN",), lms=("smollm2",))
    paths += write_evaluations(tmp_path, editors=("MEND",), lms=("smollm2",), counts=(16, 32))
    *_, csv = table_1(paths, tmp_path)
    assert set(pd.read_csv(csv)["edits"]) == {32}
    paths += write_evaluations(tmp_path, editors=("FT",), lms=("smollm2",), counts=(128,))
    with pytest.raises(InputError, match="'smollm2': no number of edits that FT, MALMEN, MEND"):
        table_1(paths, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_other_editors_join_by_their_data_alone(tmp_path: Path) -> None:
    editors = ("MALMEN", "UltraEdit", "FT", "A_new & better|one")
    markdown, latex, csv = table_1(
        write_evaluations(tmp_path, editors=editors, lms=("smollm2",)), tmp_path
    )
    order = [PRE_EDIT, "FT", "UltraEdit", "MALMEN", "A_new & better|one"]
    assert list(pd.read_csv(csv)["editor"]) == order
    assert r"A\_new \& better|one &" in latex.read_text("utf-8")
    assert r"A_new & better\|one" in markdown.read_text("utf-8")


def test_a_single_editor_is_not_bold(tmp_path: Path) -> None:
    path = tmp_path / "malmen.parquet"
    results.write(path, evaluation(), METADATA)
    markdown, *_ = table_1([path], tmp_path)
    assert "**" not in markdown.read_text("utf-8")


def test_escape_latex() -> None:
    assert escape_latex("a_b & 5% #1 $x$ {y}") == r"a\_b \& 5\% \#1 \$x\$ \{y\}"
    assert escape_latex("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert escape_latex("plain text – 1.5") == "plain text – 1.5"
