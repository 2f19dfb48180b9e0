"""The modes in which layers run: training or inference, and their precision."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from plots.reading.keras_calls import RecordedCall


@contextmanager
def training_mode(training: bool) -> Iterator[None]:
    """Let layers run as inside of `model(inputs, training=training)`.

    Without it, a layer that takes no `training` argument is called on its own, and the layers
    inside it follow the default of whichever of them comes first.
    """
    from keras.src.backend.common import global_state
    from keras.src.layers.layer import CallContext

    before = global_state.get_global_attribute(_CONTEXT)
    context = CallContext(entry_layer=None)
    context.set_value("training", training)
    global_state.set_global_attribute(_CONTEXT, context)
    try:
        yield
    finally:
        global_state.set_global_attribute(_CONTEXT, before)


_CONTEXT = "current_call_ctx"  # of Keras


@contextmanager
def full_precision(calls: Iterable[RecordedCall]) -> Iterator[None]:
    """Let layers of half precision compute in float32; their policies are put back."""
    import keras
    from keras.src.backend import AutocastScope

    full = keras.DTypePolicy("float32")
    layers = {
        id(layer): layer
        for call in calls
        if isinstance(call.record.operation, keras.layers.Layer)
        for layer in call.record.operation._flatten_layers()
    }
    before = [(layer, layer._dtype_policy) for layer in layers.values()]
    try:
        for layer, policy in before:
            # Those of quantized layers stay.
            if type(policy) is keras.DTypePolicy and "float" in policy.name:
                layer._dtype_policy = full
        with AutocastScope("float32"):
            yield
    finally:
        for layer, policy in before:
            layer._dtype_policy = policy
