"""Open a composite layer by calling it on symbolic tensors.

Keras records these calls at the sublayers, as it records every call. The sublayers belong to the
user's model, so the records are removed after reading.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from types import MappingProxyType
from typing import Any

from plots.graph import Shape
from plots.reading.declarations import declared_role
from plots.reading.keras_calls import MaskOf, implicit_masks_of, parameter_names, recorded_mask


class Traced:
    """The graph of one call of a composite layer.

    Many layers need the sizes of their inputs as integers, which a free axis does not have. So free
    axes get primes that occur nowhere else in the call, which `free_axes` replaces again; or their
    sizes in a batch, if the layers inside are to be computed for that batch.

    Attributes:
        function: The graph, as a `keras.Function`.
        inputs: (inside, outside) pairs of the tensors that the call receives.
        masks: The same of their masks, whether the layers inside use them or not.
    """

    def __init__(self, call: Any, shapes: Mapping[int, Shape], mask_of: MaskOf) -> None:
        import keras

        operation = call.operation
        known = {size for weight in operation.weights for size in weight.shape}
        known |= {size for tensor in call.input_tensors for size in tensor.shape}
        primes = _primes_not_in(known)
        # Free axes at the same position share a size: the batch, and the length.
        self._stand_ins: dict[int, int] = {}
        inputs: dict[int, tuple[Any, Any]] = {}
        masks: dict[int, tuple[Any, Any]] = {}

        def fresh(value: Any) -> Any:
            if not isinstance(value, keras.KerasTensor):
                return value
            if id(value) not in inputs:
                shape = [
                    self._stand_ins.setdefault(axis, next(primes)) if size is None else size
                    for axis, size in enumerate(shapes.get(id(value), value.shape))
                ]
                inside = keras.Input(batch_shape=shape, dtype=value.dtype)
                inputs[id(value)] = inside, value
                if (mask := mask_of(value)) is not None:
                    inside._keras_mask = fresh_mask(mask, shape)
            return inputs[id(value)][0]

        def fresh_mask(mask: Any, shape: list[int]) -> Any:
            """Return the mask of a tensor of this shape; its axes are the tensor's first axes."""
            if id(mask) not in inputs | masks:
                sizes = [b if a is None else a for a, b in zip(mask.shape, shape, strict=False)]
                masks[id(mask)] = keras.Input(batch_shape=sizes, dtype=mask.dtype), mask
            return (inputs | masks)[id(mask)][0]

        args, kwargs = keras.tree.map_structure(fresh, (call.arguments.args, call.arguments.kwargs))
        positional = parameter_names(operation.__class__)[: len(args)]
        for port, mask in implicit_masks_of(call, mask_of):
            if "." not in port and port not in positional:
                kwargs[port] = (inputs | masks)[id(mask)][0]
        outputs = operation.call(*args, **kwargs)
        self.inputs = tuple(inputs.values())
        self.masks = tuple(masks.values())
        self.function = keras.Function([inside for inside, _ in self.inputs + self.masks], outputs)

    def free_axes(self, shape: Shape) -> Shape:
        """Return a shape inside the layer with the axes free that are free outside."""
        free = set(self._stand_ins.values())
        return tuple(None if size in free else size for size in shape)


def trace(
    call: Any,
    cleanup: ExitStack,
    shapes: Mapping[int, Shape] = MappingProxyType({}),
    mask_of: MaskOf = recorded_mask,
) -> Traced | None:
    """Return the graph of a composite layer's call, or None if the layer stays one node.

    Keras's own layers and the attention layers of Keras and KerasHub stay one node. So does a layer
    that declares the role "attention", has weights besides those of its sublayers, or whose `call`
    does not run on symbolic tensors. Names of other classes do not matter.

    Args:
        call: The call record.
        cleanup: Removes the new call records; close it after reading the graph.
        shapes: id(tensor) -> shape in a batch, if known.
        mask_of: Returns the mask that a tensor carries.
    """
    import keras

    operation = call.operation
    is_layer = isinstance(operation, keras.layers.Layer)
    if not is_layer or isinstance(operation, keras.Function | keras.Sequential):
        return None
    if not operation.weights or _is_elementary(operation):
        return None
    cleanup.enter_context(_discard_new_calls(operation._flatten_layers()))
    try:
        traced = Traced(call, shapes, mask_of)
    except Exception:  # user code may raise anything; the layer stays one node
        return None
    inside = [op for op in traced.function.operations if isinstance(op, keras.layers.Layer)]
    weights = {id(weight) for layer in inside for weight in layer.weights}
    return traced if {id(weight) for weight in operation.weights} <= weights else None


def _is_elementary(layer: Any) -> bool:
    """Return whether a layer is one of Keras, or an attention layer of Keras or KerasHub.

    A layer of any other class is one if it declares the role "attention" (`plots.declaration`).

    KerasHub has no base class for attention layers, but "Attention" in the names of its own.
    """
    import keras

    attention = (
        keras.layers.AdditiveAttention,
        keras.layers.Attention,
        keras.layers.GroupQueryAttention,
        keras.layers.MultiHeadAttention,
    )
    return (
        type(layer).__module__.startswith("keras.")
        or isinstance(layer, attention)
        or declared_role(layer) == "attention"
        or any(
            base.__module__.startswith("keras_hub.") and "Attention" in base.__name__
            for base in type(layer).__mro__
        )
    )


def _primes_not_in(known: set[int | None]) -> Iterator[int]:
    return (
        n
        for n in count(11)
        if n not in known and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))
    )


def trace_with_masks(
    model: Any,
    given: Sequence[Any],
    masks: Sequence[Any],
    shapes: Mapping[int, Shape],
    cleanup: ExitStack,
) -> Any:
    """Return a nested model as a function of masked tensors and their masks.

    The model itself records its calls without masks.

    Args:
        model: The model.
        given: The tensor passed for each of its inputs.
        masks: The mask of each tensor, or None.
        shapes: id(tensor) -> shape in a batch, if known.
        cleanup: As for `trace`.

    Returns:
        A `keras.Function` of as many tensors, followed by the masks that are not None.
    """
    import keras

    inputs, inner_masks = [], []
    for tensor, value, mask in zip(model.inputs, given, masks, strict=True):
        shape = shapes.get(id(value), tensor.shape)
        inputs.append(keras.Input(batch_shape=shape, dtype=tensor.dtype))
        if mask is not None:
            shape = shapes.get(id(mask), mask.shape)
            inner_masks.append(keras.Input(batch_shape=shape, dtype=mask.dtype))
            inputs[-1]._keras_mask = inner_masks[-1]
    inside = keras.Function(model.inputs, model.outputs)
    cleanup.enter_context(_discard_new_calls(inside.operations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about masks that end here; Keras warns when it computes
        outputs = inside.call(inputs)
    return keras.Function([*inputs, *inner_masks], outputs)


@contextmanager
def _discard_new_calls(operations: Iterable[Any]) -> Iterator[None]:
    """Remove the call records that are added to these operations within the context.

    Existing references to the records stay valid.
    """
    records = [r for op in operations for r in (op._inbound_nodes, op._outbound_nodes)]
    lengths = [len(record) for record in records]
    try:
        yield
    finally:
        for record, length in zip(records, lengths, strict=True):
            del record[length:]
