"""Figures 1 and 2: how MEND and MALMEN compute the meta-gradient."""

from collections.abc import Callable
from itertools import pairwise

import pandas as pd

from malmen.figures.diagrams.canvas import INK, Box, Canvas, Look, Point
from malmen.figures.drawing import BLUE, ORANGE, PURPLE, TEXT_WIDTH, VERMILION, Caption, Drawing

__all__ = ["PROCEDURE_DIAGRAMS", "malmen_procedure", "mend_procedure"]

_GIVEN = Look(fill="0.93")
_LEARNED = Look(fill="#D3E8F6", edge=BLUE, line=1.2)
_EDITED = Look(fill="#FBDFA6", edge=ORANGE, line=1.2)
_CACHED = Look(fill="#F6E9F1", edge=PURPLE, line=1.2)
_REGION = Look(fill="0.97", edge="0.75", line=0.7)

_MEND_STEPS = (
    ("1", "forward", "Run the edit tuples through the LM; keys u enter the edited layers."),
    ("2", "backward", "Back-propagate the fine-tuning loss to the layers' outputs: ∇v."),
    ("3", "forward", "The hyper-network turns u and ∇v into pseudo keys and gradients."),
    ("4", "forward", "Sum the tokens' outer products to the shift ΔW."),
    ("5", "forward", "Run equivalent and unrelated tuples through the edited LM: L_meta."),
    (
        "6",
        "backward",
        "Back-propagate L_meta through the edited LM, the shift and the hyper-network.",
    ),
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


def mend_procedure() -> Drawing:
    """Draw Figure 1; the data drawn are its steps."""
    canvas = Canvas(TEXT_WIDTH, 2.75)
    graph = Box(2.42, 0.42, 4.5, 2.25)
    canvas.box(graph, look=_REGION, order=0.2)
    canvas.text(
        (graph.x + 0.1, 2.54),
        "one graph, held until the end: its memory grows with the number of edits",
        size=7,
        horizontal="left",
        style="italic",
    )
    y, height = 1.2, 0.52
    lm = canvas.box(Box(0.12, y, 0.95, height), "language model\n$W$", look=_GIVEN)
    cached = canvas.box(Box(1.4, y, 0.85, height), "keys $u$\ngradients $\\nabla v$", look=_CACHED)
    network = canvas.box(Box(2.6, y, 0.95, height), "hyper-network\n$g_\\theta$", look=_LEARNED)
    shift = canvas.box(
        Box(3.9, y, 1.05, height),
        "shift\n$\\Delta W=-\\eta\\,\\Sigma_j\\,\\tilde{v}_j\\tilde{u}_j^{\\mathrm{T}}$",
    )
    edited = canvas.box(Box(5.25, y, 0.85, height), "edited LM\n$W+\\Delta W$", look=_EDITED)
    loss = canvas.box(Box(6.36, y, 0.48, height), "$L_{meta}$")
    upper, lower = y + 0.36, y + 0.16
    canvas.arrow((lm.right[0], upper), (cached.x, upper))
    canvas.arrow((lm.right[0], lower), (cached.x, lower), color=VERMILION, dashed=True)
    chain = [cached, network, shift, edited, loss]
    for left, right in pairwise(chain):
        canvas.arrow(left.right, right.left)
    canvas.text((3.725, y + 0.42), "$\\tilde{u},\\tilde{v}$", size=7)

    _input(canvas, lm, "edit tuples $(x, y)$,\nall $m$ facts")
    _input(
        canvas, edited, "equivalent $(x^e, y)$ and unrelated\n$(x^u, y^u)$ tuples, all $m$ facts"
    )
    top = y + height + 0.34
    for start, end, label in (
        (loss, edited, None),
        (edited, shift, "$\\nabla_{\\Delta W}$"),
        (shift, network, "$\\nabla_{\\tilde{u},\\tilde{v}}$"),
    ):
        _back(canvas, start, end, top, label)
    canvas.arrow(
        (network.x + 0.25, network.top[1]),
        (network.x + 0.25, top + 0.12),
        color=VERMILION,
        dashed=True,
    )
    canvas.text((network.x + 0.25, top + 0.2), "$\\nabla_\\theta L_{meta}$", color=VERMILION)
    marks: tuple[tuple[str, Point], ...] = (
        ("1", (1.21, upper + 0.13)),
        ("2", (1.21, lower - 0.13)),
        ("3", (2.42, y + 0.4)),
        ("4", (3.725, y + 0.1)),
        ("5", (5.1, y + 0.1)),
        ("6", ((edited.right[0] + loss.x) / 2, top + 0.13)),
    )
    for number, at in marks:
        _number(canvas, at, number)
    _legend(canvas)
    text = (
        "Steps 1 and 2 record keys and value gradients; from the hyper-network to the meta loss "
        "everything is one graph (3-5), and back-propagation (6) goes through all of it."
    )
    steps = pd.DataFrame(_MEND_STEPS, columns=["step", "direction", "what"])
    return Drawing(canvas.figure, Caption("MEND's meta-gradient procedure", text), steps)


def malmen_procedure() -> Drawing:
    """Draw Figure 2; the data drawn are its steps."""
    canvas = Canvas(TEXT_WIDTH, 4.15)
    canvas.box(Box(0.08, 2.2, 6.84, 1.87), look=_REGION, order=0.2)
    canvas.box(Box(0.08, 0.4, 6.84, 1.07), look=_REGION, order=0.2)
    _title(canvas, (0.2, 3.93), "Phase one", "language model in batches of facts")
    _title(canvas, (5.1, 0.95), "Phase two", "hyper-network in\nbatches of tokens")
    y, height = 2.6, 0.52
    lm = canvas.box(Box(0.25, y, 1.0, height), "language model\n$W$", look=_GIVEN)
    network = canvas.box(
        Box(1.75, y, 1.0, height), "hyper-network $g_\\theta$\nno graph", look=_LEARNED
    )
    equation = canvas.box(
        Box(3.15, y, 1.4, height),
        "least squares\n$S=DU^{\\mathrm{T}}(UU^{\\mathrm{T}}+\\lambda I)^{-1}$",
    )
    edited = canvas.box(Box(5.0, y, 0.85, height), "edited LM\n$W+S$", look=_EDITED)
    loss = canvas.box(Box(6.3, y, 0.5, height), "$L_{meta}$")
    keys = canvas.box(Box(0.25, 1.66, 0.8, 0.34), "keys $U$", look=_CACHED)
    gradients = canvas.box(Box(1.15, 1.66, 1.35, 0.34), "value gradients $\\nabla V$", look=_CACHED)
    differences = canvas.box(
        Box(3.1, 1.66, 1.9, 0.34), "value-difference gradients $\\nabla_D$", look=_CACHED
    )
    again = canvas.box(
        Box(0.9, 0.6, 1.15, height), "hyper-network $g_\\theta$\nwith graph", look=_LEARNED
    )
    proxy = canvas.box(
        Box(3.3, 0.6, 1.5, height),
        "proxy loss\n$\\Sigma_j\\,\\langle\\nabla_{d_j}L_{meta},\\,d_j\\rangle$",
    )

    _input(canvas, lm, "edit tuples $(x, y)$", above=True)
    _input(canvas, edited, "equivalent $(x^e, y)$ and\nunrelated $(x^u, y^u)$ tuples", above=True)
    canvas.arrow((0.55, y), (0.55, keys.top[1]))
    canvas.arrow((1.2, y), (1.2, gradients.top[1]), color=VERMILION, dashed=True)
    canvas.arrow((0.85, keys.top[1]), (0.85, 2.32), (2.0, 2.32), (2.0, y))
    canvas.arrow((2.3, gradients.top[1]), (2.3, y))
    upper, lower = y + 0.36, y + 0.14
    canvas.arrow((network.right[0], y + 0.26), equation.left)
    canvas.text((2.95, y + 0.36), "$D$")
    canvas.arrow((equation.right[0], upper), (edited.x, upper))
    canvas.text((4.77, upper + 0.1), "$S$")
    canvas.arrow((edited.right[0], upper), (loss.x, upper))
    for start, end in ((loss, edited), (edited, equation)):
        canvas.arrow((start.x, lower), (end.right[0], lower), color=VERMILION, dashed=True)
    canvas.text((4.77, lower - 0.1), "$\\nabla_S$", color=VERMILION)
    x = equation.middle[0]
    canvas.arrow((x, y), (x, differences.top[1]), color=VERMILION, dashed=True)
    canvas.text((x + 0.08, 2.32), "Theorem 1", size=6.5, color=VERMILION, horizontal="left")
    canvas.arrow((3.4, y), (3.4, 2.38), color=VERMILION, dashed=True)
    canvas.text(
        (3.4, 2.3), "Theorem 2: $dL/d\\lambda$", size=6.5, color=VERMILION, horizontal="right"
    )

    canvas.arrow((0.6, keys.y), (0.6, 0.98), (again.x, 0.98))
    canvas.arrow((1.5, gradients.y), (1.5, again.top[1]))
    canvas.arrow((again.right[0], 0.96), (proxy.x, 0.96))
    canvas.text((2.67, 1.05), "$D$")
    canvas.arrow((proxy.x, 0.74), (again.right[0], 0.74), color=VERMILION, dashed=True)
    canvas.arrow((4.05, differences.y), (4.05, proxy.top[1]))
    canvas.arrow((again.x, 0.74), (0.62, 0.74), color=VERMILION, dashed=True)
    canvas.text((0.4, 0.74), "$\\nabla_\\theta L_{meta}$", color=VERMILION)
    marks: tuple[tuple[str, Point], ...] = (
        ("i", (0.42, 2.44)),
        ("ii", (1.34, 2.48)),
        ("iii", (2.45, 2.44)),
        ("iv", (5.56, 3.28)),
        ("v", (6.08, lower - 0.11)),
        ("vi", (1.64, 1.29)),
        ("vii", (2.67, 0.63)),
    )
    for number, at in marks:
        _number(canvas, at, number)
    _legend(canvas, cache=True)
    text = (
        "Phase one ends at the gradients of the value differences; phase two back-propagates them "
        "through the hyper-network alone. The phases meet in the caches, so each has batches of "
        "its own, and memory depends neither on the number of edits nor on the other phase."
    )
    steps = pd.DataFrame(_MALMEN_STEPS, columns=["step", "phase", "what"])
    return Drawing(canvas.figure, Caption("MALMEN's meta-gradient procedure", text), steps)


PROCEDURE_DIAGRAMS: dict[str, Callable[[], Drawing]] = {
    "01": mend_procedure,
    "02": malmen_procedure,
}
"""The figures by name."""


def _title(canvas: Canvas, at: Point, name: str, what: str) -> None:
    canvas.text(at, name, size=7.5, weight="bold", horizontal="left")
    canvas.text((at[0], at[1] - 0.1), what, size=7.5, horizontal="left", vertical="top")


def _input(canvas: Canvas, box: Box, label: str, *, above: bool = False) -> None:
    """Draw what is fed into a box, below or above it."""
    x = box.middle[0]
    if above:
        canvas.arrow((x, box.top[1] + 0.3), box.top)
        canvas.text((x, box.top[1] + 0.34), label, vertical="bottom")
    else:
        canvas.arrow((x, box.y - 0.3), box.bottom)
        canvas.text((x, box.y - 0.34), label, vertical="top")


def _back(canvas: Canvas, start: Box, end: Box, top: float, label: str | None) -> None:
    """Draw back-propagation from a box to an earlier one, above both."""
    from_x, to_x = start.middle[0] - 0.1, end.middle[0] + 0.1
    canvas.arrow(
        (from_x, start.top[1]),
        (from_x, top),
        (to_x, top),
        (to_x, end.top[1]),
        color=VERMILION,
        dashed=True,
    )
    if label:
        canvas.text(((from_x + to_x) / 2, top + 0.1), label, color=VERMILION)


def _number(canvas: Canvas, at: Point, number: str) -> None:
    canvas.disc(at, number)


def _legend(canvas: Canvas, *, cache: bool = False) -> None:
    y, x = 0.17, 0.15
    for label, color, dashed in (("forward", INK, False), ("back-propagation", VERMILION, True)):
        canvas.arrow((x, y), (x + 0.35, y), color=color, dashed=dashed)
        canvas.text((x + 0.42, y), label, horizontal="left")
        x += 1.05 if label == "forward" else 1.5
    looks = [
        (_LEARNED, "learned"),
        (_EDITED, "edited"),
        (_CACHED, "cached" if cache else "recorded"),
    ]
    for look, label in looks:
        canvas.box(Box(x, y - 0.06, 0.24, 0.12), look=look)
        canvas.text((x + 0.31, y), label, horizontal="left")
        x += 0.95
