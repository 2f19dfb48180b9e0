"""The calls that a Keras graph has recorded: their order, their arguments and their masks."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Container, Iterator, Mapping, MutableMapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cache
from typing import Any

from plots.declaration import Declaration
from plots.graph import Edge
from plots.reading.masks import MaskOf, recorded_mask


@dataclass(frozen=True, slots=True)
class RecordedCall:
    """A call as Keras has recorded it, and where in the `Graph` its tensors come from and go to.

    Attributes:
        record: The call record (Keras: `Node`).
        when: Sorted by it, calls are in the order in which Keras computes them.
        edges: What its arguments are in the graph: port -> edge.
        results: What its outputs are in the graph, as (node id, output).
        declaration: What the layer declares about the call.
    """

    record: Any
    when: tuple[float, ...]
    edges: Mapping[str, Edge]
    results: tuple[tuple[str, int], ...]
    declaration: Declaration | None = None


def calls_in_order(tensor: Any, origin: Mapping[int, Any]) -> Iterator[Any]:
    """Calls that `tensor` needs and that are not in `origin` yet, each after what it needs itself.

    The order follows the arguments only, so it is the same in every process. Iterative, because
    deep models exceed Python's recursion limit.
    """
    import keras

    waiting = [(_call_of(tensor), False)] if id(tensor) not in origin else []
    while waiting:
        call, needs_are_read = waiting.pop()
        if all(id(output) in origin for output in call.outputs):
            continue
        if needs_are_read:
            yield call
            continue
        waiting.append((call, True))
        masks = (mask for _, mask in implicit_masks_of(call))
        symbolic = (mask for mask in masks if isinstance(mask, keras.KerasTensor))  # or constants
        tensors = [*call.input_tensors, *symbolic]
        needed = [t for t in tensors if id(t) not in origin]
        waiting.extend((_call_of(t), False) for t in reversed(needed))


def _call_of(tensor: Any) -> Any:
    """The call record (Keras: `Node`) whose output `tensor` is."""
    operation, call_index, _ = tensor._keras_history
    return operation._inbound_nodes[call_index]


def arguments_of(call: Any, but: Container[str] = ()) -> Iterator[tuple[str, Any]]:
    """The call's arguments, flattened, as (port, value), without the ports in `but`."""
    for name, value in _named_arguments(call):
        for port, item in _flatten(name, value):
            if port not in but:
                yield port, item


def _named_arguments(call: Any) -> Iterator[tuple[str, Any]]:
    """The call's arguments as (name, value), nested values as they are."""
    names = parameter_names(call.operation.__class__)
    for position, value in enumerate(call.arguments.args):
        yield (names[position] if position < len(names) else str(position)), value
    yield from call.arguments.kwargs.items()


def given_to_model(call: Any, model: Any) -> dict[str, Any]:
    """What a call of a nested model gives for each of the model's inputs, in order: port -> value.

    As Keras binds it: what comes in a dictionary by the names of the inputs, where the model was
    not made of a dictionary itself. Empty if the call does not fit the model.
    """
    import keras

    names = parameter_names(call.operation.__class__)
    name = names[0] if names else ""
    value: Any = dict(_named_arguments(call)).get(name)
    function = getattr(model, "_functional", None) or model  # what is inside of a Sequential model
    by_order = not isinstance(function._inputs_struct, Mapping)
    if isinstance(value, Mapping) and by_order and isinstance(model, keras.Model):
        wanted = [tensor.name for tensor in model.inputs]
        given = {f"{name}.{key}": value[key] for key in wanted if key in value}
    else:
        given = dict(_flatten(name, value))
    return given if len(given) == len(model.inputs) else {}


def has_other_masks(call: Any, masks: Sequence[Any]) -> bool:
    """Whether a call is given masks by hand that are not these, each behind one of its tensors."""
    given = dict(_named_arguments(call)).get("mask")
    by_hand = () if given is None else _flatten("mask", given)
    return any(mask is not own for (_, mask), own in zip(by_hand, masks, strict=False))


def filled_arguments(
    call: Any, fill: Callable[[str, Any], Any]
) -> tuple[list[Any], dict[str, Any]]:
    """The call's (args, kwargs), with `fill(port, value)` in the place of every value in them."""
    named = [(name, _filled(name, value, fill)) for name, value in _named_arguments(call)]
    positional = len(call.arguments.args)
    return [value for _, value in named[:positional]], dict(named[positional:])


