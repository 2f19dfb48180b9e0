"""Symbolic calls of composite layers, which show the calls inside them."""

from __future__ import annotations

import math
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import count
from typing import Any
from unittest import mock

from plots.annotations import counted
from plots.graph import Shape
from plots.layers import ATTENTION_LAYERS
from plots.reading.keras_calls import (
    MaskOf,
    all_parameter_names,
    arguments_of,
    computing_order,
    implicit_masks_of,
    parameter_names,
    recorded_mask,
    run_time_mask,
)
from plots.reading.keras_values import call_class, declared_role, is_auto_named, snake_case

OutputSpecs = dict[Any, Any]
"""(class, configuration, weights and arguments of a call) -> shapes and dtypes of its outputs."""


_MOST_STEPS = 50
"""Equal operations that the call of one layer may make."""


class ClosedError(ValueError):
    """A composite layer cannot be opened; the message is the reason."""


class Traced:
    """The graph of one call of a layer or operation, which is called on symbolic tensors.

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
        sizes_of: Returns the key of the size that a free axis shares with others: from the axis and
            the number of axes.
        smallest: The smallest size of a free axis.
        symbolic_weights: Whether symbolic tensors replace the weights that are attributes of the
            layer, so that what its call computes from weights alone is recorded too.

    Attributes:
        function: The graph, as a `keras.Function`.
        inputs: (inside, outside) pairs of the tensors that the call receives.
        masks: The same of their masks, whether the layers inside use them or not.
        outputs: For each output of the call the tensor inside, or None if `call` returns no tensor
            that depends on its inputs.
        weights: The weights of the layer, by id, and by the id of the symbolic tensor of each.
    """

    def __init__(
        self,
        call: Any,
        shapes: Mapping[int, Shape],
        mask_of: MaskOf,
        known: OutputSpecs,
        size_of: Callable[[int, int], Any],
        smallest: int,
        symbolic_weights: bool,
    ) -> None:
        import keras

        operation = call.operation
        weights = getattr(operation, "weights", ())  # an operation has none
        sizes = {size for weight in weights for size in weight.shape}
        sizes |= {size for tensor in call.input_tensors for size in tensor.shape}
        odd = (n for n in count(smallest, 2) if n not in sizes)
        primes = (n for n in odd if all(n % divisor for divisor in range(3, math.isqrt(n) + 1)))
        self._stand_ins: dict[Any, int] = {}
        inputs: dict[int, tuple[Any, Any]] = {}
        masks: dict[int, tuple[Any, Any]] = {}

        def fresh(value: Any) -> Any:
            if not isinstance(value, keras.KerasTensor):
                return value
            if id(value) not in inputs:
                outside = shapes.get(id(value), value.shape)
                shape = []
                for axis, size in enumerate(outside):
                    key = size_of(axis, len(outside))
                    if size is None and key not in self._stand_ins:
                        self._stand_ins[key] = next(primes)
                    shape.append(self._stand_ins[key] if size is None else size)
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
        self.inputs = tuple(inputs.values())
        self.masks = tuple(masks.values())
        self.weights = {id(weight): weight for weight in weights}
        stand_ins = {}
        if symbolic_weights:
            own = {n: v for n, v in vars(operation).items() if id(v) in self.weights}
            stand_ins = {n: keras.Input(batch_shape=v.shape, dtype=v.dtype) for n, v in own.items()}
            self.weights |= {id(stand_in): own[name] for name, stand_in in stand_ins.items()}
        returned = _outputs_inside(operation, args, kwargs, known, stand_ins)
        tensors = _symbolic(returned)
        flat = keras.tree.flatten(returned)
        flat = flat if len(flat) == len(call.outputs) else tensors
        self.outputs = tuple(t if isinstance(t, keras.KerasTensor) else None for t in flat)
        taken = [inside for inside, _ in self.inputs + self.masks]
        self.function = keras.Function([*taken, *stand_ins.values()], tensors)

    def free_axes(self, shape: Shape) -> Shape:
        """Return a shape inside the layer with the axes free that are free outside."""
        free = set(self._stand_ins.values())
        return tuple(None if size in free else size for size in shape)

    @property
    def may_loop(self) -> bool:
        """Whether there are as many equal calls inside as steps along an axis of variable size."""
        classes = Counter(type(operation) for operation in self.function.operations)
        return max(classes.values()) >= min(self._stand_ins.values(), default=math.inf)

    def check_whole(self, call: Any) -> None:
        """Check that the calls inside have all weights and outputs of the layer.

        Raises:
            ClosedError: if not.
        """
        import keras

        layer_class, found = keras.layers.Layer, set[int]()
        for operation in self.function.operations:
            if isinstance(operation, layer_class):
                found |= {id(weight) for weight in operation.weights}
            for record in operation._inbound_nodes:
                taken = (self.weights.get(id(value)) for _, value in arguments_of(record))
                found |= {id(weight) for weight in taken if weight is not None}
        own = getattr(call.operation, "weights", ())
        others = [weight for weight in own if id(weight) not in found]
        if others:
            raise ClosedError(f"no call inside takes its weight {others[0].name!r}")
        operations = (op for op in self.function.operations if not isinstance(op, layer_class))
        steps = max(Counter(map(type, operations)).values(), default=0)
        if steps >= _MOST_STEPS:
            raise ClosedError(f"its call unrolls a loop: it repeats one operation {steps} times")
        if len(self.outputs) != len(call.outputs):
            given = counted(len(self.outputs), "tensor")
            raise ClosedError(f"its call returns {given}, but {len(call.outputs)} in the model")
        for inside, outside in zip(self.outputs, call.outputs, strict=True):
            if inside is None and _is_taken(outside):
                raise ClosedError("one of its outputs does not depend on its inputs")


