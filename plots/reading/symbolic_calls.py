"""Symbolic calls of a layer and of the layers inside it.

Keras only asks a layer for the shapes of a symbolic call. To show the calls inside, `call` itself
has to run, and so that all of them are recorded, Keras must meet symbolic tensors throughout.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import cache, partial
from typing import Any
from unittest import mock

from plots.reading.base_calls import as_base, base_calls, overridden_base
from plots.reading.keras_calls import all_parameter_names, recorded_mask, run_time_mask
from plots.reading.keras_values import weights_of

OutputSpecs = dict[Any, Any]
"""(class, configuration, weights and arguments of a call) -> shapes and dtypes of its outputs.

Also id(layer) -> the layer that stands for its base class, the same one in all calls.
"""


class SymbolicRun:
    """One run of a layer's `call` on symbolic tensors.

    What `call` computes from weights and arrays alone would not be recorded: a layer called on an
    array, such as a table of positions, and operations on weights. So layers with weights get
    symbolic tensors in place of arrays, and in place of weights if `symbolic_weights`.

    Args:
        layer: The layer or operation.
        known: Output specs of earlier calls, to which those of this one are added.
        symbolic_weights: Whether symbolic tensors replace the weights that are attributes of the
            layer or of a layer inside.
        computes_shapes: Whether layers inside are run for the shapes of what they return, so that
            a layer that cannot take its arguments fails here.

    Attributes:
        stand_ins: Symbolic tensor and the weight or array that it stands for.
        read: id(layer or operation) -> weights whose values its call uses beside its own weights
            and its arguments; None -> those that `call` itself uses.
    """

    def __init__(
        self, layer: Any, known: OutputSpecs, symbolic_weights: bool, computes_shapes: bool
    ) -> None:
        import keras

        self.stand_ins: list[tuple[Any, Any]] = []
        self._layer = layer
        self._known = known
        self._computes_shapes = computes_shapes
        self.read: dict[int | None, list[Any]] = {}
        self._calling: list[Any] = []  # layers and operations whose shapes are inferred
        self._inside = layer._flatten_layers(False) if hasattr(layer, "_flatten_layers") else []
        self._base = overridden_base(layer)
        if self._base is not None:
            known.setdefault(id(layer), as_base(layer, self._base))
        self._weights: list[tuple[Any, Mapping[str, Any]]] = []  # layers and such attributes
        self._own = {id(weight): weight for weight in weights_of(layer)}
        inputs: dict[int, Any] = {}
        for weight in self._own.values() if symbolic_weights else ():
            inputs[id(weight)] = keras.Input(batch_shape=weight.shape, dtype=weight.dtype)
            self.stand_ins.append((inputs[id(weight)], weight))
        self._replaced = []
        for part in [layer, *self._inside] if symbolic_weights else []:
            given = {name: v for name, v in vars(part).items() if name not in _LISTS_OF_KERAS}
            new = {name: _replaced(value, inputs) for name, value in given.items()}
            new = {name: value for name, value in new.items() if value is not given[name]}
            self._weights.append((part, {name: given[name] for name in new}))
            self._replaced.append((part, new))

    def outputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call the layer as Keras does, and return what its `call` returns."""
        import keras

        layer, returned = self._layer, []
        if not isinstance(layer, keras.layers.Layer):
            return layer.call(*args, **kwargs)
        if "training" in all_parameter_names(layer.__class__):
            kwargs.setdefault("training", None)  # no default, which Keras would pass to sublayers

        def run(*args: Any, **kwargs: Any) -> Any:
            returned.append(layer.call(*args, **kwargs))
            return [like(tensor) for tensor in symbolic_ones(returned[0])]

        # Nothing that `call` adds or assigns, such as losses and seeds, is kept.
        overrides = [(layer, {"symbolic_call": run, "add_loss": lambda *args, **kwargs: None})]
        for part in self._inside:
            overrides.append((part, {"symbolic_call": partial(self._symbolic_call, part)}))
            if part.weights:
                overrides.append((part, {"call": partial(self._call, part, part.call)}))
        replaced = overridden([*overrides, *self._replaced])
        of_keras = _new_axes(), _operators_of_keras(), _known_conditions()
        with ExitStack() as stack:
            for context in (
                replaced,
                _recorded_partly(self._calling),
                *of_keras,
                self._reads_noted(),
            ):
                stack.enter_context(context)
            if self._base is not None:
                stack.enter_context(base_calls(layer, self._base, self._base_call))
            layer(*args, **kwargs)
        return returned[0]

    @contextmanager
    def _reads_noted(self) -> Iterator[None]:
        """Collect `read` in a scope in which no weight is changed."""
        import keras

        current_value = keras.StatelessScope.get_current_value
        owned: dict[int | None, set[int]] = {}

        def noted(scope: Any, weight: Any) -> Any:
            by = self._calling[0] if self._calling else None
            key = None if by is None else id(by)
            if key not in owned:
                owned[key] = set(map(id, weights_of(by)))
            if id(weight) in self._own and id(weight) not in owned[key]:
                owned[key].add(id(weight))
                self.read.setdefault(key, []).append(weight)
            return current_value(scope, weight)

        with (
            keras.StatelessScope(),
            mock.patch.object(keras.StatelessScope, "get_current_value", noted),
        ):
            yield

    def _call(self, layer: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a layer with weights that is given no symbolic tensor, on stand-ins for arrays."""
        import keras

        given = keras.tree.flatten((args, kwargs))
        arrays = [value for value in given if is_array(value) and len(value.shape)]
        if self._calling or not arrays or any(map(is_tensor, given)):
            return call(*args, **kwargs)
        args, kwargs = keras.tree.map_structure(self._stand_in, (args, kwargs))
        return layer(*args, **kwargs)

    def _stand_in(self, value: Any) -> Any:
        import keras

        if not is_array(value) or not len(value.shape):
            return value
        dtype = keras.backend.standardize_dtype(value.dtype)
        stand_in = keras.Input(batch_shape=tuple(value.shape), dtype=dtype)
        self.stand_ins.append((stand_in, value))
        return stand_in

    def _base_call(self, *args: Any, **kwargs: Any) -> Any:
        """Record a call that the layer makes of its base class as one call of that class."""
        import keras

        base = self._known[id(self._layer)]
        if self._calling or not symbolic_ones((args, kwargs)):
            return base.call(*args, **kwargs)
        with overridden(self._weights), _called(self._calling, base):
            outputs = self._spec(base, args, kwargs)
        # As patched by `_recorded_partly`.
        record = sys.modules[keras.layers.Layer.__module__].Node
        record(operation=base, outputs=outputs, call_args=args, call_kwargs=kwargs)
        return outputs

    def _symbolic_call(self, layer: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a layer inside symbolically, also with what only its `call` accepts."""
        import keras

        # Keras leaves `training` of a layer in the context of the calls that follow.
        context: tuple[Any, Mapping[str, Any]] = (layer._get_call_context(), {})
        with overridden([*self._weights, context]), _called(self._calling, layer):
            outputs = self._spec(layer, args, kwargs)
        if isinstance(outputs, keras.KerasTensor):
            mask = run_time_mask(layer, (args, kwargs))
            if mask is not None and recorded_mask(outputs) is None:
                outputs._keras_mask = mask
        return outputs

    def _spec(self, layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        import keras

        key = _key_of(layer, args, kwargs)
        if key is None or key not in self._known:
            outputs = _inferred_spec(layer, args, kwargs, self._computes_shapes)
            if key is None or id(layer) in self.read:
                return outputs
            self._known[key] = outputs
        return keras.tree.map_structure(like, self._known[key])


_LISTS_OF_KERAS = ("_trainable_variables", "_non_trainable_variables")
"""Attributes in which Keras itself keeps the weights of a layer."""


def _replaced(value: Any, inputs: Mapping[int, Any]) -> Any:
    """Return a weight, or those in lists and dictionaries, replaced; other values as they are."""
    if isinstance(value, dict):
        new = {key: _replaced(item, inputs) for key, item in value.items()}
        return new if any(new[key] is not item for key, item in value.items()) else value
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        items = [_replaced(item, inputs) for item in value]
        is_new = any(a is not b for a, b in zip(items, value, strict=True))
        return type(value)(items) if is_new else value
    return inputs.get(id(value), value)


def _inferred_spec(
    layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], computes: bool
) -> Any:
    """Return what a call returns, as the layer declares it, or else (or first) as it computes it.

    A declaration may refuse arguments of `call`, be that of a base class with another `call`, or
    leave sizes open that follow from those of the arguments, such as that of an `EinsumDense`.
    """
    import keras

    # Keras takes the product of a tensor and a number for sparse.
    dense = keras.tree.map_structure(like, (args, kwargs))
    declared = None
    if computes and not type(layer).__module__.startswith("keras."):
        return computed_spec(layer, *dense)
    if _declares_own_call(layer.__class__):
        with suppress(Exception):
            declared = type(layer).symbolic_call(layer, *args, **kwargs)
            if all(None not in tensor.shape for tensor in symbolic_ones(declared)):
                return declared
    try:
        return computed_spec(layer, *dense)
    except Exception:
        if declared is None:
            raise
        return declared


def computed_spec(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what a call returns, as Keras finds it by running the call without values.

    Only the symbolic tensors are arguments of that run: on JAX, Keras would replace the numbers in
    a tuple too, so that a call could not compare them.
    """
    import keras

    places = keras.tree.flatten((args, kwargs))

    class Run(keras.Operation):
        def call(self, *tensors: Any) -> Any:
            given = iter(tensors)
            flat = [next(given) if is_tensor(place) else place for place in places]
            inside = keras.tree.pack_sequence_as((args, kwargs), flat)
            return operation.call(*inside[0], **inside[1])

    return Run().compute_output_spec(*symbolic_ones(places))


@cache
def _declares_own_call(layer_class: type) -> bool:
    """Return whether a class declares shapes for its own `call`, not for that of a base class."""
    for base in layer_class.__mro__:
        if {"compute_output_shape", "compute_output_spec"} & vars(base).keys():
            return True
        if "call" in vars(base):
            return False
    return True


def symbolic_ones(outputs: Any) -> list[Any]:
    """Return the symbolic tensors among the outputs of a call."""
    import keras

    return [item for item in keras.tree.flatten(outputs) if is_tensor(item)]


def is_array(value: Any) -> bool:
    """Return whether a value is an array of NumPy or the backend, or a weight."""
    has_both = hasattr(value, "shape") and hasattr(value, "dtype")
    return has_both and not isinstance(value, str) and not is_tensor(value)


def is_tensor(value: Any) -> bool:
    """Return whether a value is a symbolic tensor."""
    import keras

    return isinstance(value, keras.KerasTensor)


@contextmanager
def _new_axes() -> Iterator[None]:
    """Let `x[None]` and `x[1:]` index a symbolic tensor, which Keras refuses, unlike `x[1:, :]`."""
    import keras

    get_item = keras.KerasTensor.__getitem__

    def with_tuple(tensor: Any, key: Any) -> Any:
        is_part = key is None or key is Ellipsis or isinstance(key, slice)
        return get_item(tensor, (key,) if is_part else key)

    with mock.patch.object(keras.KerasTensor, "__getitem__", with_tuple):
        yield


@contextmanager
def _operators_of_keras() -> Iterator[None]:
    """Let `array + x` with an array of JAX be the operator of the symbolic tensor x.

    JAX takes x for an array, by its `__jax_array__`, and fails.
    """
    import keras

    convert = vars(keras.KerasTensor).get("__jax_array__")
    if convert is None:  # already within
        yield
        return
    del keras.KerasTensor.__jax_array__
    try:
        yield
    finally:
        keras.KerasTensor.__jax_array__ = convert


@contextmanager
def _known_conditions() -> Iterator[None]:
    """Let `ops.cond` of a condition that is known, such as on a shape, call one function only.

    JAX compares what both return, which it cannot do with symbolic tensors.
    """
    import keras

    conditional = sys.modules[keras.ops.cond.__module__].Cond
    original = conditional.call

    def call(operation: Any, pred: Any, true_fn: Any, false_fn: Any) -> Any:
        try:
            is_true = bool(pred)
        except Exception:  # a number of a graph of the backend
            return original(operation, pred, true_fn, false_fn)
        return true_fn() if is_true else false_fn()

    with mock.patch.object(conditional, "call", call):
        yield


@contextmanager
def _called(calling: list[Any], operation: Any) -> Iterator[None]:
    calling.append(operation)
    try:
        yield
    finally:
        calling.pop()


@contextmanager
def _recorded_partly(calling: list[Any]) -> Iterator[None]:
    """Record calls that Keras refuses to record.

    Of calls whose outputs are not all symbolic tensors, such as (output, None), the symbolic ones
    are recorded; `positions` of the record has their places among all flat outputs. Operations that
    cannot tell the shapes of their outputs, such as an `einsum` with capital letters, are asked
    what they compute. Meanwhile an operation is in `calling`.
    """
    import keras

    record = sys.modules[keras.layers.Layer.__module__].Node
    operation_call = keras.Operation.symbolic_call

    def partly(operation: Any, *, outputs: Any, **arguments: Any) -> None:
        flat, symbolic = keras.tree.flatten(outputs), symbolic_ones(outputs)
        if any(hasattr(item, "_keras_history") for item in symbolic):
            name = type(operation).__name__
            raise ValueError(f"{name} returns a tensor of another call")
        if not symbolic or len(symbolic) == len(flat):
            record(operation, outputs=outputs, **arguments)
            return
        record(operation, outputs=symbolic, **arguments)
        kept = tuple(place for place, item in enumerate(flat) if is_tensor(item))
        operation._inbound_nodes[-1].positions = kept

    def symbolic_call(operation: Any, *args: Any, **kwargs: Any) -> Any:
        with _called(calling, operation):
            try:
                return operation_call(operation, *args, **kwargs)
            except Exception as error:
                try:
                    outputs = computed_spec(operation, args, kwargs)
                except Exception:
                    raise error from None
            partly(operation, outputs=outputs, call_args=args, call_kwargs=kwargs)
            return outputs

    with ExitStack() as stack:
        for known in (keras.layers.Layer, keras.Operation):
            module = sys.modules[known.__module__]
            stack.enter_context(mock.patch.object(module, "Node", partly))
        stack.enter_context(mock.patch.object(keras.Operation, "symbolic_call", symbolic_call))
        yield


def _key_of(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Return what determines the output shapes of a layer of Keras or KerasHub; None for others."""
    import keras

    if not type(layer).__module__.startswith(("keras.", "keras_hub.")):
        return None
    try:
        config = layer.get_config()
    except Exception:  # some read attributes that do not exist
        plain = bool | int | float | str | tuple | None
        config = {name: value for name, value in vars(layer).items() if isinstance(value, plain)}
    try:
        config = {k: v for k, v in config.items() if not k.endswith(("name", "path"))}
        weights = [(weight.shape, weight.dtype) for weight in layer.weights]
        structure = keras.tree.map_structure(_spec_of, (args, kwargs))
        return type(layer), repr((config, weights, structure))
    except Exception:  # an argument may be of any type
        return None


def _spec_of(value: Any) -> Any:
    has_spec = hasattr(value, "shape") and hasattr(value, "dtype")
    return (tuple(value.shape), str(value.dtype)) if has_spec else value


def like(value: Any) -> Any:
    """Return a new dense symbolic tensor like `value`, or another value as it is."""
    import keras

    return keras.KerasTensor(value.shape, value.dtype) if is_tensor(value) else value


@contextmanager
def overridden(overrides: Iterable[tuple[Any, Mapping[str, Any]]]) -> Iterator[None]:
    """Override attributes of objects, or names in a namespace, within the context."""
    with ExitStack() as stack:
        for owner, attributes in overrides:
            namespace = owner if isinstance(owner, dict) else vars(owner)
            stack.enter_context(mock.patch.dict(namespace, attributes))
        yield
