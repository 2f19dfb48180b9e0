"""Whether a call without weights has matrix products, proven by calling it on symbolic tensors."""

from __future__ import annotations

import warnings
from typing import Any

from plots.annotations import Declaration
from plots.graph import Node
from plots.reading.keras_calls import computing_order, implicit_masks_of, parameter_names
from plots.reading.keras_values import base_names, call_class, config_of


def is_free_of_products(call: Any, declaration: Declaration | None) -> bool:
    """Return whether all operations inside a call are known to have no matrix products.

    Asked of what neither its class nor its declaration tells: a `Lambda`, an `Activation` of a
    function, and layers and operations of your own that have no weights. It is False for others.
    """
    if declaration is not None and declaration.products is not None:
        return False
    return _is_unknown(call.operation) and _has_zero_cost_inside(call)


def _is_unknown(operation: Any) -> bool:
    import keras

    if getattr(operation, "weights", ()) or isinstance(operation, keras.Model | keras.Function):
        return False
    if isinstance(operation, keras.layers.Activation):
        return not getattr(operation.activation, "__module__", "").startswith("keras.")
    return isinstance(operation, keras.layers.Lambda) or call_class(type(operation)) != ""


def _has_zero_cost_inside(call: Any) -> bool:
    import keras

    inputs: dict[int, Any] = {}

    def fresh(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor):
            return value
        if id(value) not in inputs:
            inputs[id(value)] = keras.Input(batch_shape=value.shape, dtype=value.dtype)
        return inputs[id(value)]

    try:
        args, kwargs = keras.tree.map_structure(fresh, (call.arguments.args, call.arguments.kwargs))
        positional = parameter_names(type(call.operation))[: len(args)]
        for port, mask in implicit_masks_of(call):
            if "." not in port and port not in positional:
                kwargs[port] = fresh(mask)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the model has given them before
            outputs = call.operation.call(*args, **kwargs)
        function = keras.Function(list(inputs.values()), outputs)
    except Exception:  # user code may raise anything; then nothing is proven
        return False
    _discard_calls_of(function)
    inside = (op for op in function.operations if not isinstance(op, keras.layers.InputLayer))
    return all(map(_is_zero_cost, inside))


def _discard_calls_of(function: Any) -> None:
    """Remove the records of the calls inside, which layers of the user's model may have, too."""
    traced = computing_order(function)
    for operation in function.operations:
        for records in (operation._inbound_nodes, operation._outbound_nodes):
            records[:] = [record for record in records if id(record) not in traced]


def _is_zero_cost(operation: Any) -> bool:
    import keras

    from plots.costs.zero_cost import is_zero_cost

    node = Node(
        id="",
        name="",
        kind="layer" if isinstance(operation, keras.layers.Layer) else "operation",
        class_name=type(operation).__name__,
        bases=base_names(operation.__class__),
        namespace="",
        layer="",
        outputs=(),
        parameters=len(getattr(operation, "weights", ())),
        trainable_parameters=0,
        trainable=None,
        config=config_of(operation),
        call_class=call_class(type(operation)),
    )
    is_of_keras = not node.call_class and not isinstance(operation, keras.Model | keras.Function)
    return is_of_keras and is_zero_cost(node, has_floats=True)
