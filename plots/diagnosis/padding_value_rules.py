"""Rules on the values at padded positions, which `Masking` compares with one number."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.diagnosis.rules import diagnosis_rule, doing, finding
from plots.diagnosis.zeros import KEEP_ZERO, MOVE_ZERO, function_of, has_bias
from plots.graph import Graph, Node
from plots.layers import (
    LINEAR_PROJECTIONS,
    PADDINGS,
    is_additive_merge,
    is_identity_like,
    is_rearrangement,
)
from plots.positions import Tables
from plots.traversal import data_flow, once_per_graph

_MASKING = "Keras API, keras.layers.Masking; github.com/keras-team/keras/issues/6139"
_SHIFTING_NORMS = frozenset({"BatchNormalization", "GroupNormalization", "Normalization"})


@diagnosis_rule("masking_too_late")
def masking_too_late(graph: Graph) -> Iterator[Note]:
    """Padding is recognised by its value after a call that changes what stands there."""
    tables = Tables(graph, data_flow(graph))
    places: dict[str, str] = {}
    for node in graph.of_class({"Equal", "Masking", "NotEqual"}):
        value = _value_of_padding(graph, node)
        if value is not None and (changing := _changing(tables, node, value == 0)):
            places[node.id] = changing
    if places:
        changed = [*dict.fromkeys(places.values())]
        values = {_value_of_padding(graph, graph.node(place)) or 0 for place in places}
        value_ = f"{min(values):g}" if len(values) == 1 else "its mask_value"
        yield finding(
            [*places, *places.values()],
            f"Masking of padding that was changed before: {doing(graph, changed, 'return')} "
            f"other numbers than {value_} where the padding is {value_}, so "
            f"{doing(graph, [*places], 'find')} no position of {value_} alone, and masks nothing. "
            "Make the mask of the input itself: of ids, tokens != 0; of vectors, Masking.",
            _MASKING,
        )


def _value_of_padding(graph: Graph, node: Node) -> float | None:
    """Return the number that a call recognises padded vectors by; None if it is another call.

    It is `Masking`, or a comparison of vectors with a number for the mask of an attention.
    """
    if node.is_a({"Masking"}):
        return float(node.config.get("mask_value", 0))
    values = [c.value for c in node.constants if isinstance(c.value, int | float)]
    is_comparison = node.operation in ("Equal", "NotEqual") and len(values) == 1
    edges = graph.incoming[node.id]
    if not is_comparison or len(edges) != 1 or "float" not in edges[0].tensor.dtype:
        return None
    is_vectors = len(edges[0].tensor.shape) == 3
    return float(values[0]) if is_vectors and node.id in _makers_of_masks(graph) else None


@once_per_graph
def _makers_of_masks(graph: Graph) -> frozenset[str]:
    """Return the calls that the masks of attentions depend on."""
    flow = data_flow(graph)
    starts = [edge.source for a in attentions_with_masks(graph)[0] for edge in a.masks]
    return frozenset([*starts, *flow.ancestors(*starts)])


def _changing(tables: Tables, node: Node, is_zero: bool) -> str:
    """Return the id of the call before `node` that changes padding, or "" if none is known to.

    Args:
        tables: What is known of positions in the graph.
        node: A call whose input is followed back.
        is_zero: Whether padding is 0, which more calls keep than other numbers.
    """
    graph = tables.graph
    edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
    if len(edges) > 1 and not _joins_features(node):
        return ""
    for edge in edges:
        before = graph.node(edge.source)
        keeps = _keeps(before, is_zero)
        if keeps is False or (is_additive_merge(before) and tables.added_by(before)):
            return before.id
        # All features of a padded position have to be equal to the number.
        if (keeps or _joins_features(before)) and (found := _changing(tables, before, is_zero)):
            return found
    return ""


def _joins_features(node: Node) -> bool:
    axis, rank = node.config.get("axis", -1), len(node.outputs[0].shape)
    return node.is_a({"Concatenate"}) and axis in (-1, rank - 1)


def _keeps(node: Node, is_zero: bool) -> bool | None:
    """Return whether a call returns padding as it is; None if that is unknown."""
    if node.operation == "Rescaling" and node.config.get("offset"):
        return None
    if is_identity_like(node):
        return True
    if is_rearrangement(node):  # padding of its own is as good as that of the input
        return None if node.is_a(PADDINGS) else True
    if _shifts(node):
        return False
    if not is_zero:
        return None
    function = function_of(node)
    if function in MOVE_ZERO:
        return False
    # What stands beside the padding comes into a convolution.
    is_pointwise = node.is_a({"Dense"}) or not node.parameters
    return True if is_pointwise and function in KEEP_ZERO else None


def _shifts(node: Node) -> bool:
    """Return whether a call adds a trained or measured number to every feature."""
    if node.is_a({"LayerNormalization"}):
        return bool(node.config.get("center", True))
    if node.is_a(_SHIFTING_NORMS):
        return True
    return node.is_a(LINEAR_PROJECTIONS) and has_bias(node)
