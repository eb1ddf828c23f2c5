"""What a reader needs of every figure: text that lies on the page and on no other text."""

from collections.abc import Callable, Iterator
from itertools import combinations

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from malmen.figures.drawing import STYLE

SLACK = 1.0  # pixels at 100 a inch


def texts(figure: Figure) -> dict[Text, Bbox]:
    """Return every text that is drawn, and where."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    beyond = {text for axes in figure.axes for text in _labels_beyond(axes)}
    found = {}
    for text in figure.findobj(Text):
        box = text.get_window_extent(renderer)
        if text not in beyond and text.get_visible() and text.get_text().strip() and box.width > 0:
            found[text] = box
    return found


def _labels_beyond(axes: Axes) -> Iterator[Text]:
    """Yield labels of ticks outside the view, which exist and are not drawn."""
    for axis in (axes.xaxis, axes.yaxis):
        low, high = sorted(axis.get_view_interval())
        for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks()):
            if not low <= tick.get_loc() <= high:
                yield from (tick.label1, tick.label2)


def assert_legible(draw: Callable[[], Figure]) -> None:
    """Fail if text of a figure, drawn as it is saved, leaves the page or overlaps other text."""
    with mpl.rc_context(STYLE):
        figure = draw()
        found = texts(figure)
    assert found
    page = figure.bbox.padded(SLACK)
    for text, box in found.items():
        assert page.x0 <= box.x0 <= box.x1 <= page.x1, text
        assert page.y0 <= box.y0 <= box.y1 <= page.y1, text
    for (one, a), (other, b) in combinations(found.items(), 2):
        shared = Bbox.intersection(a, b)
        if shared is not None:
            assert min(shared.width, shared.height) <= SLACK, (one, other)
