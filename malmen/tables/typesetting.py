"""Tables as Markdown, LaTeX and CSV.

A table is written three times: as Markdown and as LaTeX for people, who read rounded cells, and as
CSV for programs, which read the numbers behind them.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from string import Formatter
from typing import Any

import pandas as pd

from malmen.results.bootstrap import Interval
from malmen.support.files import atomic

__all__ = [
    "EMPTY",
    "Cell",
    "Grid",
    "Printed",
    "Table",
    "column",
    "escape_latex",
    "percent",
    "points",
    "write_table",
]

EMPTY = "–"
"""A cell about which nothing is known."""

_LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    # What LaTeX's fonts for text lack.
    "−": "$-$",
    "λ": r"$\lambda$",
    "η": r"$\eta$",
}
_NUMBER = re.compile(r"[\d.,:%+−/×\s-]*|\d[\d.]*e[+-]?\d+|–")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """A cell of which more is known than its text.

    Attributes:
        text: As printed.
        interval: Printed small behind it.
        bold: Whether the text stands out.
    """

    text: str
    interval: str = ""
    bold: bool = False


Printed = Callable[[dict[str, Any]], Cell | str]
"""What is printed of a line of data."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Rows of cells under column headings.

    Attributes:
        columns: The headings.
        rows: As many cells a row as there are headings.
        title: Stands above the grid, where a table has several.
        block: How LaTeX heads a block of rows with common cells, a template of column names such
            as "{LM}, {Edits} edits"; the columns named there need no room of their own.
        widths: Share of the text width, by heading, of columns whose cells LaTeX breaks into lines.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    title: str = ""
    block: str = ""
    widths: dict[str, float] | None = None

    @classmethod
    def of(cls, data: pd.DataFrame, columns: Mapping[str, Printed], **about: Any) -> "Grid":
        """Return a grid with a row a row of data, whose columns say what is printed of it."""
        lines: list[dict[str, Any]] = data.to_dict("records")  # type: ignore[assignment]
        rows = [[printed(line) for printed in columns.values()] for line in lines]
        return cls(columns=list(columns), rows=rows, **about)

    def cell(self, row: Sequence[Cell | str], column: str) -> Cell:
        """Return the cell of a row under a heading."""
        cell = row[list(self.columns).index(column)]
        return cell if isinstance(cell, Cell) else Cell(text=cell)

    def is_numeric(self, column: str) -> bool:
        """Tell whether a column holds numbers only, and is aligned right."""
        return all(_NUMBER.fullmatch(self.cell(row, column).text) for row in self.rows)


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table, before it takes one of its forms.

    Attributes:
        number: As in the name of its files and in its label.
        caption: Full sentences.
        grids: What is printed, one below the other.
        notes: Footnotes, each with its mark.
        data: What the CSV holds; fractions where percentages are printed.
    """

    number: str
    caption: str
    grids: Sequence[Grid]
    data: pd.DataFrame
    notes: Sequence[str] = ()


def write_table(table: Table, out_dir: Path) -> list[Path]:
    """Write `table_<number>.md`, `.tex` and `.csv` and return their paths.

    The LaTeX is a complete table environment, for which booktabs is all that has to be loaded.
    """
    texts = {
        ".md": _markdown(table),
        ".tex": _latex(table),
        ".csv": table.data.to_csv(index=False),
    }
    paths = []
    for suffix, text in texts.items():
        paths.append(Path(out_dir) / f"table_{table.number}{suffix}")
        with atomic(paths[-1]) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return paths


def column(name: str, form: str = "") -> Printed:
    """Return what prints a column of data in a format, or an empty cell where it has no value."""
    return lambda line: EMPTY if pd.isna(line[name]) else format(line[name], form)


def percent(fraction: float) -> str:
    """Return a fraction as a percentage, or an empty cell for NaN."""
    return EMPTY if pd.isna(fraction) else f"{100 * fraction:.1f}"


def points(difference: Interval, *, bold: bool = False) -> Cell:
    """Return a cell for a difference of fractions, in signed percentage points."""
    value, *ends = (f"{100 * end:+.1f}".replace("-", "−") for end in difference)
    return Cell(text=value, interval=f"[{', '.join(ends)}]", bold=bold)


# --- Markdown ------------------------------------------------------------------------------------


def _markdown(table: Table) -> str:
    parts = [f"**Table {table.number}.** {table.caption}"]
    for grid in table.grids:
        parts += [f"**{grid.title}**"] if grid.title else []
        parts.append(_markdown_grid(grid))
    return "\n\n".join([*parts, *table.notes]) + "\n"


def _markdown_grid(grid: Grid) -> str:
    cells = [[_markdown_cell(grid.cell(row, name)) for name in grid.columns] for row in grid.rows]
    alignment = ["right" if grid.is_numeric(name) else "left" for name in grid.columns]
    frame = pd.DataFrame(cells, columns=list(grid.columns))
    return frame.to_markdown(index=False, disable_numparse=True, colalign=alignment)


def _markdown_cell(cell: Cell) -> str:
    text = cell.text.replace("|", r"\|")
    return " ".join(filter(None, [f"**{text}**" if cell.bold else text, cell.interval]))


# --- LaTeX ---------------------------------------------------------------------------------------


def escape_latex(text: str) -> str:
    """Return text in which LaTeX's special characters stand for themselves."""
    return "".join(_LATEX_SPECIAL.get(sign, sign) for sign in text)


