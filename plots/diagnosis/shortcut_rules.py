"""Rules on the shortcuts of residual blocks: projections of the branch, not of the input."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.diagnosis.norm_rules import CHANNEL_NORMS
from plots.diagnosis.projections import past_dropouts
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Edge, Graph, Node
from plots.layers import is_additive_merge, is_linear_projection
from plots.traversal import data_flow

_RESIDUAL = "He et al. 2016, Deep Residual Learning for Image Recognition, section 3.2"


@diagnosis_rule("shortcut_of_the_branch")
def shortcut_of_the_branch(graph: Graph) -> Iterator[Note]:
    """A block adds the output of its branch and a projection of that same output.

    Both are linear in the last layer of the branch, so that the sum is one projection more, and
    the input of the block is lost.
    """
    places: dict[str, str] = {}
    flow = data_flow(graph)
    for node in graph.nodes:
        edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
        if not is_additive_merge(node) or len(edges) != 2 or node.constants:
            continue
        for branch, shortcut in (edges, edges[::-1]):
            projection = _projection(graph, shortcut)
            if projection is None or not graph.incoming[projection.id]:
                continue
            taken = graph.incoming[projection.id][0]
            last = _projection(graph, branch, is_branch=True)
            is_same = (taken.source, taken.output) == (branch.source, branch.output)
            if not is_same or last is None or not (last.trainable and projection.trainable):
                continue
            before = map(graph.node, flow.ancestors(last.id))
            if any(node.parameters for node in before):  # else it is a stem
                places[node.id] = projection.id
    if places:
        yield finding(
            [*places, *places.values()],
            f"A shortcut that begins at the branch: {named(graph, [*places])} adds the output of a "
            f"branch and a projection of it by {named(graph, [*places.values()])}, so that the "
            "input of the block is lost, and nothing leads past the branch. Project the input of "
            "the block: Conv2D(filters, 1)(x).",
            _RESIDUAL,
        )


def _projection(graph: Graph, edge: Edge, is_branch: bool = False) -> Node | None:
    """Return the linear projection that a tensor is computed by, up to dropouts and channel norms.

    `is_branch` says that others take it as well.
    """
    node = past_dropouts(graph, edge, only=not is_branch)
    while node is not None and node.is_a(CHANNEL_NORMS):
        edges = graph.incoming[node.id]
        node = past_dropouts(graph, edges[0], only=True) if len(edges) == 1 else None
    return node if node is not None and is_linear_projection(node) else None