def _is_taken(tensor: Any) -> bool:
    """Return whether another call takes a symbolic tensor."""
    calls = tensor._keras_history.operation._outbound_nodes
    return any(tensor is taken for call in calls for taken in call.input_tensors)


_SIZES: tuple[Callable[[int, int], Any], ...] = (
    lambda axis, rank: axis,  # the batch, and the length: the same axis has the same size
    lambda axis, rank: axis > 0,  # one size for all axes but the batch, as in (batch, 1, length)
    lambda axis, rank: None,  # one size for all, as in tables of positions without a batch
)
_MESSAGE = re.compile(r"\x1b\[1m(.*?)(?:\n|\x1b)", re.DOTALL)


def traced_call(
    call: Any, shapes: Mapping[int, Shape], mask_of: MaskOf, known: OutputSpecs
) -> Traced:
    """Return the graph of one call; the arguments are those of `Traced`.

    Which free axes have the same size is unknown, and tables of positions may be short, so several
    guesses are tried.

    Raises:
        ClosedError: if the layer cannot be opened.
    """
    reasons: list[Exception] = []
    for guess in _guesses(call, shapes):
        try:
            traced = Traced(call, guess[0], mask_of, known, *guess[1:])
            traced.check_whole(call)
            if traced.may_loop:
                sizes, size_of, smallest, symbolic_weights = guess
                args = (sizes, mask_of, known, size_of, smallest + 10, symbolic_weights)
                if len(Traced(call, *args).function.operations) != len(traced.function.operations):
                    raise ClosedError("its call loops over an axis of variable size")
        except Exception as error:  # user code may raise anything
            reasons.append(error)
            continue
        return traced
    closed = [error for error in reasons if isinstance(error, ClosedError)]
    reason = str(closed[0]) if closed else _why(reasons[0])
    raise ClosedError(_without_generated_names(reason, call.operation)) from None


_GENERATED = re.compile(r"\b(variable|keras_tensor)_\d+\b")


def _without_generated_names(text: str, layer: Any) -> str:
    """Return a text without the numbers that depend on what else the process has built."""
    for part in layer._flatten_layers():
        if is_auto_named(part):
            text = re.sub(rf"\b{re.escape(part.name)}\b", snake_case(type(part).__name__), text)
    return _GENERATED.sub(r"\1", text)


def _guesses(
    call: Any, shapes: Mapping[int, Shape]
) -> Iterator[tuple[Mapping[int, Shape], Callable[[int, int], Any], int, bool]]:
    """Yield the last arguments of `Traced` to try, until a layer can be opened."""
    is_free = any(None in shapes.get(id(t), t.shape) for t in call.input_tensors)
    sizes = [(s, n) for n in (11, 3) for s in _SIZES] if is_free else [(_SIZES[0], 11)]
    for symbolic_weights in (False, True):
        yield from ((shapes, *size, symbolic_weights) for size in sizes)
    if inferred := _inferred_shapes(call, shapes):
        yield from (({**inferred, **shapes}, *size, False) for size in sizes)


