"""Rules on the scores of an attention: their scale, dropouts on them, and the size of heads."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from plots.annotations import Note
from plots.attention_parts import Attention
from plots.attentions import attentions_with_masks
from plots.diagnosis.attention_rules import summed_by_product
from plots.diagnosis.axis_origins import axis_origins, kinds
from plots.diagnosis.projections import projection_behind, scalar_factor
from plots.diagnosis.rules import diagnosis_rule, finding, named, remark, remark_rule
from plots.graph import Graph
from plots.layers import is_additive_merge
from plots.traversal import reachability

_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.2"
_SCALE = f"{_VASWANI}.1; T5 (Raffel et al. 2020) has no scale, muP (Yang et al. 2022) has 1/h"


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
