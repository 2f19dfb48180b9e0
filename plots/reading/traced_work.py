"""What calling a layer on symbolic tensors shows of its work, and when it has to be asked."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from plots.graph import Edge, Node, Shape
from plots.layers import is_attention, is_identity_like
from plots.reading.functions import reason_for_one_call
from plots.reading.keras_calls import MaskOf
from plots.reading.tracing import (
    Traced,
    is_layer_of_hub,
    is_unknown,
    is_unknown_without_weights,
)
from plots.reading.traits import traits_of

Found = Mapping[str, Any]
"""Values of `free_of_products`, `returns_input` and `traits` of a node."""


def tells_its_work(node: Node, call: Any) -> bool:
    """Return whether the class and the declaration of a call tell all that a trace would."""
    if not is_unknown(call.operation) or reason_for_one_call(call.operation):
        return True
    has_weights = not is_unknown_without_weights(call.operation)
    if has_weights and is_layer_of_hub(call.operation) and not node.call_class:
        return is_known_class(node)
    return bool(node.role) and (has_weights or _has_products(node))


def is_known_class(node: Node) -> bool:
    """Return whether the class of a call with weights tells what it computes."""
    from plots.costs.flop_rules import is_known

    return is_attention(node) or is_known(node)


def _has_products(node: Node) -> bool:
    return node.declaration is not None and node.declaration.products is not None


def kind_of_call(node: Node, call: Any, shapes: Mapping[int, Shape], mask_of: MaskOf) -> Hashable:
    """Return the same for calls of which a trace shows the same; `None` if that is not known.

    Layers that declare what they compute, of one class and configuration, differ in their weights
    alone.
    """
    if node.declaration is None:
        return None
    config = {key: x for key, x in node.config.items() if not key.endswith("_initializer")}
    given = [
        (shapes.get(id(tensor), tensor.shape), str(tensor.dtype), mask_of(tensor) is not None)
        for tensor in [*call.input_tensors, *call.outputs]
    ]
    text = json.dumps([config, given, repr(node.constants)], sort_keys=True, default=repr)
    return type(call.operation), text


def found_by_trace(
    node: Node,
    call: Any,
    nodes: Sequence[Node],
    edges: Sequence[Edge],
    operations: Sequence[Any],
    traced: Traced,
    ends: Sequence[tuple[str, int]],
) -> Found:
    """Return what the calls inside of a layer show; `operations` are those of `nodes`."""
    from plots.costs.zero_cost import is_zero_cost

    def is_free(inside: Node, operation: Any) -> bool:
        is_known = not inside.call_class and not is_unknown_without_weights(operation)
        return inside.free_of_products or (is_known and is_zero_cost(inside, has_floats=True))

    shapes = [tensor.shape for tensor in [*call.input_tensors, *call.outputs]]
    keeps_shape = len(call.input_tensors) == len(call.outputs) == 1 and shapes[0] == shapes[1]
    has_weights = not is_unknown_without_weights(call.operation)
    keeps_values = keeps_shape and all(map(is_identity_like, nodes))
    return {
        "free_of_products": not (_has_products(node) or has_weights)
        and all(map(is_free, nodes, operations)),
        "returns_input": not (node.role or has_weights) and keeps_values,
        "traits": () if node.role else traits_of(nodes, edges, traced, ends),
    }