def _inferred_shapes(call: Any, shapes: Mapping[int, Shape]) -> dict[int, Shape]:
    """Return the shapes of tensors, by id, that differ from those which their layers declare."""

    found = {}
    for tensor in call.input_tensors:
        layer, position, output = tensor._keras_history
        record = layer._inbound_nodes[position]
        if record.is_input or type(layer).__module__.startswith("keras.") or id(tensor) in shapes:
            continue
        try:
            small, large = (_output_shape(record, output, size) for size in (61, 67))
        except Exception:  # user code may raise anything
            continue
        shape = tuple(a if a == b else None for a, b in zip(small, large, strict=True))
        if shape != tuple(tensor.shape):
            found[id(tensor)] = shape
    return found


def _output_shape(record: Any, output: int, size: int) -> Shape:
    """Return the shape of an output of a call whose inputs have this size at their free axes."""
    import keras

    def sized(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor):
            return value
        return keras.KerasTensor([size if n is None else n for n in value.shape], value.dtype)

    args, kwargs = record.arguments.convert(sized)
    with keras.StatelessScope():
        spec = keras.Operation.compute_output_spec(record.operation, *args, **kwargs)
    return tuple(keras.tree.flatten(spec)[output].shape)


def _why(error: Exception) -> str:
    """Return the reason why a call failed, in one line."""
    text = str(error).split("Error encountered:\n\n")[-1]
    found = _MESSAGE.search(text)  # within Keras's report of the arguments
    message = found[1] if found else text.strip().partition("\n")[0]
    return f"its call does not run on symbolic tensors ({type(error).__name__}: {message[:200]})"


def _outputs_inside(
    layer: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    known: OutputSpecs,
    attributes: Mapping[str, Any],
) -> Any:
    """Call a layer as Keras does, with some attributes replaced, and return what `call` returns.

    Keras only asks for the shapes of a symbolic call, and then replaces its outputs by new ones.
    So `call` itself has to run, after Keras has prepared the arguments.
    """
    import keras

    if not isinstance(layer, keras.layers.Layer):
        return layer.call(*args, **kwargs)
    returned = []
    if "training" in all_parameter_names(layer.__class__):
        kwargs.setdefault("training", None)  # no default, which Keras would pass on to sublayers

    def run(*args: Any, **kwargs: Any) -> Any:
        returned.append(layer.call(*args, **kwargs))
        return [_like(tensor) for tensor in _symbolic(returned[0])]

    inside = layer._flatten_layers(False)
    overrides = [(sub, {"symbolic_call": _symbolic_call(sub, known)}) for sub in inside]
    # Nothing that `call` adds or assigns, such as losses and seeds, is kept.
    attributes = {**attributes, "symbolic_call": run, "add_loss": lambda *args, **kwargs: None}
    overrides.append((layer, attributes))
    with _overridden(overrides), _partly_recorded(), _new_axes(), keras.StatelessScope():
        layer(*args, **kwargs)
    return returned[0]


def _symbolic(outputs: Any) -> list[Any]:
    """Return the symbolic tensors among the outputs of a call."""
    import keras

    return [item for item in keras.tree.flatten(outputs) if isinstance(item, keras.KerasTensor)]


@contextmanager
def _new_axes() -> Iterator[None]:
    """Let `x[None]` add an axis to a symbolic tensor, which Keras refuses, unlike `x[None, :]`."""
    import keras

    get_item = keras.KerasTensor.__getitem__

    def with_tuple(tensor: Any, key: Any) -> Any:
        return get_item(tensor, (None,) if key is None else key)

    with mock.patch.object(keras.KerasTensor, "__getitem__", with_tuple):
        yield


@contextmanager
def _partly_recorded() -> Iterator[None]:
    """Record calls whose outputs are not all symbolic tensors, such as (output, None).

    Within the context Keras records the symbolic ones; `positions` of the record has their places
    among all flat outputs. Without it, Keras refuses such calls.
    """
    import keras

    module = sys.modules[keras.layers.Layer.__module__]
    record = module.Node

    def partly(operation: Any, *, outputs: Any, **arguments: Any) -> None:
        flat, symbolic = keras.tree.flatten(outputs), _symbolic(outputs)
        if not symbolic or len(symbolic) == len(flat):
            record(operation, outputs=outputs, **arguments)
            return
        record(operation, outputs=symbolic, **arguments)
        kept = tuple(
            place for place, item in enumerate(flat) if isinstance(item, keras.KerasTensor)
        )
        operation._inbound_nodes[-1].positions = kept

    with mock.patch.object(module, "Node", partly):
        yield


