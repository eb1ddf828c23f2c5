"""Figures 1 and 2: how MEND and MALMEN compute the meta-gradient."""

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import pandas as pd

from malmen.figures.diagrams.canvas import INK, Box, Canvas, Look, Point
from malmen.figures.drawing import BLUE, ORANGE, PURPLE, TEXT_WIDTH, VERMILION, Caption, Drawing

__all__ = ["PROCEDURE_DIAGRAMS", "malmen_procedure", "mend_procedure"]

_GIVEN = Look(fill="0.93")
_LEARNED = Look(fill="#D3E8F6", edge=BLUE, line=1.2)
_EDITED = Look(fill="#FBDFA6", edge=ORANGE, line=1.2)
_CACHED = Look(fill="#F6E9F1", edge=PURPLE, line=1.2)
_PLAIN = Look()
_REGION = Look(fill="0.97", edge="0.75", line=0.7)
_BACK: Mapping[str, Any] = {"color": VERMILION, "dashed": True}

_MEND_STEPS = (
    ("1", "forward", "Run the edit tuples through the LM; keys u enter the edited layers."),
    ("2", "backward", "Back-propagate the fine-tuning loss to the layers' outputs: ∇v."),
    ("3", "forward", "The hyper-network turns u and ∇v into pseudo keys and gradients."),
    ("4", "forward", "Sum the tokens' outer products to the shift ΔW."),
    ("5", "forward", "Run equivalent and unrelated tuples through the edited LM: L_meta."),
    ("6", "backward", "Back-propagate L_meta through edited LM, shift and hyper-network."),
)
_MALMEN_STEPS = (
    ("i", "one", "Run the edit tuples through the LM; cache the keys at the edited layers."),
    ("ii", "one", "Back-propagate the fine-tuning loss; cache the value gradients."),
    ("iii", "one", "Hyper-network without graph: value differences D, then S by least squares."),
    ("iv", "one", "Run equivalent and unrelated tuples through the edited LM."),
    ("v", "one", "Back-propagate L_meta to W + S alone; by the theorems ∇_D L_meta and dL/dλ."),
    ("vi", "two", "Hyper-network again, with graph: value differences D."),
    ("vii", "two", "Back-propagate the proxy loss, the sum of ⟨∇_d L_meta, d⟩, to θ."),
)


class _Page:
    """A page of boxes that are known by name, with a legend below.

    Args:
        height: In inches.
        regions: What lies behind the boxes.
        boxes: What is written in each, its look and its place.
        cached: What the keys and value gradients are, in the legend.
    """

    def __init__(
        self,
        height: float,
        regions: Sequence[Box],
        boxes: Mapping[str, tuple[str, Look, Box]],
        *,
        cached: str,
    ) -> None:
        self.canvas = Canvas(TEXT_WIDTH, height)
        for region in regions:
            self.canvas.box(region, look=_REGION, order=0.2)
        self.boxes = {
            name: self.canvas.box(box, label, look=look)
            for name, (label, look, box) in boxes.items()
        }
        y = 0.17
        for x, label, style in ((0.15, "forward", {}), (1.2, "back-propagation", _BACK)):
            self.canvas.arrow((x, y), (x + 0.35, y), **style)
            self.canvas.text((x + 0.42, y), label, horizontal="left")
        looks = ((_LEARNED, "learned"), (_EDITED, "edited"), (_CACHED, cached))
        for x, (look, label) in zip((2.7, 3.65, 4.6), looks, strict=True):
            self.canvas.box(Box(x, y - 0.06, 0.24, 0.12), look=look)
            self.canvas.text((x + 0.31, y), label, horizontal="left")

    def link(
        self, start: str, end: str, at: float, label: str = "", *, is_back: bool = False
    ) -> None:
        """Draw an arrow between boxes, level at a height, or upright where one lies above another.

        A label stands above a level arrow; below it, if it leads back.
        """
        one, other = self.boxes[start], self.boxes[end]
        style = _BACK if is_back else {}
        if one.x < other.right[0] and other.x < one.right[0]:
            ends = (one.y, other.top[1]) if one.y > other.y else (one.top[1], other.y)
            self.canvas.arrow((at, ends[0]), (at, ends[1]), **style)
            return
        ends = (one.right[0], other.x) if one.x < other.x else (one.x, other.right[0])
        self.canvas.arrow((ends[0], at), (ends[1], at), **style)
        side = -0.1 if is_back else 0.1
        self.canvas.text((sum(ends) / 2, at + side), label, color=style.get("color", INK))

    def feed(self, name: str, label: str, *, is_above: bool = False) -> None:
        """Draw what is fed into a box from below or above."""
        (x, y), side = (self.boxes[name].top, 1) if is_above else (self.boxes[name].bottom, -1)
        self.canvas.arrow((x, y + 0.3 * side), (x, y))
        vertical = "bottom" if is_above else "top"
        self.canvas.text((x, y + 0.34 * side), label, vertical=vertical)

    def drawing(
        self, headline: str, text: str, steps: pd.DataFrame, places: Sequence[Point]
    ) -> Drawing:
        """Number the steps where they take place, and return the page; its data are the steps."""
        for number, at in zip(steps["step"], places, strict=True):
            self.canvas.disc(at, number)
        return Drawing(self.canvas.figure, Caption(headline, text), steps)


