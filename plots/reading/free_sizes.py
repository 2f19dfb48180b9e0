"""Sizes inside opened layers that follow from axes of variable size.

Layers are opened with numbers in place of free axes (`Traced`). A size that is computed from them,
such as that of a batch of windows, is a number, too. It is free if it differs in another reading,
with other numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from plots.graph import Constant, Graph, Node, Tensor
from plots.reading.keras_values import weights_of


def has_unexplained_sizes(graph: Graph, model: Any) -> bool:
    """Return whether a size inside an opened layer is none of those that the model states.

    Such as those of its weights, of configurations, and of tensors outside of opened layers.
    """
    known = {1, *(size for weight in weights_of(model) for size in weight.shape)}
    inside = []
    for node in graph.nodes:
        known.update(_numbers(node.config) if node.kind != "operation" else ())
        sizes = [size for tensor in node.outputs for size in tensor.shape if size is not None]
        inside += sizes if node.opened else []
        known.update(() if node.opened else sizes)
    return not known.issuperset(inside)


def with_free_sizes(graph: Graph, other: Graph) -> Graph:
    """Return a graph with None for the sizes in which another reading of the model differs.

    A reading with other calls shows nothing; the graph is returned as it is.
    """
    edges = [edge.id for edge in graph.edges], [edge.id for edge in other.edges]
    if list(graph.index) != list(other.index) or edges[0] != edges[1]:
        return graph
    return replace(
        graph,
        nodes=tuple(map(_node, graph.nodes, other.nodes)),
        edges=tuple(
            replace(edge, tensor=_tensor(edge.tensor, like.tensor))
            for edge, like in zip(graph.edges, other.edges, strict=True)
        ),
    )


def _node(node: Node, other: Node) -> Node:
    if node == other:
        return node
    outputs = tuple(map(_tensor, node.outputs, other.outputs))
    config = _common(node.config, other.config) if node.kind == "operation" else node.config
    has_same = len(node.constants) == len(other.constants)
    constants = map(_constant, node.constants, other.constants) if has_same else node.constants
    return replace(node, outputs=outputs, config=config, constants=tuple(constants))


def _tensor(tensor: Tensor, other: Tensor) -> Tensor:
    if tensor == other or len(tensor.shape) != len(other.shape):
        return tensor
    sizes = zip(tensor.shape, other.shape, strict=True)
    return replace(tensor, shape=tuple(a if a == b else None for a, b in sizes))


def _constant(constant: Constant, other: Constant) -> Constant:
    """Return an array with its free axes, and without a digest if only one reading has it."""
    shapes = constant.shape or (), other.shape or ()
    if shapes[0] == shapes[1] or len(shapes[0]) != len(shapes[1]):
        return constant
    shape = tuple(a if a == b else None for a, b in zip(*shapes, strict=True))
    return replace(constant, shape=shape, digest=None)


def _common(value: Any, other: Any) -> Any:
    """Return a configuration with None for the numbers in which another one differs."""
    if isinstance(value, Mapping) and isinstance(other, Mapping):
        return {key: _common(item, other.get(key)) for key, item in value.items()}
    if isinstance(value, list) and isinstance(other, list) and len(value) == len(other):
        return [*map(_common, value, other)]
    return None if isinstance(value, int) and value != other else value


def _numbers(value: Any) -> Iterator[int]:
    """Yield the whole numbers in a configuration."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for item in value:
            yield from _numbers(item)
    elif isinstance(value, int):
        yield value
