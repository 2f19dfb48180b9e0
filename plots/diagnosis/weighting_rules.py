"""Rules on weights of a softmax that are multiplied and summed by hand, and on missing keys."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.diagnosis.activations import activation_of
from plots.diagnosis.attention_rules import moved_axes, summed_by_product
from plots.diagnosis.axis_origins import axis_origins, kinds
from plots.diagnosis.projections import past_layout, projection_behind, scalar_factor
from plots.diagnosis.rules import diagnosis_rule, finding, finding_rule, named, remark_rule
from plots.graph import Edge, Graph, Node
from plots.layers import (
    FUSED_ATTENTION,
    PARTS,
    PRODUCTS,
    SHAPE_CHANGES,
    TRANSPOSITIONS,
    is_additive_merge,
    is_identity_like,
    is_linear_projection,
)
from plots.softmaxes import float_inputs, softmax_axes
from plots.traversal import walk_back

_POOLING = "Lin et al. 2017, A Structured Self-Attentive Sentence Embedding, section 2.1"
_RETENTION = "Sun et al. 2023, RetNet, section 2.1, has no softmax on purpose, and a norm after it"
_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.2.1"
_ADDITIVE = "Bahdanau et al. 2015, Neural Machine Translation, appendix A.1.2"
_PARTS = "Vaswani et al. 2017, Attention Is All You Need, section 3.2.2"
_SHARED = "Kitaev et al. 2020, Reformer, section 2, shares queries and keys on purpose"
_POINTWISE = frozenset({"Add", "Divide", "Multiply", "Square", "Subtract", "TrueDivide", "Where"})
_SUMS = frozenset({"Mean", "Sum"})
_MOST_STEPS = 16


@diagnosis_rule("weights_summed_over_features")
def weights_summed_over_features(graph: Graph) -> Iterator[Note]:
    """Weights of positions multiply vectors, whose numbers are summed in place of the vectors."""
    for softmax in graph.nodes:
        axes = softmax_axes(graph, softmax)
        steps = _steps_to_sum(graph, softmax) if axes else None
        if steps is None:
            continue
        *layout, (product, place), (total, _) = steps
        axis = _place_of_weights(graph, layout, axes, place)
        summed = _axes_of(total, len(product.outputs[0].shape))
        if axis is None or not summed or axis in summed or _is_reduced_again(graph, total):
            continue
        origins = axis_origins(graph)[product.id, 0]
        of_sum = set().union(*(kinds(origins[place]) for place in summed))
        if kinds(origins[axis]) == {"position"} and of_sum == {"feature"}:
            yield finding(
                [softmax.id, product.id, total.id],
                f"A softmax over positions, but a sum over features: the weights of "
                f"{named(graph, [softmax.id])} sum to 1 over the positions, axis {axis} of "
                f"{named(graph, [product.id])}, while {named(graph, [total.id])} sums over axis "
                f"{' and '.join(map(str, sorted(summed)))}, so positions are not averaged, and "
                f"each vector becomes one number. Sum over axis={axis}.",
                _POOLING,
            )


def _steps_to_sum(graph: Graph, softmax: Node) -> list[tuple[Node, Edge]] | None:
    """Return the calls from a softmax to a product, number by number, and a sum of it.

    Each has the edge that comes from the softmax. None if there are other calls between them.
    """
    steps: list[tuple[Node, Edge]] = []
    node = softmax
    for _ in range(_MOST_STEPS):
        edges = [edge for edge in graph.outgoing[node.id] if not edge.implicit]
        if len(edges) != 1:
            return None
        node = graph.node(edges[0].target)
        is_product = node.operation == "Multiply" and len(float_inputs(graph, node)) == 2
        had_product = bool(steps) and steps[-1][0].operation == "Multiply"
        is_layout = node.is_a(SHAPE_CHANGES | TRANSPOSITIONS | {"RepeatVector"})
        if node.operation in _SUMS and had_product:
            return [*steps, (node, edges[0])]
        if had_product or not (is_product or is_layout or is_identity_like(node)):
            return None
        steps.append((node, edges[0]))
    return None


def _place_of_weights(
    graph: Graph, layout: list[tuple[Node, Edge]], axes: tuple[int, ...], product: Edge
) -> int | None:
    """Return the axis of a product that the weights, which have no other axis, sum to 1 over.

    None if they have several axes besides the batch, or their axes are not known.
    """
    edge = layout[0][1] if layout else product
    shape = edge.tensor.shape
    labels: list[int | None] = [p if size != 1 else None for p, size in enumerate(shape)]
    if len(axes) != 1 or [label for label in labels[1:] if label is not None] != [axes[0]]:
        return None
    for node, edge in layout:
        moved: list[int | None] | None
        if node.is_a({"RepeatVector"}):
            moved = [labels[0], None, *labels[1:]]
        else:
            moved = moved_axes(graph, edge, labels)
        if moved is None:
            return None
        labels = moved
    rank = len(graph.node(product.target).outputs[0].shape)
    return labels.index(axes[0]) + rank - len(labels) if axes[0] in labels else None


def _axes_of(total: Node, rank: int) -> set[int]:
    axes = total.config.get("axis")
    listed = [axes] if isinstance(axes, int) else axes or ()
    return {axis % rank for axis in listed}


def _is_reduced_again(graph: Graph, total: Node) -> bool:
    """Return whether the sum is summed again, so that both sums are one of all numbers."""
    takers = [graph.node(edge.target) for edge in graph.outgoing[total.id]]
    return any(
        taker.operation in _SUMS or taker.is_a({"BaseGlobalPooling", "BasePooling"})
        for taker in takers
    )


@remark_rule(
    "Attention without a softmax: {places:sum} values with the scores of {others} as weights, "
    "which have any size and sum, also if a ReLU comes between. With more keys, the output grows. "
    "Take the softmax of the scores, unless a norm follows and that is meant.",
    _RETENTION,
)
def scores_without_a_softmax(graph: Graph) -> Iterator[tuple[str, str]]:
    """Values are summed with products of queries and keys that no softmax normalises."""
    for node in graph.of_operation(*PRODUCTS):
        for edge in float_inputs(graph, node):
            scores = _scores_behind(graph, edge)
            if scores is not None and _sums_positions(graph, node, edge):
                yield node.id, scores.id


def _scores_behind(graph: Graph, edge: Edge) -> Node | None:
    """Return the product of queries and keys that weights are, up to masks and activations."""
    node = graph.node(edge.source)
    for _ in range(_MOST_STEPS):
        edges = float_inputs(graph, node)
        if node.operation in PRODUCTS and len(edges) == 2:
            summed = [_summed_kinds(graph, node, own) for own in edges]
            return node if summed == [{"feature"}, {"feature"}] else None
        is_plain = (
            node.operation in _POINTWISE or is_identity_like(node) or bool(activation_of(node))
        )
        if not is_plain or node.parameters or not edges or softmax_axes(graph, node):
            return None
        if node.operation in ("Divide", "TrueDivide") and len(edges) > 1:
            return None  # by their sum
        node = graph.node(edges[0].source)
    return None


def _summed_kinds(graph: Graph, node: Node, edge: Edge) -> set[str]:
    """Return the kinds of the axes of an input that a product sums."""
    found = summed_by_product(graph, node, edge)
    if found is None or len(found[0]) != 1:
        return set()
    origins = axis_origins(graph)[edge.source, edge.output]
    return {*kinds(origins[next(iter(found[0]))])}


def _sums_positions(graph: Graph, node: Node, edge: Edge) -> bool:
    """Return whether a product sums the positions of its weights, which have queries as well."""
    origins = axis_origins(graph)[edge.source, edge.output]
    positions = [axis for axis in origins[1:] if kinds(axis) == {"position"}]
    return len(positions) == 2 and _summed_kinds(graph, node, edge) == {"position"}


@finding_rule(
    "Products number by number in place of matrix products: the softmax of {places} is of queries "
    "times keys, and its output times values, each at one position, so that no position sees "
    "another one. Scores are matmul(queries, transpose(keys)), and the output is matmul(weights, "
    "values).",
    _VASWANI,
)
def products_number_by_number(graph: Graph) -> Iterator[str]:
    """The softmax of two projections that are multiplied multiplies a third one."""
    for product in graph.of_operation("Multiply"):
        takers = [graph.node(edge.target) for edge in graph.outgoing[product.id]]
        if any(taker.operation in _SUMS for taker in takers):
            continue
        for edge in _factors_with_projections(graph, product, 1):
            softmax = walk_back(graph, graph.node(edge.source), is_identity_like)
            given = float_inputs(graph, softmax) if softmax_axes(graph, softmax) else []
            scores = [walk_back(graph, graph.node(e.source), _is_scaling) for e in given]
            if len(scores) == 1 and _factors_with_projections(graph, scores[0], 2):
                yield softmax.id


def _is_scaling(node: Node) -> bool:
    return scalar_factor(node) is not None or is_identity_like(node)


def _factors_with_projections(graph: Graph, node: Node, number: int) -> list[Edge]:
    """Return the factors of a product of sequences if so many of the two are projections."""
    edges = float_inputs(graph, node) if node.operation == "Multiply" else []
    same = len(edges) == 2 and edges[0].tensor.shape == edges[1].tensor.shape
    projections = {e.source for e in edges if _projected(graph, e)} if same else set()
    is_sequence = same and len(edges[0].tensor.shape) > 2
    return edges if is_sequence and len(projections) == number else []


@finding_rule(
    "Queries without an effect: nothing between the sum of queries and keys and the softmax of "
    "{places} is nonlinear, so that the query, from {others}, adds the same number to the scores "
    "of all keys. The softmax takes it out again, and all queries get the same weights. Take "
    "v · tanh(query + key).",
    _ADDITIVE,
)
def query_that_cancels(graph: Graph) -> Iterator[tuple[str, str]]:
    """Additive scores are linear in queries and keys."""
    for attention in attentions_with_masks(graph)[0]:
        is_sum = bool(attention.scores) and is_additive_merge(graph.node(attention.scores))
        steps = map(graph.node, attention.masking)
        if is_sum and all(_is_linear(node) for node in steps):
            yield attention.id, attention.query.source


def _is_linear(node: Node) -> bool:
    """Return whether a call changes scores by a linear function, or masks them."""
    is_layout = node.is_a(SHAPE_CHANGES | TRANSPOSITIONS)
    is_sum = is_additive_merge(node) or node.operation in ("Sum", "Where")
    return is_layout or is_sum or is_identity_like(node) or is_linear_projection(node)


@remark_rule(
    "Queries are also the keys: {places:take} both from {others}, so scores are the same in both "
    "directions, and each position mostly attends to itself. Give keys a projection of their own, "
    "unless they are shared on purpose.",
    _SHARED,
)
def queries_as_keys(graph: Graph) -> Iterator[tuple[str, str]]:
    """Scores are products of queries with themselves, and values have a projection of their own."""
    for attention in attentions_with_masks(graph)[0]:
        is_fused = graph.node(attention.id).is_a(FUSED_ATTENTION)
        if (attention.is_one_call and not is_fused) or not attention.values:
            continue
        edges = attention.query, attention.keys[0], attention.values[0]
        query, key, value = (_projected(graph, edge) for edge in edges)
        if query and value and query == key != value:
            yield attention.id, query[0]


@remark_rule(
    "A projection of a projection: {places:take} what {others} projects for the same attention, in "
    "the place of the vectors that it takes, so that queries, keys and values have weights in "
    "common. Project each from the vectors themselves.",
    _PARTS,
)
def projected_twice(graph: Graph) -> Iterator[tuple[str, str]]:
    """Queries, keys or values are projected from the queries or keys of the same attention.

    Values that queries and keys are projected from are not meant: those of graph attention are.
    """
    for attention in attentions_with_masks(graph)[0]:
        if graph.node(attention.id).parameters or not attention.values:
            continue
        edges = attention.query, attention.keys[0], attention.values[0]
        query, key, value = (projection_behind(graph, edge) for edge in edges)
        scored = {found.id for found in (query, key) if found is not None}
        for found in (query, key, value):
            if found is not None:
                first = past_layout(graph, found.source, TRANSPOSITIONS)
                if first.id in scored - {found.id}:
                    yield found.id, first.id


def _projected(graph: Graph, edge: Edge) -> tuple[str, int] | None:
    """Return the tensor, (id, output), that is scaled and moved, if it is part of a projection."""
    moves = SHAPE_CHANGES | TRANSPOSITIONS
    for _ in range(_MOST_STEPS):
        node = graph.node(edge.source)
        edges = float_inputs(graph, node)
        if is_linear_projection(node):
            return edge.source, edge.output
        if len(edges) != 1:
            return None
        if not (node.is_a(moves) or is_identity_like(node) or scalar_factor(node) is not None):
            return _part_of_projection(graph, edge)
        edge = edges[0]
    return None


def _part_of_projection(graph: Graph, edge: Edge) -> tuple[str, int] | None:
    """Return a tensor if it is a part of a projection, as of queries, keys and values."""
    layout = SHAPE_CHANGES | TRANSPOSITIONS | PARTS
    node = walk_back(graph, graph.node(edge.source), lambda node: node.is_a(layout))
    return (edge.source, edge.output) if is_linear_projection(node) else None
