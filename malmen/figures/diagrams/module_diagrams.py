"""Figures 3 and 9-11: what is edited in each of the paper's language models, and the hooks.

Names, classes, sizes and numbers of blocks come from the model's own module tree, the connections
from `malmen.figures.diagrams.block_wiring`.
"""

from collections.abc import Sequence

from transformers import PreTrainedModel

from malmen.figures.diagrams.block_diagram import ALTERNATIVE, EDITED, GRADIENT, KEY, BlockDiagram
from malmen.figures.diagrams.canvas import Box, Canvas, text_width
from malmen.figures.diagrams.stack_diagram import FROZEN, STACK_WIDTH, draw_stacks
from malmen.figures.drawing import INFERRED, Caption, Drawing
from malmen.lm.catalogue import Entry, paper_models
from malmen.lm.model_tree import build, module_table, ranges, split_name, stacks

__all__ = ["MODULE_DIAGRAMS", "draw_modules", "module_diagram"]

MODULE_DIAGRAMS: dict[str, str] = {"03": "gptj", "09": "bert", "10": "gpt2", "11": "t5_xl"}
"""The figures, and the paper's language model that each is about."""

_KNOWN = ("03",)  # the others' place in the paper is inferred
_MARGIN, _LEGEND, _TITLE = 0.1, 0.8, 0.42  # inches
_SIZE = 6.5  # points, of the legend


def module_diagram(name: str) -> Drawing:
    """Draw one of `MODULE_DIAGRAMS`; the data drawn are the rows of `module_table`."""
    entry = paper_models()[MODULE_DIAGRAMS[name]]
    model = build(entry)
    caption = _caption(entry, model, inferred=name not in _KNOWN)
    return Drawing(draw_modules(entry, model).figure, caption, module_table(entry, model))


def draw_modules(entry: Entry, model: PreTrainedModel) -> Canvas:
    """Draw a model: all of it on the left, the last block of each of its stacks on the right."""
    names = list(stacks(model))
    frames = [BlockDiagram(Canvas(1, 1), entry, model, name).frame for name in names]
    height = max(frame.height for frame in frames)
    width = STACK_WIDTH + sum(frame.width + _MARGIN for frame in frames) + 2 * _MARGIN
    canvas, top = Canvas(width, _LEGEND + height + _TITLE), _LEGEND + height
    draw_stacks(canvas, entry, model, Box(_MARGIN, _LEGEND, STACK_WIDTH, height))
    titles = {_MARGIN: "(a) model"}
    x = 2 * _MARGIN + STACK_WIDTH
    for letter, name, frame in zip("bc", names, frames, strict=False):
        block = BlockDiagram(canvas, entry, model, name, (x, top - frame.height))
        titles[x] = f"({letter}) {block.path}"
        x += frame.width + _MARGIN
    for left, title in titles.items():
        canvas.text((left, top + 0.24), title, size=7.5, horizontal="left")
    _draw_legend(canvas)
    return canvas


def _draw_legend(canvas: Canvas) -> None:
    looks = {
        "edited: W becomes W + S": EDITED,
        "edited in the ablation instead": ALTERNATIVE,
        "frozen": FROZEN,
    }
    dots = {
        "u: key, recorded at the input in the forward pass": KEY,
        "∇v: value gradient, recorded at the output\nin the backward pass": GRADIENT,
    }
    left, rows = _MARGIN, (0.44, 0.28, 0.12)
    for y, (label, look) in zip(rows, looks.items(), strict=True):
        canvas.box(Box(left, y - 0.045, 0.2, 0.09), look=look)
        canvas.text((left + 0.27, y), label, size=_SIZE, horizontal="left")
    widest = max(text_width(label, _SIZE) for label in looks)
    right = max(left + 0.27 + widest + 0.05, 0.4 * canvas.width)
    for y, (label, color) in zip(rows, dots.items(), strict=False):
        canvas.dot((right + 0.05, y), color=color)
        at = (right + 0.15, y + 0.055)
        canvas.text(at, label, size=_SIZE, horizontal="left", vertical="top")


def _caption(entry: Entry, model: PreTrainedModel, *, inferred: bool) -> Caption:
    paths = [f"{name}.{len(blocks) - 1}" for name, blocks in stacks(model).items()]
    last = "(b) Its last block" if len(paths) == 1 else "(b, c) The last block of each stack"
    parts = [
        f"(a) The model. {last} ({', '.join(paths)}), from the model's own module tree.",
        "At every edited module a hook records the key u that comes in and, when the fine-tuning "
        "loss is back-propagated, the gradient ∇v at what goes out.",
        f"Edited: {_modules(entry.edited)}; in the ablation instead: "
        f"{_modules(entry.alternative)}.",
        f"MEMIT edits {_modules(entry.memit)}." if entry.memit else "",
        INFERRED if inferred else "",
    ]
    return Caption(f"Hooked modules of {entry.title}", " ".join(filter(None, parts)))


def _modules(names: Sequence[str]) -> str:
    """Return module names with the blocks' numbers as ranges: "h.6-11.mlp.c_proj"."""
    found: dict[tuple[str, str], list[int]] = {}
    for name in names:
        before, index, after = split_name(name)
        found.setdefault((before, after), []).append(index)
    return ", ".join(
        f"{before}.{ranges(indices)}.{after}" for (before, after), indices in found.items()
    )
