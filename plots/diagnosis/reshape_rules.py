"""Rules on reshapes that cut across axes, as if they moved them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate
from math import prod
from operator import mul

from plots.annotations import Note, shape_text
from plots.attention_parts import Attention
from plots.attentions import attentions_with_masks
from plots.diagnosis.axis_origins import axis_origins, kinds
from plots.diagnosis.projections import up_to_weights
from plots.diagnosis.rules import diagnosis_rule, doing, finding, named, remark
from plots.graph import Edge, Graph, Node, Shape
from plots.layers import SHAPE_CHANGES, is_crop
from plots.softmaxes import ELEMENTWISE
from plots.traversal import data_flow

_ORDER = (
    "numpy.org/doc/stable/reference/generated/numpy.reshape.html; Dosovitskiy et al. 2021, "
    "An Image is Worth 16x16 Words, section 3.1"
)
_BROADCAST = "numpy.org/doc/stable/user/basics.broadcasting.html, general broadcasting rules"
_FEW = 4
_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.2"


@diagnosis_rule("heads_and_positions_mixed")
def heads_and_positions_mixed(graph: Graph) -> Iterator[Note]:
    """A reshape before or after an attention cuts up the positions, and joins them to features."""
    attentions = attentions_with_masks(graph)[0]
    places: dict[str, list[str]] = {}
    for node in graph.of_operation("Reshape"):
        if _mixes(graph, node) and not _is_skew(graph, node):
            before = [a.id for a in attentions if _is_near(graph, node.id, a)]
            if before:
                places.setdefault(before[0], []).append(node.id)
    for attention_id, ids in places.items():
        shapes = " to ".join(
            shape_text(tensor.shape)
            for tensor in (graph.incoming[ids[0]][0].tensor, graph.node(ids[0]).outputs[0])
        )
        yield finding(
            [*ids, attention_id],
            f"A reshape mixes heads and positions: {named(graph, ids)}, from {shapes}, keeps the "
            "order of the numbers, so an axis that should have positions gets parts of several "
            f"vectors, at the attention {named(graph, [attention_id])}. Split heads by a reshape "
            "to (b, t, n, h) and then a transpose to (b, n, t, h); to merge them, transpose first.",
            f"{_VASWANI}.2",
        )


@diagnosis_rule("samples_as_features")
def samples_as_features(graph: Graph) -> Iterator[Note]:
    """An operation sets the samples of one tensor beside the features of another one.

    That is one with fewer axes, whose axes NumPy and Keras count from the last one.
    """
    flow = data_flow(graph)
    for node in graph.nodes:
        edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
        if node.kind != "operation" or node.operation not in ELEMENTWISE or len(edges) < 2:
            continue
        few, many = sorted(edges, key=lambda edge: len(edge.tensor.shape))[:: len(edges) - 1]
        own, other = few.tensor.shape, many.tensor.shape
        beside = other[len(other) - len(own)] if 0 < len(own) < len(other) else None
        is_batch = own[:1] == other[:1] == (None,) and flow.depends_on_input(few.source)
        if is_batch and beside is not None and beside > 1:
            yield finding(
                [node.id, few.source],
                f"The samples of a batch beside other sizes: {named(graph, [node.id])} takes "
                f"{shape_text(own)} of {named(graph, [few.source])} and {shape_text(other)}, and "
                f"aligns the last axes, so that the first sample meets the first of {beside} "
                f"numbers of every sample. It runs with 1 or {beside} samples alone. Keep an axis "
                "of size 1: ops.expand_dims(x, -1).",
                _BROADCAST,
            )


def _mixes(graph: Graph, reshape: Node) -> bool:
    """Return whether an axis after a reshape has a part of the positions together with features."""
    edges = graph.incoming[reshape.id]
    if not edges:  # of a weight
        return False
    edge, origins = edges[0], axis_origins(graph)
    before = {part.origins: part.size for o in origins[edge.source, edge.output] for part in o}
    result = origins[reshape.id, 0]
    for origin in result[1:-1]:
        cut = [p for p in origin if p.kind == "position" and p.size < before.get(p.origins, 0)]
        if cut and "feature" in kinds(origin):
            return True
    return any(part.size.denominator != 1 for o in result[1:] for part in o)


def _is_near(graph: Graph, place: str, attention: Attention) -> bool:
    """Return whether only calls without weights are between a call and an attention."""
    near = up_to_weights(graph)
    ends = {attention.output, attention.id, attention.scores} - {""}
    behind, ahead = set(near.ancestors(place)), set(near.descendants(place))
    return attention.output in behind or bool(ends & ahead)


@diagnosis_rule("axes_mixed_by_reshape")
def axes_mixed_by_reshape(graph: Graph) -> Iterator[Note]:
    """A reshape cuts an axis at places that do not divide it, and joins the pieces."""
    known = {place for note in heads_and_positions_mixed(graph) for place in note.about}
    places: dict[tuple[Shape, Shape, str], list[str]] = {}
    for node in graph.of_operation("Reshape"):
        is_of_weight = not graph.incoming[node.id]
        if is_of_weight or node.id in known:
            continue
        if _is_passed_on(graph, node):
            continue
        edge = _before_reshapes(graph, node)
        before, after = edge.tensor.shape, node.outputs[0].shape
        after = _with_joined_axis(before, after)
        size = cut_axis(before, after)
        what = (
            f"cuts the axis of size {size} at places that do not divide it, so pieces of different "
            "rows are joined"
            if size
            else _meant(before, after)
        )
        if what and not _is_skew(graph, node):
            places.setdefault((before, after, what), []).append(node.id)
    for (before, after, what), ids in places.items():
        yield (remark if _may_stack(before, after) else finding)(
            ids,
            f"A reshape mixes axes: {named(graph, ids)}, from {shape_text(before)} to "
            f"{shape_text(after)}, keeps the order of the numbers, and {what}. Transpose first, so "
            "that the "
            "axes to join are next to each other (ops.transpose, Permute); for patches, split "
            "both axes of the image, transpose, and join, or take a convolution with strides.",
            _ORDER,
        )


@diagnosis_rule("tokens_as_pixels")
def tokens_as_pixels(graph: Graph) -> Iterator[Note]:
    """Tokens of squares of an image become the image by a reshape alone."""
    flow = data_flow(graph)
    places: dict[str, tuple[int, int]] = {}
    for node in graph.of_operation("Reshape"):
        edges, after = graph.incoming[node.id], node.outputs[0].shape
        if not edges or len(after) != 4:
            continue
        tokens = edges[0].tensor.shape
        for before in map(graph.node, flow.ancestors(node.id)):
            cut = graph.incoming[before.id]
            if before.operation != "Reshape" or not cut or len(cut[0].tensor.shape) != 4:
                continue
            _, rows, columns, _ = cut[0].tensor.shape
            if square := _side(tokens, before.outputs[0].shape, (rows, columns), after):
                places[node.id] = square
    if places:
        high, wide = next(iter(places.values()))
        yield finding(
            [*places],
            f"Tokens that are cut into rows: {doing(graph, [*places], 'keep')} the order of the "
            f"numbers, so the {high} x {wide} pixels of a token get to a row of the image one "
            "after the other, and not to a square. Reshape to (b, rows, columns, "
            f"{high}, {wide}, c), transpose to (b, rows, {high}, columns, {wide}, c), and reshape "
            "to the image; or take a transposed convolution.",
            _ORDER,
        )


def _side(
    tokens: Shape, made: Shape, grid: tuple[int | None, int | None], image: Shape
) -> tuple[int, int] | None:
    """Return the height and width of the pixels of a token, if it has several rows of them.

    Args:
        tokens: The shape before the reshape, (b, n, f).
        made: The shape of the tokens where they are made from a grid, (b, n, d).
        grid: Rows and columns of the grid.
        image: The shape after the reshape, (b, height, width, c).
    """
    if len(tokens) != 3 or len(made) != 3 or tokens[1] != made[1]:
        return None
    (_, count, features), (_, height, width, channels), (rows, columns) = tokens, image, grid
    if not (count and features and height and width and channels and rows and columns):
        return None
    if rows * columns != count or columns == 1 or height % rows or width % columns:
        return None
    high, wide = height // rows, width // columns
    return (high, wide) if high > 1 and high * wide * channels == features else None


def _with_joined_axis(before: Shape, after: Shape) -> Shape:
    """Return the shape after a reshape with the axis that is joined to the batch, if one is.

    (b, t, c) to (b c, t) is (b, t, c) to (b, c, t), and then c is joined to the batch.
    """
    given, result = before[1:], after[1:]
    if before[:1] != (None,) or after[:1] != (None,) or None in (*given, *result):
        return after
    sizes, others = (prod(size or 0 for size in side) for side in (given, result))
    number, rest = divmod(sizes, others) if others else (1, 0)
    return after if rest or number < 2 else (None, number, *result)


def _meant(before: Shape, after: Shape) -> str:
    """Return what a reshape does in the place of what its sizes were made for; "" if they fit.

    * The sizes after it are those before it in another order, or the first one is that of an axis
      that was not the first, and the others are joined: as if axes were moved.
    * An image gets as many vectors as it has squares of p x p pixels, of the size of such a square.
    """
    given, result = ([size for size in shape[1:] if size != 1] for shape in (before, after))
    if before[:1] != after[:1] or len(given) < 2 or None in (*given, *result):
        return ""
    sizes, others = ([size or 0 for size in side] for side in (given, result))
    if prod(sizes) != prod(others) or others[0] in accumulate(sizes, mul):
        return ""
    if len(sizes) > len(others) == 2 and sizes[-1] % others[-1] == 0:
        return ""  # the features of each place are cut, such as those of a detector's boxes
    is_moved = sorted(sizes) == sorted(others)
    if is_moved or (len(others) == 2 and others[0] in sizes[1:]):
        return f"does not move the axis of size {others[0]} to the front, but cuts up others"
    if len(before) == 4 and len(sizes) == 3 and (side := _square(sizes, others)):
        return f"returns pieces of rows, and not squares of {side} x {side} pixels"
    return ""


def _may_stack(before: Shape, after: Shape) -> bool:
    """Return whether a reshape may stack a few vectors, or cut each into a few: (t, d), (d, t)."""
    given, result = ([size or 0 for size in shape[1:] if size != 1] for shape in (before, after))
    if len(given) != 2 or len(result) != 2:
        return False
    small, large = sorted((given[0], result[0]))
    return bool(small) and large % small == 0 and large // small <= _FEW


def _square(sizes: Sequence[int], others: Sequence[int]) -> int:
    """Return p if axes have the sizes of squares of p x p pixels of an image; 0 if not."""
    height, width, channels = sizes
    for side in range(2, min(height, width) // 2 + 1):
        rows, columns = height // side, width // side
        squares = [rows * columns, side * side * channels], [rows, columns, side * side * channels]
        if height % side == width % side == 0 and [*others] in squares:
            return side
    return 0


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


def _is_skew(graph: Graph, reshape: Node) -> bool:
    """Return whether rows are cut off after a reshape, or between two reshapes.

    This shifts each row of relative scores by its position: Huang et al. 2019, Music Transformer,
    section 3.4.1; Dai et al. 2019, Transformer-XL, appendix B. A crop that takes one of several
    parts, as of queries, keys and values, has fewer axes.
    """
    edge = graph.incoming[reshape.id][0]
    source, rank = graph.node(edge.source), len(reshape.outputs[0].shape)
    takers = [graph.node(e.target) for e in graph.outgoing[reshape.id] if not e.implicit]
    if takers and all(is_crop(t) and len(t.outputs[0].shape) == rank for t in takers):
        return True
    behind = [graph.node(e.source) for e in graph.incoming[source.id]] if is_crop(source) else []
    return len(edge.tensor.shape) == rank and any(node.operation == "Reshape" for node in behind)
