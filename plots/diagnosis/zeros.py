"""Which functions of single numbers return zero for zero."""

from __future__ import annotations

from plots.graph import Node
from plots.layers import LINEAR_PROJECTIONS, is_softmax

KEEP_ZERO = frozenset(
    {"elu", "gelu", "leaky_relu", "linear", "mish", "relu", "relu6", "selu", "silu", "softsign"}
) | {"swish", "tanh"}
"""Functions that return 0 for 0."""

MOVE_ZERO = frozenset({"exponential", "hard_sigmoid", "sigmoid", "softmax", "softplus"})
"""Functions that return another number for 0."""

_CALLS = {
    "ELU": "elu",
    "Elu": "elu",
    "Gelu": "gelu",
    "LeakyReLU": "leaky_relu",
    "LeakyRelu": "leaky_relu",
    "ReLU": "relu",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Silu": "silu",
    "Softplus": "softplus",
    "Tanh": "tanh",
}


def function_of(node: Node) -> str:
    """Return the function that a projection ends with, or that a call is; "" if none is known."""
    if is_softmax(node):
        return "softmax"
    if node.is_a(LINEAR_PROJECTIONS | {"Activation"}):
        return node.activation or "linear"
    if node.operation == "ReLU" and node.config.get("threshold"):
        return ""
    return _CALLS.get(node.operation, "")


def has_bias(node: Node) -> bool:
    """Return whether a projection adds a vector of weights."""
    return bool(node.config.get("use_bias", node.config.get("bias_axes")))
