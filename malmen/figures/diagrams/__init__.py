"""The figures that need no results: procedures and modules, drawn by code."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from malmen.figures.diagrams.module_diagrams import MODULE_DIAGRAMS, module_diagram
from malmen.figures.diagrams.procedure_diagrams import PROCEDURE_DIAGRAMS
from malmen.figures.drawing import Drawing, save

__all__ = ["DIAGRAMS"]

_DRAWN: dict[str, Callable[[], Drawing]] = PROCEDURE_DIAGRAMS | {
    name: partial(module_diagram, name) for name in MODULE_DIAGRAMS
}

DIAGRAMS: dict[str, Callable[[Path], list[Path]]] = {
    name: partial(save, draw, name) for name, draw in sorted(_DRAWN.items())
}
"""Each takes an output folder and returns the paths of `figure_<name>.pdf`, `.png` and `.csv`."""
