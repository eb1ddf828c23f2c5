"""The workflow's rules as a layered graph, laid out for drawing."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from graphlib import CycleError, TopologicalSorter
from itertools import pairwise
from pathlib import Path
from statistics import mean

from malmen.support.errors import InputError

__all__ = ["Edge", "Layout", "Node", "lay_out", "read_rulegraph", "reduced"]

Graph = Mapping[str, frozenset[str]]
"""Every rule with the rules whose outputs it reads."""

_NODE = re.compile(r'^\s*(\d+)\[label = "([^"\\]+)', re.MULTILINE)
_EDGE = re.compile(r"^\s*(\d+) -> (\d+)", re.MULTILINE)
_SWEEPS = 12
_STATION = "|"  # begins the name of a place where a line passes a layer

# Pixels.
_HEIGHT, _ROW, _COLUMN_GAP, _MARGIN = 26, 58, 18, 10
_LETTER, _PADDING = 7.2, 18


@dataclass(frozen=True)
class Node:
    """A rule's box: its name, the middle of the box, and its size, in pixels."""

    name: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Edge:
    """A line from a rule to one that reads its output, as points from top to bottom."""

    source: str
    target: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Layout:
    """A drawing of the graph; its size in pixels."""

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    width: float
    height: float


def read_rulegraph(path: Path) -> Graph:
    """Read what `snakemake --rulegraph dot` printed; a rule that feeds itself does so silently.

    Raises:
        InputError: If there is no rule graph in the file, or it has a cycle.
    """
    text = path.read_text(encoding="utf-8")
    names = dict(_NODE.findall(text))
    if not names:
        raise InputError(f"{path}: no rule graph (make it with `snakemake --rulegraph dot`)")
    graph: dict[str, set[str]] = {name: set() for name in names.values()}
    for source, target in _EDGE.findall(text):
        if source != target:
            graph[names[target]].add(names[source])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise InputError(f"{path}: the rules {', '.join(error.args[1])} form a cycle") from error
    return {name: frozenset(sources) for name, sources in graph.items()}


def reduced(graph: Graph) -> Graph:
    """Leave out edges that a longer path implies."""

    @cache
    def upstream(name: str) -> frozenset[str]:
        return graph[name].union(*map(upstream, graph[name]))

    return {
        name: frozenset(
            source for source in sources if not any(source in upstream(other) for other in sources)
        )
        for name, sources in graph.items()
    }


def lay_out(graph: Graph) -> Layout:
    """Place every rule below all the rules that it reads from.

    Lines that pass layers by take a place in each of them, as if they were rules. Each layer is
    ordered by the mean position of its neighbours, downwards and upwards in turn, which leaves
    few crossings (Sugiyama's method).
    """
    graph = reduced(graph)
    rules = set(graph)
    depth = _depths(graph)
    ways = {
        (source, target): _way(source, target, depth)
        for target in sorted(rules)
        for source in sorted(graph[target])
    }
    layers: list[list[str]] = [[] for _ in range(1 + max(depth.values()))]
    for name in sorted(depth):
        layers[depth[name]].append(name)
    _order(layers, ways.values())

    x = _positions(layers)
    left = min(x[name] - _width(name) / 2 for name in x) - _MARGIN
    right = max(x[name] + _width(name) / 2 for name in x) + _MARGIN
    place = {name: (x[name] - left, _MARGIN + _HEIGHT / 2 + depth[name] * _ROW) for name in depth}
    nodes = [Node(name, *place[name], _width(name), _HEIGHT) for name in sorted(rules)]
    edges = [Edge(source, target, _points(way, place)) for (source, target), way in ways.items()]
    height = 2 * _MARGIN + _HEIGHT + (len(layers) - 1) * _ROW
    return Layout(tuple(nodes), tuple(edges), right - left, height)


def _depths(graph: Graph) -> dict[str, int]:
    """Return the length of the longest path that leads to each rule."""
    depth: dict[str, int] = {}
    for name in TopologicalSorter(graph).static_order():
        depth[name] = 1 + max((depth[source] for source in graph[name]), default=-1)
    return depth


def _way(source: str, target: str, depth: dict[str, int]) -> list[str]:
    """Return the stations of a line, one a layer; those between rules are new, without width."""
    between = range(depth[source] + 1, depth[target])
    stations = {f"{_STATION}{source} {target} {level}": level for level in between}
    depth |= stations
    return [source, *stations, target]


def _order(layers: list[list[str]], ways: Iterable[Sequence[str]]) -> None:
    above: dict[str, list[str]] = {name: [] for layer in layers for name in layer}
    below: dict[str, list[str]] = {name: [] for name in above}
    for way in ways:
        for upper, lower in pairwise(way):
            above[lower].append(upper)
            below[upper].append(lower)
    for sweep in range(_SWEEPS):
        neighbours = below if sweep % 2 else above
        x = _positions(layers)
        for layer in reversed(layers) if sweep % 2 else layers:
            middle = {
                name: mean([x[other] for other in neighbours[name]] or [x[name]]) for name in layer
            }
            layer.sort(key=middle.__getitem__)
            x |= _positions([layer])


def _points(
    way: Sequence[str], place: Mapping[str, tuple[float, float]]
) -> tuple[tuple[float, float], ...]:
    """Return a line's points: from the lower edge of a box, past other layers, to the next box."""
    (first_x, first_y), *between, (last_x, last_y) = (place[name] for name in way)
    half = _HEIGHT / 2
    passing = [(x, y + sign * half) for x, y in between for sign in (-1, 1)]
    return ((first_x, first_y + half), *passing, (last_x, last_y - half))


def _positions(layers: Iterable[list[str]]) -> dict[str, float]:
    """Return the middle of every box, each layer centred on 0."""
    x: dict[str, float] = {}
    for layer in layers:
        total = sum(map(_width, layer)) + _COLUMN_GAP * (len(layer) - 1)
        left = -total / 2
        for name in layer:
            x[name] = left + _width(name) / 2
            left += _width(name) + _COLUMN_GAP
    return x


def _width(name: str) -> float:
    return 0 if name.startswith(_STATION) else _LETTER * len(name) + _PADDING
