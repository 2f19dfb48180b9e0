"""Facts about a layer that the calls inside show: `Node.traits`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plots.attentions import find_attentions
from plots.graph import Edge, Graph, Node, Tensor
from plots.layers import (
    FACTOR_TRAIT,
    JOINS,
    NORM_TRAIT,
    NORMS,
    POSITIONS_TRAIT,
    SCALE_TRAIT,
    SHAPE_TRAIT,
    SOFTMAX_TRAIT,
    TRACED,
    is_identity_like,
    is_learned_scale,
    is_rearrangement,
    is_softmax,
)
from plots.norms import DIVISIONS, ELEMENTWISE, STATISTICS, is_root
from plots.positions import kinds_of_positions
from plots.shape_values import pattern_of_output
from plots.traversal import Reachability, data_flow, walk_back

_NORM_OPERATIONS = NORMS | {"Normalize"}


def traits_of(
    nodes: Sequence[Node], edges: Sequence[Edge], traced: Any, ends: Sequence[tuple[str, int]]
) -> tuple[str, ...]:
    """Return the traits of a layer, given the calls inside.

    Args:
        nodes: The calls, without inputs.
        edges: The edges between them; those from an input of the layer start at "input 0", ...
        traced: The `Traced` call.
        ends: The outputs, as (id of a call, output).
    """
    graph = graph_inside(nodes, edges, traced, ends)
    if graph is None:
        return ()
    flow = data_flow(graph)
    found = [
        TRACED,
        *(f"{kind}{POSITIONS_TRAIT}" for kind in kinds_of_positions(graph, find_attentions(graph))),
    ]
    if not any(flow.depends_on_input(node_id) for node_id, _ in ends):
        found.append(SHAPE_TRAIT)
        if len(ends) == 1 and (pattern := pattern_of_output(graph, flow, *ends[0])):
            found.append(pattern)
    if len(graph.inputs) == len(ends) == 1:
        (node_id, _), shape = ends[0], graph.node(graph.inputs[0]).outputs[0].shape
        if graph.node(node_id).outputs[0].shape == shape and _normalises(graph, flow):
            found.append(NORM_TRAIT)
        if graph.node(node_id).outputs[0].shape == shape and nodes:
            found += _factors(nodes)
    if len(ends) == 1 and _returns_a_softmax(graph, ends[0][0]):
        found.append(SOFTMAX_TRAIT)
    kept = [n for n in nodes if not (is_identity_like(n) or is_rearrangement(n))]
    classes = {node.class_name for node in kept}
    if len(classes) == 1 and len(graph.inputs) > 1:
        found += [trait for trait, name in JOINS.items() if name in classes]
    return tuple(found)


def graph_inside(
    nodes: Sequence[Node], edges: Sequence[Edge], traced: Any, ends: Sequence[tuple[str, int]]
) -> Graph | None:
    """Return the calls inside a layer as a graph, or None if an output is no call.

    The arguments are those of `traits_of`.
    """
    inputs = [
        _input(f"input {k}", traced.free_axes(tuple(inside.shape)), str(inside.dtype))
        for k, (inside, _) in enumerate(traced.inputs + traced.masks)
    ]
    known = {node.id for node in (*inputs, *nodes)}
    if not ends or any(node_id not in known for node_id, _ in ends):
        return None
    order = {node.id: position for position, node in enumerate((*inputs, *nodes))}
    return Graph(
        name="inside",
        nodes=(*inputs, *nodes),
        edges=tuple(sorted((e for e in edges if e.source in known), key=lambda e: order[e.target])),
        inputs=tuple(node.id for node in inputs),
        outputs=tuple(ends),
        parameters=0,
        trainable_parameters=0,
    )


def _factors(nodes: Sequence[Node]) -> list[str]:
    """Return the trait of a layer that only multiplies its input by numbers or weights, if any."""
    kept = [node for node in nodes if not is_identity_like(node)]
    if all(map(is_learned_scale, kept)):
        return [SCALE_TRAIT if kept else FACTOR_TRAIT]
    return []


def _normalises(graph: Graph, flow: Reachability) -> bool:
    """Return whether a layer divides its input by a root of a statistic of it, and no more."""
    kept = [
        node
        for node in graph.nodes
        if node.kind != "input"
        and flow.depends_on_input(node.id)
        and not (is_identity_like(node) or is_rearrangement(node))
    ]
    if any(node.is_a(_NORM_OPERATIONS) for node in kept):
        return all(node.is_a(_NORM_OPERATIONS | ELEMENTWISE) for node in kept)
    if not all(node.is_a(ELEMENTWISE) for node in kept):
        return False
    for node in kept:
        if node.is_a(DIVISIONS | {"Multiply"}):
            by = [e.source for e in graph.incoming[node.id] if _is_spread(graph, flow, e.source)]
            if len(by) == 1 < len(graph.incoming[node.id]):
                return True
    return False


def _is_spread(graph: Graph, flow: Reachability, node_id: str) -> bool:
    """Return whether a call returns a root of a sum or mean over an axis of the input."""
    nodes = [graph.node(i) for i in (node_id, *flow.ancestors(node_id))]
    has_root = any(is_root(node) for node in nodes)
    is_reduced = any(size == 1 for size in graph.node(node_id).outputs[0].shape[1:])
    return has_root and is_reduced and any(node.is_a(STATISTICS) for node in nodes)


def _returns_a_softmax(graph: Graph, node_id: str) -> bool:
    """Return whether a call returns a softmax over the last axis, up to dropouts."""
    node = walk_back(graph, graph.node(node_id), is_identity_like)
    axis = node.config.get("axis", -1)
    return is_softmax(node) and axis in (-1, len(node.outputs[0].shape) - 1)


def _input(node_id: str, shape: tuple[int | None, ...], dtype: str) -> Node:
    return Node(
        id=node_id,
        name=node_id,
        kind="input",
        class_name="InputLayer",
        bases=(),
        namespace="",
        layer=node_id,
        outputs=(Tensor(shape, dtype),),
        parameters=0,
        trainable_parameters=0,
        trainable=None,
        config={},
    )
