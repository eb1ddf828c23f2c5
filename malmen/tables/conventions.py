"""What the tables share: names and order of LMs, captions, footnotes, numbers of other papers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from malmen.experiment.cards import titles
from malmen.lm.catalogue import lookup
from malmen.results.comparison import editor_order
from malmen.results.per_fact import scale_of, sources
from malmen.support.errors import InputError
from malmen.tables.typesetting import Printed, column

__all__ = [
    "BLOCK",
    "COUNTED",
    "caption",
    "figure_order",
    "largest_shared_count",
    "outside_numbers",
    "title_of",
]


def title_of(lm: str) -> str:
    """Return the LM's name in print, with the paper's LM that it stands in for."""
    entry = lookup(lm)
    return ", in place of ".join(filter(None, (entry.title, entry.stands_for)))


def figure_order(lm: str) -> str:
    """Return a key that sorts LMs in the order of their figures."""
    return lookup(lm).figure or lm


BLOCK = "{LM}, {Edits} edits"
COUNTED: dict[str, Printed] = {
    "LM": lambda line: title_of(line["lm"]),
    "Edits": column("edits", ","),
}
"""The first columns of a grid whose lines belong to an LM and a number of edits, and its blocks."""


def caption(
    about: Sequence[str],
    evaluations: Sequence[Path],
    metadata: Sequence[Mapping[str, Any]] = (),
) -> str:
    """Return the sentences about a table, with the scale before and the attributions behind."""
    scale, origins = scale_of(evaluations), sources(metadata)
    before = [f"Results at {scale} scale"] if scale else []
    behind = [f"Data and models: {'; '.join(origins)}"] if origins else []
    return ". ".join([*before, *about, *behind]) + "."


def largest_shared_count(evaluated: pd.DataFrame, *, lm: str) -> int:
    """Return the largest number of edits that all editors were evaluated at.

    Args:
        evaluated: Rows with the columns editor and edits, of one LM.
        lm: The LM to name in an error.

    Raises:
        InputError: There is none.
    """
    counts = {str(editor): set(edits) for editor, edits in evaluated.groupby("editor")["edits"]}
    common = set.intersection(*counts.values())
    if not common:
        names = ", ".join(editor_order(counts, titles()))
        raise InputError(
            f"LM '{lm}': no number of edits that {names} were all evaluated at "
            "(evaluate them at the same --edits)"
        )
    return max(common)


def outside_numbers() -> dict[str, Any]:
    """Return the numbers of other papers, as `outside_numbers.yaml` explains them."""
    text = Path(__file__).with_name("outside_numbers.yaml").read_text(encoding="utf-8")
    numbers: dict[str, Any] = yaml.safe_load(text)
    return numbers
