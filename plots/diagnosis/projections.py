"""Queries, keys and values before their projections."""

from __future__ import annotations

from collections.abc import Set
from typing import NamedTuple

from plots.asked import once_per_call
from plots.graph import Edge, Graph, Node
from plots.layers import (
    DROPOUTS,
    LINEAR_PROJECTIONS,
    PARTS,
    SHAPE_CHANGES,
    TRANSPOSITIONS,
    is_identity_like,
    is_linear_projection,
    is_norm,
)
from plots.traversal import Reachability, once_per_graph, reachability, walk_back

_NORMALISES = frozenset({"Norm", "Normalize", "Rsqrt", "UnitNormalization"})
_MOST_CALLS = 60


class Projection(NamedTuple):
    """The projection that a tensor comes from.

    Attributes:
        id: Its id.
        source: The edge into it.
        factors: Constants that its output is multiplied by.
        width: Width of the tensor that it projects.
    """

    id: str
    source: Edge
    factors: list[float]
    width: int


def projection_behind(graph: Graph, edge: Edge) -> Projection | None:
    """Return the projection that a tensor is computed from without other weights and norms.

    Between them are changes of the layout, constant factors, and rotations by positions, which
    combine parts of one tensor. None if there is a norm or anything else.
    """
    factors: list[float] = []
    waiting, seen, ends = [edge], set[str](), dict[str, Node]()
    is_rotated = False
    while waiting and len(seen) < _MOST_CALLS:
        node = graph.node(waiting.pop().source)
        if node.id in seen or node.id in ends:
            continue
        if is_linear_projection(node) and node.is_a(LINEAR_PROJECTIONS):
            ends[node.id] = node
            continue
        seen.add(node.id)
        edges = [e for e in graph.incoming[node.id] if "float" in e.tensor.dtype]
        factor = scalar_factor(node)
        if node.parameters or is_norm(node) or node.operation in _NORMALISES or not edges:
            return None
        is_layout = is_identity_like(node) or node.is_a(SHAPE_CHANGES | TRANSPOSITIONS | PARTS)
        is_rotated = is_rotated or not is_layout or len(edges) > 1
        if factor is not None:
            if is_rotated and abs(factor) != 1:
                return None
            factors.append(factor)
        elif node.operation in ("Divide", "TrueDivide"):
            return None
        waiting += edges
    if len(ends) != 1:
        return None
    (found,) = ends.values()
    source = graph.incoming[found.id][0]
    return Projection(found.id, source, factors, source.tensor.shape[-1] or 0)


def scalar_factor(node: Node) -> float | None:
    """Return the constant that a call multiplies its input by; None if it does no such thing."""
    if node.operation not in ("Multiply", "Divide", "TrueDivide"):
        return None
    for constant in node.constants:
        is_numeric = isinstance(constant.value, int | float) and not isinstance(
            constant.value, bool
        )
        if (
            is_numeric
            and constant.value
            and (node.operation == "Multiply" or constant.port == "x2")
        ):
            number = float(constant.value)
            return number if node.operation == "Multiply" else 1 / number
    return None


KEPT_IN_INFERENCE = frozenset(DROPOUTS | {"Cast", "Identity"})
"""Calls that return their input in inference."""


def past_dropouts(graph: Graph, edge: Edge, only: bool = False) -> Node | None:
    """Return the call that computes a tensor, past dropouts.

    Args:
        graph: The graph.
        edge: The edge of the tensor.
        only: Whether to return None if another call takes the tensor as well.
    """
    node, several = graph.node(edge.source), _taken_by_several(graph) if only else frozenset()
    while node.id not in several:
        if not _is_kept_in_inference(node) or not graph.incoming[node.id]:
            return node
        node = graph.node(graph.incoming[node.id][0].source)
    return None


@once_per_call
def _is_kept_in_inference(node: Node) -> bool:
    return node.is_a(KEPT_IN_INFERENCE)


@once_per_graph
def _taken_by_several(graph: Graph) -> frozenset[str]:
    """Return the calls that several calls take, and the outputs of the model."""
    takers = ((i, {edge.target for edge in edges}) for i, edges in graph.outgoing.items())
    return frozenset([*(i for i, found in takers if len(found) > 1), *dict(graph.outputs)])


def past_layout(graph: Graph, edge: Edge, moves: Set[str] = frozenset()) -> Node:
    """Return the call that computes the numbers of a tensor, or those that it is a part of.

    `moves` are class names that are passed besides changes of shape, parts and identities.
    """
    layout = SHAPE_CHANGES | PARTS | moves
    start = graph.node(edge.source)
    return walk_back(graph, start, lambda node: is_identity_like(node) or node.is_a(layout))


@once_per_graph
def up_to_weights(graph: Graph) -> Reachability:
    """Return the reachability on paths that stop at calls with weights."""
    return reachability(graph, stop=lambda node: node.parameters > 0)
