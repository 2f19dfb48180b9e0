"""Calls that Keras records: their order, their arguments and the masks that tensors carry."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Container, Iterator, Mapping, MutableMapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from plots.annotations import Declaration
from plots.graph import Edge
from plots.reading.arrays import long_list_as_array

MaskOf = Callable[[Any], Any]
"""Symbolic tensor -> the mask that it carries, or None."""


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call recorded by Keras, and the ends of its tensors in the `Graph`.

    Attributes:
        record: The call record (Keras: `Node`).
        when: Sort key: the order in which Keras computes calls.
        edges: Port -> edge, for the arguments that are tensors of the graph.
        results: (node id, output) of each of its outputs.
        declaration: The declaration of the layer for this call, or None.
        known: Port -> value, for the arguments that are weights or arrays of an opened layer.
    """

    record: Any
    when: tuple[float, ...]
    edges: Mapping[str, Edge]
    results: tuple[tuple[str, int], ...]
    declaration: Declaration | None = None
    known: Mapping[str, Any] = field(default_factory=dict)

    def results_of(self, outputs: Any) -> list[Any]:
        """Return those of the outputs of the call that are its results in the graph."""
        import keras

        flat = keras.tree.flatten(outputs)
        positions = getattr(self.record, "positions", range(len(flat)))  # see `_partly_recorded`
        return [flat[position] for position in positions]


def calls_in_order(tensor: Any, origin: Mapping[int, Any]) -> Iterator[Any]:
    """Yield the calls that `tensor` depends on and that are not in `origin`, in topological order.

    The order follows the arguments only, so it is the same in every process.
    """
    import keras

    waiting = [(_call_of(tensor), False)] if id(tensor) not in origin else []
    while waiting:  # no recursion: deep models exceed Python's limit
        call, inputs_are_read = waiting.pop()
        if all(id(output) in origin for output in call.outputs):
            continue
        if inputs_are_read:
            yield call
            continue
        waiting.append((call, True))
        masks = (mask for _, mask in implicit_masks_of(call))
        symbolic = (mask for mask in masks if isinstance(mask, keras.KerasTensor))  # or constants
        tensors = [*call.input_tensors, *symbolic]
        needed = [t for t in tensors if id(t) not in origin]
        waiting.extend((_call_of(t), False) for t in reversed(needed))


def _call_of(tensor: Any) -> Any:
    """Return the call record (Keras: `Node`) that produces `tensor`."""
    operation, call_index, _ = tensor._keras_history
    return operation._inbound_nodes[call_index]


def computing_order(model: Any) -> dict[int, int]:
    """Return id(call record) -> its position when Keras computes `model`.

    The order matters for implicit masks: `MultiHeadAttention` removes them from its arguments, so
    later calls do not see them. Calls that compute masks are not included: Keras runs them together
    with the call that returns the masked tensor.
    """
    by_depth = getattr(functional_of(model), "_nodes_by_depth", {})
    calls = [call for depth in sorted(by_depth, reverse=True) for call in by_depth[depth]]
    return {id(call): position for position, call in enumerate(calls)}


def functional_of(model: Any) -> Any:
    """Return the Functional model inside a Sequential model, else the model itself."""
    return getattr(model, "_functional", None) or model


