"""Norms of a graph: layers, and divisions of a tensor by a statistic of it."""

from __future__ import annotations

from typing import NamedTuple

from plots.graph import Graph, Node
from plots.layers import is_norm
from plots.softmaxes import float_inputs
from plots.traversal import once_per_graph

DIVISIONS = frozenset({"Divide", "TrueDivide"})
ROOTS = frozenset({"Norm", "Rsqrt", "Sqrt", "Std"})
STATISTICS = frozenset({"Max", "Mean", "Moments", "Norm", "Std", "Sum", "Var"})
ELEMENTWISE = (
    frozenset({"Abs", "Absolute", "Add", "Cast", "Multiply", "Power", "Square", "Subtract"})
    | DIVISIONS
    | ROOTS
    | STATISTICS
    | {"Maximum", "Reciprocal"}
)
"""Operations that a norm is made of."""

_MOST_CALLS = 16


class Division(NamedTuple):
    """A division of a tensor by a statistic of it, such as its variance.

    Attributes:
        calls: Ids of the operations that it is made of.
        taken: The tensor: (id of a call, output).
    """

    calls: frozenset[str]
    taken: tuple[str, int]


def division_at(graph: Graph, node: Node) -> Division | None:
    """Return the division by a statistic that ends with a call, or None.

    Of several tensors that all of it is computed from, it is the first one: layer normalisation
    divides x - mean(x) by a statistic of it, and takes x. What x is computed from by a sum, as on a
    residual stream, is not part of it.
    """
    edges = float_inputs(graph, node)
    if node.operation not in DIVISIONS | {"Multiply"} or len(edges) != 2:
        return None
    everything = _computed_from(graph, node, None)
    places = {
        (e.source, e.output) for i in everything.calls for e in float_inputs(graph, graph.node(i))
    }
    for place in sorted(places, key=lambda place: (graph.index[place[0]], place[1])):
        inside, taken = _computed_from(graph, node, place)
        if taken == {place} and any(graph.node(i).operation in STATISTICS for i in inside):
            return Division(inside, place)
    return None


class _Computation(NamedTuple):
    calls: frozenset[str]
    taken: frozenset[tuple[str, int]]


def _computed_from(graph: Graph, node: Node, start: tuple[str, int] | None) -> _Computation:
    """Return the elementwise operations and statistics before a call, and what they take.

    The way back ends at `start`, and after as many calls as a norm has at most.
    """
    inside, taken, waiting = {node.id}, set[tuple[str, int]](), [*float_inputs(graph, node)]
    while waiting:
        edge = waiting.pop(0)
        before = graph.node(edge.source)
        given = float_inputs(graph, before)
        is_operation = before.kind == "operation" and before.operation in ELEMENTWISE
        is_end = (edge.source, edge.output) == start or not (is_operation and given)
        if is_end or (before.id not in inside and len(inside) == _MOST_CALLS):
            taken.add((edge.source, edge.output))
        elif before.id not in inside:
            inside.add(before.id)
            waiting += given
    return _Computation(frozenset(inside), frozenset(taken))


@once_per_graph
def _calls_of_norms(graph: Graph) -> frozenset[str]:
    """Return the ids of operations that divide a tensor by a root of a statistic of it."""
    found = set[str]()
    for node in graph.nodes:
        division = division_at(graph, node)
        if division is not None and any(is_root(graph.node(i)) for i in division.calls):
            found |= division.calls
    return frozenset(found)


def is_root(node: Node) -> bool:
    """Return whether a call returns square roots."""
    is_power = node.class_name == "Power" and any(
        isinstance(c.value, int | float) and abs(c.value) == 0.5 for c in node.constants
    )
    return node.is_a(ROOTS) or is_power


def normalises(graph: Graph, node: Node) -> bool:
    """Return whether a call is a norm, or one of the operations that a norm is made of."""
    return is_norm(node) or node.id in _calls_of_norms(graph)
