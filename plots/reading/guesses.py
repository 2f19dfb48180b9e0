"""Guesses at the sizes for which a layer can be called on symbolic tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

from plots.graph import Shape
from plots.reading.keras_values import weights_of
from plots.reading.symbolic_calls import computed_spec

SizeOf = Callable[[int, int], Any]


class Guess(NamedTuple):
    """How a layer is called on symbolic tensors.

    Attributes:
        shapes: Shapes of tensors in a batch, by id(tensor).
        size_of: Returns the key of the size that a free axis shares with others: from the axis and
            the number of axes.
        smallest: The smallest size of a free axis.
        multiple: A factor of all sizes of free axes.
        factors: Factors of the sizes of free axes of a tensor, by id(tensor).
        trusts_declared: Whether layers inside may declare the shapes of what they return, where
            three sizes or more are guessed: a declaration does not tell that the call would fail.
        symbolic_weights: Whether symbolic tensors replace the weights that are attributes of the
            layer or of one inside, so that what is computed from weights alone is recorded too.
        records_tensorflow: Whether functions of TensorFlow are calls of the graph.
    """

    shapes: Mapping[int, Shape]
    size_of: SizeOf
    smallest: int
    multiple: int = 1
    factors: Mapping[int, tuple[int, ...]] = MappingProxyType({})
    trusts_declared: bool = False
    symbolic_weights: bool = False
    records_tensorflow: bool = False


_SIZES: tuple[SizeOf, ...] = (
    lambda axis, rank: axis,  # the batch, and the length: the same axis has the same size
    lambda axis, rank: axis > 0,  # one size for all axes but the batch, as in (batch, 1, length)
    lambda axis, rank: None,  # one size for all, as in tables of positions without a batch
)
_SMALLEST = ((11, 3), (17, 5))
"""Smallest sizes of free axes to try."""

_MOST_SIZES = 8
"""Sizes of its weights that are tried as the sizes of free axes of a layer."""


def plain_guesses(call: Any, shapes: Mapping[int, Shape], stand_ins: int) -> Iterator[Guess]:
    """Yield guesses at which free axes have the same size.

    Args:
        call: The call record (Keras: `Node`).
        shapes: Shapes of tensors in a batch, by id(tensor).
        stand_ins: Chooses among the numbers that stand for free axes.
    """
    is_free = any(None in shapes.get(id(t), t.shape) for t in call.input_tensors)
    sizes = [(s, n) for n in _SMALLEST[stand_ins] for s in _SIZES] if is_free else [(_SIZES[0], 11)]
    plain = [Guess(shapes, *size) for size in sizes]
    yield from plain
    inferred, factors = _inferred_shapes(call, shapes)
    if inferred:
        known = {**inferred, **shapes}
        yield from (Guess(known, *size, factors=factors) for size in sizes)
    yield from (guess._replace(trusts_declared=True) for guess in plain if is_free)


def guesses_by_weights(call: Any, shapes: Mapping[int, Shape], stand_ins: int) -> Iterator[Guess]:
    """Yield guesses in which the sizes of weights are sizes of free axes, or their factors.

    A layer may take sequences of one length only, or a batch of so many frames for each video.
    """
    if all(None not in shapes.get(id(t), t.shape) for t in call.input_tensors):
        return
    own = {size for weight in weights_of(call.operation) for size in weight.shape if size > 1}
    for size in sorted(own)[:_MOST_SIZES]:
        fixed = {id(t): _of_length(shapes.get(id(t), t.shape), size) for t in call.input_tensors}
        yield Guess({**fixed, **shapes}, _SIZES[0], _SMALLEST[stand_ins][0])
        yield Guess(shapes, _SIZES[0], _SMALLEST[stand_ins][0], multiple=size)


def guesses_with_tensorflow(
    call: Any, shapes: Mapping[int, Shape], stand_ins: int
) -> Iterator[Guess]:
    """Yield guesses in which functions of TensorFlow are recorded."""
    for guess in plain_guesses(call, shapes, stand_ins):
        yield guess._replace(records_tensorflow=True)


def _of_length(shape: Shape, size: int) -> Shape:
    """Return a shape with a size for the free axes behind the first one."""
    return (*shape[:1], *(size if n is None else n for n in shape[1:]))


def _inferred_shapes(
    call: Any, shapes: Mapping[int, Shape]
) -> tuple[dict[int, Shape], dict[int, tuple[int, ...]]]:
    """Return the shapes of tensors, by id, of which their layers do not declare all that is known.

    And the factors of their free axes: a table of relative positions has twice the length.
    """
    found: dict[int, Shape] = {}
    factors: dict[int, tuple[int, ...]] = {}
    for tensor in call.input_tensors:
        layer, position, output = tensor._keras_history
        record = layer._inbound_nodes[position]
        if record.is_input or type(layer).__module__.startswith("keras.") or id(tensor) in shapes:
            continue
        try:
            small, large = (_output_shape(record, output, size) for size in _TRIED)
        except Exception:  # user code may raise anything
            continue
        sizes = [*zip(small, large, strict=True)]
        shape = tuple(a if a == b else None for a, b in sizes)
        factor = tuple(map(_factor, sizes))
        if shape != tuple(tensor.shape) or set(factor) != {1}:
            found[id(tensor)] = shape
            factors[id(tensor)] = factor
    return found, factors


_TRIED = (61, 67)
"""Sizes of the free axes of a layer's inputs from which those of its outputs are inferred."""


def _factor(sizes: tuple[int | None, int | None]) -> int:
    """Return how many times as long an axis is as those tried; 1 if it is no such multiple."""
    factors = {divmod(size or 0, tried) for size, tried in zip(sizes, _TRIED, strict=True)}
    factor, rest = min(factors)
    return factor if len(factors) == 1 and not rest and factor else 1


def _output_shape(record: Any, output: int, size: int) -> Shape:
    """Return the shape of an output of a call whose inputs have this size at their free axes."""
    import keras

    def sized(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor):
            return value
        return keras.KerasTensor([size if n is None else n for n in value.shape], value.dtype)

    args, kwargs = record.arguments.convert(sized)
    with keras.StatelessScope():
        spec = computed_spec(record.operation, args, kwargs)
    return tuple(keras.tree.flatten(spec)[output].shape)
