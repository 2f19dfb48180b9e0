"""Rules on summaries of a sequence: means that count padding, and means over features."""

from __future__ import annotations

import math
from collections.abc import Iterator

from plots.annotations import Note, shape_text
from plots.attentions import attentions_with_masks
from plots.diagnosis.activations import activation_of
from plots.diagnosis.axis_origins import axis_origins, kinds
from plots.diagnosis.projections import past_dropouts, scalar_factor
from plots.diagnosis.rules import diagnosis_rule, doing, finding, finding_rule
from plots.diagnosis.score_mask_rules import is_mask
from plots.graph import Edge, Graph, Node
from plots.layers import is_identity_like, is_norm, is_recurrent
from plots.softmaxes import float_inputs
from plots.traversal import data_flow

_MEAN = "Reimers and Gurevych 2019, Sentence-BERT, section 3; huggingface/transformers/issues/3560"
_POOLING = "Keras API, data_format of keras.layers.GlobalAveragePooling1D"
_AVERAGES = frozenset({"GlobalAveragePooling1D", "Mean"})
_SUMMARIES = _AVERAGES | {"GlobalMaxPooling1D", "Max"}


@finding_rule(
    "A mean that counts padding: {others} sets the vectors of padding to zero, and {places:divide} "
    "their sum by the number of all positions, so that the same sequence has another mean in a "
    "longer batch. Divide by the number of real ones: sum(x * mask) / sum(mask).",
    _MEAN,
)
def mean_of_masked_vectors(graph: Graph) -> Iterator[tuple[str, str]]:
    """Vectors of padding are set to zero, and then counted in a mean over all positions."""
    for node in graph.nodes:
        reduced = _positions_averaged(graph, node)
        masked = past_dropouts(graph, graph.incoming[reduced.id][0]) if reduced else None
        if masked is not None and _hides_vectors(graph, masked):
            yield node.id, masked.id


def _positions_averaged(graph: Graph, node: Node) -> Node | None:
    """Return the call that sums over the positions of a mean, or None if it is none."""
    reduced = node
    if (factor := scalar_factor(node)) is not None:
        reduced = graph.node(graph.incoming[node.id][0].source)
        if reduced.operation != "Sum":
            return None
        axis = _reduced_axis(graph, reduced)
        length = graph.incoming[reduced.id][0].tensor.shape[axis] if axis is not None else None
        if not length or not math.isclose(factor, 1 / length, rel_tol=1e-3):
            return None
    elif node.operation not in _AVERAGES:
        return None
    axis = _reduced_axis(graph, reduced)
    if axis is None:
        return None
    edge = graph.incoming[reduced.id][0]
    return (
        reduced
        if kinds(axis_origins(graph)[edge.source, edge.output][axis]) == {"position"}
        else None
    )


def _reduced_axis(graph: Graph, node: Node) -> int | None:
    """Return the only axis that a call reduces, of a sequence of vectors; None for others."""
    edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
    if len(edges) != 1 or len(edges[0].tensor.shape) != 3:
        return None
    if "Pooling" in node.operation:
        return 2 if node.config.get("data_format") == "channels_first" else 1
    axis = node.config.get("axis")
    axis = axis[0] if isinstance(axis, list | tuple) and len(axis) == 1 else axis
    return axis % 3 if isinstance(axis, int) and not isinstance(axis, bool) else None


def _hides_vectors(graph: Graph, node: Node) -> bool:
    """Return whether a call multiplies vectors by a mask of padding, or sets them to 0 by one."""
    edges = graph.incoming[node.id]
    if node.operation == "Where":
        is_zero = any(constant.value == 0 for constant in node.constants)
        flags = [edge for edge in edges if edge.port == "condition"] if is_zero else []
    else:
        flags = [e for e in edges if is_mask(graph, e)] if node.is_a({"Multiply"}) else []
    if len(flags) != 1 or len(edges) != 2:
        return False
    flow, (edge,) = data_flow(graph), flags
    before = [graph.node(i) for i in (edge.source, *flow.ancestors(edge.source))]
    is_of_inputs = flow.depends_on_input(edge.source) and not any(n.parameters for n in before)
    return is_of_inputs and edge.tensor.shape[-1] == 1  # for whole vectors, unlike x * (x > 0)


@diagnosis_rule("mean_over_features")
def mean_over_features(graph: Graph) -> Iterator[Note]:
    """A summary of a sequence is over its features, so that one number is left of each vector."""
    flow = data_flow(graph)
    mixing = [a.output for a in attentions_with_masks(graph)[0]]
    mixing += [node.id for node in graph.nodes if is_recurrent(node)]
    places = []
    for node in graph.of_operation(*_SUMMARIES):
        axis = _reduced_axis(graph, node)
        edges = float_inputs(graph, node)
        if axis != 2 or len(node.outputs[0].shape) != 2 or not edges:
            continue
        edge = edges[0]
        origins = axis_origins(graph)[edge.source, edge.output]
        is_sequence = kinds(origins[1]) == {"position"} and kinds(origins[2]) == {"feature"}
        follows = any(flow.depends(node.id, on=i) for i in mixing) or _is_of_points(graph, edge)
        is_gate = any(  # for each position, as in squeeze-and-excitation
            taker.is_a({"Multiply"}) and flow.depends(taker.id, on=node.id)
            for taker in (graph.node(e.target) for e in graph.outgoing[edge.source])
        )
        if is_sequence and follows and not is_gate and _goes_to_a_dense(graph, node):
            places.append(node.id)
    if places:
        shape = graph.incoming[places[0]][0].tensor.shape
        yield finding(
            places,
            f"A summary over features: {doing(graph, places, 'keep')} one number for each "
            f"position of {shape_text(shape)}, and loses which of its features it is made of. To "
            "summarise a sequence, go over its positions: axis=1, or "
            'data_format="channels_last" for a pooling layer.',
            _POOLING,
        )


def _is_of_points(graph: Graph, edge: Edge) -> bool:
    """Return whether vectors are what layers compute of each vector of an input alone."""
    node, layers = graph.node(edge.source), 0
    while node.kind != "input":
        edges = graph.incoming[node.id]
        is_pointwise = node.is_a({"Conv1D", "Dense"}) and set(
            node.config.get("kernel_size", ())
        ) <= {1}
        is_kept = is_identity_like(node) or is_norm(node) or bool(activation_of(node))
        if len(edges) != 1 or not (is_pointwise or is_kept):
            return False
        layers += is_pointwise
        node = graph.node(edges[0].source)
    return layers > 1 and len(node.outputs[0].shape) == 3


def _goes_to_a_dense(graph: Graph, node: Node) -> bool:
    """Return whether only projections take the output of a call, up to dropouts."""
    takers = [graph.node(edge.target) for edge in graph.outgoing[node.id]]
    return bool(takers) and all(
        taker.is_a({"Dense"}) or (is_identity_like(taker) and _goes_to_a_dense(graph, taker))
        for taker in takers
    )
