"""Topological orders, and what is reported where there is none."""

import pytest

from plots.ordering import CycleError, component_numbers, topological_order


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