def _symbolic_call(layer: Any, known: OutputSpecs) -> Callable[..., Any]:
    """Return a symbolic call of a sublayer that also accepts what only its `call` accepts."""
    import keras

    def symbolic_call(*args: Any, **kwargs: Any) -> Any:
        outputs = without_mask(*args, **kwargs)
        if isinstance(outputs, keras.KerasTensor):
            mask = run_time_mask(layer, (args, kwargs))
            if mask is not None and recorded_mask(outputs) is None:
                outputs._keras_mask = mask
        return outputs

    def without_mask(*args: Any, **kwargs: Any) -> Any:
        key = _key_of(layer, args, kwargs)
        if key is None or key not in known:
            try:
                outputs = type(layer).symbolic_call(layer, *args, **kwargs)
            except Exception:  # its own `compute_output_spec` may refuse arguments of `call`
                # Keras takes the product of a tensor and a number for sparse.
                dense = keras.tree.map_structure(_like, (args, kwargs))
                outputs = keras.Operation.compute_output_spec(layer, *dense[0], **dense[1])
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


def _like(value: Any) -> Any:
    """Return a new dense symbolic tensor like `value`, or another value as it is."""
    import keras

    if isinstance(value, keras.KerasTensor):
        return keras.KerasTensor(value.shape, value.dtype)
    return value


@contextmanager
def _overridden(overrides: Iterable[tuple[Any, Mapping[str, Any]]]) -> Iterator[None]:
    """Override attributes of layers within the context."""
    with ExitStack() as stack:
        for layer, attributes in overrides:
            stack.enter_context(mock.patch.dict(vars(layer), attributes))
        yield


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


@contextmanager
def discard_calls_of(function: Any) -> Iterator[None]:
    """Remove the call records of a traced function at the end of the context.

    Those of layers that a `Lambda` calls are not among the records of its sublayers.
    """
    try:
        yield
    finally:
        traced = computing_order(function)
        for operation in function.operations:
            for records in (operation._inbound_nodes, operation._outbound_nodes):
                records[:] = [record for record in records if id(record) not in traced]


def is_composite(layer: Any) -> bool:
    """Return whether a layer consists of other layers with weights, so that it can be opened.

    Layers of Keras are not, nor are the attention layers of Keras and KerasHub, unless they contain
    another attention layer, nor layers that declare the role "attention" (`plots.layers`).
    """
    import keras

    is_layer = isinstance(layer, keras.layers.Layer)
    is_model = isinstance(layer, keras.Function | keras.Sequential)
    if not is_layer or is_model or not layer.weights:
        return False
    if type(layer).__module__.startswith("keras.") or declared_role(layer) == "attention":
        return False
    inside = layer._flatten_layers(False)
    if _is_attention(layer) and not any(map(_is_attention, inside)):
        return False
    return any(sub.weights for sub in inside)


def is_unknown_without_weights(operation: Any) -> bool:
    """Return whether only tracing shows the work of a layer or operation without weights.

    These are a `Lambda`, an `Activation` of a function, layers of one model of KerasHub, and layers
    and operations of your own.
    """
    import keras

    if getattr(operation, "weights", ()) or isinstance(operation, keras.Model | keras.Function):
        return False
    if isinstance(operation, keras.layers.Activation):
        return not getattr(operation.activation, "__module__", "").startswith("keras.")
    # KerasHub's layers for all models are known by their class, those of one model are not.
    is_own = call_class(type(operation)) != "" or type(operation).__module__.startswith(
        "keras_hub.src.models."
    )
    return isinstance(operation, keras.layers.Lambda) or is_own


def is_unknown(operation: Any) -> bool:
    """Return whether only tracing shows the work of a layer or operation that stays closed.

    These are those without weights, and layers of your own with weights but without sublayers.
    """
    import keras

    if is_unknown_without_weights(operation):
        return True
    is_own = isinstance(operation, keras.layers.Layer) and call_class(type(operation)) != ""
    is_model = isinstance(operation, keras.Model | keras.Function)
    return is_own and not is_model and not is_composite(operation)


def _is_attention(layer: Any) -> bool:
    """Return whether a layer is an attention of Keras or KerasHub with query, key and value."""
    known = (c for c in type(layer).__mro__ if c.__module__.startswith(("keras.", "keras_hub.")))
    return any(base.__name__ in ATTENTION_LAYERS for base in known)
