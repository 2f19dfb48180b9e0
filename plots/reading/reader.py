"""Walk the calls that Keras records for a model, from its outputs to its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from plots.graph import Edge, Node, Shape, Tensor
from plots.reading.declarations import read_declaration
from plots.reading.keras_calls import (
    CarriedMasks,
    RecordedCall,
    arguments_of,
    calls_in_order,
    computing_order,
    functional_of,
    given_to_model,
    has_other_masks,
    implicit_masks_of,
)
from plots.reading.keras_values import (
    WeightCounter,
    base_names,
    config_of,
    constant_of,
    is_auto_named,
    kind_of,
    numbered_by_user,
    snake_case,
    tensor_of,
)
from plots.reading.trace import Traced, trace, trace_with_masks


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a call, or of a nested model, in the whole model.

    Attributes:
        prefix: Prefix of the names there: "", or the id of a nested model and a dot.
        origin: id(tensor) -> the node that returns it, as (node id, output).
        when: Sort key: the position in its model, preceded by that model's own position.
    """

    prefix: str
    origin: dict[int, tuple[str, int]]
    when: tuple[float, ...]


class Reader:
    """Walks a model and collects its nodes and edges."""

    def __init__(
        self,
        open_nested: bool,
        open_layers: bool,
        shapes: Mapping[int, Shape],
        cleanup: ExitStack,
    ) -> None:
        self.open_nested = open_nested
        self.open_layers = open_layers
        self.shapes = shapes
        self.cleanup = cleanup  # closed after reading
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.recorded: list[RecordedCall] = []
        self.flat: dict[str, bool] = {}  # namespace of a model -> whether its names have no dots
        self._layer_ids: dict[int, str] = {}
        self._weights = WeightCounter()
        self._taken: set[str] = set()
        self._user_named: set[int] = set()  # see `numbered_by_user`
        self._traced: list[Traced] = []  # layers being read, outermost first
        self._kept: list[Any] = []  # keeps opened models alive, whose tensors are known by id()
        self._masks = CarriedMasks()
        self._masks_at: dict[int, tuple[Any, Place]] = {}  # id(mask) -> (mask, place) to read

    def read_model(self, model: Any, place: Place) -> list[tuple[str, int]]:
        """Read `model` and return the nodes of its outputs, as (node id, output).

        `place.origin` holds the inputs of a nested model, which the outer graph provides.
        """
        origin = place.origin
        self.flat[place.prefix.removesuffix(".")] = True
        self._user_named |= numbered_by_user(getattr(functional_of(model), "operations", ()))
        order = computing_order(model)
        inputs = [tensor for tensor in model.inputs if id(tensor) not in self._masks_at]
        for tensor in [*inputs, *model.outputs]:
            for call in calls_in_order(tensor, origin):
                when = (*place.when, order.get(id(call), math.inf))
                self._read_call(call, Place(place.prefix, origin, when))
        return [origin[id(tensor)] for tensor in model.outputs]

    def _read_call(self, call: Any, place: Place) -> None:
        prefix, origin = place.prefix, place.origin
        operation = call.operation
        if call.is_input and id(call.outputs[0]) in self._masks_at:  # a mask from outside
            self._read_mask(call.outputs[0], origin)
            return
        if "." in operation.name:
            self.flat[prefix.removesuffix(".")] = False
        inner = self._open_model(call, place) if self.open_nested else None
        if inner is None and self.open_layers:
            inner = self._open_layer(call, place)
        if inner is not None:
            origin.update({id(t): end for t, end in zip(call.outputs, inner, strict=True)})
            return
        if self.open_nested and _is_time_distributed(operation):
            prefix = self._enter(operation, prefix)
            operation = operation.layer
        node_id = self._new_id(operation, prefix)
        edges: dict[str, Edge] = {}
        constants = []
        masks = dict(implicit_masks_of(call, self._masks.of))
        for mask in masks.values():
            self._read_mask(mask, origin)
        for port, value in [*arguments_of(call, without=masks), *masks.items()]:
            if id(value) in origin:
                source, output = origin[id(value)]
                tensor = self._tensor(value)
                edges[port] = Edge(source, node_id, port, output, tensor, port in masks)
            elif value is not None:
                constants.append(constant_of(port, value))
        declaration = None
        if operation is call.operation:  # not the layer of a `TimeDistributed`
            ports = [*edges, *(port for port, _ in arguments_of(call))]
            inputs = {port: edge.tensor.shape for port, edge in edges.items()}
            outputs = [self._tensor(tensor).shape for tensor in call.outputs]
            declaration = read_declaration(operation, dict.fromkeys(ports), inputs, outputs)
        name = prefix + operation.name
        self.nodes.append(
            Node(
                id=node_id,
                name=name,
                kind=kind_of(call),
                class_name=type(operation).__name__,
                bases=base_names(operation.__class__),
                namespace=name.rpartition(".")[0],
                layer=self._layer_ids.setdefault(id(operation), node_id),
                outputs=tuple(self._tensor(tensor) for tensor in call.outputs),
                trainable=getattr(operation, "trainable", None) if not call.is_input else None,
                config=config_of(operation),
                constants=tuple(constants),
                declaration=declaration,
                **self._weights.sizes_of(operation),
            )
        )
        self.edges.extend(edges.values())
        results = tuple((node_id, k) for k in range(len(call.outputs)))
        self.recorded.append(RecordedCall(call, place.when, edges, results, declaration))
        origin.update(zip(map(id, call.outputs), results, strict=True))
        for mask in self._masks.propagate_mask(call):
            self._read_mask(mask, origin)

    def _read_mask(self, mask: Any, origin: dict[int, tuple[str, int]]) -> None:
        """Read the calls that compute a mask, if they are in another model or layer."""
        if id(mask) not in origin and id(mask) in self._masks_at:
            tensor, place = self._masks_at[id(mask)]
            if tensor is not mask:  # a stand-in for a mask of an outer model
                self._read_mask(tensor, place.origin)
            for call in calls_in_order(tensor, place.origin):
                self._read_call(call, place)
            origin[id(mask)] = place.origin[id(tensor)]

    def _open_model(self, call: Any, place: Place) -> list[tuple[str, int]] | None:
        """Read the nested model that is called; return None if it stays closed."""
        import keras

        outer = call.operation
        model = outer.layer if _is_time_distributed(outer) else outer
        if not isinstance(model, keras.Function | keras.Sequential) or not inputs_of(model):
            return None
        origin = place.origin
        given = given_to_model(call, model)
        tensors = [*given.values()]
        masks = [self._masks.of(tensor) for tensor in tensors]
        present = [mask for mask in masks if mask is not None]
        if not tensors or not all(id(tensor) in origin for tensor in tensors):
            return None
        if has_other_masks(call, masks) or (present and model is not outer):
            return None
        for mask in present:
            self._read_mask(mask, origin)
        inner = model
        if present:
            inner = trace_with_masks(model, tensors, masks, self.shapes, self.cleanup)
        self._kept.append(inner)
        pairs = zip(inner.inputs, [*tensors, *present], strict=True)
        bound = {id(inside): origin[id(outside)] for inside, outside in pairs}
        within = Place(self._enter(outer, place.prefix), bound, place.when)
        recorded = len(self.recorded)
        ends = self.read_model(inner, within)
        self._put_output_masks(inner, call, within)
        if model is not outer:
            # The calls inside are for single time steps, but whole sequences are computed: only the
            # output of the `TimeDistributed` has a value.
            del self.recorded[recorded:]
            edges = {}
            for port, value in given.items():
                source, output = origin[id(value)]
                edges[port] = Edge(source, ends[0][0], port, output, tensor_of(value))
            self.recorded.append(RecordedCall(call, place.when, edges, tuple(ends)))
        return ends

    def _open_layer(self, call: Any, place: Place) -> list[tuple[str, int]] | None:
        """Read the calls inside a composite layer; return None if it stays closed."""
        traced = trace(call, self.cleanup, self.shapes, self._masks.of)
        if traced is None or len(traced.function.outputs) != len(call.outputs):
            return None
        bound = {id(inside): place.origin[id(outside)] for inside, outside in traced.inputs}
        within = Place(self._enter(call.operation, place.prefix), bound, place.when)
        self._masks_at.update({id(inside): (mask, place) for inside, mask in traced.masks})
        self._kept.append(traced)
        self._traced.append(traced)
        inner = self.read_model(traced.function, within)
        self._traced.pop()
        self._put_output_masks(traced.function, call, within)
        return inner

    def _put_output_masks(self, inner: Any, call: Any, within: Place) -> None:
        """Set the masks of a call's outputs to those that the calls inside return."""
        for inside, outside in zip(inner.outputs, call.outputs, strict=True):
            if (mask := self._masks.of(inside)) is not None:
                self._masks.put(outside, mask)
                self._masks_at.setdefault(id(mask), (mask, within))

    def _tensor(self, value: Any) -> Tensor:
        """Return shape and dtype; axes that are free outside all opened layers stay free."""
        tensor = tensor_of(value)
        for traced in reversed(self._traced):
            tensor = replace(tensor, shape=traced.free_axes(tensor.shape))
        return tensor

    def _enter(self, outer: Any, prefix: str) -> str:
        """Return the prefix of the calls inside a call of `outer`."""
        outer_id = self._new_id(outer, prefix)
        self._layer_ids.setdefault(id(outer), outer_id)
        return outer_id + "."

    def _new_id(self, operation: Any, prefix: str) -> str:
        """Return a stable id: the name, or a count in this graph for a generated name."""
        if is_auto_named(operation) and id(operation) not in self._user_named:
            stem = snake_case(type(operation).__name__)
            first = self._layer_ids.get(id(operation))
            name, sign, number = (first, "@", 2) if first else (f"{prefix}{stem}", "#", 1)
        else:
            name, sign, number = prefix + operation.name, "@", 1
        candidate = name if sign == "@" and number == 1 else f"{name}{sign}{number}"
        while candidate in self._taken:
            number += 1
            candidate = f"{name}{sign}{number}"
        self._taken.add(candidate)
        return candidate


def inputs_of(model: Any) -> Any:
    """Return the inputs of a model, or None if it is not built."""
    try:
        return model.inputs
    except (AttributeError, ValueError):
        return None


def _is_time_distributed(operation: Any) -> bool:
    import keras

    return isinstance(operation, keras.layers.TimeDistributed)
