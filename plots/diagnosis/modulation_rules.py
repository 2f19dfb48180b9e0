"""Rules on features that are scaled by what a layer computes: maps of places, and conditions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from plots.diagnosis.activations import BENT, CLIPPED, activation_of
from plots.diagnosis.projections import past_dropouts, past_layout
from plots.diagnosis.rules import finding_rule, remark_rule
from plots.graph import Edge, Graph, Node, Shape
from plots.layers import (
    PARTS,
    SHAPE_CHANGES,
    is_additive_merge,
    is_attention,
    is_linear_projection,
    is_norm,
)
from plots.norms import DIVISIONS, normalises
from plots.traversal import data_flow, walk_back

_HE = "He et al. 2016, Identity Mappings in Deep Residual Networks, section 3.1"
_HU = "Hu et al. 2018, Squeeze-and-Excitation Networks, section 3.2"
_WOO = "Woo et al. 2018, CBAM: Convolutional Block Attention Module, section 3"
_KINGMA = "Kingma and Welling 2014, Auto-Encoding Variational Bayes, section 2.4"
_LOG_VARIANCE = re.compile("log_?(sigma_?(2|sq)|var)", re.IGNORECASE)
_PEREZ = "Perez et al. 2018, FiLM, section 3; Peebles and Xie 2023, DiT, section 3.2"


@remark_rule(
    "A gate without a range: {places:multiply} features by one number for each channel, which "
    "{others} computes of them without an activation, so that it may be of any size and sign. "
    "A sigmoid makes it the share that is kept.",
    _HU,
)
def gate_without_a_range(graph: Graph) -> Iterator[tuple[str, str]]:
    """Features are multiplied by one number for each channel, which a linear layer made of them.

    As in squeeze-and-excitation without its sigmoid.
    """
    return _unbounded_factors(graph, lambda like: (like[0], *[1] * (len(like) - 2), like[-1]))


@remark_rule(
    "A map without a range: {places:multiply} features by one number for each place, which "
    "{others} computes of them without an activation, so that it may be of any size and sign. "
    "A sigmoid makes it the share that is kept.",
    _WOO,
)
def map_without_a_range(graph: Graph) -> Iterator[tuple[str, str]]:
    """Features are multiplied by one number for each place, which a linear layer made of them."""
    return _unbounded_factors(graph, lambda like: (*like[:-1], 1))


def _unbounded_factors(
    graph: Graph, shape_for: Callable[[Shape], Shape]
) -> Iterator[tuple[str, str]]:
    """Yield products of features and of what a linear layer computes of them, and that layer.

    `shape_for` returns the shape of the factor, from that of the features.
    """
    flow = data_flow(graph)
    for node, edge, other in _products(graph):
        like, maker = other.tensor.shape, past_layout(graph, edge)
        is_own = is_linear_projection(maker) and flow.depends(maker.id, on=other.source)
        if is_own and len(like) > 2 and edge.tensor.shape == shape_for(like) != like:
            yield node.id, maker.id


_PRODUCT = (
    "A product in the place of a sum: {places:multiply} a tensor by what {others} computes of it "
    "without an activation, so that it may be of any size and sign, and numbers and gradients "
    "vanish or grow with the depth. A skip path adds: x + f(x); a gate ends with a sigmoid."
)


@remark_rule(_PRODUCT, _HE)
def product_for_a_sum(graph: Graph) -> Iterator[tuple[str, str]]:
    """A tensor is multiplied by the output of a sublayer that takes it, and that has no range."""
    yield from (
        (product, maker) for product, maker, has_norm in _of_sublayers(graph) if not has_norm
    )


@finding_rule(_PRODUCT, _HE)
def product_for_a_sum_after_a_norm(graph: Graph) -> Iterator[tuple[str, str]]:
    """A tensor is multiplied by the output of a pre-norm sublayer: x * f(norm(x))."""
    yield from ((product, maker) for product, maker, has_norm in _of_sublayers(graph) if has_norm)


def _of_sublayers(graph: Graph) -> Iterator[tuple[str, str, bool]]:
    """Yield a product of a tensor and its sublayer, the sublayer's end, and if a norm is first."""
    flow = data_flow(graph)
    for node, edge, other in _products(graph):
        maker = past_dropouts(graph, edge)
        is_alike = len(other.tensor.shape) == 3 and edge.tensor.shape == other.tensor.shape
        if not is_alike or maker is None or not _has_no_range(maker):
            continue
        inside = [graph.node(i) for i in flow.between(other.source, [maker.id])]
        if any(_divides_by(graph, call, other) for call in inside):
            continue  # a scale that was taken out before, and is put back
        if any(is_attention(call) or activation_of(call) in BENT for call in inside):
            takers = {e.target for e in graph.outgoing[other.source] if e.output == other.output}
            first = [call for call in inside if call.id in takers]
            yield node.id, maker.id, bool(first) and all(normalises(graph, n) for n in first)


