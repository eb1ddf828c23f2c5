"""The figures that are drawn from results, by name."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from malmen.figures.drawing import Drawing, save
from malmen.figures.learning_curves import learning_curves
from malmen.figures.memory_figure import memory_figure
from malmen.figures.scaling_curves import curve_names, scaling_curve

__all__ = ["FIGURES"]

_DRAWN: dict[str, Callable[[Sequence[Path]], Drawing]] = {
    **{name: partial(scaling_curve, name) for name in curve_names()},
    "08": memory_figure,
    "LC": learning_curves,
}


def _write(name: str, inputs: Sequence[Path], out_dir: Path) -> list[Path]:
    return save(lambda: _DRAWN[name](inputs), name, out_dir)


FIGURES: dict[str, Callable[[Sequence[Path], Path], list[Path]]] = {
    name: partial(_write, name) for name in _DRAWN
}
"""Each takes the files it is drawn from and an output folder, and returns the paths of
`figure_<name>.pdf`, `.png` and `.csv`."""