def mend_procedure() -> Drawing:
    """Draw Figure 1; the data drawn are its steps."""
    y, height = 1.2, 0.52
    middle, upper, lower, top = y + 0.26, y + 0.36, y + 0.16, y + 0.86
    shift = "shift\n$\\Delta W=-\\eta\\,\\Sigma_j\\,\\tilde{v}_j\\tilde{u}_j^{\\mathrm{T}}$"
    boxes = {
        "lm": ("language model\n$W$", _GIVEN, Box(0.12, y, 0.95, height)),
        "cached": ("keys $u$\ngradients $\\nabla v$", _CACHED, Box(1.4, y, 0.85, height)),
        "network": ("hyper-network\n$g_\\theta$", _LEARNED, Box(2.6, y, 0.95, height)),
        "shift": (shift, _PLAIN, Box(3.9, y, 1.05, height)),
        "edited": ("edited LM\n$W+\\Delta W$", _EDITED, Box(5.25, y, 0.85, height)),
        "loss": ("$L_{meta}$", _PLAIN, Box(6.36, y, 0.48, height)),
    }
    page = _Page(2.75, [Box(2.42, 0.42, 4.5, 2.25)], boxes, cached="recorded")
    canvas = page.canvas
    remark = "one graph, held until the end: its memory grows with the number of edits"
    canvas.text((2.52, 2.54), remark, horizontal="left", style="italic")
    page.feed("lm", "edit tuples $(x, y)$,\nall $m$ facts")
    tuples = "equivalent $(x^e, y)$ and unrelated\n$(x^u, y^u)$ tuples, all $m$ facts"
    page.feed("edited", tuples)
    page.link("lm", "cached", upper)
    page.link("lm", "cached", lower, is_back=True)
    for start, end in pairwise(list(boxes)[1:]):
        page.link(start, end, middle)
    canvas.text((3.725, y + 0.42), "$\\tilde{u},\\tilde{v}$")
    for start, end, label in (
        ("loss", "edited", ""),
        ("edited", "shift", "$\\nabla_{\\Delta W}$"),
        ("shift", "network", "$\\nabla_{\\tilde{u},\\tilde{v}}$"),
    ):
        right, left = page.boxes[start].top[0] - 0.1, page.boxes[end].top[0] + 0.1
        corners = ((right, y + height), (right, top), (left, top), (left, y + height))
        canvas.arrow(*corners, **_BACK)
        canvas.text(((right + left) / 2, top + 0.1), label, color=VERMILION)
    canvas.arrow((2.85, y + height), (2.85, top + 0.12), **_BACK)
    canvas.text((2.85, top + 0.2), "$\\nabla_\\theta L_{meta}$", color=VERMILION)
    return page.drawing(
        "MEND's meta-gradient procedure",
        "Steps 1 and 2 record keys and value gradients; from the hyper-network to the meta loss "
        "everything is one graph (3-5), and back-propagation (6) goes through all of it.",
        pd.DataFrame(_MEND_STEPS, columns=["step", "direction", "what"]),
        [
            *((1.21, upper + 0.13), (1.21, lower - 0.13), (2.42, y + 0.4)),
            *((3.725, y + 0.1), (5.1, y + 0.1), (6.23, top + 0.13)),
        ],
    )