def computing_order(model: Any) -> dict[int, int]:
    """id(call record) -> when Keras computes it, if `model` is called.

    It matters where masks are implicit, because `MultiHeadAttention` takes them off its arguments,
    and whatever is computed later does not see them any more. Masks themselves are not in it: Keras
    computes them along with the calls that give them out.
    """
    function = getattr(model, "_functional", None) or model  # what is inside of a Sequential model
    by_depth = getattr(function, "_nodes_by_depth", {})
    calls = [call for depth in sorted(by_depth, reverse=True) for call in by_depth[depth]]
    return {id(call): position for position, call in enumerate(calls)}


def implicit_masks_of(call: Any, mask_of: MaskOf = recorded_mask) -> list[tuple[str, Any]]:
    """Masks that arrive behind the call's tensors, as (port, mask).

    `mask_of` says which mask a tensor carries.

    The rule is that of `keras.layers.Layer.__call__`: the mask of the only tensor argument goes to
    `mask`, that of one of several, `query`, to `query_mask`; unless the caller gave one.
    """
    import keras

    if not isinstance(call.operation, keras.layers.Layer) or call.is_input:
        return []
    accepted = all_parameter_names(call.operation.__class__)
    all_given = dict(_named_arguments(call))
    given = {name: value for name, value in all_given.items() if not _is_filled_in(name, all_given)}
    tensors = {
        name: value for name, value in given.items() if _is_of_tensors(value, call.operation)
    }
    found = []
    for name, value in tensors.items():
        to = "mask" if len(tensors) == 1 else f"{name}_mask"
        if to in accepted and given.get(to) is None:
            for port, tensor in _flatten(name, value):
                mask = mask_of(tensor)
                if mask is not None:
                    found.append((to + port.removeprefix(name), mask))
    return found


def _is_filled_in(name: str, given: Mapping[str, Any]) -> bool:
    """Whether Keras itself gave this argument: it may record as one the masks that it handed on."""
    import keras

    owners = [n for n in given if n != name and name in ("mask", f"{n}_mask")]
    values = keras.tree.flatten(given[name])
    for masks in ([recorded_mask(t) for t in keras.tree.flatten(given[owner])] for owner in owners):
        if len(masks) == len(values) and all(map(operator.is_, masks, values)):
            return True
    return False


def _is_of_tensors(value: Any, operation: Any) -> bool:
    """Whether Keras takes an argument of a layer for a tensor, or for several nested ones."""
    import keras

    def is_tensor(item: Any) -> bool:
        converted = operation._convert_input_args and hasattr(item, "__array__")
        return isinstance(item, keras.KerasTensor) or keras.ops.is_tensor(item) or converted

    if not keras.tree.is_nested(value):
        return is_tensor(value)
    items = keras.tree.flatten(value)
    return bool(items) and all(item is None or is_tensor(item) for item in items)


def _flatten(port: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _flatten(f"{port}.{position}", item)
    elif isinstance(value, Mapping):
        # Sorted, as keras.tree flattens mappings: a nested model's inputs come in this order.
        for key in sorted(value, key=str):
            yield from _flatten(f"{port}.{key}", value[key])
    else:
        yield port, value


def _filled(port: str, value: Any, fill: Callable[[str, Any], Any]) -> Any:
    """`value` with its items, named as `_flatten` names them, replaced."""
    if isinstance(value, list | tuple):
        items = [_filled(f"{port}.{k}", item, fill) for k, item in enumerate(value)]
        if hasattr(value, "_fields"):  # a named tuple takes its fields one by one
            return type(value)(*items)
        return tuple(items) if isinstance(value, tuple) else items
    if isinstance(value, MutableMapping):
        filled = copy(value)  # an ordered or a default dictionary remains one
        filled.update({key: _filled(f"{port}.{key}", item, fill) for key, item in value.items()})
        return filled
    # Of what is recorded as None, Keras may find the mask itself when it computes.
    return value if value is None else fill(port, value)


@cache
def parameter_names(operation_class: type) -> tuple[str, ...]:
    """Names of the positional arguments of a class's `call`, as far as they have names."""
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(p.name for p in _parameters(operation_class) if p.kind in positional)


@cache
def all_parameter_names(operation_class: type) -> frozenset[str]:
    """Names of all arguments of a class's `call`, those that are given by keyword only as well."""
    return frozenset(parameter.name for parameter in _parameters(operation_class))


def _parameters(operation_class: type) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(operation_class.call).parameters.values())[1:]  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        return []
