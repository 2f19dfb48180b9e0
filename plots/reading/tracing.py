"""Symbolic calls of composite layers, which show the calls inside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any

from plots.graph import Shape
from plots.reading.keras_calls import (
    MaskOf,
    all_parameter_names,
    implicit_masks_of,
    parameter_names,
)
from plots.reading.keras_values import declared_role

OutputSpecs = dict[Any, Any]
"""(class, configuration, weights and arguments of a call) -> shapes and dtypes of its outputs."""


class Traced:
    """The graph of one call of a composite layer, which is called on symbolic tensors.

    Keras records these calls at the sublayers, as it records every call. The sublayers belong to
    the user's model, so the records are removed after reading.

    Many layers need the sizes of their inputs as integers, which a free axis does not have. So free
    axes get primes that occur nowhere else in the call, which `free_axes` replaces again; or their
    sizes in a batch, if the layers inside are to be computed for that batch.

    Args:
        call: The call record (Keras: `Node`).
        shapes: Shapes of tensors in a batch, by id(tensor).
        mask_of: Returns the mask that a tensor carries.
        known: Output specs of earlier calls, to which those of this one are added.

    Attributes:
        function: The graph, as a `keras.Function`.
        inputs: (inside, outside) pairs of the tensors that the call receives.
        masks: The same of their masks, whether the layers inside use them or not.
    """

    def __init__(
        self, call: Any, shapes: Mapping[int, Shape], mask_of: MaskOf, known: OutputSpecs
    ) -> None:
        import keras

        operation = call.operation
        sizes = {size for weight in operation.weights for size in weight.shape}
        sizes |= {size for tensor in call.input_tensors for size in tensor.shape}
        odd = (n for n in count(11, 2) if n not in sizes)
        primes = (n for n in odd if all(n % divisor for divisor in range(3, math.isqrt(n) + 1)))
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
        outputs = _outputs_inside(operation, args, kwargs, known)
        self.inputs = tuple(inputs.values())
        self.masks = tuple(masks.values())
        self.function = keras.Function([inside for inside, _ in self.inputs + self.masks], outputs)

    def free_axes(self, shape: Shape) -> Shape:
        """Return a shape inside the layer with the axes free that are free outside."""
        free = set(self._stand_ins.values())
        return tuple(None if size in free else size for size in shape)


def _outputs_inside(
    layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], known: OutputSpecs
) -> Any:
    """Call a layer as Keras does, and return the symbolic tensors that its `call` returns.

    Keras only asks for the shapes of a symbolic call, and then replaces its outputs by new ones.
    So `call` itself has to run, after Keras has prepared the arguments.
    """
    import keras

    returned = []
    if "training" in all_parameter_names(layer.__class__):
        kwargs.setdefault("training", None)  # no default, which Keras would pass on to sublayers

    def run(*args: Any, **kwargs: Any) -> Any:
        returned.append(layer.call(*args, **kwargs))
        return keras.tree.map_structure(_like, returned[0])

    overrides = {sub: _symbolic_call(sub, known) for sub in layer._flatten_layers(False)}
    # Nothing that `call` adds or assigns, such as losses and seeds, is kept.
    with _overridden({**overrides, layer: run}), keras.StatelessScope():
        layer(*args, **kwargs)
    return returned[0]


def _symbolic_call(layer: Any, known: OutputSpecs) -> Callable[..., Any]:
    """Return a symbolic call of a sublayer that also accepts what only its `call` accepts."""
    import keras

    def symbolic_call(*args: Any, **kwargs: Any) -> Any:
        key = _key_of(layer, args, kwargs)
        if key is None or key not in known:
            try:
                outputs = type(layer).symbolic_call(layer, *args, **kwargs)
            except Exception:  # its own `compute_output_spec` may refuse arguments of `call`
                outputs = keras.Operation.compute_output_spec(layer, *args, **kwargs)
            if key is None:
                return outputs
            known[key] = outputs
        return keras.tree.map_structure(_like, known[key])

    return symbolic_call


def _key_of(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what determines the output shapes of a layer of Keras or KerasHub; None for others."""
    import keras

    if not type(layer).__module__.startswith(("keras.", "keras_hub.")):
        return None
    try:
        config = {name: value for name, value in layer.get_config().items() if name != "name"}
        weights = [(weight.shape, weight.dtype) for weight in layer.weights]
        structure = keras.tree.map_structure(_spec_of, (args, kwargs))
        return type(layer), repr((config, weights, structure))
    except Exception:  # a configuration may be missing
        return None


def _spec_of(value: Any) -> Any:
    has_spec = hasattr(value, "shape") and hasattr(value, "dtype")
    return (tuple(value.shape), str(value.dtype)) if has_spec else value


def _like(value: Any) -> Any:
    """Return a new symbolic tensor like `value`, or another value as it is."""
    import keras

    if isinstance(value, keras.KerasTensor):
        return keras.KerasTensor(value.shape, value.dtype, sparse=value.sparse)
    return value


@contextmanager
def _overridden(symbolic_calls: Mapping[Any, Callable[..., Any]]) -> Iterator[None]:
    """Override `symbolic_call` of these layers within the context."""
    before = {layer: vars(layer).get("symbolic_call") for layer in symbolic_calls}
    try:
        for layer, function in symbolic_calls.items():
            vars(layer)["symbolic_call"] = function
        yield
    finally:
        for layer, function in before.items():
            if function is None:
                vars(layer).pop("symbolic_call", None)
            else:
                vars(layer)["symbolic_call"] = function


@contextmanager
def discard_new_calls(operations: Iterable[Any]) -> Iterator[None]:
    """Remove the call records that are added to these operations within the context."""
    records = [r for op in operations for r in (op._inbound_nodes, op._outbound_nodes)]
    lengths = [len(record) for record in records]
    try:
        yield
    finally:
        for record, length in zip(records, lengths, strict=True):
            del record[length:]


def is_elementary(layer: Any) -> bool:
    """Return whether a layer is one of Keras, or an attention layer of Keras or KerasHub.

    A layer of any other class is one if it declares the role "attention" (`plots.layers`). A layer
    of KerasHub around another attention layer is a block, whatever its name.
    """
    if type(layer).__module__.startswith("keras.") or declared_role(layer) == "attention":
        return True
    return _is_attention(layer) and not any(map(_is_attention, layer._flatten_layers(False)))


def _is_attention(layer: Any) -> bool:
    """Return whether the class of a layer is an attention of Keras or KerasHub by its name."""
    # These attention layers have no common base class, but "Attention" in their names.
    known = (c for c in type(layer).__mro__ if c.__module__.startswith(("keras.", "keras_hub.")))
    return any("Attention" in base.__name__ for base in known)
