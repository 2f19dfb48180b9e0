"""Rules on features that are scaled by what a layer computes: maps of places, and conditions."""

from __future__ import annotations

import re
from collections.abc import Iterator

from plots.annotations import Note
from plots.diagnosis.activations import BENT, CLIPPED, activation_of
from plots.diagnosis.projections import past_dropouts
from plots.diagnosis.rules import diagnosis_rule, doing, finding, named, remark
from plots.graph import Edge, Graph, Node
from plots.layers import (
    PARTS,
    SHAPE_CHANGES,
    is_additive_merge,
    is_attention,
    is_identity_like,
    is_linear_projection,
    is_norm,
)
from plots.traversal import data_flow

_HE = "He et al. 2016, Identity Mappings in Deep Residual Networks, section 3.1"
_HU = "Hu et al. 2018, Squeeze-and-Excitation Networks, section 3.2"
_WOO = "Woo et al. 2018, CBAM: Convolutional Block Attention Module, section 3"
_KINGMA = "Kingma and Welling 2014, Auto-Encoding Variational Bayes, section 2.4"
_LOG_VARIANCE = re.compile("log_?(sigma_?(2|sq)|var)", re.IGNORECASE)
_PEREZ = "Perez et al. 2018, FiLM, section 3; Peebles and Xie 2023, DiT, section 3.2"


@diagnosis_rule("map_without_a_range")
def map_without_a_range(graph: Graph) -> Iterator[Note]:
    """Features are multiplied by one number for each place, which a linear layer made of them.

    Or by one for each channel, as in squeeze-and-excitation without its sigmoid.
    """
    flow = data_flow(graph)
    places: dict[str, str] = {}
    channels: dict[str, str] = {}
    for node in graph.nodes:
        for edge, other in _factors(graph, node):
            shape, like = edge.tensor.shape, other.tensor.shape
            maker = _past_layout(graph, edge)
            is_map = len(like) > 2 and shape == (*like[:-1], 1) != like
            is_gate = len(like) > 2 and shape == (like[0], *[1] * (len(like) - 2), like[-1]) != like
            is_own = is_linear_projection(maker) and flow.depends(maker.id, on=other.source)
            if is_own and (is_map or is_gate):
                (places if is_map else channels)[node.id] = maker.id
    if channels:
        yield remark(
            [*channels, *channels.values()],
            f"A gate without a range: {doing(graph, [*channels], 'multiply')} features by one "
            f"number for each channel, which {named(graph, [*channels.values()])} computes of them "
            "without an activation, so that it may be of any size and sign. A sigmoid makes it "
            "the share that is kept.",
            _HU,
        )
    if places:
        yield remark(
            [*places, *places.values()],
            f"A map without a range: {doing(graph, [*places], 'multiply')} features by one number "
            f"for each place, which {named(graph, [*places.values()])} computes of them without an "
            "activation, so that it may be of any size and sign. A sigmoid makes it the share "
            "that is kept.",
            _WOO,
        )


@diagnosis_rule("product_for_a_sum")
def product_for_a_sum(graph: Graph) -> Iterator[Note]:
    """A tensor is multiplied by the output of a sublayer that takes it, and that has no range."""
    flow = data_flow(graph)
    places: dict[str, str] = {}
    for node in graph.nodes:
        for edge, other in _factors(graph, node):
            maker = past_dropouts(graph, edge)
            is_alike = len(other.tensor.shape) == 3 and edge.tensor.shape == other.tensor.shape
            if not is_alike or maker is None or not _has_no_range(maker):
                continue
            inside = map(graph.node, flow.between(other.source, [maker.id]))
            if any(is_attention(call) or activation_of(call) in BENT for call in inside):
                places[node.id] = maker.id
    if places:
        yield remark(
            [*places, *places.values()],
            f"A product in the place of a sum: {doing(graph, [*places], 'multiply')} a tensor by "
            f"what {named(graph, [*places.values()])} computes of it without an activation, so "
            "that it may be of any size and sign, and numbers and gradients vanish or grow with "
            "the depth. A skip path adds: x + f(x); a gate ends with a sigmoid.",
            _HE,
        )


def _has_no_range(node: Node) -> bool:
    """Return whether a call ends a sublayer with numbers of any size and sign."""
    return is_attention(node) or (
        is_linear_projection(node) and node.is_a({"Dense", "EinsumDense"})
    )


