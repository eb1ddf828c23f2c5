import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from latex import compile_latex

from malmen.results.bootstrap import Interval
from malmen.tables.typesetting import Cell, Grid, Table, escape_latex, percent, points, write_table


def table(**changes: object) -> Table:
    rows = [
        ["A & B", "1,024", Cell(text="12.5", interval="[10.0, 15.0]", bold=True), "a|b.c_d"],
        ["A & B", "1,024", Cell(text="−3.0"), "–"],
        ["C", "16", "–", "λ = 50 %"],
    ]
    grid = Grid(
        columns=["LM", "Edits", "Score now", "Note"],
        rows=rows,
        title="First & last",
        block="{LM}, {Edits} edits",
        widths={"Note": 0.2},
    )
    fields = {"number": "9b", "caption": "What ~ it is.", "grids": [grid], "notes": ["† Later."]}
    data = pd.DataFrame({"score": [0.125, -0.03]})
    return Table(**{**fields, "data": data, **changes})  # type: ignore[arg-type]


@pytest.fixture
def made(tmp_path: Path) -> dict[str, str]:
    paths = write_table(table(), tmp_path)
    assert [path.name for path in paths] == ["table_9b.md", "table_9b.tex", "table_9b.csv"]
    return {path.suffix: path.read_text("utf-8") for path in paths}


def test_markdown(made: dict[str, str]) -> None:
    lines = made[".md"].splitlines()
    assert lines[0] == "**Table 9b.** What ~ it is."
    assert lines[2] == "**First & last**"
    assert re.fullmatch(r"\|:-+\|-+:\|-+:\|:-+\|", lines[5])  # numbers to the right
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", lines[6])[1:-1]]
    assert cells == ["A & B", "1,024", "**12.5** [10.0, 15.0]", r"a\|b.c_d"]
    assert lines[-1] == "† Later."


def test_csv_holds_the_numbers(made: dict[str, str]) -> None:
    assert made[".csv"] == "score\n0.125\n-0.03\n"


def test_latex(made: dict[str, str]) -> None:
    text = made[".tex"]
    for part in (r"\begin{table}", r"\end{table}", r"\toprule", r"\bottomrule"):
        assert text.count(part) == 1
    assert text.count(r"\midrule") == 2  # below the headings, and between the blocks
    assert r"\multicolumn{2}{l}{\emph{A \& B, 1,024 edits}} \\" in text
    assert r"\textbf{12.5} {\tiny [10.0, 15.0]} & \parbox" in text
    assert r"\shortstack[r]{Score\\now} & Note \\" in text
    assert not re.search(r"(?<!\\)%", text), "an unescaped % comments the rest of the line out"


def test_latex_compiles(made: dict[str, str], tmp_path: Path) -> None:
    assert "Overfull" not in compile_latex(tmp_path, "9b")


def test_escape_latex() -> None:
    assert escape_latex("a_b & 5% #1 $x$ {y}") == r"a\_b \& 5\% \#1 \$x\$ \{y\}"
    assert escape_latex("~^\\") == r"\textasciitilde{}\textasciicircum{}\textbackslash{}"
    assert escape_latex("−λ, η") == r"$-$$\lambda$, $\eta$"
    assert escape_latex("plain text – 1.5") == "plain text – 1.5"


@given(text=st.text("ab&%$#_{}\\~^−λη"))
def test_no_special_character_survives_unescaped(text: str) -> None:
    escaped = escape_latex(text)
    for command in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}"):
        escaped = escaped.replace(command, "")
    escaped = re.sub(r"\$(-|\\lambda|\\eta)\$|\\[&%$#_{}]", "", escaped)
    assert re.fullmatch("[ab]*", escaped)


def test_numbers_in_print() -> None:
    assert percent(0.12345) == "12.3"
    assert percent(float("nan")) == "–"
    cell = points(Interval(-0.05, -0.07, 0.001), bold=True)
    assert (cell.text, cell.interval, cell.bold) == ("−5.0", "[−7.0, +0.1]", True)


@pytest.mark.parametrize(
    "text", ["1", "1,024", "12.5", "−3.0", "+1.0", "1e-06", "–", "24", "0.0005"]
)
def test_columns_of_numbers_are_recognised(text: str) -> None:
    assert Grid(columns=["x"], rows=[[text]]).is_numeric("x")
    assert not Grid(columns=["x"], rows=[[text], ["MEND"]]).is_numeric("x")
