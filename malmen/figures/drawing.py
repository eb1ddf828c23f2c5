"""What the figures share: style, colours, and files as PDF, PNG and CSV."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, UnidentifiedImageError

from malmen.support.errors import InputError
from malmen.support.files import atomic

__all__ = [
    "BLUE",
    "GREEN",
    "INFERRED",
    "ORANGE",
    "PURPLE",
    "SKY",
    "STYLE",
    "TEXT_WIDTH",
    "VERMILION",
    "Caption",
    "Drawing",
    "figure_number",
    "read_caption",
    "save",
]

# Okabe and Ito's colours, told apart by people with any colour vision.
BLUE, SKY, GREEN = "#0072B2", "#56B4E9", "#009E73"
ORANGE, VERMILION, PURPLE = "#E69F00", "#D55E00", "#CC79A7"

TEXT_WIDTH = 7.0  # inches

INFERRED = "The layout is inferred: how the paper draws this figure is not known here."
"""What a caption says where only the figure's place in the paper is known."""

_DPI = 200  # of the PNG
STYLE: Any = {
    "font.size": 8,
    "axes.labelsize": 9,
    "axes.titlesize": 8.5,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.color": "0.9",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "lines.markersize": 4,
    "pdf.fonttype": 42,  # TrueType: text that can be searched and edited
}
"""Settings of matplotlib that every figure is drawn with."""


@dataclass(frozen=True)
class Caption:
    """What a figure is, without a full stop, and how to read it, in sentences."""

    headline: str
    text: str


@dataclass(frozen=True)
class Drawing:
    """A figure, its caption and the data drawn."""

    figure: Figure
    caption: Caption
    data: pd.DataFrame


def figure_number(name: str) -> str:
    """Return a figure's name in print: "Figure 4" for "04"."""
    return f"Figure {name.lstrip('0')}"


def save(draw: Callable[[], Drawing], name: str, out_dir: Path) -> list[Path]:
    """Draw in the suite's style and write `figure_<name>.pdf`, `.png` and `.csv`.

    Equal drawings give equal bytes. The caption stands in the properties of the PDF and of the
    PNG, where `read_caption` finds it: a figure cannot lose its caption.

    Returns:
        The three paths.
    """
    stem = Path(out_dir) / f"figure_{name}"
    with mpl.rc_context(STYLE):
        drawing = draw()
        caption = drawing.caption
        title = f"{figure_number(name)}: {caption.headline}"
        # Dates and versions would make the bytes differ from run to run or machine to machine.
        undated = {"CreationDate": None, "Producer": None, "Creator": None}
        about: dict[str, dict[str, str | None]] = {
            ".pdf": {**undated, "Title": title, "Subject": caption.text},
            ".png": {"Software": None, "Title": caption.headline, "Description": caption.text},
        }
        for suffix, properties in about.items():
            with atomic(stem.with_suffix(suffix)) as temporary:
                drawing.figure.savefig(temporary, dpi=_DPI, metadata=properties)
    with atomic(stem.with_suffix(".csv")) as temporary:
        drawing.data.to_csv(temporary, index=False)
    return [stem.with_suffix(suffix) for suffix in (".pdf", ".png", ".csv")]


def read_caption(path: Path) -> Caption:
    """Return the caption of a PNG that `save` wrote.

    Raises:
        InputError: If the file is missing, or is no such PNG.
    """
    try:
        with Image.open(path) as image:
            return Caption(image.info["Title"], image.info["Description"])
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file (draw it with `malmen figure`)") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path}: not a picture") from error
    except KeyError as error:
        raise InputError(f"{path}: no caption (draw it with `malmen figure`)") from error
