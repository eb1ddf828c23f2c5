"""Drawing of one transformer block: the residual stream, its branches, and where hooks record."""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

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
    """What a box says: an operation, or modules, their sizes and the path of the first."""

    title: str
    sizes: str = ""
    path: str = ""

    @property
    def width(self) -> float:
        if not self.sizes:
            return text_width(self.title, SMALL) + 0.15
        return max(text_width(self.title, _NAME, bold=True), text_width(self.sizes, SMALL)) + 0.13


class BlockDiagram:
    """The last block of a stack.

    Args:
        canvas: Where it is drawn.
        entry: Which modules are edited.
        model: From `malmen.lm.model_tree.build`.
        stack: Name of the list of blocks.
        at: The lower left corner of its frame.

    Attributes:
        path: Name of the block.
        frame: What it fills.
    """

    def __init__(
        self, canvas: Canvas, entry: Entry, model: PreTrainedModel, stack: str, at: Point = (0, 0)
    ) -> None:
        blocks = stacks(model)[stack]
        stages = WIRING[model.config.model_type, stack]
        self.path = f"{stack}.{len(blocks) - 1}"
        self._canvas, self._entry, self._block = canvas, entry, blocks[-1]
        self._heads = model.config.num_attention_heads
        self._stream = at[0] + _STREAM
        self._column = max(
            sum(tile.width for tile in tiles) + _BETWEEN * (len(tiles) - 1)
            for stage in stages
            for branch in stage.branches
            for tiles in (self._tiles(branch, step) for step in branch.steps)
        )
        top = at[1] + 0.1
        for stage in stages:
            top = self._draw_stage(stage, top)
        columns = max(len(stage.branches) for stage in stages)
        width = _STREAM + _INDENT + columns * (self._column + _PAD) + _PAD / 2
        self.frame = canvas.box(Box(*at, width, top + 0.1 - at[1]), look=_FRAME, order=0)
        canvas.arrow((self._stream, at[1] - 0.13), (self._stream, top + 0.23), order=1)

    def _draw_stage(self, stage: Stage, y: float) -> float:
        """Draw a stage from y upwards; return where it ends."""
        canvas, stream, step = self._canvas, self._stream, self._column + _PAD
        columns = [stream + _INDENT + step * index for index in range(len(stage.branches))]
        width = columns[-1] + self._column - columns[0]
        source = None
        if stage.before:
            source = self._draw_norm(stage.before, Box(columns[0], y, width, _LOW))
            canvas.arrow((stream, source.left[1]), source.left)
            y += _LOW
        is_alone = len(columns) == 1
        ends = [
            self._draw_branch(branch, (x, y), source, is_alone=is_alone)
            for branch, x in zip(stage.branches, columns, strict=True)
        ]
        top = max(end for _, end in ends)
        if is_alone:
            [(last, _)] = ends
            meeting = (stream, last.left[1])
            canvas.arrow(last.left, meeting)
        else:
            top += 0.1
            meeting = (stream, top)
            for last, _ in ends:
                x, start = _way_out(last)
                canvas.arrow((x, start), (x, top), meeting)
        canvas.plus(meeting)
        top += 0.12
        if stage.after:
            width += _INDENT + 0.1
            self._draw_norm(stage.after, Box(stream - 0.1, top, width, _LOW))
            top += _LOW + 0.06
        return top

    def _draw_norm(self, name: str, box: Box) -> Box:
        found = leaf(name, self._block.get_submodule(name))
        labels = [f"{name}  {found.kind} {found.outputs}", f"{name}  {found.outputs}"]
        return self._canvas.box(box, _first_that_fits(labels, box.width - 0.1), size=SMALL)

    def _draw_branch(
        self, branch: Branch, at: Point, source: Box | None, *, is_alone: bool
    ) -> tuple[Box, float]:
        """Draw a branch upwards; return its last box and where the branch ends."""
        x, y = at
        y = start = y + (_GAP + 0.12 if branch.foreign else _GAP)
        below = [source] if source else []
        for step in branch.steps:
            tiles = self._tiles(branch, step)
            whole = Box(x, y, self._column, _HIGH if tiles[0].sizes else _LOW)
            boxes = self._canvas.row(whole, [tile.width for tile in tiles], gap=_BETWEEN)
            self._connect(branch, step, below, boxes)
            for tile, box in zip(tiles, boxes, strict=True):
                self._draw_tile(tile, box)
                if tile.path in self._entry.edited:
                    self._hook((box.bottom[0], y - 0.12), "u", KEY)
                    if step is not branch.steps[-1]:
                        self._hook((box.top[0], box.top[1] + 0.095), "∇v", GRADIENT)
                    elif is_alone:
                        self._hook((x - 0.14, box.left[1]), "∇v", GRADIENT, above=True)
                    else:
                        out, top = _way_out(box)
                        self._hook((out, top + 0.095), "∇v", GRADIENT)
            below = boxes
            y += whole.height + _GAP
        [last] = below
        if not branch.inside:
            return last, last.top[1] + 0.08
        return last, self._draw_group(branch, Box(x, start, self._column, last.top[1] - start))

    def _connect(
        self, branch: Branch, step: Step, below: Sequence[Box], boxes: Sequence[Box]
    ) -> None:
        """Draw arrows to the boxes of a step from those below, or from the stream."""
        canvas = self._canvas
        if len(below) > len(boxes):
            for box in below:
                canvas.arrow(box.top, (box.top[0], boxes[0].y))
            return
        for box, names in zip(boxes, [""] if isinstance(step, Operation) else step, strict=True):
            x, y = box.bottom
            if names and names == branch.foreign:
                canvas.arrow((box.right[0] + 0.16, y - _GAP / 2), (x, y - _GAP / 2), (x, y))
                at = (box.right[0], y - _GAP)
                canvas.text(at, "encoder output", size=SMALL, horizontal="right")
            elif below:
                canvas.arrow((x, below[0].top[1]), (x, y))
            else:
                canvas.arrow((self._stream, y - _GAP / 2), (x, y - _GAP / 2), (x, y))

    def _draw_group(self, branch: Branch, box: Box) -> float:
        """Draw what lies behind the boxes of a module, and its name; return where it ends."""
        behind = Box(box.x - 0.05, box.y - 0.06, box.width + 0.1, box.height + 0.24)
        self._canvas.box(behind, look=_GROUP, order=0.5)
        kind = type(self._block.get_submodule(branch.inside)).__name__
        label = _first_that_fits([f"{branch.inside} ({kind})", branch.inside], box.width)
        at = (box.x, box.top[1] + 0.1)
        self._canvas.text(at, label, size=SMALL, color="0.35", horizontal="left")
        return box.top[1] + 0.2

    def _tiles(self, branch: Branch, step: Step) -> list[_Tile]:
        if isinstance(step, Operation):
            module = self._block.get_submodule(branch.path(step.module)) if step.module else None
            return [_Tile(step.label.format(heads=self._heads, kind=type(module).__name__))]
        return [self._tile(branch, names.split(), has_room=len(step) == 1) for names in step]

    def _tile(self, branch: Branch, names: Sequence[str], *, has_room: bool) -> _Tile:
        """Describe the modules of one box: names, then class (if there is room) and size."""
        paths = [branch.path(name) for name in names]
        found = [leaf(path, self._block.get_submodule(path)) for path in paths]
        if len(set(map(attrgetter("kind", "inputs", "outputs"), found))) > 1:
            raise ValueError(f"{self.path}: {', '.join(names)} differ in shape")
        times = f"{len(found)} × " if len(found) > 1 else ""
        kind = f"{found[0].kind} " if has_room else ""
        sizes = f"{times}{kind}{found[0].inputs} → {found[0].outputs}"
        return _Tile(", ".join(names), sizes, f"{self.path}.{paths[0]}")

    def _draw_tile(self, tile: _Tile, box: Box) -> None:
        canvas = self._canvas
        if not tile.sizes:
            canvas.box(box, tile.title, look=_OPERATION, size=SMALL)
            return
        canvas.box(box, look=EDITED if tile.path in self._entry.edited else Look())
        if tile.path in self._entry.alternative:
            canvas.box(box.grown(0.02), look=ALTERNATIVE, order=2.05)
        x, y = box.middle
        canvas.text((x, y + 0.068), tile.title, size=_NAME, weight="bold")
        canvas.text((x, y - 0.068), tile.sizes, size=SMALL)

    def _hook(self, at: Point, label: str, color: str, *, above: bool = False) -> None:
        """Mark where something is recorded."""
        x, y = at
        self._canvas.dot(at, color=color)
        where = (x, y + 0.06) if above else (x + 0.08, y)
        ways = ("center", "bottom") if above else ("left", "center_baseline")
        self._canvas.text(
            where, label, color=color, weight="bold", horizontal=ways[0], vertical=ways[1]
        )


def _way_out(box: Box) -> Point:
    """Return where the line from one of several last boxes starts: beside the branch's name."""
    return box.x + box.width - 0.2, box.top[1]


def _first_that_fits(labels: Sequence[str], width: float) -> str:
    """Return the first label that is at most so wide, or the last."""
    return next((label for label in labels if text_width(label, SMALL) <= width), labels[-1])
