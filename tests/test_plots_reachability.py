"""Reachability is that of NetworkX, with edges left out and calls that stop a path."""

import networkx as nx
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import few, graphs, made

from plots.reachability import Reachability, data_flow


def ids_in_order(graph, ids):
    return [node.id for node in graph.nodes if node.id in ids]


@few
@given(graphs(), st.data())
def test_ancestors_and_descendants_are_those_of_networkx(graph, data):
    left_out = data.draw(st.sets(st.sampled_from([edge.id for edge in graph.edges])))
    kept = [edge for edge in graph.edges if edge.id not in left_out]
    expected = nx.DiGraph([(edge.source, edge.target) for edge in kept])
    expected.add_nodes_from(graph.index)
    found = Reachability(graph, follow=lambda edge: edge.id not in left_out)
    for node in graph.nodes:
        before, after = nx.ancestors(expected, node.id), nx.descendants(expected, node.id)
        assert found.ancestors(node.id) == ids_in_order(graph, before)
        assert found.descendants(node.id) == ids_in_order(graph, after)
        assert {other for other in graph.index if found.depends(node.id, on=other)} == {
            node.id,
            *before,
        }
        assert found.depends_on_input(node.id) == ("x" in {node.id, *before})


@few
@given(graphs(), st.data())
def test_a_path_leads_past_no_call_that_stops_it(graph, data):
    stops = data.draw(st.sets(st.sampled_from(list(graph.index))))
    found = Reachability(graph, stop=lambda node: node.id in stops)
    for node in graph.nodes:
        edges = [(e.source, e.target) for e in graph.edges if e.source not in stops - {node.id}]
        expected = nx.DiGraph(edges)
        expected.add_nodes_from(graph.index)
        after = nx.descendants(expected, node.id)
        assert found.descendants(node.id) == ids_in_order(graph, after)
        assert all(node.id in found.ancestors(other) for other in after)


DIAMOND = made(
    ("x", "InputLayer", []),
    ("a", "Dense", ["x"]),
    ("b", "Dense", ["x"]),
    ("ones", "OnesLike", ["a"]),
    ("sum", "Add", ["a", "b"]),
    ("last", "Add", ["sum", "ones"]),
)


def test_calls_between_two_others_lie_on_a_path_from_one_to_the_other():
    found = Reachability(DIAMOND)
    assert found.between("x", ["sum"]) == ["a", "b", "sum"]
    assert found.between("a", ["sum", "ones"]) == ["ones", "sum"]
    assert found.between("b", ["ones"]) == []


def test_common_calls_come_last_ones_first():
    names = [node.id for node in Reachability(DIAMOND).common("ones", "sum")]
    assert names == ["a", "x"]


def test_no_data_flows_through_a_call_that_takes_only_a_shape_or_along_a_given_edge():
    assert data_flow(DIAMOND).ancestors("last") == ["x", "a", "b", "ones", "sum"]
    assert data_flow(DIAMOND).ancestors("ones") == []
    assert not data_flow(DIAMOND).depends_on_input("ones")
    (edge,) = (edge for edge in DIAMOND.edges if (edge.source, edge.target) == ("a", "sum"))
    assert data_flow(DIAMOND, without=[edge.id]).ancestors("last") == ["x", "b", "ones", "sum"]
