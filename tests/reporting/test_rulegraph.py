"""The rule graph: read as Snakemake prints it, every line as given, nothing on top of another."""

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import RULE_GRAPH

from malmen.reporting.rulegraph import Layout, Node, lay_out, read_rulegraph, reduced
from malmen.support.errors import InputError

Rules = dict[str, frozenset[str]]


@st.composite
def graphs(draw: st.DrawFn) -> Rules:
    """Draw rules that read only from earlier ones."""
    names = [f"rule_{index}" for index in range(draw(st.integers(1, 12)))]
    return {
        name: frozenset(draw(st.lists(st.sampled_from(names[:index]), max_size=4)))
        if index
        else frozenset()
        for index, name in enumerate(names)
    }


def reach(graph: Rules, name: str) -> set[str]:
    """Return everything that a rule depends on."""
    return {name for source in graph[name] for name in {source, *reach(graph, source)}}


@given(graphs())
def test_reduction_keeps_what_depends_on_what_with_the_fewest_edges(graph: Rules) -> None:
    fewer = reduced(graph)
    for name, sources in fewer.items():
        assert sources <= graph[name]
        assert reach(fewer, name) == reach(graph, name)
        for source in sources:  # none of them is implied
            rest = {**fewer, name: sources - {source}}
            assert source not in reach(rest, name)


@given(graphs())
def test_every_rule_lies_below_what_it_reads(graph: Rules) -> None:
    layout = lay_out(graph)
    y = {node.name: node.y for node in layout.nodes}
    assert set(y) == set(graph)
    for name, sources in graph.items():
        assert all(y[source] < y[name] for source in sources)
    drawn = {(edge.source, edge.target) for edge in layout.edges}
    assert drawn == {(a, name) for name, sources in reduced(graph).items() for a in sources}


@given(graphs())
def test_boxes_lie_apart_and_on_the_page(graph: Rules) -> None:
    layout = lay_out(graph)
    for node in layout.nodes:
        assert node.width / 2 <= node.x <= layout.width - node.width / 2
        assert node.height / 2 <= node.y <= layout.height - node.height / 2
    for a, b in combinations(layout.nodes, 2):
        apart = abs(a.x - b.x) >= (a.width + b.width) / 2
        assert apart or abs(a.y - b.y) >= (a.height + b.height) / 2


@given(graphs())
def test_lines_lead_from_box_to_box_and_through_none(graph: Rules) -> None:
    layout = lay_out(graph)
    nodes = {node.name: node for node in layout.nodes}
    for edge in layout.edges:
        source, target = nodes[edge.source], nodes[edge.target]
        assert edge.points[0] == (source.x, source.y + source.height / 2)
        assert edge.points[-1] == (target.x, target.y - target.height / 2)
        downwards = [y for _, y in edge.points]
        assert downwards == sorted(downwards)
        for x, y in edge.points[1:-1]:
            assert not any(inside(node, x, y) for node in layout.nodes)


def inside(node: Node, x: float, y: float) -> bool:
    return abs(x - node.x) < node.width / 2 and abs(y - node.y) < node.height / 2


def test_the_layout_is_the_same_each_time() -> None:
    graph = {"a": frozenset(), "b": frozenset("a"), "c": frozenset("a"), "d": frozenset("bc")}
    turned = dict(reversed(graph.items()))
    assert isinstance(lay_out(graph), Layout)
    assert lay_out(graph) == lay_out(turned)


def test_what_snakemake_prints_is_read(tmp_path: Path) -> None:
    path = tmp_path / "rulegraph.dot"
    path.write_text(RULE_GRAPH)
    assert read_rulegraph(path) == {
        "all": {"train", "fact_checker"},
        "fact_checker": frozenset(),
        "train": {"fact_checker"},
    }
    path.write_text(RULE_GRAPH.replace("\t2 -> 2", "\t0 -> 1"))
    with pytest.raises(InputError, match=r"rulegraph\.dot: the rules .*all.* form a cycle"):
        read_rulegraph(path)
    path.write_text("")
    with pytest.raises(InputError, match=r"rulegraph\.dot: no rule graph"):
        read_rulegraph(path)
