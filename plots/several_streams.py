"""Norms on the branches of several residual streams, such as those of hyper-connections.

The streams are one tensor with an axis more than what a sublayer reads. A read of them drops that
axis, and a write adds it:

    streams (b, t, m, d) ──► read (b, t, d) ──► norm ──► sublayer ──► write (b, t, m, d)
"""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import NormPlace, SkipPath
from plots.graph import Edge, Graph, Node, Shape
from plots.layers import is_norm
from plots.traversal import Reachability


def norms_of_streams(identities: Reachability, path: SkipPath) -> tuple[NormPlace, ...]:
    """Return the places of norms on the branch of a path of several streams.

    Args:
        identities: The data flow through identity-like calls, which stops at all others.
        path: A skip path, whose streams are mixed on the way.

    Returns:
        The places; none if the branch does not read and write such streams.
    """
    graph = identities.graph
    bypassed = [graph.node(node_id) for node_id in path.bypassed]
    rank = len(graph.node(path.target).outputs[0].shape)
    reads = [node for node in bypassed for _ in _changes(graph, node, rank, rank - 1)]
    writes = [edge for node in bypassed for edge in _changes(graph, node, rank - 1, rank)]
    if not (reads and writes):
        return ()
    inside = {node.id for node in bypassed}
    # What gives the weights of a write is on other edges into it.
    written = {edge.source for edge in writes}
    weights = {i for edge in writes for i in identities.sources[edge.target]} - written
    first = {i for node in reads for i in identities.descendants(node.id)}
    last = {i for edge in writes for i in identities.ancestors(edge.target)}
    places: dict[NormPlace, set[str]] = {"branch_start": first, "branch_end": last - weights}
    return tuple(p for p, ids in places.items() if _are_norms(identities, ids & inside))


def _changes(graph: Graph, node: Node, before: int, after: int) -> Iterator[Edge]:
    """Yield the edge into a call that drops or adds one axis, and keeps the features."""
    shapes = [output.shape for output in node.outputs]
    for edge in graph.incoming[node.id]:
        given = edge.tensor.shape
        if len(given) == before and any(
            len(shape) == after and _keeps_features(given, shape) for shape in shapes
        ):
            yield edge
            return


def _keeps_features(given: Shape, returned: Shape) -> bool:
    """Return whether one shape is the other one with an axis before the last one less."""
    shorter, longer = sorted((given, returned), key=len)
    return any(
        (*longer[:axis], *longer[axis + 1 :]) == shorter for axis in range(1, len(longer) - 1)
    )


def _are_norms(identities: Reachability, ids: set[str]) -> bool:
    """Return whether all calls are norms, but for those that return their input."""
    nodes = [identities.graph.node(node_id) for node_id in ids]
    nodes = [node for node in nodes if identities.stops_at(node.id)]
    return bool(nodes) and all(map(is_norm, nodes))
