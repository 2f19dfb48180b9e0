"""Symbolic calls of composite layers, which show the calls inside them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from typing import Any

from plots.annotations import counted
from plots.graph import Shape
from plots.layers import ATTENTION_LAYERS
from plots.reading.base_calls import overridden_base
from plots.reading.functions import (
    Names,
    as_operations,
    function_that_failed,
    functions_of,
    tensorflow_functions,
)
from plots.reading.guesses import (
    Guess,
    guesses_by_weights,
    guesses_with_tensorflow,
    plain_guesses,
)
from plots.reading.keras_calls import (
    MaskOf,
    all_parameter_names,
    arguments_of,
    computing_order,
    implicit_masks_of,
    parameter_names,
)
from plots.reading.keras_values import (
    call_class,
    declared_role,
    describes_call,
    weights_of,
    without_generated_names,
)
from plots.reading.symbolic_calls import OutputSpecs, SymbolicRun, is_array, symbolic_ones

_MOST_STEPS = 50
"""Equal operations that the call of one layer may make."""

_MOST_FUNCTIONS = 8
"""Functions that one layer may call which take no symbolic tensors."""

_CERTAIN_SIZES = 2
"""Sizes of free axes that hardly differ in fact: those of the batch, and of the length."""


class ClosedError(ValueError):
    """A composite layer cannot be opened; the message is the reason."""


class LoopError(ClosedError):
    """The call of a layer repeats its calls, as a loop does."""


class ConstantError(ClosedError):
    """The outputs of a call do not depend on its inputs."""


class Traced:
    """The graph of one call of a layer or operation, which is called on symbolic tensors.

    Keras records these calls at the sublayers, as it records every call. The sublayers belong to
    the user's model, so the records are removed after reading.

    Many layers need the sizes of their inputs as integers, which a free axis does not have. So free
    axes get primes that occur nowhere else in the call, which `free_axes` replaces again; or their
    sizes in a batch, if the layers inside are to be computed for that batch.

    Args:
        call: The call record (Keras: `Node`).
        guess: The sizes of free axes, among others.
        mask_of: Returns the mask that a tensor carries.
        known: Output specs of earlier calls, to which those of this one are added.

    Attributes:
        function: The graph, as a `keras.Function`.
        inputs: (inside, outside) pairs of the tensors that the call receives.
        masks: The same of their masks, whether the layers inside use them or not.
        outputs: For each output of the call the tensor inside; or an array, if it does not depend
            on the inputs; or None.
        known: The weights of the layer by id, and weights and arrays by the id of the symbolic
            tensor that replaces each.
        hidden: The weights of the layer whose values `call` uses where no call inside takes them.
    """

    def __init__(
        self,
        call: Any,
        guess: Guess,
        mask_of: MaskOf,
        known: OutputSpecs,
    ) -> None:
        import keras

        operation = call.operation
        weights = weights_of(operation)
        sizes = {size for weight in weights for size in weight.shape}
        sizes |= {size for tensor in call.input_tensors for size in tensor.shape}
        odd = (n for n in count(guess.smallest, 2) if n * guess.multiple not in sizes)
        primes = (n for n in odd if all(n % divisor for divisor in range(3, math.isqrt(n) + 1)))
        self._stand_ins: dict[Any, int] = {}
        inputs: dict[int, tuple[Any, Any]] = {}
        masks: dict[int, tuple[Any, Any]] = {}

        def fresh(value: Any) -> Any:
            if not isinstance(value, keras.KerasTensor):
                return value
            if id(value) not in inputs:
                outside = guess.shapes.get(id(value), value.shape)
                factors = guess.factors.get(id(value), [1] * len(outside))
                shape = []
                for axis, (size, factor) in enumerate(zip(outside, factors, strict=True)):
                    key = guess.size_of(axis, len(outside))
                    if size is None and key not in self._stand_ins:
                        self._stand_ins[key] = next(primes) * guess.multiple
                    shape.append(self._stand_ins[key] * factor if size is None else size)
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
        has_many = len(self._stand_ins) > _CERTAIN_SIZES and not guess.trusts_declared
        run = SymbolicRun(operation, known, guess.symbolic_weights, computes_shapes=has_many)
        returned = run.outputs(args, kwargs)
        self.known = {id(weight): weight for weight in weights}
        self.known |= {id(stand_in): value for stand_in, value in run.stand_ins}
        tensors = symbolic_ones(returned)
        if not tensors:
            raise ConstantError("its call returns no tensor that depends on its inputs")
        flat = keras.tree.flatten(returned)
        flat = flat if len(flat) == len(call.outputs) else tensors
        is_value = [isinstance(value, keras.KerasTensor) or is_array(value) for value in flat]
        self.outputs = tuple(v if known else None for v, known in zip(flat, is_value, strict=True))
        taken = [inside for inside, _ in self.inputs + self.masks]
        taken += [stand_in for stand_in, _ in run.stand_ins]
        self.function = keras.Function(taken, tensors)
        self._read = run.read
        found = self._weights_taken()
        self.hidden = [w for w in run.read.get(None, ()) if id(w) not in found]

    def free_axes(self, shape: Shape) -> Shape:
        """Return a shape inside the layer with the axes free that are free outside."""
        free = set(self._stand_ins.values())
        return tuple(None if size in free else size for size in shape)

    @property
    def has_stand_ins(self) -> bool:
        """Whether numbers stand for free axes."""
        return bool(self._stand_ins)

    @property
    def may_loop(self) -> bool:
        """Whether there are as many equal calls inside as steps along an axis of variable size."""
        classes = Counter(type(operation) for operation in self.function.operations)
        return max(classes.values()) >= min(self._stand_ins.values(), default=math.inf)

    def check_whole(self, call: Any) -> None:
        """Check that the calls inside are no loop and have all outputs of the layer.

        Raises:
            ClosedError: if not.
        """
        import keras

        layer_class = keras.layers.Layer
        operations = (op for op in self.function.operations if not isinstance(op, layer_class))
        steps = max(Counter(map(_kind, operations)).values(), default=0)
        if steps >= _MOST_STEPS:
            raise LoopError(f"its call unrolls a loop: it repeats one operation {steps} times")
        if len(self.outputs) != len(call.outputs):
            given = counted(len(self.outputs), "tensor")
            raise ClosedError(f"its call returns {given}, but {len(call.outputs)} in the model")
        for inside, outside in zip(self.outputs, call.outputs, strict=True):
            if inside is None and _is_taken(outside):
                raise ClosedError("one of its outputs does not depend on its inputs")

    def read_by(self, operation: Any) -> Sequence[Any]:
        """Return the weights of the layer that a call inside takes without an argument.

        Such as those in a function that `ops.cond` or a `Lambda` calls.
        """
        return self._read.get(id(operation), ())

    def _weights_taken(self) -> set[int]:
        """Return the ids of the weights that the calls inside take."""
        found: set[int] = set()
        for operation in self.function.operations:
            found |= {id(weight) for weight in [*weights_of(operation), *self.read_by(operation)]}
            for record in operation._inbound_nodes:
                taken = (self.known.get(id(value)) for _, value in arguments_of(record))
                found |= {id(weight) for weight in taken if weight is not None}
        return found


def _kind(operation: Any) -> tuple[Any, ...]:
    """Return what is the same for one operation in all steps of a loop: class, output shapes."""
    return type(operation), *(tuple(t.shape) for t in operation._inbound_nodes[-1].output_tensors)


def _is_taken(tensor: Any) -> bool:
    """Return whether another call takes a symbolic tensor."""
    calls = tensor._keras_history.operation._outbound_nodes
    return any(tensor is taken for call in calls for taken in call.input_tensors)


_MESSAGE = re.compile(r"\x1b\[1m(.*?)(?:\n|\x1b)", re.DOTALL)


def traced_call(
    call: Any,
    shapes: Mapping[int, Shape],
    mask_of: MaskOf,
    known: OutputSpecs,
    stand_ins: int = 0,
) -> Traced:
    """Return the graph of one call; the arguments are those of `Traced`.

    Which free axes have the same size is unknown, and tables of positions may be short, so several
    guesses are tried. `stand_ins` chooses among the numbers that stand for free axes.

    Raises:
        ClosedError: if the layer cannot be opened.
    """
    reasons: list[Exception] = []
    for guesses in (plain_guesses, guesses_by_weights, guesses_with_tensorflow):
        if guesses is guesses_by_weights and not all(map(_is_about_sizes, reasons)):
            continue
        if guesses is guesses_with_tensorflow and not any(map(_is_about_tensorflow, reasons)):
            continue
        for symbolic_weights in (False, True):
            for guess in guesses(call, shapes, stand_ins):
                try:
                    return _by_guess(call, guess, symbolic_weights, mask_of, known)
                except ConstantError:
                    raise
                except Exception as error:  # user code may raise anything
                    reasons.append(error)
    closed = [error for error in reasons if isinstance(error, ClosedError)]
    reason = str(closed[0]) if closed else _why(reasons[0])
    raise ClosedError(without_generated_names(reason, call.operation)) from None


def _by_guess(
    call: Any, guess: Guess, symbolic_weights: bool, mask_of: MaskOf, known: OutputSpecs
) -> Traced:
    """Return the graph of one call, with symbolic weights where `call` uses weights alone."""
    guess = guess._replace(symbolic_weights=symbolic_weights)
    traced = _with_functions(call, mask_of, known, guess)
    if traced.hidden and not symbolic_weights:
        guess = guess._replace(symbolic_weights=True)
        with suppress(Exception):
            traced = _with_functions(call, mask_of, known, guess)
    if traced.hidden:
        name = traced.hidden[0].name
        raise ClosedError(f"no call inside shows the use of its weight {name!r}")
    return traced


def _is_about_sizes(error: Exception) -> bool:
    """Return whether a call may have failed because of the sizes of its inputs."""
    return not isinstance(error, ClosedError) and not _is_about_tensors(error)


def _is_about_tensorflow(error: Exception) -> bool:
    """Return whether a call failed because it gave a symbolic tensor to TensorFlow."""
    return not isinstance(error, ClosedError) and "TensorFlow function" in _message(error)


def _is_about_tensors(error: Exception) -> bool:
    """Return whether a call failed because of what its tensors are, not because of their sizes."""
    message = _message(error)
    return "KerasTensor" in message or "Tracer" in message  # the latter of JAX, in a loop


def _with_functions(call: Any, mask_of: MaskOf, known: OutputSpecs, guess: Guess) -> Traced:
    """Return the graph of one call, with functions as single calls where that is necessary.

    Those are functions that take no symbolic tensors, and one that loops.
    """
    code = type(call.operation).call
    single: list[tuple[list[Names], str]] = []
    while True:
        try:
            return _without_loop(call, mask_of, known, guess, single)
        except LoopError:
            for names in functions_of(code):
                reason = "this function repeats its calls, as a loop does"
                with suppress(LoopError):
                    return _without_loop(call, mask_of, known, guess, [*single, (names, reason)])
            raise
        except Exception as error:
            names = function_that_failed(error, code) if _is_about_tensors(error) else []
            if not names or len(single) == _MOST_FUNCTIONS:
                raise
            single.append((names, "this function takes no symbolic tensors"))


def _without_loop(
    call: Any,
    mask_of: MaskOf,
    known: OutputSpecs,
    guess: Guess,
    single: Iterable[tuple[list[Names], str]],
) -> Traced:
    """Return the graph of one call, if it does not loop over an axis of variable size."""
    with as_operations(single), tensorflow_functions(guess.records_tensorflow):
        traced = Traced(call, guess, mask_of, known)
        traced.check_whole(call)
        if traced.may_loop:
            longer = Traced(call, guess._replace(smallest=guess.smallest + 10), mask_of, known)
            if len(longer.function.operations) != len(traced.function.operations):
                raise LoopError("its call loops over an axis of variable size")
        return traced


def _why(error: Exception) -> str:
    """Return the reason why a call failed, in one line."""
    kind = type(error).__name__
    return f"its call does not run on symbolic tensors ({kind}: {_message(error)[:200]})"


def _message(error: Exception) -> str:
    """Return the first line of an error's message, without Keras's report of the arguments."""
    text = str(error).split("Error encountered:\n\n")[-1]
    found = _MESSAGE.search(text)
    return found[1] if found else text.strip().partition("\n")[0]


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
    """Return whether a layer with weights consists of other calls, so that it can be opened.

    Those are of layers inside, or of a class of Keras whose `call` it overrides without declaring
    what it computes. So is a subclassed model, also without weights. Layers of Keras are not, nor
    are the attention layers of Keras and KerasHub, unless they contain another attention layer, nor
    layers that declare the role "attention" (`plots.layers`).
    """
    import keras

    is_layer = isinstance(layer, keras.layers.Layer)
    is_model = isinstance(layer, keras.Function | keras.Sequential)
    if not is_layer or is_model:
        return False
    if not layer.weights:
        return isinstance(layer, keras.Model)
    if type(layer).__module__.startswith("keras.") or declared_role(layer) == "attention":
        return False
    if overridden_base(layer) is not None and not describes_call(layer):
        return True
    return any(sub.weights for sub in layer._flatten_layers(False)) and not is_attention_of_hub(
        layer
    )


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
    # KerasHub's layers without weights do what their class says only for positions and masks.
    is_hub = type(operation).__module__.startswith("keras_hub.")
    is_lambda = isinstance(operation, keras.layers.Lambda)
    return is_lambda or is_hub or call_class(type(operation)) != ""


def is_function(layer: Any) -> bool:
    """Return whether a layer is a function of its inputs: a `Lambda`, or one of your own.

    It declares no role, and nothing at all if it has weights.
    """
    import keras

    is_model = isinstance(layer, keras.Model | keras.Function)
    if not isinstance(layer, keras.layers.Layer) or is_model:
        return False
    if isinstance(layer, keras.layers.Lambda):
        return True
    is_told = bool(declared_role(layer)) or bool(layer.weights and describes_call(layer))
    return call_class(type(layer)) != "" and not is_told


def is_unknown(operation: Any) -> bool:
    """Return whether only tracing shows the work of a layer or operation that stays closed.

    These are those without weights, and layers of your own or of KerasHub with weights but without
    sublayers, or that extend a layer of Keras.
    """
    if is_unknown_without_weights(operation):
        return True
    if not is_own_layer(operation):
        return is_layer_of_hub(operation) and not is_composite(operation)
    return overridden_base(operation) is not None or not is_composite(operation)


def is_layer_of_hub(operation: Any) -> bool:
    """Return whether an operation is a layer of KerasHub, and no model."""
    import keras

    is_model = isinstance(operation, keras.Model | keras.Function)
    is_layer = isinstance(operation, keras.layers.Layer)
    return is_layer and not is_model and type(operation).__module__.startswith("keras_hub.")


def is_own_layer(operation: Any) -> bool:
    """Return whether an operation is a layer with a `call` of your own, and no model."""
    import keras

    is_model = isinstance(operation, keras.Model | keras.Function)
    is_layer = isinstance(operation, keras.layers.Layer)
    return is_layer and not is_model and call_class(type(operation)) != ""


def is_attention_of_hub(layer: Any) -> bool:
    """Return whether a layer of Keras or KerasHub is one attention, and contains no other one."""
    inside = getattr(layer, "_flatten_layers", lambda _: ())(False)
    return _is_attention(layer) and not any(map(_is_attention, inside))


def _is_attention(layer: Any) -> bool:
    """Return whether a layer is an attention of Keras or KerasHub with query, key and value."""
    known = [c for c in type(layer).__mro__ if c.__module__.startswith(("keras.", "keras_hub."))]
    if not any(base.__name__ in ATTENTION_LAYERS for base in known):
        return False
    # XLNet extends that of Keras by a call with other arguments.
    owner = next(c for c in type(layer).__mro__ if "call" in vars(c))
    is_of_keras = owner.__module__.startswith("keras.")
    return is_of_keras or all_parameter_names(type(layer)) >= {"query", "value"}
