"""The paper's tables by number, each made from the files that it needs."""

from collections.abc import Callable
from inspect import Parameter, signature
from pathlib import Path
from typing import Any

from malmen.support.errors import InputError, choose
from malmen.tables.costs import table_5
from malmen.tables.fact_sheets import table_3, table_4
from malmen.tables.score_tables import table_1, table_1b, table_2
from malmen.tables.typesetting import Table, write_table

__all__ = ["TABLES", "make_table"]

TABLES: dict[str, Callable[..., Table]] = {
    "1": table_1,
    "1b": table_1b,
    "2": table_2,
    "3": table_3,
    "4": table_4,
    "5": table_5,
}
"""The tables by number; the arguments of each are the files that it is made from."""


def make_table(number: str, out_dir: Path, **files: Any) -> list[Path]:
    """Make a table and write it as Markdown, LaTeX and CSV.

    Args:
        number: A key of `TABLES`.
        out_dir: Folder for `table_<number>.md`, `.tex` and `.csv`.
        files: Its arguments; what is None or empty counts as not given.

    Returns:
        The three paths.

    Raises:
        InputError: There is no such table, a file that it needs is not given, one that it does
            not take is given, or a file cannot be used.
    """
    table = choose(TABLES, number, "table")
    given = {name: value for name, value in files.items() if value}
    takes = signature(table).parameters
    for name, parameter in takes.items():
        if parameter.default is Parameter.empty and name not in given:
            raise InputError(f"table {number} needs --{name}")
    for name in given:
        if name not in takes:
            known = ", ".join(f"--{option}" for option in takes) or "no files"
            raise InputError(f"table {number} takes no --{name} (it takes {known})")
    return write_table(table(**given), out_dir)
