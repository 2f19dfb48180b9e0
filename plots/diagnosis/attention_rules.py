"""Rules on attention in steps: axes of the softmax and of keys, and the scale of the scores."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from plots.annotations import Note, shape_text
from plots.attention_parts import Attention, permutation, totals_of_weights
from plots.attentions import attentions_with_masks
from plots.axes.rules import EQUATIONS, equation_of
from plots.axes.unions import CallWithAxes
from plots.branches import keeps_values
from plots.diagnosis.axis_origins import Origin, axis_origins, kinds, sources
from plots.diagnosis.projections import projection_behind, scalar_factor
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
from plots.layers import FUSED_ATTENTION, is_additive_merge
from plots.softmaxes import softmax_axes
from plots.traversal import reachability, walk_back

_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.2"
_SCALE = f"{_VASWANI}.1; T5 (Raffel et al. 2020) has no scale, muP (Yang et al. 2022) has 1/h"
_SAINT = "Somepalli et al. 2021, SAINT, section 3.1, attends over the batch on purpose"
_XCIT = "El-Nouby et al. 2021, XCiT: Cross-Covariance Image Transformers, section 3.1"
_AXES = "numpy.org/doc/stable/reference/generated/numpy.einsum.html"


# Axes -------------------------------------------------------------------------------------------


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
        if over & summed[0]:
            others = {axis for axis in over - summed[0] if shape[axis] != 1}
            if others and _is_attended(graph, attention, others):
                yield finding(
                    [attention.id, attention.output],
                    f"A softmax over axes {_words(over)}, but a sum over axis "
                    f"{_words(summed[0])}: the weights of {named(graph, [attention.id])}, of the "
                    f"shape {shape_text(shape)}, sum to 1 over all of these axes together, so "
                    "those of one query sum to less, and queries compete for it. Set "
                    f"axis={max(summed[0]) - len(shape)}.",
                    f"{_VASWANI}.1",
                )
            continue
        own, alone = summed
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


def _summed_axes(graph: Graph, attention: Attention) -> tuple[set[int], set[int]] | None:
    """Return the axes of the softmax that are summed with the values, and those summed alone.

    None if a call on the way moves axes in an unknown way.
    """
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
    return tuple({a for p in own if (a := labels[p]) is not None} for own in (places, alone))  # type: ignore[return-value]


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
    if last and len(after) > len(before) and before[-last:] == after[-last:]:  # an axis is cut up
        return [*labels[:first], *[labels[first]] * (len(after) - len(before) + 1), *labels[-last:]]
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


# Scores -----------------------------------------------------------------------------------------


@remark_rule(
    "A dropout on scores: {places:set} scores of {others} to 0 before the softmax, which hides no "
    "key, exp(0) = 1. Drop weights, after the softmax.",
    f"{_VASWANI}.1; keras.layers.MultiHeadAttention, dropout",
)
def dropout_on_scores(graph: Graph) -> Iterator[tuple[str, str]]:
    """A dropout comes before the softmax of an attention, and sets scores to 0."""
    for attention in attentions_with_masks(graph)[0]:
        for node in map(graph.node, attention.masking):
            if node.is_a({"Dropout"}) and node.config.get("rate"):
                yield node.id, attention.id


@diagnosis_rule("score_scale")
def score_scale(graph: Graph) -> Iterator[Note]:
    """Scores are not divided by the square root of the size of a head, or their weights are."""
    places: dict[tuple[bool, str], list[str]] = {}
    late: list[str] = []
    for attention in attentions_with_masks(graph)[0]:
        scale = _scale_of(graph, attention)
        if scale is not None and _is_scaled_late(graph, attention, scale):
            late.append(attention.id)
        elif scale is not None and (text := _compared(scale)):
            places.setdefault((_is_multiplied(scale), text), []).append(attention.id)
    if late:
        yield finding(
            late,
            f"Weights are scaled after the softmax: those of {named(graph, late)} are multiplied "
            "by 1/sqrt(h) and sum to less than 1, while the scores are not scaled. Scale the "
            "scores, before the softmax.",
            f"{_VASWANI}.1",
        )
    for (is_multiplied, text), ids in places.items():
        yield remark(  # T5, muP and designs with normalised queries and keys differ
            ids,
            f"The scores of {named(graph, ids)} {text} With 1/sqrt(h), scores of independent "
            "queries and keys have a variance of 1 in the beginning"
            f"{'; larger ones make a softmax that takes one key alone' * is_multiplied}.",
            _SCALE,
        )


@remark_rule(
    "Heads as wide as the model: {places} has several heads, each of the width of its queries. The "
    "key_dim of MultiHeadAttention is the size of one head, and not the sum of all: "
    "key_dim=width // num_heads makes as many numbers as there are.",
    _VASWANI,
)
def heads_as_wide_as_the_model(graph: Graph) -> Iterator[str]:
    """Each of several heads has as many numbers as the vector that it projects."""
    for attention in attentions_with_masks(graph)[0]:
        node = graph.node(attention.id)
        heads, size = node.config.get("num_heads"), node.config.get("key_dim")
        width = attention.query.tensor.shape[-1]
        if attention.is_one_call and isinstance(heads, int) and heads > 1 and size == width:
            yield node.id


class _Scale(NamedTuple):
    """Constant factors of scores, the size of a head, and the width of the model, 0 if unknown."""

    factors: list[float]
    size: int
    width: int


def _is_scaled_late(graph: Graph, attention: Attention, scale: _Scale) -> bool:
    """Return whether the weights have the factor that the scores lack."""
    steps = [graph.node(edge.target) for edge in attention.weighting[:-1]]
    factors = [factor for step in steps if (factor := scalar_factor(step)) not in (None, 1)]
    rights = [1 / math.sqrt(size) for size in (scale.size, scale.width) if size > 1]
    late = math.prod(factors)
    return math.isclose(math.prod(scale.factors), 1, rel_tol=0.02) and any(
        math.isclose(late, right, rel_tol=0.02) for right in rights
    )


def _scale_of(graph: Graph, attention: Attention) -> _Scale | None:
    """Return the constant factors of the scores; None if something else may scale them."""
    scores = graph.node(attention.scores or attention.id)
    edges = (attention.query, attention.keys[0])
    factors: list[float] = []
    if attention.is_one_call:
        if scores.operation != "DotProductAttention":
            return None
        constants = {constant.port: constant.value for constant in scores.constants}
        given = constants.get("scale", scores.config.get("scale"))
        size = edges[0].tensor.shape[-1]
        factors = [1 / math.sqrt(size) if given is None else float(given)] if size else []
    else:
        if is_additive_merge(scores) or _has_learned_bias(graph, attention):
            return None
        found = summed_by_product(graph, scores, edges[0])
        if found is None or len(found[0]) != 1:
            return None
        size = edges[0].tensor.shape[next(iter(found[0]))]
        kind = kinds(axis_origins(graph)[edges[0].source, edges[0].output][next(iter(found[0]))])
        if kind != {"feature"}:
            return None
        for node_id in attention.masking:
            node = graph.node(node_id)
            factor = scalar_factor(node)
            if factor is None and node.operation in ("Multiply", "Divide", "TrueDivide"):
                return None  # a learned temperature, or a mask
            factors += [factor] if factor is not None else []
    if not isinstance(size, int) or size < 2:
        return None
    for edge in edges:
        behind = projection_behind(graph, edge)
        if behind is None:
            return None
        factors += behind.factors
        width = behind.width
    return _Scale([factor for factor in factors if factor != 1], size, width)


def _is_multiplied(given: _Scale) -> bool:
    """Return whether scores are multiplied by a number that published designs divide by."""
    scale = math.prod(given.factors)
    rights = [math.sqrt(given.size), given.size, math.sqrt(given.width), given.width]
    return any(math.isclose(scale, right, rel_tol=0.02) for right in rights if right > 1)


def _compared(given: _Scale) -> str:
    """Return how the scores are scaled, if not by 1/sqrt(h)."""
    factors, size, width = given
    scale, right = math.prod(factors), 1 / math.sqrt(size)

    def is_near(number: float) -> bool:
        return math.isclose(scale, number, rel_tol=0.02)

    if is_near(right) or scale <= 0:
        return ""
    advice = f"the size of a head is h = {size}: multiply by {right:.4g}, 1/sqrt(h)."
    if is_near(1):
        return f"are not scaled; {advice}"
    if len(factors) > 1 and all(math.isclose(factor, right, rel_tol=0.02) for factor in factors):
        return f"are scaled {len(factors)} times by 1/sqrt(h); {advice}"
    if is_near(1 / size):
        return f"are scaled by 1/h, not 1/sqrt(h); {advice}"
    if is_near(1 / right):
        return f"are multiplied by sqrt(h), not divided; {advice}"
    if _is_multiplied(given):
        return f"are multiplied by {scale:.4g}, not divided; {advice}"
    if width and is_near(1 / math.sqrt(width)):
        return f"are scaled by the width of the model, 1/sqrt({width}); {advice}"
    return f"are scaled by {scale:.4g}; {advice}"


def _has_learned_bias(graph: Graph, attention: Attention) -> bool:
    """Return whether something with weights is added to the scores, as in T5."""
    near = {e.source for e in attention.masks}
    flow = reachability(graph)
    return any(graph.node(i).parameters for e in near for i in (e, *flow.ancestors(e))) or any(
        graph.node(i).parameters for i in attention.masking
    )


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
