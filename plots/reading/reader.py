"""The walk through what Keras has recorded of a model, from its outputs to its inputs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from plots.declaration import Declaration
from plots.graph import Constant, Edge, Node, Shape, Tensor
from plots.reading.declarations import read_declaration
from plots.reading.keras_calls import (
    RecordedCall,
    arguments_of,
    calls_in_order,
    computing_order,
    given_to_model,
    has_other_masks,
    implicit_masks_of,
)
from plots.reading.keras_values import (
    base_names,
    config_of,
    constant_of,
    is_counted,
    kind_of,
    snake_case,
    tensor_of,
)
from plots.reading.masks import CarriedMasks
from plots.reading.trace import Traced, trace, with_masks
from plots.reading.weights import Sizes, WeightCounter


@dataclass(frozen=True, slots=True)
class Place:
    """Where a call, or a nested model, stands in the whole.

    Attributes:
        prefix: What the names there begin with: "", or the id of a nested model and a dot.
        origin: id(tensor) -> where it comes from, as (node id, output).
        when: When it is computed: the position in its model, after that of the model in its own.
    """

    prefix: str
    origin: dict[int, tuple[str, int]]
    when: tuple[float, ...]


class Reader:
    """Walks a model from its outputs to its inputs, and collects nodes and edges on the way."""

    def __init__(
        self,
        open_nested: bool,
        open_layers: bool,
        shapes: Mapping[int, Shape],
        undoing: ExitStack,
    ) -> None:
        self.open_nested = open_nested
        self.open_layers = open_layers
        self.shapes = shapes
        self.undoing = undoing  # takes what has to be undone when the model is read
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.recorded: list[RecordedCall] = []
        self.flat: dict[str, bool] = {}  # namespace of a model -> whether no name there has a dot
        self._layer_ids: dict[int, str] = {}
        self._layer_sizes: dict[int, Sizes] = {}
        self._weights = WeightCounter()
        self._taken: set[str] = set()
        self._traced: list[Traced] = []  # the layers that are being looked into, outermost first
        self._kept: list[Any] = []  # what was opened: tensors that are known by id have to stay
        self._masks = CarriedMasks()
        self._masks_at: dict[int, tuple[Any, Place]] = {}  # id(mask) -> (mask, place) to read

    def read_model(self, model: Any, place: Place) -> list[tuple[str, int]]:
        """Read `model` and give back where its outputs come from, as (node id, output).

        What comes from where at `place` are the inputs of a nested model, which the outer graph
        hands in.
        """
        origin = place.origin
        self.flat[place.prefix.removesuffix(".")] = True
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
        inner = self._open(call, place) if self.open_nested else None
        if inner is None and self.open_layers:
            inner = self._look_into(call, place)
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
        for port, value in [*arguments_of(call, but=masks), *masks.items()]:
            if id(value) in origin:
                source, output = origin[id(value)]
                tensor = self._tensor(value)
                edges[port] = Edge(source, node_id, port, output, tensor, port in masks)
            elif value is not None:
                constants.append(constant_of(port, value))
        declaration = None
        if operation is call.operation:  # and not what a `TimeDistributed` applies to every step
            ports = [*edges, *(port for port, _ in arguments_of(call))]
            inputs = {port: edge.tensor.shape for port, edge in edges.items()}
            outputs = [self._tensor(tensor).shape for tensor in call.outputs]
            declaration = read_declaration(operation, dict.fromkeys(ports), inputs, outputs)
        self._add(call, operation, node_id, prefix, tuple(constants), declaration)
        self.edges.extend(edges.values())
        results = tuple((node_id, k) for k in range(len(call.outputs)))
        self.recorded.append(RecordedCall(call, place.when, edges, results, declaration))
        origin.update(zip(map(id, call.outputs), results, strict=True))
        for mask in self._masks.propagate_mask(call):
            self._read_mask(mask, origin)

    def _read_mask(self, mask: Any, origin: dict[int, tuple[str, int]]) -> None:
        """Read a mask from where it is computed, if that is not where it is taken."""
        if id(mask) not in origin and id(mask) in self._masks_at:
            tensor, place = self._masks_at[id(mask)]
            if tensor is not mask:  # a stand-in, whose mask may come from further away
                self._read_mask(tensor, place.origin)
            for call in calls_in_order(tensor, place.origin):
                self._read_call(call, place)
            origin[id(mask)] = place.origin[id(tensor)]

    def _add(
        self,
        call: Any,
        operation: Any,
        node_id: str,
        prefix: str,
        constants: tuple[Constant, ...],
        declaration: Declaration | None,
    ) -> None:
        layer = self._layer_ids.setdefault(id(operation), node_id)
        if layer == node_id:
            self._layer_sizes[id(operation)] = self._weights.sizes_of(operation)
        sizes = self._layer_sizes[id(operation)]
        self.nodes.append(
            Node(
                id=node_id,
                name=prefix + operation.name,
                kind=kind_of(call),
                class_name=type(operation).__name__,
                bases=base_names(operation.__class__),
                namespace=(prefix + operation.name).rpartition(".")[0],
                layer=layer,
                outputs=tuple(self._tensor(tensor) for tensor in call.outputs),
                parameters=sizes.parameters,
                trainable_parameters=sizes.trainable,
                trainable=getattr(operation, "trainable", None) if not call.is_input else None,
                config=config_of(operation),
                constants=constants,
                weight_bytes=sizes.bytes,
                shared_parameters=sizes.shared,
                declaration=declaration,
            )
        )

    def _open(self, call: Any, place: Place) -> list[tuple[str, int]] | None:
        """Read what is inside the nested model that `call` calls; None if it cannot be opened."""
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
        inner = with_masks(model, tensors, masks, self.shapes, self.undoing) if present else model
        self._kept.append(inner)
        pairs = zip(inner.inputs, [*tensors, *present], strict=True)
        bound = {id(inside): origin[id(outside)] for inside, outside in pairs}
        within = Place(self._enter(outer, place.prefix), bound, place.when)
        recorded = len(self.recorded)
        ends = self.read_model(inner, within)
        self._hand_masks_on(inner, call, within)
        if model is not outer:
            # It is applied to single steps, and whole sequences are computed: what comes out of it
            # can be known, what is inside cannot.
            del self.recorded[recorded:]
            edges = {}
            for port, value in given.items():
                source, output = origin[id(value)]
                edges[port] = Edge(source, ends[0][0], port, output, tensor_of(value))
            self.recorded.append(RecordedCall(call, place.when, edges, tuple(ends)))
        return ends

    def _look_into(self, call: Any, place: Place) -> list[tuple[str, int]] | None:
        """Read what a layer that is made of layers does; None if it cannot be looked into."""
        traced = trace(call, self.undoing, self.shapes, self._masks.of)
        if traced is None or len(traced.function.outputs) != len(call.outputs):
            return None
        bound = {id(inside): place.origin[id(outside)] for inside, outside in traced.given}
        within = Place(self._enter(call.operation, place.prefix), bound, place.when)
        self._masks_at.update({id(inside): (mask, place) for inside, mask in traced.masks})
        self._kept.append(traced)
        self._traced.append(traced)
        inner = self.read_model(traced.function, within)
        self._traced.pop()
        self._hand_masks_on(traced.function, call, within)
        return inner

    def _hand_masks_on(self, inner: Any, call: Any, within: Place) -> None:
        """What comes out of a call carries the masks that come out of what is inside of it."""
        for inside, outside in zip(inner.outputs, call.outputs, strict=True):
            if (mask := self._masks.of(inside)) is not None:
                self._masks.put(outside, mask)
                self._masks_at.setdefault(id(mask), (mask, within))

    def _tensor(self, value: Any) -> Tensor:
        """Shape and dtype, with the axes free that are free outside of all layers looked into."""
        tensor = tensor_of(value)
        for traced in reversed(self._traced):
            tensor = replace(tensor, shape=traced.freed(tensor.shape))
        return tensor

    def _enter(self, outer: Any, prefix: str) -> str:
        """The prefix of what is inside a call of `outer`."""
        outer_id = self._new_id(outer, prefix)
        self._layer_ids.setdefault(id(outer), outer_id)
        return outer_id + "."

    def _new_id(self, operation: Any, prefix: str) -> str:
        """A stable id: the name, or for a counted name like `add_7` a count in this graph."""
        if is_counted(operation):
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
    """The inputs of a model, or nothing if it is not built."""
    try:
        return model.inputs
    except (AttributeError, ValueError):
        return None


def _is_time_distributed(operation: Any) -> bool:
    import keras

    return isinstance(operation, keras.layers.TimeDistributed)
