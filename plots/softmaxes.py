"""Softmaxes of a graph: their axes, and the calls between scores and a softmax."""

from __future__ import annotations

from plots.graph import Edge, Graph, Node, Tensor
from plots.layers import is_softmax
from plots.traversal import once_per_graph, reachability, walk_back

_KEEPS_SUMS = frozenset({"Add", "ExpandDims", "Maximum"})  # with a small constant, for one
_MERGES = frozenset({"Add", "Maximum", "Minimum", "Multiply", "Subtract"})
ELEMENTWISE = _MERGES | {"Average", "Divide", "TrueDivide", "Where"}
"""Operations that combine tensors number by number."""


def softmax_axes(graph: Graph, node: Node) -> tuple[int, ...]:
    """Return the axes of a softmax, also of one in steps, exp(x) / sum(exp(x)); () for others."""
    rank = len(node.outputs[0].shape)
    if not rank:
        return ()
    if is_softmax(node):
        axes = node.config.get("axis", -1)
    elif node.operation in ("Divide", "TrueDivide") and len(graph.incoming[node.id]) == 2:
        given, total = (graph.node(edge.source) for edge in graph.incoming[node.id])
        total = walk_back(graph, total, lambda call: call.operation in _KEEPS_SUMS)
        edges = graph.incoming[total.id] if total.operation == "Sum" else ()
        is_its_sum = any(edge.source == given.id for edge in edges)
        axes = total.config.get("axis") if is_its_sum and _is_of_exp(graph, given) else ()
    else:
        return ()
    axes = [axes] if isinstance(axes, int) else axes or ()
    return tuple(axis % rank for axis in axes if isinstance(axis, int))


def is_always_one(node: Node) -> bool:
    """Return whether a call ends with a softmax over axes of size 1."""
    sizes = node.outputs[0].shape
    if not sizes or not (is_softmax(node) or node.activation == "softmax"):
        return False
    axis = node.config.get("axis", -1) if is_softmax(node) else -1
    axes = axis if isinstance(axis, list | tuple) else [axis]
    return all(isinstance(a, int) and sizes[a] == 1 for a in axes)


def _is_of_exp(graph: Graph, node: Node) -> bool:
    """Return whether a call returns exponentials, which may be masked."""
    while node.operation in ELEMENTWISE and graph.incoming[node.id]:
        floats = float_inputs(graph, node)
        if not floats:
            return False
        node = graph.node(floats[0].source)
    return node.operation == "Exp" or (
        node.operation == "Activation" and node.activation in ("exp", "exponential")
    )


@once_per_graph
def calls_before_softmax(graph: Graph) -> frozenset[str]:
    """Return the calls between attention scores and their softmax, such as masks and biases."""
    before = reachability(graph, stop=lambda node: not _keeps_shape(graph, node))
    ends = [node.id for node in graph.nodes if is_softmax(node)]
    return frozenset(before.ancestors(*ends)) if ends else frozenset()


def _keeps_shape(graph: Graph, node: Node) -> bool:
    shapes = {edge.tensor.shape for edge in graph.incoming[node.id]}
    return bool(shapes) and node.outputs[0].shape in shapes and not node.parameters


def float_inputs(graph: Graph, node: Node) -> list[Edge]:
    """Return the edges of the floats that a call takes."""
    return [edge for edge in graph.incoming[node.id] if is_float(edge.tensor)]


def is_float(tensor: Tensor) -> bool:
    """Return whether a tensor holds floats."""
    return "float" in tensor.dtype
