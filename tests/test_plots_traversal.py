"""Reachability is that of NetworkX, orders are topological, and results are kept per graph."""

from dataclasses import replace

import networkx as nx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_graphs import few, graphs, made

from plots.traversal import (
    CycleError,
    component_numbers,
    data_flow,
    once_per_graph,
    reachability,
    topological_order,
)


def ids_in_order(graph, ids):
    return [node.id for node in graph.nodes if node.id in ids]


@few
@given(graphs(), st.data())
def test_ancestors_and_descendants_are_those_of_networkx(graph, data):
    left_out = data.draw(st.sets(st.sampled_from([edge.id for edge in graph.edges])))
    kept = [edge for edge in graph.edges if edge.id not in left_out]
    expected = nx.DiGraph([(edge.source, edge.target) for edge in kept])
    expected.add_nodes_from(graph.index)
    found = reachability(graph, follow=lambda edge: edge.id not in left_out)
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
    found = reachability(graph, stop=lambda node: node.id in stops)
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
    found = reachability(DIAMOND)
    assert found.between("x", ["sum"]) == ["a", "b", "sum"]
    assert found.between("a", ["sum", "ones"]) == ["ones", "sum"]
    assert found.between("b", ["ones"]) == []


def test_questions_about_the_same_paths_have_one_answer():
    inputs = reachability(DIAMOND, stop=lambda node: node.kind == "input")
    assert inputs is reachability(DIAMOND, stop=lambda node: node.id == "x")
    assert inputs is not reachability(DIAMOND)
    first = DIAMOND.edges[0]
    without = reachability(DIAMOND, follow=lambda edge: edge.id != first.id)
    assert not without.depends(first.target, on=first.source)
    assert reachability(DIAMOND).depends(first.target, on=first.source)


def test_common_calls_are_those_that_both_depend_on():
    assert reachability(DIAMOND).common("ones", "sum") == ["x", "a"]
    assert reachability(DIAMOND).common("a", "last") == ["x", "a"]


def test_no_data_flows_through_a_call_that_takes_only_a_shape_or_along_a_given_edge():
    assert data_flow(DIAMOND).ancestors("last") == ["x", "a", "b", "ones", "sum"]
    assert data_flow(DIAMOND).ancestors("ones") == []
    assert not data_flow(DIAMOND).depends_on_input("ones")
    (edge,) = (edge for edge in DIAMOND.edges if (edge.source, edge.target) == ("a", "sum"))
    assert data_flow(DIAMOND, without=[edge.id]).ancestors("last") == ["x", "b", "ones", "sum"]


def test_a_result_is_computed_once_for_each_graph():
    computed = []

    @once_per_graph
    def names(graph):
        computed.append(graph.name)
        return list(graph.index)

    assert names(DIAMOND) is names(DIAMOND)
    other = replace(DIAMOND, name="other")
    assert names(other) == names(DIAMOND)
    assert computed == [DIAMOND.name, "other"]
    assert replace(other, name=DIAMOND.name) == DIAMOND


def test_a_cycle_is_reported_in_its_order():
    edges = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "b"), ("d", "e")]
    with pytest.raises(CycleError, match="no topological order") as raised:
        topological_order({name: place for place, name in enumerate("abcde")}, edges)
    cycle = raised.value.cycle
    assert sorted(cycle) == ["b", "c", "d"]
    assert set(zip(cycle, [*cycle[1:], cycle[0]], strict=True)) <= set(edges)


def test_an_edge_from_an_item_to_itself_is_ignored():
    assert topological_order({"a": 1, "b": 0}, [("a", "a"), ("a", "b")]) == ["a", "b"]


def test_items_without_edges_are_components_of_their_own():
    numbers = component_numbers("abc", [("a", "b"), ("b", "a")])
    assert numbers["a"] == numbers["b"] != numbers["c"]
