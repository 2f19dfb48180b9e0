"""Facts about a layer that the calls inside show: `Node.traits`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plots.attentions import find_attentions
from plots.graph import Edge, Graph, Node, Tensor
from plots.layers import JOINS, SHAPE_TRAIT, TRACED, is_identity_like, is_rearrangement
from plots.mask_values import pattern_of_output
from plots.positions import TRAIT, kinds_of_positions
from plots.traversal import data_flow


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
        *(f"{kind}{TRAIT}" for kind in kinds_of_positions(graph, find_attentions(graph))),
    ]
    if not any(flow.depends_on_input(node_id) for node_id, _ in ends):
        found.append(SHAPE_TRAIT)
        if len(ends) == 1 and (pattern := pattern_of_output(graph, flow, *ends[0])):
            found.append(pattern)
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
