"""Rules on the axes of attention in steps: of the softmax, of the sums, and of the keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plots.annotations import Note, shape_text
from plots.attention_parts import Attention, permutation, totals_of_weights
from plots.attentions import attentions_with_masks
from plots.axes.rules import EQUATIONS, equation_of
from plots.axes.unions import CallWithAxes
from plots.branches import keeps_values
from plots.diagnosis.axis_origins import Origin, axis_origins, kinds, sources
from plots.diagnosis.rules import (
    diagnosis_rule,
    doing,
    finding,
    finding_rule,
    named,
    remark,
    remark_rule,
)
from plots.graph import Edge, Graph, Node
from plots.layers import FUSED_ATTENTION
from plots.softmaxes import softmax_axes
from plots.traversal import walk_back

_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.2"
_SAINT = "Somepalli et al. 2021, SAINT, section 3.1, attends over the batch on purpose"
_XCIT = "El-Nouby et al. 2021, XCiT: Cross-Covariance Image Transformers, section 3.1"
_AXES = "numpy.org/doc/stable/reference/generated/numpy.einsum.html"


@diagnosis_rule("softmax_axis")
def softmax_axis(graph: Graph) -> Iterator[Note]:
    """The softmax is over one axis of the scores, and the sum of the values over another."""
    for attention in attentions_with_masks(graph)[0]:
        if attention.is_one_call or totals_of_weights(graph, attention.id, attention.weighting):
            continue  # as in slot attention
        softmax = graph.node(attention.id)
        shape, over = softmax.outputs[0].shape, set(softmax_axes(graph, softmax))
        summed = _summed_axes(graph, attention)
        if summed is None or not over:
            continue
        # Queries have no axis of their own. Two sequences may share one softmax, one does not.
        in_parts = over & summed.in_parts
        if attention.is_self and attention.axes in [(None, axis) for axis in in_parts]:
            yield finding(
                [attention.id, attention.output],
                f"A softmax over queries and keys at once: {named(graph, [attention.id])} is over "
                "an axis that a reshape made of both, so the weights of all queries sum to 1 "
                f"together, and {named(graph, [attention.output])} sums the values over the keys "
                "alone: a query does not get a mean of the values. Leave the reshapes out: "
                "softmax(scores, axis=-1).",
                f"{_VASWANI}.1",
            )
            continue
        if over & summed.own:
            others = {axis for axis in over - summed.own if shape[axis] != 1}
            if others and _is_attended(graph, attention, others):
                yield finding(
                    [attention.id, attention.output],
                    f"A softmax over axes {_words(over)}, but a sum over axis "
                    f"{_words(summed.own)}: the weights of {named(graph, [attention.id])}, of the "
                    f"shape {shape_text(shape)}, sum to 1 over all of these axes together, so "
                    "those of one query sum to less, and queries compete for it. Set "
                    f"axis={max(summed.own) - len(shape)}.",
                    f"{_VASWANI}.1",
                )
            continue
        own, alone, _ = summed
        if alone & over:
            yield finding(
                [attention.id, attention.output],
                f"The values are not mixed: {named(graph, [attention.output])} sums the weights of "
                f"{named(graph, [attention.id])} on their own, over axis {min(alone & over)}, "
                "which is 1, and multiplies each value with it. The axis of the keys has to be "
                'that of the values, too: "bhqk,bhkd->bhqd".',
                _AXES,
            )
        elif any(shape[axis] != 1 for axis in own) and _is_attended(graph, attention, over):
            yield finding(
                [attention.id, attention.output],
                f"A softmax over axis {_words(over)}, but a sum over axis {_words(own)}: the "
                f"weights of {named(graph, [attention.id])}, of the shape {shape_text(shape)}, "
                f"sum to 1 over axis {_words(over)}, while {named(graph, [attention.output])} "
                f"sums the values over axis {_words(own)}, so a query does not get a mean of the "
                f"values. Set axis={max(own) - len(shape)}.",
                f"{_VASWANI}.1",
            )


class _Summed(NamedTuple):
    """Axes of a softmax that a sum of values is over.

    Attributes:
        own: Axes that are summed with the values.
        alone: Axes that are summed without them.
        in_parts: Those of `own` of which a reshape has cut off parts that are not summed.
    """

    own: set[int]
    alone: set[int]
    in_parts: set[int]


def _summed_axes(graph: Graph, attention: Attention) -> _Summed | None:
    """Return the axes of the softmax that are summed; None if they are moved in an unknown way."""
    labels: list[int | None] = [*range(len(graph.node(attention.id).outputs[0].shape))]
    for edge in attention.weighting[:-1]:
        moved = moved_axes(graph, edge, labels)
        if moved is None:
            return None
        labels = moved
    edge = attention.weighting[-1]
    node = graph.node(edge.target)
    places: set[int] | None
    alone: set[int] = set()
    if node.is_a({"Multiply"}):
        axes = graph.node(attention.output).config.get("axis")
        axes = [axes] if isinstance(axes, int) else axes
        rank = len(node.outputs[0].shape)
        if not axes:
            return None
        first = rank - len(labels)
        places = {axis % rank - first for axis in axes} - set(range(-first, 0))
    else:
        found = summed_by_product(graph, node, edge)
        if found is None:
            return None
        places, alone = found
    kept = set(range(len(labels))) - places - alone
    own, apart, left = (
        {axis for place in some if (axis := labels[place]) is not None}
        for some in (places, alone, kept)
    )
    return _Summed(own, apart, own & left)


def moved_axes(graph: Graph, edge: Edge, labels: list[int | None]) -> list[int | None] | None:
    """Return the axis of the softmax at each axis of the output of a call."""
    node = graph.node(edge.target)
    before, after = edge.tensor.shape, node.outputs[0].shape
    order = permutation(node, len(after))
    if order is not None:
        return [labels[axis] for axis in order]
    if before == after:
        return labels
    kept = [label for label, size in zip(labels, before, strict=True) if size != 1]
    if [size for size in before if size != 1] == [size for size in after if size != 1]:
        rest = iter(kept)
        return [None if size == 1 else next(rest) for size in after]
    if len(after) < len(before) and after[1:] == before[len(before) - len(after) + 1 :]:
        return [None, *labels[len(before) - len(after) + 1 :]]  # heads are joined to the batch
    same = zip(before, after, strict=False)
    first = next((n for n, (a, b) in enumerate(same) if a != b), len(before))
    last = len(before) - first - 1
    parts = len(after) - len(before) + 1  # of an axis that is cut up
    if parts > 1 and last >= 0 and before[first + 1 :] == after[first + parts :]:
        return [*labels[:first], *[labels[first]] * parts, *labels[first + 1 :]]
    return None


def summed_by_product(graph: Graph, node: Node, edge: Edge) -> tuple[set[int], set[int]] | None:
    """Return the axes of an input of a product that are summed with the other, and alone."""
    edges = [e for e in graph.incoming[node.id] if not e.implicit]
    rank = len(edge.tensor.shape)
    if node.operation == "Matmul":
        return {rank - 1 if edge.port == "x1" else rank - 2}, set()
    if node.operation not in EQUATIONS or len(edges) != 2:
        return None
    axes = {e.port: tuple(range(len(e.tensor.shape))) for e in edges}
    call = CallWithAxes(node, axes, (tuple(range(len(node.outputs[0].shape))),))
    try:
        (*operands, result), _ = call.match(*equation_of(call))
    except (KeyError, ValueError):
        return None
    number = [e.port for e in edges].index(edge.port)
    own, other = operands[number], operands[1 - number]
    gone = {place: label for place, label in enumerate(own) if label not in result}
    alone = {place for place, label in gone.items() if label not in other}
    return set(gone) - alone, alone


def _is_attended(graph: Graph, attention: Attention, over: set[int]) -> bool:
    """Return whether a softmax is over queries or heads, and not over clusters of features.

    In DiffPool, tokens are assigned to clusters by a softmax over features.
    """
    origins = axis_origins(graph)[attention.id, 0]
    return len(origins) > 3 or any("position" in kinds(origins[axis]) for axis in over)


@diagnosis_rule("one_key")
def one_key(graph: Graph) -> Iterator[Note]:
    """An attention in one call has a single key, whose weight is always 1."""
    places: dict[bool, list[str]] = {}
    for attention in attentions_with_masks(graph)[0]:
        if attention.is_one_call and attention.has_known_masks and _has_one_key(graph, attention):
            places.setdefault(attention.is_self, []).append(attention.id)
    for is_self, ids in places.items():
        text = (
            f"A softmax over an axis of size 1: {doing(graph, ids, 'attend')} to one key, whose "
            "weight is always 1, so that the output is the projected value, and queries and keys "
            "change nothing."
        )
        if is_self:
            yield finding(
                ids,
                f"{text} Attend over the axis that has several positions: (b, t, d), with t > 1.",
                f"{_VASWANI}.1",
            )
        else:
            yield remark(ids, f"{text} To add one vector, a Dense is enough.", f"{_VASWANI}.1")


def _has_one_key(graph: Graph, attention: Attention) -> bool:
    node, shape = graph.node(attention.id), attention.keys[0].tensor.shape
    if any("cache" in edge.port for edge in graph.incoming[node.id]) or len(shape) < 3:
        return False
    axes = node.config.get("attention_axes") or range(1, len(shape) - 1)
    if node.is_a(FUSED_ATTENTION):
        axes = [1]
    return all(shape[axis] == 1 for axis in ([axes] if isinstance(axes, int) else axes))


@diagnosis_rule("attention_over_the_batch")
def attention_over_the_batch(graph: Graph) -> Iterator[Note]:
    """The keys of an attention are the samples of a batch."""
    places: dict[bool, list[str]] = {}
    for attention in attentions_with_masks(graph)[0]:
        origin, others = _key_axis(graph, attention)
        if kinds(origin) == {"batch"}:
            stays = {kind for other in others for kind in kinds(other)}
            places.setdefault("position" in stays, []).append(attention.id)
    for is_transposed, ids in places.items():
        text = (
            f"Attention over the batch: the keys of {named(graph, ids)} are the samples of a "
            "batch, so that the output for one depends on the others"
        )
        if is_transposed:
            yield finding(
                ids,
                f"{text}, while the positions of a sample do not see each other. Keras has the "
                "batch first, (b, t, d): leave the transpose out.",
                f"Keras API, MultiHeadAttention; {_SAINT}, with all features of a sample at once",
            )
        else:
            yield remark(ids, f"{text}. Leave the transpose out if that is not meant.", _SAINT)


@finding_rule(
    "Attention between heads: the keys of {places} are the heads of one position, and positions "
    "never see each other. Transpose queries, keys and values to (b, n, t, h) before the product.",
    f"{_VASWANI}.2",
)
def attention_between_heads(graph: Graph) -> Iterator[str]:
    """The keys of an attention are the heads of one position."""
    for attention in attentions_with_masks(graph)[0]:
        origin, others = _key_axis(graph, attention)
        contracted = _contracted_origin(graph, attention, attention.keys[0])
        positions = any(kinds(other) == {"position"} for other in others)
        if kinds(origin) == {"feature"} and positions and sources(origin) & sources(contracted):
            yield attention.id


@remark_rule(
    "Groups of heads in two orders: keys or values of {places} are repeated head by head, 0 0 1 1, "
    "and the others tiled, 0 1 0 1, at {others}, so that most heads have the keys of one group and "
    "the values of another. Repeat both.",
    "Ainslie et al. 2023, GQA, section 2.2; PyTorch API, scaled_dot_product_attention, enable_gqa",
)
def groups_in_two_orders(graph: Graph) -> Iterator[tuple[str, str]]:
    """Keys and values of grouped heads are copied to all heads in two orders."""
    for attention in attentions_with_masks(graph)[0]:
        copies = [
            walk_back(graph, graph.node(edge.source), keeps_values)
            for edge in (attention.keys[0], attention.values[0])
        ]
        if {node.operation for node in copies} == {"Repeat", "Tile"}:
            yield attention.id, next(node.id for node in copies if node.operation == "Tile")


@finding_rule(
    "Features times positions: the scores of {places} sum products of the features of queries with "
    "positions of keys, or the other way round, as after a reshape in the place of a transpose. "
    "Keys are transposed: matmul(q, transpose(k)), (b, t, d) times (b, d, s).",
    f"{_VASWANI}.1",
)
def features_times_positions(graph: Graph) -> Iterator[str]:
    """Scores sum products of the features of one side with positions of the other."""
    for attention in attentions_with_masks(graph)[0]:
        edges = attention.query, attention.keys[0]
        summed = [kinds(_contracted_origin(graph, attention, edge)) for edge in edges]
        if {"position"} in summed and {"feature"} in summed:
            yield attention.id


@remark_rule(
    "Attention between features: the scores of {places} are products over the positions, so "
    "features attend to features, and positions do not see each other. XCiT does so on purpose; "
    "for attention between positions, multiply over the features.",
    _XCIT,
)
def attention_between_features(graph: Graph) -> Iterator[str]:
    """Scores are products over positions, so that features attend to features."""
    for attention in attentions_with_masks(graph)[0]:
        summed = kinds(_contracted_origin(graph, attention, attention.keys[0]))
        if summed == {"position"} and kinds(_key_axis(graph, attention)[0]) == {"feature"}:
            yield attention.id


def _key_axis(graph: Graph, attention: Attention) -> tuple[Origin, list[Origin]]:
    """Return the origin of the axis of keys, and those of axes beside which products are made."""
    origins = axis_origins(graph)
    if attention.is_one_call:
        edge = attention.keys[0]
        axes = origins[edge.source, edge.output]
        if len(axes) < 3 or attention.axes is not None:
            return (), []
        return axes[1], [axes[0], *axes[2:-1]]  # (b, s, d), or (b, s, n, h) of the fused operation
    if attention.axes is None:
        return (), []
    query, key = attention.axes
    axes = origins[attention.id, 0]
    others = [axis for place, axis in enumerate(axes) if place not in (query, key)]
    return axes[key], others


def _contracted_origin(graph: Graph, attention: Attention, edge: Edge) -> Origin:
    """Return the origin of the axis of queries or keys that the product of both sums over."""
    if attention.is_one_call:
        axes = axis_origins(graph)[edge.source, edge.output]
        return axes[-1] if len(axes) > 3 else ()  # (b, s, n, h) of the fused operation
    found = summed_by_product(graph, graph.node(attention.scores), edge)
    if found is None or len(found[0]) != 1:
        return ()
    return axis_origins(graph)[edge.source, edge.output][next(iter(found[0]))]


def _words(axes: set[int]) -> str:
    return " and ".join(map(str, sorted(axes)))