def arguments_of(call: Any, without: Container[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield the call's flattened arguments as (port, value), except the ports in `without`."""
    for name, value in _named_arguments(call):
        for port, item in _flatten(name, value):
            if port not in without:
                yield port, item


def _named_arguments(call: Any) -> Iterator[tuple[str, Any]]:
    """Yield the call's arguments as (name, value), with nested values not flattened."""
    names = parameter_names(call.operation.__class__)
    for position, value in enumerate(call.arguments.args):
        yield (names[position] if position < len(names) else str(position)), value
    yield from call.arguments.kwargs.items()


def given_to_model(call: Any, model: Any) -> dict[str, Any]:
    """Return the arguments of a nested model's call as port -> value, in the order of its inputs.

    Values are bound as Keras binds them: a dictionary by the names of the inputs, unless the model
    was created with a dictionary itself. Empty if the call does not match the inputs.
    """
    import keras

    names = parameter_names(call.operation.__class__)
    name = names[0] if names else ""
    value: Any = dict(_named_arguments(call)).get(name)
    by_order = not isinstance(functional_of(model)._inputs_struct, Mapping)
    if isinstance(value, Mapping) and by_order and isinstance(model, keras.Model):
        wanted = [tensor.name for tensor in model.inputs]
        given = {f"{name}.{key}": value[key] for key in wanted if key in value}
    else:
        given = dict(_flatten(name, value))
    return given if len(given) == len(model.inputs) else {}


def filled_arguments(
    call: Any, fill: Callable[[str, Any], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """Return the call's (args, kwargs) with every value replaced by `fill(port, value)`."""
    named = [(name, _filled(name, value, fill)) for name, value in _named_arguments(call)]
    positional = len(call.arguments.args)
    return [value for _, value in named[:positional]], dict(named[positional:])


def _flatten(port: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple):
        if (array := long_list_as_array(value)) is not None:
            yield port, array
            return
        for position, item in enumerate(value):
            yield from _flatten(f"{port}.{position}", item)
    elif isinstance(value, Mapping):
        # keras.tree flattens mappings by sorted keys; inputs of a nested model have this order.
        for key in sorted(value, key=str):
            yield from _flatten(f"{port}.{key}", value[key])
    else:
        yield port, value


def _filled(port: str, value: Any, fill: Callable[[str, Any], Any]) -> Any:
    """Return `value` with its items replaced; ports are those of `_flatten`."""
    if isinstance(value, list | tuple):
        items = [_filled(f"{port}.{k}", item, fill) for k, item in enumerate(value)]
        if hasattr(value, "_fields"):  # a named tuple takes its fields one by one
            return type(value)(*items)
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, MutableMapping):
        filled = copy(value)  # keeps the type, such as OrderedDict or defaultdict
        filled.update({key: _filled(f"{port}.{key}", item, fill) for key, item in value.items()})
        return filled
    # Keras may find the mask itself at an argument recorded as None.
    return value if value is None else fill(port, value)


def parameter_names(operation_class: type) -> tuple[str, ...]:
    """Return the names of the positional parameters of a class's `call`."""
    return _parameters(operation_class)[0]


def all_parameter_names(operation_class: type) -> frozenset[str]:
    """Return the names of all parameters of a class's `call`, keyword-only ones included."""
    return _parameters(operation_class)[1]


@cache
def _parameters(operation_class: type) -> tuple[tuple[str, ...], frozenset[str]]:
    """Return the names of the positional parameters, and of all."""
    try:
        parameters = inspect.signature(operation_class.call).parameters  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        return (), frozenset()
    kinds = {name: parameter.kind for name, parameter in list(parameters.items())[1:]}
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(name for name, kind in kinds.items() if kind in positional), frozenset(kinds)


def recorded_mask(tensor: Any) -> Any:
    """Return the mask that Keras records for a symbolic tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def implicit_masks_of(call: Any, mask_of: MaskOf = recorded_mask) -> list[tuple[str, Any]]:
    """Return the masks that Keras passes to a call along with its tensors, as (port, mask).

    The rule is that of `keras.layers.Layer.__call__`: the mask of the only tensor argument goes to
    `mask`, that of one of several, such as `query`, to `query_mask`, unless the caller passes one.

    `mask_of` returns the mask that a tensor carries.
    """
    import keras

    is_layer = isinstance(call.operation, keras.layers.Layer)
    if not is_layer or call.is_input or hasattr(call.operation, "stands_for"):
        return []
    if all(mask_of(tensor) is None for tensor in call.input_tensors):
        return []
    accepted = all_parameter_names(call.operation.__class__)
    all_given = dict(_named_arguments(call))
    given = {name: value for name, value in all_given.items() if not _is_filled_in(name, all_given)}
    tensors = {n: value for n, value in given.items() if _is_of_tensors(value, call.operation)}
    found = []
    for name, value in tensors.items():
        to = "mask" if len(tensors) == 1 else f"{name}_mask"
        if to in accepted and given.get(to) is None:
            for port, tensor in _flatten(name, value):
                if (mask := mask_of(tensor)) is not None:
                    found.append((to + port.removeprefix(name), mask))
    return found


def run_time_mask(operation: Any, call: Any) -> Any:
    """Return the mask that an embedding attaches to its output only when it runs, or None.

    Keras records none for a symbolic call of `ReversibleEmbedding(mask_zero=True)`, nor for the
    layers of KerasHub that contain one.

    Args:
        operation: The layer.
        call: Its arguments, as a record of a call or as (args, kwargs).
    """
    import keras

    args, kwargs = call if isinstance(call, tuple) else (call.arguments.args, call.arguments.kwargs)
    is_model = isinstance(operation, keras.Model)
    is_hub = type(operation).__module__.startswith("keras_hub.") and not is_model
    inside = operation._flatten_layers(False) if is_hub else ()
    embeddings = (layer for layer in inside if getattr(layer, "mask_zero", False))
    embedding = next(embeddings, operation)
    reverse = kwargs.get("reverse", args[1] if len(args) > 1 else False)
    tokens = args[0] if args else next(iter(kwargs.values()), None)
    is_embedding = isinstance(embedding, keras.layers.Embedding) and embedding.mask_zero
    if not is_embedding or reverse is True or not isinstance(tokens, keras.KerasTensor):
        return None
    return keras.layers.Embedding.compute_mask(embedding, tokens)


def has_other_masks(call: Any, masks: Sequence[Any]) -> bool:
    """Return whether the caller passes explicit masks other than `masks`, those of its tensors."""
    given = dict(_named_arguments(call)).get("mask")
    explicit = () if given is None else _flatten("mask", given)
    return any(mask is not own for (_, mask), own in zip(explicit, masks, strict=False))


def _is_filled_in(name: str, given: Mapping[str, Any]) -> bool:
    """Return whether Keras passed this argument: it may record the masks that it propagates."""
    import keras

    owners = [n for n in given if n != name and name in ("mask", f"{n}_mask")]
    values = keras.tree.flatten(given[name])
    masks = ([recorded_mask(t) for t in keras.tree.flatten(given[owner])] for owner in owners)
    return any(len(m) == len(values) and all(map(operator.is_, m, values)) for m in masks)


def _is_of_tensors(value: Any, operation: Any) -> bool:
    """Return whether Keras treats an argument of a layer as a tensor or nested tensors."""
    import keras

    def is_tensor(item: Any) -> bool:
        converted = operation._convert_input_args and hasattr(item, "__array__")
        return isinstance(item, keras.KerasTensor) or keras.ops.is_tensor(item) or converted

    if not keras.tree.is_nested(value):
        return is_tensor(value)
    items = keras.tree.flatten(value)
    return bool(items) and all(item is None or is_tensor(item) for item in items)


class CarriedMasks:
    """Masks of symbolic tensors: those found by the reader, else those that Keras records.

    For a composite layer Keras records the mask that the layer's own `compute_mask` returns. When
    the model runs, the output carries the mask of the last layer inside, and so do the outputs of
    later layers. The difference only shows when layers are opened.
    """

    def __init__(self) -> None:
        self._masks: dict[int, Any] = {}  # by id(tensor); the model keeps those alive

    def of(self, tensor: Any) -> Any:
        """Return the mask that a tensor carries, or None."""
        return self._masks.get(id(tensor), recorded_mask(tensor))

    def put(self, tensor: Any, mask: Any) -> None:
        """Set the mask that a tensor carries."""
        if mask is not None and mask is not recorded_mask(tensor):
            self._masks[id(tensor)] = mask

    def propagate_mask(self, call: Any) -> list[Any]:
        """Set the masks of a call's outputs if its inputs carry masks unknown to Keras.

        Calls the layer's `compute_mask`, as `keras.layers.Layer.__call__` does. Returns the input
        masks of newly computed ones; empty if masks are only passed on.
        """
        import keras

        operation = call.operation
        given = [*call.arguments.args, *call.arguments.kwargs.values()]
        if not given or not getattr(operation, "supports_masking", False):
            return []
        if not any(id(tensor) in self._masks for tensor in keras.tree.flatten(given[0])):
            return []
        before = keras.tree.map_structure(self.of, given[0])
        try:
            after = keras.tree.flatten(operation.compute_mask(given[0], before))
        except Exception:  # user code, which may never have run with such masks
            return []
        known = [mask for mask in keras.tree.flatten(before) if mask is not None]
        for tensor, mask in zip(call.outputs, after, strict=False):
            if recorded_mask(tensor) is None:
                self.put(tensor, mask)
        is_new = any(all(mask is not other for other in (None, *known)) for mask in after)
        return known if is_new else []