def malmen_procedure() -> Drawing:
    """Draw Figure 2; the data drawn are its steps."""
    y, below, height = 2.6, 0.6, 0.52
    middle, upper, lower = y + 0.26, y + 0.36, y + 0.14
    shift = "least squares\n$S=DU^{\\mathrm{T}}(UU^{\\mathrm{T}}+\\lambda I)^{-1}$"
    proxy = "proxy loss\n$\\Sigma_j\\,\\langle\\nabla_{d_j}L_{meta},\\,d_j\\rangle$"
    boxes = {
        "lm": ("language model\n$W$", _GIVEN, Box(0.25, y, 1.0, height)),
        "network": ("hyper-network $g_\\theta$\nno graph", _LEARNED, Box(1.75, y, 1.0, height)),
        "shift": (shift, _PLAIN, Box(3.15, y, 1.4, height)),
        "edited": ("edited LM\n$W+S$", _EDITED, Box(5.0, y, 0.85, height)),
        "loss": ("$L_{meta}$", _PLAIN, Box(6.3, y, 0.5, height)),
        "keys": ("keys $U$", _CACHED, Box(0.25, 1.66, 0.8, 0.34)),
        "gradients": ("value gradients $\\nabla V$", _CACHED, Box(1.15, 1.66, 1.35, 0.34)),
        "of D": ("value-difference gradients $\\nabla_D$", _CACHED, Box(3.1, 1.66, 1.9, 0.34)),
        "again": ("hyper-network $g_\\theta$\nwith graph", _LEARNED, Box(0.9, below, 1.15, height)),
        "proxy": (proxy, _PLAIN, Box(3.3, below, 1.5, height)),
    }
    phases = [Box(0.08, 2.2, 6.84, 1.87), Box(0.08, 0.4, 6.84, 1.07)]
    page = _Page(4.15, phases, boxes, cached="cached")
    canvas = page.canvas
    for x, top, name, what in (
        (0.2, 3.93, "Phase one", "language model in batches of facts"),
        (5.1, 0.95, "Phase two", "hyper-network in\nbatches of tokens"),
    ):
        canvas.text((x, top), name, size=7.5, weight="bold", horizontal="left")
        canvas.text((x, top - 0.1), what, size=7.5, horizontal="left", vertical="top")
    page.feed("lm", "edit tuples $(x, y)$", is_above=True)
    tuples = "equivalent $(x^e, y)$ and\nunrelated $(x^u, y^u)$ tuples"
    page.feed("edited", tuples, is_above=True)
    for start, end, at, label in (
        ("lm", "keys", 0.55, ""),
        ("gradients", "network", 2.3, ""),
        ("network", "shift", middle, "$D$"),
        ("shift", "edited", upper, "$S$"),
        ("edited", "loss", upper, ""),
        ("gradients", "again", 1.5, ""),
        ("again", "proxy", below + 0.36, "$D$"),
        ("of D", "proxy", 4.05, ""),
    ):
        page.link(start, end, at, label)
    for start, end, at, label in (
        ("lm", "gradients", 1.2, ""),
        ("loss", "edited", lower, ""),
        ("edited", "shift", lower, "$\\nabla_S$"),
        ("shift", "of D", 3.85, ""),
        ("proxy", "again", below + 0.14, ""),
    ):
        page.link(start, end, at, label, is_back=True)
    canvas.arrow((0.85, 2.0), (0.85, 2.32), (2.0, 2.32), (2.0, y))  # keys to both networks
    canvas.arrow((0.6, 1.66), (0.6, 0.98), (0.9, 0.98))
    canvas.arrow((3.4, y), (3.4, 2.38), **_BACK)
    canvas.arrow((0.9, 0.74), (0.62, 0.74), **_BACK)
    for place, label, horizontal in (
        ((3.93, 2.32), "Theorem 1", "left"),
        ((3.4, 2.3), "Theorem 2: $dL/d\\lambda$", "right"),
        ((0.58, 0.74), "$\\nabla_\\theta L_{meta}$", "right"),
    ):
        canvas.text(place, label, size=6.5, color=VERMILION, horizontal=horizontal)
    return page.drawing(
        "MALMEN's meta-gradient procedure",
        "Phase one ends at the gradients of the value differences; phase two back-propagates them "
        "through the hyper-network alone. The phases meet in the caches, so each has batches of "
        "its own, and memory depends neither on the number of edits nor on the other phase.",
        pd.DataFrame(_MALMEN_STEPS, columns=["step", "phase", "what"]),
        [
            *((0.42, 2.44), (1.34, 2.48), (2.45, 2.44), (5.56, 3.28)),
            *((6.08, lower - 0.11), (1.64, 1.29), (2.67, 0.63)),
        ],
    )


PROCEDURE_DIAGRAMS: dict[str, Callable[[], Drawing]] = {
    "01": mend_procedure,
    "02": malmen_procedure,
}
"""The figures by name."""