ROWS_OF_A_PAGE = 40
"""More rows than this, of all grids together, stand closer in LaTeX."""


def _latex(table: Table) -> str:
    lines = [
        r"\begin{table}[tbp]",
        rf"\renewcommand{{\thetable}}{{{table.number}}}",  # LaTeX would count 1b as 2
        r"\centering",
        rf"\caption{{{escape_latex(table.caption)}}}",
        rf"\label{{tab:{table.number}}}",
        r"\scriptsize",
        r"\setlength{\tabcolsep}{2pt}",
    ]
    if sum(len(grid.rows) for grid in table.grids) > ROWS_OF_A_PAGE:
        lines.append(r"\renewcommand{\arraystretch}{0.85}")
    for grid in table.grids:
        lines += [r"\par\medskip", *_latex_grid(grid)]
    if table.notes:
        notes = r" \\ ".join(map(escape_latex, table.notes))
        lines += [r"\par\medskip", rf"\parbox{{\linewidth}}{{{notes}}}"]
    return "\n".join([*lines, r"\end{table}", ""])


def _latex_grid(grid: Grid) -> Iterator[str]:
    heads = {field for _, field, _, _ in Formatter().parse(grid.block) if field}
    columns = [name for name in grid.columns if name not in heads]
    if grid.title:
        yield rf"\textbf{{{escape_latex(grid.title)}}}\par\smallskip"
    sides = ["r" if grid.is_numeric(name) else "l" for name in columns]
    yield rf"\begin{{tabular}}{{{''.join(sides)}}}"
    yield r"\toprule"
    yield _latex_row([_stacked(name, side) for name, side in zip(columns, sides, strict=True)])
    yield r"\midrule"
    for index, (block, rows) in enumerate(groupby(grid.rows, lambda row: _block(grid, row, heads))):
        if index:
            yield r"\midrule"
        if block:
            yield rf"\multicolumn{{{len(columns)}}}{{l}}{{\emph{{{escape_latex(block)}}}}} \\"
        for row in rows:
            yield _latex_row([_latex_cell(grid, row, name) for name in columns])
    yield r"\bottomrule"
    yield r"\end{tabular}"


def _block(grid: Grid, row: Sequence[Cell | str], heads: set[str]) -> str:
    return grid.block.format_map({name: grid.cell(row, name).text for name in heads})


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"


def _stacked(heading: str, side: str) -> str:
    """Return a heading with its words one below the other: numbers are narrower than words."""
    words = escape_latex(heading).split()
    stack = r"\\".join(words)
    return stack if len(words) == 1 else rf"\shortstack[{side}]{{{stack}}}"


def _latex_cell(grid: Grid, row: Sequence[Cell | str], column: str) -> str:
    cell = grid.cell(row, column)
    text = escape_latex(cell.text)
    text = rf"\textbf{{{text}}}" if cell.bold else text
    if cell.interval:
        text += rf" {{\tiny {escape_latex(cell.interval)}}}"
    if width := (grid.widths or {}).get(column):
        # Long names of modules may be broken behind a dot.
        broken = re.sub(r"\.(?=[a-z\\])", r".\\allowbreak{}", text)
        return rf"\parbox[t]{{{width}\linewidth}}{{\raggedright {broken}\strut}}"
    return text
