"""The function that a call ends with, and the call that computes an output."""

from __future__ import annotations

from plots.asked import once_per_call
from plots.graph import Graph, Node
from plots.layers import (
    LINEAR_PROJECTIONS,
    SHAPE_CHANGES,
    is_identity_like,
    is_softmax,
)

CLIPPED = frozenset({"relu", "relu6"})
"""Functions that return no negative numbers."""

BENT = CLIPPED | {"celu", "elu", "gelu", "leaky_relu", "mish", "selu", "silu", "swish", "tanh"}
"""Activations of hidden layers."""


@once_per_call
def activation_of(node: Node) -> str:
    """Return the name of the function that a call ends with: "softmax", "relu"; "" if none."""
    if is_softmax(node):
        return "softmax"
    if node.is_a(LINEAR_PROJECTIONS | {"Activation"}):
        return node.activation or ""
    if node.call_class:
        return ""
    name = node.class_name.lower()
    names = {"leakyrelu": "leaky_relu", "logsoftmax": "log_softmax"}
    known = BENT | {"sigmoid", "log_softmax"}
    return name if (name := names.get(name, name)) in known else ""


def last_call(graph: Graph, output: str, layout: frozenset[str] | set[str] = SHAPE_CHANGES) -> Node:
    """Return the call that computes the numbers of an output, past changes of their layout."""
    node = graph.node(output)
    while is_identity_like(node) or node.operation in layout - {"ExpandDims", "Ravel"}:
        if not graph.incoming[node.id]:
            break
        node = graph.node(graph.incoming[node.id][0].source)
    return node
