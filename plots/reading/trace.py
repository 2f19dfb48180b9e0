"""Look into a layer that is made of layers, by calling it on symbolic tensors.

Keras records such a call at the layers that it comes to, as every other one. Those are the layers
of the user's model, so what was recorded is cut off again when it has been read.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from itertools import count
from types import MappingProxyType
from typing import Any

from plots.graph import Shape
from plots.reading.keras_calls import implicit_masks_of, parameter_names
from plots.reading.masks import MaskOf, recorded_mask


class Traced:
    """What happens inside one call of a composite layer.

    Many layers ask for the sizes of their inputs as plain numbers, which a free axis does not have.
    So free axes get primes that occur nowhere else in the call, and are freed again by `freed`; or
    the sizes that they have in one batch, for which the inside is then to be computed.

    Attributes:
        function: The inside, as a graph.
        given: (inside, outside) of the tensors that the call was given.
        masks: The same of the masks that came with them, whether the inside takes them or not.
    """

    def __init__(self, call: Any, shapes: Mapping[int, Shape], mask_of: MaskOf) -> None:
        import keras

        operation = call.operation
        known = {size for weight in operation.weights for size in weight.shape}
        known |= {size for tensor in call.input_tensors for size in tensor.shape}
        primes = _primes_not_in(known)
        # Axes at the same place are free together: the batch, and the length.
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
            """The mask of a tensor of this shape: its axes are the first ones of the tensor."""
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
        self.given = tuple(inputs.values())
        self.masks = tuple(masks.values())
        self.function = keras.Function([inside for inside, _ in self.given + self.masks], outputs)

    def freed(self, shape: Shape) -> Shape:
        """A shape of the inside, with the axes free again that are free outside."""
        free = set(self._stand_ins.values())
        return tuple(None if size in free else size for size in shape)


def trace(
    call: Any,
    undoing: ExitStack,
    shapes: Mapping[int, Shape] = MappingProxyType({}),
    mask_of: MaskOf = recorded_mask,
) -> Traced | None:
    """The inside of a call of a layer that is made of layers; None if it cannot be looked into.

    `shapes` are those of tensors in one batch, by id(tensor), if they are known, and `mask_of` says
    which mask a tensor carries. `undoing` is to be closed when the inside has been read: it cuts
    off what Keras has recorded here.

    The parts that Keras itself is made of, and attention, stay closed: they are the words that such
    a picture is written in. So does a layer that has weights of its own beside those of its parts,
    or whose `call` does not run on symbolic tensors.
    """
    import keras

    operation = call.operation
    is_layer = isinstance(operation, keras.layers.Layer)
    if not is_layer or isinstance(operation, keras.Function | keras.Sequential):
        return None
    standard = type(operation).__module__.startswith("keras.")
    if standard or not operation.weights or "Attention" in type(operation).__name__:
        return None
    undoing.enter_context(_as_before(operation._flatten_layers()))
    try:
        traced = Traced(call, shapes, mask_of)
    except Exception:  # `call` is somebody's Python: whatever it raises, the layer stays one box
        return None
    inside = [op for op in traced.function.operations if isinstance(op, keras.layers.Layer)]
    weights = {id(weight) for layer in inside for weight in layer.weights}
    return traced if {id(weight) for weight in operation.weights} <= weights else None


def _primes_not_in(known: set[int | None]) -> Iterator[int]:
    return (
        n
        for n in count(11)
        if n not in known and all(n % divisor for divisor in range(2, math.isqrt(n) + 1))
    )


def with_masks(
    model: Any,
    given: Sequence[Any],
    masks: Sequence[Any],
    shapes: Mapping[int, Shape],
    undoing: ExitStack,
) -> Any:
    """A nested model as it computes masked tensors: a function of them and of their masks.

    What the model has recorded itself was recorded without masks.

    Args:
        model: The model.
        given: What it is called with, for each of its inputs.
        masks: The masks of them, or None.
        shapes: Those of tensors in one batch, by id(tensor), if they are known.
        undoing: As for `trace`.

    Returns:
        A `keras.Function` of as many tensors, and then the masks that there are.
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
    undoing.enter_context(_as_before(inside.operations))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on masks that end here: whoever computes it is told
        outputs = inside.call(inputs)
    return keras.Function([*inputs, *inner_masks], outputs)


def _as_before(operations: Iterable[Any]) -> ExitStack:
    """What cuts the calls of these operations off again, when it is closed, that come from now on.

    Whoever has such a call can still read it; only the operations do not know of it any more.
    """
    stack = ExitStack()
    for operation in operations:
        for recorded in (operation._inbound_nodes, operation._outbound_nodes):
            stack.callback(_cut, recorded, len(recorded))
    return stack


def _cut(recorded: list[Any], length: int) -> None:
    del recorded[length:]
