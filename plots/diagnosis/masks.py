"""Read from the graph which keys the masks of an attention hide."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple

from plots.attentions import Attention
from plots.graph import Constant, Graph, Node
from plots.reachability import Reachability

MASK_LAYERS: set[str] = {
    "Add",
    "Concatenate",
    "Embedding",
    "Flatten",
    "Identity",
    "Masking",
    "Maximum",
    "Minimum",
    "Multiply",
    "Permute",
    "RepeatVector",
    "Reshape",
    "Subtract",
}
"""Layers that mask nothing by themselves; of other layers only the name can tell what they mask."""

RELATIVE_BIAS = re.compile("(alibi|position|relative).*bias")
"""Names of layers that prefer some distances to others, and mask none."""

_RELATIVE_ROLES = frozenset({"alibi_positions", "relative_positions"})

_ORDERS = frozenset({"Greater", "GreaterEqual", "Less", "LessEqual"})
_EQUALITIES = frozenset({"Equal", "NotEqual"})

_Hint = Literal["causal", "padding", "unknown"]


class Masked(NamedTuple):
    """Which keys an attention masks; None where the graph does not tell.

    Attributes:
        causal: Whether it masks keys later than the query.
        padding: Whether it masks padding.
    """

    causal: bool | None
    padding: bool | None


def masked_keys(
    graph: Graph, attentions: Iterable[Attention], flow: Reachability
) -> dict[str, Masked]:
    """Return which keys each attention masks, by its id.

    Args:
        graph: The graph.
        attentions: The attentions of the graph.
        flow: The data flow: a mask that depends on the inputs' values is one of padding, and one
            that depends on their shapes alone is one of positions.
    """
    behind = Reachability(graph, stop=_is_relative_bias)

    def masked_by(attention: Attention) -> Masked:
        hints = {hint for constant in attention.constants for hint in _hints_of_constant(constant)}
        sources = {edge.source for edge in attention.masks}
        starts = [i for i in sources if not _is_relative_bias(graph.node(i))]
        nodes = [graph.node(node_id) for node_id in {*starts, *behind.ancestors(*starts)}]
        calls = [node for node in nodes if not _is_relative_bias(node)]
        hints.update(hint for node in calls for hint in _hints_of_call(graph, node, flow))
        unsure = None if "unknown" in hints or not attention.has_known_masks else False
        # Tokens become a mask in many ways besides a comparison: a cast to bool, their sign, ...
        may_be_padding = unsure is None or any(flow.depends_on_input(node.id) for node in calls)
        return Masked(
            causal=True if "causal" in hints else unsure,
            padding=True if "padding" in hints else None if may_be_padding else False,
        )

    return {attention.id: masked_by(attention) for attention in attentions}


def _hints_of_constant(constant: Constant) -> Iterator[_Hint]:
    if constant.pattern == "lower triangular" or ("causal" in constant.port and constant.value):
        yield "causal"
    elif constant.pattern == "" and sum(size != 1 for size in constant.shape or ()) > 1:
        yield "unknown"


def _hints_of_call(graph: Graph, node: Node, flow: Reachability) -> Iterator[_Hint]:
    for constant in node.constants:
        yield from _hints_of_constant(constant)
    name = _name(node)
    if node.role == "causal_mask":
        yield "causal"
    elif node.role == "padding_mask":
        yield "padding"
    elif "causal" in name or "lookahead" in name or node.class_name in ("Tril", "Triu"):
        yield "causal"
    elif "padding" in name or "padmask" in name:
        yield "padding"
    elif node.class_name in _ORDERS | _EQUALITIES:
        # Of two operands one is the id of the padding or the length of the sequences, if only the
        # other one depends on values. Of two positions, neither or both depend on values.
        values = [flow.depends_on_input(edge.source) for edge in graph.incoming[node.id]]
        has_array = any(constant.shape for constant in node.constants)
        if any(values) and not all([*values, len(values) > 1]):
            yield "padding"
        elif node.class_name in _ORDERS and (len(values) > 1 or has_array):
            yield "causal"
    elif node.kind == "input":
        if "mask" in name or node.outputs[0].dtype == "bool":
            yield "padding" if len(node.outputs[0].shape) <= 2 else "unknown"
    elif node.kind != "operation" and not node.is_a(MASK_LAYERS):
        yield "unknown"


def _is_relative_bias(node: Node) -> bool:
    return node.role in _RELATIVE_ROLES or RELATIVE_BIAS.search(_name(node)) is not None


def _name(node: Node) -> str:
    return f"{node.class_name} {node.label}".lower().replace("_", "")