def _divides_by(graph: Graph, node: Node, value: Edge) -> bool:
    divisor = [edge for edge in graph.incoming[node.id] if not edge.implicit][1:]
    return node.operation in DIVISIONS and [(e.source, e.output) for e in divisor] == [
        (value.source, value.output)
    ]


def _has_no_range(node: Node) -> bool:
    """Return whether a call ends a sublayer with numbers of any size and sign."""
    return is_attention(node) or (
        is_linear_projection(node) and node.is_a({"Dense", "EinsumDense"})
    )


@remark_rule(
    "A scale near 0: {places:multiply} normalised features by the output of {others}, which is "
    "small before it is trained, so that the features almost vanish. To begin with the features as "
    "they are, multiply by 1 + scale.",
    _PEREZ,
)
def scale_near_zero(graph: Graph) -> Iterator[tuple[str, str]]:
    """Normalised features are multiplied by the output of a new layer, which is about 0."""
    for node, edge, other in _products(graph):
        maker, norm = past_layout(graph, edge), past_layout(graph, other)
        is_new = is_linear_projection(maker) and _begins_at_zero(maker)
        is_condition = (
            len(edge.tensor.shape) == len(other.tensor.shape) and 1 in edge.tensor.shape[1:-1]
        )
        is_plain = is_norm(norm) and not norm.parameters
        takers = [graph.node(e.target) for e in graph.outgoing[node.id]]
        is_moved = bool(takers) and all(is_additive_merge(taker) for taker in takers)
        if is_new and is_condition and is_plain and is_moved:
            yield node.id, maker.id


@remark_rule(
    "A variance for a deviation: {places} of the log variance {others} is a variance, and "
    "something is multiplied by it. Noise is scaled by the standard deviation: exp(0.5 * "
    "log_variance).",
    _KINGMA,
)
def variance_for_deviation(graph: Graph) -> Iterator[tuple[str, str]]:
    """Something is multiplied by exp(x), and the layer that returns x is named a log variance."""
    for node in graph.of_operation("Exp"):
        takers = [graph.node(edge.target) for edge in graph.outgoing[node.id]]
        is_scale = bool(takers) and all(
            taker.is_a({"Multiply"})
            and all(is_additive_merge(graph.node(e.target)) for e in graph.outgoing[taker.id])
            for taker in takers
        )
        if is_scale and not node.constants:
            maker = graph.node(graph.incoming[node.id][0].source)
            maker = walk_back(graph, maker, lambda call: call.is_a(SHAPE_CHANGES | PARTS))
            if maker.has_own_name and _LOG_VARIANCE.search(maker.name):
                yield node.id, maker.id


@finding_rule(
    "A scale that is never below 1: {places:take} the output of a ReLU, {others}, as the logarithm "
    "of a scale, such as that of a variance. Give that layer no activation.",
    _KINGMA,
)
def scale_never_below_one(graph: Graph) -> Iterator[tuple[str, str]]:
    """A scale is exp(x), and x is the output of a ReLU."""
    for node in graph.of_operation("Exp"):
        takers = [graph.node(edge.target) for edge in graph.outgoing[node.id]]
        is_of_weight = not graph.incoming[node.id]
        if is_of_weight or not any(taker.is_a({"Multiply"}) for taker in takers):
            continue
        maker = graph.node(graph.incoming[node.id][0].source)
        maker = walk_back(graph, maker, lambda call: call.operation == "Multiply")
        if activation_of(maker) in CLIPPED:
            yield node.id, maker.id


def _products(graph: Graph) -> Iterator[tuple[Node, Edge, Edge]]:
    """Yield (product, factor, other factor) of products of two tensors, in both orders."""
    for node in graph.of_class({"Multiply"}):
        edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
        if len(edges) == 2 and not node.constants:
            yield node, edges[0], edges[1]
            yield node, edges[1], edges[0]


def _begins_at_zero(node: Node) -> bool:
    """Return whether the mean output of a new layer is 0."""
    return "ones" not in str(node.config.get("bias_initializer")).lower()
