"""Questions about one layer or operation of Keras."""

from __future__ import annotations

import inspect
from typing import Any

from plots.reading.keras_values import call_class, describes_call
from plots.reading.tracing import is_own_layer


def is_untold(operation: Any) -> bool:
    """Return whether a layer with weights is one of your own that declares nothing."""
    has_weights = bool(getattr(operation, "weights", ()))
    return has_weights and is_own_layer(operation) and not describes_call(operation)


def adds_losses(layer: Any) -> bool:
    """Return whether the `call` of a layer calls `add_loss`."""
    code = getattr(inspect.unwrap(type(layer).call), "__code__", None)
    return code is not None and "add_loss" in code.co_names


def layer_inside(operation: Any) -> Any:
    """Return the layer inside a `TimeDistributed`, else the operation itself."""
    import keras

    is_mapped = isinstance(operation, keras.layers.TimeDistributed)
    return operation.layer if is_mapped and not call_class(type(operation)) else operation


def with_sublayers(operation: Any) -> list[Any]:
    """Return a layer and the layers inside, or an operation."""
    flatten = getattr(operation, "_flatten_layers", None)
    return [operation] if flatten is None else [*flatten()]


def inputs_of(model: Any) -> Any:
    """Return the inputs of a model, or None if it is not built."""
    try:
        return model.inputs
    except (AttributeError, ValueError):
        return None
