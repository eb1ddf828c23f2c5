"""Drawing of one transformer block: the residual stream, its branches, and where hooks record."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedModel

from malmen.figures.diagrams.block_wiring import WIRING, Branch, Operation, Stage, Step
from malmen.figures.diagrams.canvas import GREY, Box, Canvas, Look, Point, text_width
from malmen.figures.drawing import BLUE, ORANGE, PURPLE, VERMILION
from malmen.lm.catalogue import Entry
from malmen.lm.model_tree import leaf, stacks

__all__ = ["ALTERNATIVE", "EDITED", "GRADIENT", "KEY", "SMALL", "BlockDiagram"]

EDITED = Look(fill="#FBDFA6", edge=ORANGE, line=1.4)
ALTERNATIVE = Look(fill="none", edge=PURPLE, line=1.4, dashed=True)
KEY, GRADIENT = BLUE, VERMILION
SMALL = 6.0  # points; names are half a point larger
_NAME = SMALL + 0.5

_GROUP = Look(fill="0.95", edge="none")
_OPERATION = Look(fill="0.98", edge="0.7")
_FRAME = Look(edge=GREY, line=0.7)

# Inches.
_PAD = 0.12  # between the frame and what it holds
_STREAM = 0.2  # from the frame's left edge to the residual stream
_INDENT = 0.3  # from the residual stream to the boxes
_GAP = 0.18  # between boxes one above the other
_BETWEEN = 0.1  # between boxes side by side
_LOW, _HIGH = 0.2, 0.32  # height of boxes with one and with two lines


@dataclass(frozen=True)
class _Tile:
    """What is written in a box, and how wide that is."""

    lines: tuple[str, ...]
    width: float
    is_edited: bool = False
    is_alternative: bool = False


class BlockDiagram:
    """The last block of a stack.

    Args:
        entry: Which modules are edited.
        model: From `malmen.lm.model_tree.build`.
        stack: Name of the list of blocks.

    Attributes:
        path: Name of the block.
    """

    def __init__(self, entry: Entry, model: PreTrainedModel, stack: str) -> None:
        blocks = stacks(model)[stack]
        self.path = f"{stack}.{len(blocks) - 1}"
        self._block = blocks[-1]
        self._entry = entry
        self._heads = model.config.num_attention_heads
        self._stages = WIRING[model.config.model_type, stack]
        self._column = max(
            sum(tile.width for tile in tiles) + _BETWEEN * (len(tiles) - 1)
            for stage in self._stages
            for branch in stage.branches
            for tiles in (self._tiles(branch, step) for step in branch.steps)
        )

    def draw(self, canvas: Canvas, at: Point) -> Box:
        """Draw the block with the lower left corner of its frame at a point; return the frame."""
        x, bottom = at
        stream, top = x + _STREAM, bottom + 0.1
        for stage in self._stages:
            top = self._draw_stage(canvas, stage, stream, top)
        columns = max(len(stage.branches) for stage in self._stages)
        width = _STREAM + _INDENT + columns * (self._column + _PAD) + _PAD / 2
        frame = canvas.box(Box(x, bottom, width, top + 0.1 - bottom), look=_FRAME, order=0)
        canvas.arrow((stream, bottom - 0.13), (stream, frame.top[1] + 0.13), order=1)
        return frame

    def _draw_stage(self, canvas: Canvas, stage: Stage, stream: float, y: float) -> float:
        """Draw a stage from y upwards; return where it ends."""
        step = self._column + _PAD
        columns = [stream + _INDENT + step * index for index in range(len(stage.branches))]
        right = columns[-1] + self._column
        source = None
        if stage.before:
            source = self._draw_norm(
                canvas, stage.before, Box(columns[0], y, right - columns[0], _LOW)
            )
            canvas.arrow((stream, source.left[1]), source.left)
            y += _LOW
        ends = [
            self._draw_branch(canvas, branch, (x, y), source, stream, alone=len(columns) == 1)
            for branch, x in zip(stage.branches, columns, strict=True)
        ]
        top = self._add_to_stream(canvas, ends, stream)
        if stage.after:
            self._draw_norm(canvas, stage.after, Box(stream - 0.1, top, right - stream + 0.1, _LOW))
            top += _LOW + 0.06
        return top

    def _add_to_stream(
        self, canvas: Canvas, ends: Sequence[tuple[Box, float]], stream: float
    ) -> float:
        """Lead the last box of every branch to a sum in the stream; return where that ends."""
        if len(ends) == 1:
            [(last, top)] = ends
            meeting = (stream, last.left[1])
            canvas.arrow(last.left, meeting)
        else:
            top = max(end for _, end in ends) + 0.1
            meeting = (stream, top)
            for last, _ in ends:
                x, y = _way_out(last)
                canvas.arrow((x, y), (x, top), meeting)
        canvas.plus(meeting)
        return top + 0.12

    def _draw_norm(self, canvas: Canvas, name: str, box: Box) -> Box:
        found = leaf(name, self._block.get_submodule(name))
        labels = [f"{name}  {found.kind} {found.outputs}", f"{name}  {found.outputs}"]
        return canvas.box(box, _first_that_fits(labels, box.width - 0.1), size=SMALL)

    def _draw_branch(
        self,
        canvas: Canvas,
        branch: Branch,
        at: Point,
        source: Box | None,
        stream: float,
        *,
        alone: bool,
    ) -> tuple[Box, float]:
        """Draw a branch upwards; return its last box and where the branch ends."""
        x, y = at
        y = start = y + (_GAP + 0.12 if branch.foreign else _GAP)
        before = [source] if source else []
        for step in branch.steps:
            tiles = self._tiles(branch, step)
            height = _HIGH if len(tiles[0].lines) > 1 else _LOW
            whole = Box(x, y, self._column, height)
            boxes = canvas.row(whole, [tile.width for tile in tiles], gap=_BETWEEN)
            if before:
                _connect(canvas, branch, step, before, boxes)
            else:
                canvas.arrow(
                    (stream, y - _GAP / 2), (boxes[0].bottom[0], y - _GAP / 2), boxes[0].bottom
                )
            exits_left = alone and step is branch.steps[-1]
            exits_aside = not alone and step is branch.steps[-1]
            for tile, box in zip(tiles, boxes, strict=True):
                _draw_tile(canvas, tile, box)
                if tile.is_edited:
                    _hook(canvas, (box.bottom[0], box.y - 0.12), "u", KEY)
                    _hook_output(canvas, box, exits_left=exits_left, exits_aside=exits_aside)
            before = boxes
            y += height + _GAP
        last = before[-1]
        if not branch.inside:
            return last, last.top[1] + 0.08
        return last, self._draw_group(
            canvas, branch, Box(x, start, self._column, last.top[1] - start)
        )

    def _draw_group(self, canvas: Canvas, branch: Branch, box: Box) -> float:
        """Draw what lies behind the boxes of a module, and its name; return where it ends."""
        end = box.top[1] + 0.2
        canvas.box(
            Box(box.x - 0.05, box.y - 0.06, box.width + 0.1, box.height + 0.24),
            look=_GROUP,
            order=0.5,
        )
        kind = type(self._block.get_submodule(branch.inside)).__name__
        label = _first_that_fits([f"{branch.inside} ({kind})", branch.inside], box.width)
        canvas.text((box.x, end - 0.1), label, size=SMALL, color="0.35", horizontal="left")
        return end

    def _tiles(self, branch: Branch, step: Step) -> list[_Tile]:
        if isinstance(step, Operation):
            label = self._label(branch, step)
            return [_Tile((label,), text_width(label, SMALL) + 0.15)]
        return [self._tile(branch, names, has_room=len(step) == 1) for names in step]

    def _label(self, branch: Branch, operation: Operation) -> str:
        path = _path(branch, operation.module)
        kind = type(self._block.get_submodule(path)).__name__ if operation.module else ""
        return operation.label.format(heads=self._heads, kind=kind)

    def _tile(self, branch: Branch, names: str, *, has_room: bool) -> _Tile:
        """Describe the modules of one box: names, then class (if there is room) and size."""
        paths = [_path(branch, name) for name in names.split()]
        found = [leaf(path, self._block.get_submodule(path)) for path in paths]
        if len({(one.kind, one.inputs, one.outputs) for one in found}) > 1:
            raise ValueError(f"{self.path}: {names} differ in shape")
        times = f"{len(found)} × " if len(found) > 1 else ""
        kind = f"{found[0].kind} " if has_room else ""
        title = ", ".join(names.split())
        sizes = f"{times}{kind}{found[0].inputs} → {found[0].outputs}"
        width = max(text_width(title, _NAME, bold=True), text_width(sizes, SMALL)) + 0.13
        full = f"{self.path}.{paths[0]}"
        return _Tile(
            (title, sizes), width, full in self._entry.edited, full in self._entry.alternative
        )


def _path(branch: Branch, name: str) -> str:
    return f"{branch.inside}.{name}" if branch.inside else name


def _connect(
    canvas: Canvas, branch: Branch, step: Step, before: Sequence[Box], boxes: Sequence[Box]
) -> None:
    """Draw arrows from a step's boxes to the next one's."""
    if len(before) > len(boxes):
        for box in before:
            canvas.arrow(box.top, (box.top[0], boxes[0].y))
        return
    for names, box in zip([""] if isinstance(step, Operation) else step, boxes, strict=True):
        x, y = box.bottom
        if names in branch.foreign:
            canvas.arrow((box.right[0] + 0.16, y - _GAP / 2), (x, y - _GAP / 2), (x, y))
            at = (box.right[0], y - _GAP)
            canvas.text(at, "encoder output", size=SMALL, horizontal="right")
        else:
            canvas.arrow((x, before[0].top[1]), (x, y))


def _draw_tile(canvas: Canvas, tile: _Tile, box: Box) -> None:
    x, y = box.middle
    if len(tile.lines) == 1:
        canvas.box(box, tile.lines[0], look=_OPERATION, size=SMALL)
        return
    canvas.box(box, look=EDITED if tile.is_edited else Look())
    if tile.is_alternative:
        canvas.box(box.grown(0.02), look=ALTERNATIVE, order=2.05)
    title, sizes = tile.lines
    canvas.text((x, y + 0.068), title, size=_NAME, weight="bold")
    canvas.text((x, y - 0.068), sizes, size=SMALL)


def _way_out(box: Box) -> Point:
    """Return where the line from one of several last boxes starts: beside the branch's name."""
    return box.x + box.width - 0.2, box.y + box.height


def _hook_output(canvas: Canvas, box: Box, *, exits_left: bool, exits_aside: bool) -> None:
    """Mark the line that leaves a box."""
    if exits_left:
        _hook(canvas, (box.x - 0.14, box.left[1]), "∇v", GRADIENT, above=True)
    else:
        x, y = _way_out(box) if exits_aside else box.top
        _hook(canvas, (x, y + 0.095), "∇v", GRADIENT)


def _hook(canvas: Canvas, at: Point, label: str, color: str, *, above: bool = False) -> None:
    """Mark where something is recorded."""
    x, y = at
    canvas.dot(at, color=color)
    where = (x, y + 0.06) if above else (x + 0.08, y)
    horizontal, vertical = ("center", "bottom") if above else ("left", "center_baseline")
    canvas.text(where, label, color=color, weight="bold", horizontal=horizontal, vertical=vertical)


def _first_that_fits(labels: Sequence[str], width: float) -> str:
    """Return the first label that is at most so wide, or the last."""
    fitting = (label for label in labels if text_width(label, SMALL) <= width)
    return next(fitting, labels[-1])
