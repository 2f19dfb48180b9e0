"""A rule on reshapes that cut across axes, as if they moved them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import accumulate
from math import prod
from operator import mul

from plots.annotations import Note
from plots.diagnosis.attention_rules import heads_and_positions_mixed
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Edge, Graph, Node, Shape
from plots.layers import PARTS, SHAPE_CHANGES, is_identity_like

_ORDER = (
    "numpy.org/doc/stable/reference/generated/numpy.reshape.html; Dosovitskiy et al. 2021, "
    "An Image is Worth 16x16 Words, section 3.1"
)
_SKEWS = PARTS | {"Concatenate", "Pad"} | {f"ZeroPadding{rank}D" for rank in (1, 2, 3)}
"""Calls around the reshapes that shift each row of relative scores on purpose.

Huang et al. 2019, Music Transformer, section 3.4.1; Dai et al. 2019, Transformer-XL, appendix B.
"""


@diagnosis_rule("axes_mixed_by_reshape")
def axes_mixed_by_reshape(graph: Graph) -> Iterator[Note]:
    """A reshape cuts an axis at places that do not divide it, and joins the pieces."""
    known = {place for note in heads_and_positions_mixed(graph) for place in note.about}
    places: dict[tuple[Shape, Shape, int], list[str]] = {}
    for node in graph.nodes:
        if node.operation != "Reshape" or node.id in known or _is_passed_on(graph, node):
            continue
        edge = _before_reshapes(graph, node)
        before, after = edge.tensor.shape, node.outputs[0].shape
        size = cut_axis(before, after)
        if size and not _is_skew(graph, edge, node):
            places.setdefault((before, after, size), []).append(node.id)
    for (before, after, size), ids in places.items():
        yield finding(
            ids,
            f"A reshape mixes axes: {named(graph, ids)}, from {_text(before)} to {_text(after)}, "
            f"keeps the order of the numbers, and cuts the axis of size {size} at places that do "
            "not divide it, so pieces of different rows are joined. Transpose first, so that the "
            "axes to join are next to each other (ops.transpose, Permute); for patches, split "
            "both axes of the image, transpose, and join, or take a convolution with strides.",
            _ORDER,
        )


def cut_axis(before: Shape, after: Shape) -> int:
    """Return the size of the first axis that a reshape cuts without dividing it; 0 if none is.

    The first axis, of the batch, has to stay as it is. Free sizes, or a single other axis, are not
    judged.
    """
    given, result = ([size for size in shape[1:] if size != 1] for shape in (before, after))
    if before[:1] != after[:1] or len(given) < 2:
        return 0
    sizes, others = ([size for size in side if size] for side in (given, result))
    if (len(sizes), len(others)) != (len(given), len(result)) or prod(sizes) != prod(others):
        return 0
    for boundary in accumulate(others, mul):
        leading = 1
        for size in sizes:
            if boundary < leading * size:
                pieces, rest = divmod(boundary, leading)
                if rest or size % pieces:
                    return size
                break
            leading *= size
    return 0


def _is_passed_on(graph: Graph, node: Node) -> bool:
    """Return whether only other changes of the shape take the output of a call."""
    is_output = any(node.id == place for place, _ in graph.outputs)
    takers = [graph.node(edge.target) for edge in graph.outgoing[node.id] if not edge.implicit]
    return not is_output and all(taker.is_a(SHAPE_CHANGES) for taker in takers)


def _before_reshapes(graph: Graph, node: Node) -> Edge:
    """Return the edge into the first of the changes of the shape that end with a call."""
    edge = graph.incoming[node.id][0]
    while (source := graph.node(edge.source)).is_a(SHAPE_CHANGES) and graph.incoming[source.id]:
        edge = graph.incoming[source.id][0]
    return edge


def _is_skew(graph: Graph, edge: Edge, reshape: Node) -> bool:
    """Return whether padded or cut rows are reshaped, or rows that are cut then."""
    source = graph.node(edge.source)
    while is_identity_like(source) and graph.incoming[source.id]:
        source = graph.node(graph.incoming[source.id][0].source)
    takers = (graph.node(e.target) for e in graph.outgoing[reshape.id])
    return source.is_a(_SKEWS) or any(taker.is_a(PARTS) for taker in takers)


def _text(shape: Shape) -> str:
    return f"({', '.join('None' if size is None else str(size) for size in shape)})"
