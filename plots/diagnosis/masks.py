"""What masks keep queries from seeing, read from the calls that compute them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

from plots.graph import Constant, Edge, Graph, Node

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
    """What is masked; None where the graph does not tell.

    Attributes:
        causal: Whether keys later than the query are.
        padding: Whether keys that are padding are.
    """

    causal: bool | None
    padding: bool | None


def what_is_masked(
    graph: Graph,
    depends_on_input: Callable[[str], bool],
    edges: Iterable[Edge],
    constants: Iterable[Constant],
) -> Masked:
    """Read the masks that come in by `edges` and as `constants`.

    Args:
        graph: The graph.
        depends_on_input: Whether a call depends on the values of the model's inputs, and not on
            their shapes alone: it tells padding from positions.
        edges: Tensors that say, or are added to, what queries may see.
        constants: Arrays and switches that do so.
    """
    hints: set[_Hint] = set()
    hints.update(hint for constant in constants for hint in _of_constant(constant))
    found: set[str] = set()
    waiting = [edge.source for edge in edges]
    while waiting:
        node = graph.node(waiting.pop())
        if node.id not in found and not _is_relative_bias(node):
            found.add(node.id)
            hints.update(_of_call(graph, node, depends_on_input))
            waiting.extend(edge.source for edge in graph.incoming[node.id])
    unsure = None if "unknown" in hints else False
    # Tokens become a mask in many ways besides a comparison: a cast to bool, their sign, ...
    may_be_padding = unsure is None or any(depends_on_input(node_id) for node_id in found)
    return Masked(
        causal=True if "causal" in hints else unsure,
        padding=True if "padding" in hints else None if may_be_padding else False,
    )


def _of_constant(constant: Constant) -> Iterator[_Hint]:
    if constant.pattern == "lower triangular" or ("causal" in constant.port and constant.value):
        yield "causal"
    elif constant.pattern == "" and sum(size != 1 for size in constant.shape or ()) > 1:
        yield "unknown"


def _of_call(graph: Graph, node: Node, depends_on_input: Callable[[str], bool]) -> Iterator[_Hint]:
    for constant in node.constants:
        yield from _of_constant(constant)
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
        # Of two operands one is the padding's id or the sequences' lengths, if only the other one
        # depends on values. Two positions are compared by neither or by both.
        values = [depends_on_input(edge.source) for edge in graph.incoming[node.id]]
        if any(values) and not all([*values, len(values) > 1]):
            yield "padding"
        elif node.class_name in _ORDERS and (len(values) > 1 or _has_array(node)):
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


def _has_array(node: Node) -> bool:
    return any(constant.shape for constant in node.constants)