@diagnosis_rule("scale_near_zero")
def scale_near_zero(graph: Graph) -> Iterator[Note]:
    """Normalised features are multiplied by the output of a new layer, which is about 0."""
    places: dict[str, str] = {}
    for node in graph.nodes:
        for edge, other in _factors(graph, node):
            maker, norm = _past_layout(graph, edge), _past_layout(graph, other)
            is_new = is_linear_projection(maker) and _begins_at_zero(maker)
            is_condition = (
                len(edge.tensor.shape) == len(other.tensor.shape) and 1 in (edge.tensor.shape[1:-1])
            )
            is_plain = is_norm(norm) and not norm.parameters
            takers = [graph.node(e.target) for e in graph.outgoing[node.id]]
            is_moved = bool(takers) and all(is_additive_merge(taker) for taker in takers)
            if is_new and is_condition and is_plain and is_moved:
                places[node.id] = maker.id
    if places:
        yield remark(
            [*places, *places.values()],
            f"A scale near 0: {doing(graph, [*places], 'multiply')} normalised features by the "
            f"output of {named(graph, [*places.values()])}, which is small before it is trained, "
            "so that the features almost vanish. To begin with the features as they are, multiply "
            "by 1 + scale.",
            _PEREZ,
        )


@diagnosis_rule("variance_for_deviation")
def variance_for_deviation(graph: Graph) -> Iterator[Note]:
    """Something is multiplied by exp(x), and the layer that returns x is named a log variance."""
    places: dict[str, str] = {}
    for node in graph.nodes:
        takers = [graph.node(edge.target) for edge in graph.outgoing[node.id]]
        is_scale = bool(takers) and all(
            taker.is_a({"Multiply"})
            and all(is_additive_merge(graph.node(e.target)) for e in graph.outgoing[taker.id])
            for taker in takers
        )
        if node.operation == "Exp" and is_scale and not node.constants:
            maker = graph.node(graph.incoming[node.id][0].source)
            while maker.is_a(SHAPE_CHANGES | PARTS) and len(graph.incoming[maker.id]) == 1:
                maker = graph.node(graph.incoming[maker.id][0].source)
            if maker.has_own_name and _LOG_VARIANCE.search(maker.name):
                places[node.id] = maker.id
    if places:
        yield remark(
            [*places, *places.values()],
            f"A variance for a deviation: {named(graph, [*places])} of the log variance "
            f"{named(graph, [*places.values()])} is a variance, and something is multiplied by "
            "it. Noise is scaled by the standard deviation: exp(0.5 * log_variance).",
            _KINGMA,
        )


@diagnosis_rule("scale_never_below_one")
def scale_never_below_one(graph: Graph) -> Iterator[Note]:
    """A scale is exp(x), and x is the output of a ReLU."""
    places: dict[str, str] = {}
    for node in graph.nodes:
        takers = [graph.node(edge.target) for edge in graph.outgoing[node.id]]
        if node.operation != "Exp" or not any(taker.is_a({"Multiply"}) for taker in takers):
            continue
        maker = graph.node(graph.incoming[node.id][0].source)
        while maker.operation == "Multiply" and len(graph.incoming[maker.id]) == 1:
            maker = graph.node(graph.incoming[maker.id][0].source)
        if activation_of(maker) in CLIPPED:
            places[node.id] = maker.id
    if places:
        yield finding(
            [*places, *places.values()],
            f"A scale that is never below 1: {doing(graph, [*places], 'take')} the output of a "
            f"ReLU, {named(graph, [*places.values()])}, as the logarithm of a scale, such as that "
            "of a variance. Give that layer no activation.",
            _KINGMA,
        )


def _factors(graph: Graph, node: Node) -> Iterator[tuple[Edge, Edge]]:
    """Yield (factor, other factor) of a product of two tensors, in both orders."""
    edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
    if node.is_a({"Multiply"}) and len(edges) == 2 and not node.constants:
        yield edges[0], edges[1]
        yield edges[1], edges[0]


def _past_layout(graph: Graph, edge: Edge) -> Node:
    """Return the call that computes the numbers of a tensor, or those that it is a part of."""
    node = graph.node(edge.source)
    while is_identity_like(node) or node.is_a(SHAPE_CHANGES | PARTS):
        edges = graph.incoming[node.id]
        if len(edges) != 1:
            break
        node = graph.node(edges[0].source)
    return node


def _begins_at_zero(node: Node) -> bool:
    """Return whether the mean output of a new layer is 0."""
    return "ones" not in str(node.config.get("bias_initializer")).lower()
