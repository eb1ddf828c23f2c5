"""Drawing of a whole model: its stacks of blocks, and what stands before and after them."""

from collections.abc import Sequence
from itertools import groupby

from transformers import PreTrainedModel

from malmen.figures.diagrams.block_diagram import EDITED, SMALL
from malmen.figures.diagrams.canvas import Box, Canvas, Look, Point, text_width
from malmen.lm.catalogue import Entry
from malmen.lm.model_tree import Leaf, leaves, ranges, split_name, stacks

__all__ = ["FROZEN", "STACK_WIDTH", "draw_stacks"]

STACK_WIDTH = 1.9
"""Of the drawing, in inches."""

FROZEN = Look(fill="0.82", edge="0.35", line=0.4)
_CHANGED = Look(fill=EDITED.fill, edge="0.35", line=0.4)
_UNCHANGED = Look(edge="0.35", line=0.4)

_BETWEEN = 0.42  # inches between stacks
_ANSWERS = {"completion": "logits of the answer", "verdict": "verdict at [CLS]"}


def draw_stacks(canvas: Canvas, entry: Entry, model: PreTrainedModel, box: Box) -> None:
    """Draw a slab for every block, stacks one above the other, inside a box."""
    found = stacks(model)
    inputs, *outputs = _outside(model)
    starts = ["tokens"] if len(found) == 1 else ["tokens of the prompt", "tokens of the answer"]
    ends = [*["encoder output"] * (len(found) - 1), _ANSWERS[entry.task]]
    height = (box.height - _BETWEEN * (len(found) - 1)) / len(found)
    x, width = box.x + 0.52, 0.55
    middle = x + width / 2
    below = None
    for index, (name, blocks) in enumerate(found.items()):
        bottom = box.y + index * (height + _BETWEEN)
        top = bottom + height
        first = _draw_list(canvas, inputs, (middle, bottom), above=True)
        last = _draw_list(canvas, outputs[index], (middle, top), above=False)
        slabs = Box(x, first.top[1] + 0.16, width, last.y - first.top[1] - 0.32)
        _draw_slabs(canvas, entry, name, len(blocks), slabs)
        for start, end in (
            ((middle, bottom - 0.16), first.bottom),
            (first.top, slabs.bottom),
            (slabs.top, last.bottom),
            (last.top, (middle, top + 0.16)),
        ):
            canvas.arrow(start, end)
        for y, label in ((bottom - 0.09, starts[index]), (top + 0.09, ends[index])):
            canvas.text((middle + 0.07, y), label, size=SMALL, horizontal="left")
        if below:  # the encoder's output enters every block of the decoder
            left, y = box.x + 0.04, bottom - 0.3
            canvas.arrow((below.top[0], y), (left, y), (left, slabs.left[1]), slabs.left)
        below = slabs


def _outside(model: PreTrainedModel) -> list[list[Leaf]]:
    """Return the modules before the first stack, and those after each one."""
    inside = tuple(f"{name}." for name in stacks(model))
    runs = groupby(leaves(model), key=lambda one: one.name.startswith(inside))
    return [list(run) for is_inside, run in runs if not is_inside]


def _draw_list(canvas: Canvas, modules: Sequence[Leaf], at: Point, *, above: bool) -> Box:
    """Draw a box above or below a point that lists modules, the last in the forward pass on top."""
    lines = [_line(one) for one in reversed(modules)]
    width = max(text_width(line, SMALL) for line in lines) + 0.14
    height = 0.08 + 0.115 * len(lines)
    x, y = at
    box = Box(x - width / 2, y if above else y - height, width, height)
    return canvas.box(box, "\n".join(lines), size=SMALL)


def _line(one: Leaf) -> str:
    words = one.name.split(".")
    name = ".".join(words[-2:]) if words[-1] == "dense" else words[-1]  # "dense" says nothing
    if "Norm" in one.kind:
        return f"{name}  {one.outputs}"
    return f"{name}  {one.inputs} {'×' if one.kind == 'Embedding' else '→'} {one.outputs}"


def _draw_slabs(canvas: Canvas, entry: Entry, stack: str, blocks: int, box: Box) -> None:
    """Draw the blocks of a stack, with brackets that say which of them are edited."""
    edited, alternative, memit = (
        sorted({split_name(module)[1] for module in chosen if split_name(module)[0] == stack})
        for chosen in (entry.edited, entry.alternative, entry.memit)
    )
    is_frozen = stack == entry.blocks  # the stack whose lower blocks are run once
    step = box.height / blocks
    for index in range(blocks):
        look = _CHANGED if index in edited else FROZEN if is_frozen else _UNCHANGED
        slab = Box(box.x, box.y + index * step, box.width, 0.86 * step)
        canvas.box(slab, look=look, rounding=0.01)
    rest = [index for index in range(blocks) if index not in edited]
    unedited = "frozen: run once,\nstates stored" if is_frozen else "not edited"
    for indices, label, side in (
        (edited, "edited", 1),
        (rest, unedited, 1),
        (alternative, "ablation", -1),
        (memit, "MEMIT", -1),
    ):
        if indices:
            low, high = box.y + indices[0] * step, box.y + (indices[-1] + 0.86) * step
            text = f"{ranges(indices).replace('-', '–')}\n{label}"
            x = box.right[0] if side > 0 else box.x
            canvas.bracket(x, low, high, text, side=side, size=SMALL)
