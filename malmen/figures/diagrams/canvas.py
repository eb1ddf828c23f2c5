"""Boxes, arrows and text on a page measured in inches, for diagrams."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import BoxStyle, Circle, FancyArrowPatch, FancyBboxPatch
from matplotlib.path import Path
from matplotlib.text import Text
from matplotlib.textpath import TextPath

__all__ = ["GREY", "INK", "Box", "Canvas", "Look", "Point", "text_width"]

Point = tuple[float, float]

INK, GREY = "0.15", "0.5"


@dataclass(frozen=True, kw_only=True)
class Look:
    """Colours and line of a box; the line's width is in points."""

    fill: str = "white"
    edge: str = INK
    line: float = 0.8
    dashed: bool = False


PLAIN = Look()


@dataclass(frozen=True)
class Box:
    """A rectangle on the page, in inches; x and y are those of its lower left corner."""

    x: float
    y: float
    width: float
    height: float

    def at(self, right: float, up: float) -> Point:
        """Return a point by its shares of width and height."""
        return self.x + right * self.width, self.y + up * self.height

    @property
    def middle(self) -> Point:
        """The centre."""
        return self.at(0.5, 0.5)

    @property
    def left(self) -> Point:
        """The middle of the left edge."""
        return self.at(0, 0.5)

    @property
    def right(self) -> Point:
        """The middle of the right edge."""
        return self.at(1, 0.5)

    @property
    def bottom(self) -> Point:
        """The middle of the lower edge."""
        return self.at(0.5, 0)

    @property
    def top(self) -> Point:
        """The middle of the upper edge."""
        return self.at(0.5, 1)

    def grown(self, by: float) -> "Box":
        """Return a box that is larger by so many inches on every side."""
        return Box(self.x - by, self.y - by, self.width + 2 * by, self.height + 2 * by)


class Canvas:
    """A page to draw on, its width and height in inches."""

    def __init__(self, width: float, height: float) -> None:
        self.width, self.height = width, height
        self.figure = Figure(figsize=(width, height))
        self.axes = self.figure.add_axes((0, 0, 1, 1), frameon=False, xticks=[], yticks=[])
        self.axes.set(xlim=(0, width), ylim=(0, height))

    def box(
        self,
        box: Box,
        label: str = "",
        *,
        look: Look = PLAIN,
        size: float = 7,
        rounding: float = 0.035,
        order: float = 2,
    ) -> Box:
        """Draw a box with a label of a size in points; return it.

        The radius of its corners is in inches; what has a higher order lies above.
        """
        self.axes.add_patch(
            FancyBboxPatch(
                (box.x, box.y),
                box.width,
                box.height,
                boxstyle=BoxStyle("Round", pad=0, rounding_size=rounding),
                facecolor=look.fill,
                edgecolor=look.edge,
                linewidth=look.line,
                linestyle=(0, (3, 1.5)) if look.dashed else "-",
                zorder=order,
            )
        )
        if label:
            self.text(box.middle, label, size=size, order=order + 0.1)
        return box

    def text(
        self,
        at: Point,
        label: str,
        *,
        size: float = 7,
        color: str = INK,
        horizontal: str = "center",
        vertical: str = "center",
        order: float = 5,
        **options: Any,
    ) -> Text:
        """Write text."""
        return self.axes.text(
            *at,
            label,
            fontsize=size,
            color=color,
            ha=horizontal,
            va=vertical,
            zorder=order,
            **{"linespacing": 1.25, **options},
        )

    def arrow(
        self,
        *points: Point,
        color: str = INK,
        line: float = 0.9,
        dashed: bool = False,
        head: bool = True,
        order: float = 1.5,
    ) -> None:
        """Draw a line through points, with an arrow head at the last."""
        self.axes.add_patch(
            FancyArrowPatch(
                path=Path(points),
                arrowstyle="-|>,head_length=0.45,head_width=0.2" if head else "-",
                mutation_scale=8,
                color=color,
                linewidth=line,
                linestyle=(0, (3, 1.6)) if dashed else "-",
                shrinkA=0,
                shrinkB=0,
                joinstyle="round",
                capstyle="butt",
                zorder=order,
            )
        )

    def plus(self, at: Point, *, radius: float = 0.07) -> None:
        """Draw the circled plus of a sum."""
        self._circle(at, radius, facecolor="white", edgecolor=INK, linewidth=0.8, zorder=3)
        x, y = at
        arm = 0.65 * radius
        for points in ([(x - arm, y), (x + arm, y)], [(x, y - arm), (x, y + arm)]):
            self.arrow(*points, head=False, order=3.1, line=0.8)

    def dot(self, at: Point, *, color: str, radius: float = 0.045) -> None:
        """Draw a filled circle, the mark of something recorded."""
        self._circle(at, radius, facecolor=color, edgecolor="white", linewidth=0.5, zorder=4)

    def disc(self, at: Point, label: str, *, radius: float = 0.085) -> None:
        """Draw a step's number in a dark circle."""
        self._circle(at, radius, facecolor=INK, edgecolor="none", zorder=6)
        self.text(at, label, size=6, color="white", weight="bold", order=6.1)

    def _circle(self, at: Point, radius: float, **options: Any) -> None:
        self.axes.add_patch(Circle(at, radius, **options))

    def bracket(
        self, x: float, low: float, high: float, label: str, *, side: int, size: float = 6
    ) -> None:
        """Draw a bracket with a label on the left (side -1) or the right (side 1) of something."""
        near, far = x + 0.04 * side, x + 0.08 * side
        self.arrow((near, low), (far, low), (far, high), (near, high), head=False, line=0.7)
        horizontal = "left" if side > 0 else "right"
        at = (far + 0.05 * side, (low + high) / 2)
        self.text(at, label, size=size, horizontal=horizontal, multialignment=horizontal)

    def row(self, box: Box, shares: Sequence[float], *, gap: float) -> list[Box]:
        """Split a box into boxes side by side whose widths are in the given shares."""
        room = box.width - gap * (len(shares) - 1)
        boxes, x = [], box.x
        for share in shares:
            width = room * share / sum(shares)
            boxes.append(Box(x, box.y, width, box.height))
            x += width + gap
        return boxes


@cache
def text_width(label: str, size: float, *, bold: bool = False) -> float:
    """Return how wide the widest line of a label is, in inches."""
    font = FontProperties(weight="bold" if bold else "normal")
    paths = (TextPath((0, 0), line, size=size, prop=font) for line in label.split("\n"))
    return max(path.get_extents().width for path in paths) / 72
