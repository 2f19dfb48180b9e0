"""Walk the calls that Keras records for a model, from its outputs to its inputs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Hashable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

from plots.graph import Constant, Edge, Node, Shape, Tensor, namespace_of
from plots.layers import ADDS_LOSSES, JOINS, SHAPE_TRAIT, SOFTMAX_TRAIT, TRACED
from plots.reading.base_calls import class_of
from plots.reading.functions import reason_for_one_call
from plots.reading.ids import CallIds
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
    run_time_mask,
)
from plots.reading.keras_values import (
    WeightCounter,
    base_names,
    call_class,
    config_of,
    constant_of,
    is_weight,
    kind_of,
    read_declaration,
    tensor_of,
    weights_of,
)
from plots.reading.operations import (
    adds_losses,
    inputs_of,
    is_untold,
    layer_inside,
    with_sublayers,
)
from plots.reading.places import Place
from plots.reading.symbolic_calls import OutputSpecs, is_array, is_tensor
from plots.reading.traced_work import Found, found_by_trace, kind_of_call, tells_its_work
from plots.reading.tracing import (
    ClosedError,
    ConstantError,
    Traced,
    discard_calls_of,
    discard_new_calls,
    is_attention_of_hub,
    is_composite,
    is_function,
    traced_call,
)
from plots.reading.traits import graph_inside, traits_of
from plots.reading.unused import Opened, nodes_of_unused_weights


class _Given(NamedTuple):
    """The arguments of a call: edges by port, constants, and arrays or weights by port."""

    edges: dict[str, Edge]
    constants: list[Constant]
    known: dict[str, Any]


class Reader:
    """Walks a model and collects its nodes and edges."""

    def __init__(
        self,
        open_nested: bool,
        open_layers: bool,
        shapes: Mapping[int, Shape],
        cleanup: ExitStack,
        stand_ins: int = 0,
        open_functions: bool = False,
    ) -> None:
        self.open_nested = open_nested
        self.open_layers = open_layers
        self.open_functions = open_functions  # of `Lambda` layers
        self.shapes = shapes
        self.cleanup = cleanup  # closed after reading
        self.stand_ins = stand_ins  # see `Traced`
        self.has_stand_ins = False  # whether numbers stand for free axes of opened layers
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.recorded: list[RecordedCall] = []
        self.closed: dict[str, str] = {}  # id of a node -> why its layer could not be opened
        self._reasons: dict[int, str] = {}  # id(call) -> why it could not be traced
        self.flat: dict[str, bool] = {}  # namespace of a model -> whether its names have no dots
        self._ids = CallIds()
        self._weights = WeightCounter()
        self._opened: dict[int, Opened] = {}  # by id(operation)
        self._traced: list[Traced] = []  # layers being read, outermost first
        self._add_losses: list[bool] = []  # whether each of them adds losses
        self._specs: OutputSpecs = {}
        self._results: set[int] = set()  # id(tensor) of the outputs of models
        self._arrays: dict[int, Any] = {}  # id(tensor) -> array that an opened layer returns
        self._kept: list[Any] = []  # keeps opened models alive, whose tensors are known by id()
        self._found: dict[Hashable, Found] = {}  # what traces show, by `kind_of_call`
        self._masks = CarriedMasks()
        self._masks_at: dict[int, tuple[Any, Place]] = {}  # id(mask) -> (mask, place) to read

    def read_model(self, model: Any, place: Place) -> list[tuple[str, int]]:
        """Read `model` and return the nodes of its outputs, as (node id, output).

        `place.origin` holds the inputs of a nested model, which the outer graph provides.
        """
        origin = place.origin
        self.flat[place.prefix.removesuffix(".")] = True
        self._ids.keep_names(getattr(functional_of(model), "operations", ()))
        self._results |= set(map(id, model.outputs))
        order = computing_order(model)
        inputs = [tensor for tensor in model.inputs if id(tensor) not in self._masks_at]
        for tensor in [*inputs, *model.outputs]:
            for call in calls_in_order(tensor, origin):
                when = (*place.when, order.get(id(call), math.inf))
                self._read_call(call, Place(place.opened, origin, when))
        return [origin[id(tensor)] for tensor in model.outputs]

    def unused_weights(self, model: Any) -> list[Node]:
        """Return nodes for the weights of the whole model that no call takes, once it is read."""
        opened = [*self._opened.values(), (model, ())]
        return nodes_of_unused_weights(opened, self._weights, self._ids.taken)

    def _read_call(self, call: Any, place: Place) -> None:
        origin = place.origin
        operation = call.operation
        if call.is_input and id(call.outputs[0]) in self._masks_at:  # a mask from outside
            self._read_mask(call.outputs[0], origin)
            return
        if "." in operation.name:
            self.flat[place.prefix.removesuffix(".")] = False
        inner, reason = self._read_inside(call, place)
        if inner is not None:
            ends = zip(call.outputs, inner, strict=True)
            origin.update({id(tensor): end for tensor, end in ends if end is not None})
            return
        if self.open_nested and layer_inside(operation) is not operation:
            place = replace(place, opened=self._ids.enter(operation, place))
            operation = layer_inside(operation)
        node_id = self._ids.new(operation, place.prefix)
        if reason := reason or reason_for_one_call(operation):
            self.closed[node_id] = reason
        given = self._given_to(call, node_id, origin)
        node = self._node(call, operation, node_id, place, given)
        node = self._with_traced_work(node, call)
        if self.open_layers and id(call) in self._reasons and weights_of(operation):
            self.closed.setdefault(node_id, self._reasons[id(call)])
        if any(self._add_losses):
            node = replace(node, traits=(*node.traits, ADDS_LOSSES))
        self.nodes.append(node)
        self.edges.extend(given.edges.values())
        results = tuple((node_id, k) for k in range(len(call.outputs)))
        self.recorded.append(
            RecordedCall(call, place.when, given.edges, results, node.declaration, given.known)
        )
        origin.update(zip(map(id, call.outputs), results, strict=True))
        for mask in self._masks.propagate_mask(call):
            self._read_mask(mask, origin)
        self._put_run_time_mask(call, place)

    def _read_inside(
        self, call: Any, place: Place
    ) -> tuple[Sequence[tuple[str, int] | None] | None, str]:
        """Read the calls inside a call that is opened.

        Returns its outputs, None if it is not opened, and why it could not be.
        """
        is_opened = self.open_nested
        try:
            if self.open_nested and (inner := self._open_model(call, place)) is not None:
                return inner, ""
            is_opened = self._is_opened(call)
            if is_opened or self._is_function(call):
                return self._open_layer(call, place), ""
        except ClosedError as error:
            return None, str(error) if is_opened else ""
        return None, ""

    def _given_to(self, call: Any, node_id: str, origin: dict[int, tuple[str, int]]) -> _Given:
        """Return the arguments of a call, after reading its masks."""
        given = _Given({}, [], {})
        masks = dict(implicit_masks_of(call, self._masks.of))
        for mask in masks.values():
            self._read_mask(mask, origin)
        for port, value in [*arguments_of(call, without=masks), *masks.items()]:
            if (array := self._known(value)) is not None:
                given.known[port] = array
                given.constants.append(constant_of(port, array))
            elif id(value) in origin:
                source, output = origin[id(value)]
                tensor = self._tensor(value)
                given.edges[port] = Edge(source, node_id, port, output, tensor, port in masks)
            elif value is not None:
                given.constants.append(constant_of(port, value))
        return given

    def _node(self, call: Any, operation: Any, node_id: str, place: Place, given: _Given) -> Node:
        """Return the node of a call of an operation."""
        outputs = tuple(self._tensor(tensor) for tensor in call.outputs)
        declaration = None
        if operation is call.operation:  # not the layer of a `TimeDistributed`
            ports = [*given.edges, *(port for port, _ in arguments_of(call))]
            inputs = {port: edge.tensor.shape for port, edge in given.edges.items()}
            shapes = [tensor.shape for tensor in outputs]
            declaration = read_declaration(operation, dict.fromkeys(ports), inputs, shapes)
        read = [weight for traced in self._traced for weight in traced.read_by(operation)]
        return Node(
            id=node_id,
            name=place.prefix + operation.name,
            kind=kind_of(call),
            class_name=type(operation).__name__,
            bases=base_names(class_of(operation)),
            namespace=".".join(filter(None, [*place.opened[-1:], namespace_of(operation.name)])),
            layer=self._ids.of_layer(operation, node_id),
            outputs=outputs,
            trainable=getattr(operation, "trainable", None) if not call.is_input else None,
            config=config_of(operation),
            constants=tuple(given.constants),
            declaration=declaration,
            call_class=call_class(type(operation)),
            opens_with=self._opening_option(call.operation),
            opened=place.opened,
            **self._weights.sizes_of(operation, [*filter(is_weight, given.known.values()), *read]),
        )

    def _put_run_time_mask(self, call: Any, place: Place) -> None:
        """Set the mask of an embedding that attaches it when it runs."""
        tensors = [*call.input_tensors]
        if call.is_input or len(call.outputs) != 1 or not tensors:
            return
        if self._masks.of(call.outputs[0]) is not None:
            return
        sources = [tensor._keras_history.operation for tensor in tensors]
        self.cleanup.enter_context(discard_new_calls(sources))
        if (mask := run_time_mask(call.operation, call)) is not None:
            self._kept.append(mask)
            self._masks.put(call.outputs[0], mask)
            self._masks_at[id(mask)] = mask, place

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
        """Read the nested model that is called; return None if the call is one of something else.

        Raises:
            ClosedError: if the model stays closed.
        """
        import keras

        outer = call.operation
        model = layer_inside(outer)
        if not isinstance(model, keras.Function | keras.Sequential):
            return None
        if not inputs_of(model):
            raise ClosedError("it has no graph, as one of its layers takes no symbolic tensors")
        origin = place.origin
        given = given_to_model(call, model)
        tensors = [*given.values()]
        masks = [self._masks.of(tensor) for tensor in tensors]
        present = [mask for mask in masks if mask is not None]
        if not tensors or not all(id(tensor) in origin for tensor in tensors):
            raise ClosedError("its arguments are not the tensors that its inputs take")
        if has_other_masks(call, masks):
            raise ClosedError("it is called with a mask of its own")
        if present and model is not outer:
            raise ClosedError("it is applied to each step of an input with a mask")
        for mask in present:
            self._read_mask(mask, origin)
        inner = model
        if present:
            inner = self._with_masks(model, tensors, masks)
        self._kept.append(inner)
        pairs = zip(inner.inputs, [*tensors, *present], strict=True)
        bound = {id(inside): origin[id(outside)] for inside, outside in pairs}
        within = Place(self._ids.enter(outer, place), bound, place.when)
        self._opened.setdefault(id(model), (model, within.opened))
        recorded = len(self.recorded)
        ends = self.read_model(inner, within)
        self._put_output_masks(inner.outputs, call, within)
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

    def _opening_option(self, operation: Any) -> str:
        """Return the option of `read_graph` that is not set and would open a call, or ""."""
        import keras

        inside = layer_inside(operation)
        if isinstance(inside, keras.Function | keras.Sequential):
            return "" if self.open_nested or not inputs_of(inside) else "open_nested"
        return "open_layers" if not self.open_layers and is_composite(inside) else ""

    def _with_masks(self, model: Any, given: Sequence[Any], masks: Sequence[Any]) -> Any:
        """Return a nested model as a function of the given tensors, then of their masks.

        The model itself records its calls without masks. `masks` has None for tensors without one.
        """
        import keras

        inputs, inner_masks = [], []
        for tensor, value, mask in zip(model.inputs, given, masks, strict=True):
            shape = self.shapes.get(id(value), tensor.shape)
            inputs.append(keras.Input(batch_shape=shape, dtype=tensor.dtype))
            if mask is not None:
                shape = self.shapes.get(id(mask), mask.shape)
                inner_masks.append(keras.Input(batch_shape=shape, dtype=mask.dtype))
                inputs[-1]._keras_mask = inner_masks[-1]
        inside = keras.Function(model.inputs, model.outputs)
        self.cleanup.enter_context(discard_new_calls(inside.operations))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about masks that end here; Keras warns when computing
            outputs = inside.call(inputs)
        return keras.Function([*inputs, *inner_masks], outputs)

    def _open_layer(self, call: Any, place: Place) -> list[tuple[str, int] | None]:
        """Read the calls inside a composite layer.

        Raises:
            ClosedError: if the layer cannot be opened.
        """
        layer = call.operation
        self.cleanup.enter_context(discard_new_calls(layer._flatten_layers()))
        traced = traced_call(call, self.shapes, self._masks.of, self._specs, self.stand_ins)
        self.has_stand_ins |= traced.has_stand_ins
        for inside, outside in zip(traced.outputs, call.outputs, strict=True):
            if is_array(inside):
                self._arrays[id(outside)] = inside
            if not is_tensor(inside) and id(outside) in self._results:
                raise ClosedError("one of its outputs does not depend on its inputs")
        given = {id(inside): self._known(outside) for inside, outside in traced.inputs}
        traced.known |= {key: value for key, value in given.items() if value is not None}
        bound = {id(a): place.origin.get(id(b), ("", 0)) for a, b in traced.inputs}
        bound |= dict.fromkeys(traced.known, ("", 0))  # arguments that no call returns
        within = Place(self._ids.enter(layer, place), bound, place.when)
        self._opened.setdefault(id(layer), (layer, within.opened))
        self._masks_at.update({id(inside): (mask, place) for inside, mask in traced.masks})
        self._kept.append(traced)
        self._traced.append(traced)
        self._add_losses.append(adds_losses(layer))
        self.read_model(traced.function, within)
        self._traced.pop()
        self._add_losses.pop()
        self._put_output_masks(traced.outputs, call, within)
        return [None if t is None else bound.get(id(t), ("", 0)) for t in traced.outputs]

    def _with_traced_work(self, node: Node, call: Any) -> Node:
        """Set `free_of_products`, `returns_input` and `traits` of a node whose class does not tell.

        The layer is called on symbolic tensors, so that neither names nor sizes decide.
        """
        if tells_its_work(node, call):
            return node
        kind = kind_of_call(node, call, self.shapes, self._masks.of)
        found = self._found.get(kind)
        if found is None:
            found = self._work_inside(node, call)
            if kind is not None:
                self._found[kind] = found
        return replace(node, **found)

    def _work_inside(self, node: Node, call: Any) -> Found:
        """Return what a trace of a call shows; nothing if it cannot be traced."""
        try:
            apart = self._read_apart(call)
        except ConstantError:
            return {} if node.role else {"traits": (TRACED, SHAPE_TRAIT)}
        if apart is None:
            return {}
        reader, traced, ends = apart
        operations = [inside.record.operation for inside in reader.recorded]
        found = found_by_trace(node, call, reader.nodes, reader.edges, operations, traced, ends)
        is_openable = is_untold(call.operation) and not self.open_layers
        opens_with = "open_layers" if is_openable and _has_skip_path(apart) else node.opens_with
        return {**found, "opens_with": opens_with}

    def _read_apart(self, call: Any) -> _Apart | None:
        """Return a reader of the calls inside a layer or operation, the trace and its ends.

        The inputs are "input 0", "input 1" and so on. Return None if the call cannot be traced.

        Raises:
            ConstantError: if the outputs do not depend on the inputs.
        """
        reader = Reader(False, False, {}, self.cleanup)
        # The new calls are read before they are removed.
        with discard_new_calls(with_sublayers(call.operation)):
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # the model has given them before
                    traced = traced_call(call, self.shapes, self._masks.of, {})
            except ConstantError:
                raise
            except ClosedError as error:
                self._reasons[id(call)] = str(error)
                return None
            reader._traced.append(traced)
            bound = {
                id(inside): (f"input {k}", 0)
                for k, (inside, _) in enumerate(traced.inputs + traced.masks)
            }
            bound |= dict.fromkeys(traced.known, ("", 0))
            with discard_calls_of(traced.function):
                return reader, traced, reader.read_model(traced.function, Place((), bound, ()))

    def _is_opened(self, call: Any) -> bool:
        """Return whether a call is one of a composite layer that shows the calls inside.

        An attention layer of KerasHub does if there is a skip path inside, past its projections,
        and so does a layer of your own with weights but no layers.
        """
        if not self.open_layers or is_composite(call.operation):
            return self.open_layers
        tensors = [*call.input_tensors, *call.outputs]
        shapes = {self.shapes.get(id(tensor), tensor.shape) for tensor in tensors}
        if len(tensors) != 2 or len(shapes) != 1:
            return False
        is_attention = is_attention_of_hub(call.operation)
        if not is_attention and not is_untold(call.operation):
            return False
        try:
            apart = self._read_apart(call)
        except ConstantError:
            return False
        return apart is not None and _has_skip_path(apart)

    def _is_function(self, call: Any) -> bool:
        """Return whether a call without weights shows the calls inside: see `is_function`.

        It does not if traits of its layer tell what it computes, such as a norm.
        """
        if not (self.open_functions and is_function(call.operation)):
            return False
        try:
            apart = self._read_apart(call)
        except ConstantError:
            return False
        told = () if apart is None else traits_of(apart[0].nodes, apart[0].edges, *apart[1:])
        return apart is not None and {TRACED, SOFTMAX_TRAIT, *JOINS}.issuperset(told)

    def _put_output_masks(self, inner: Sequence[Any], call: Any, within: Place) -> None:
        """Set the masks of a call's outputs to those that the calls inside return."""
        for inside, outside in zip(inner, call.outputs, strict=True):
            if (mask := self._masks.of(inside)) is not None:
                self._masks.put(outside, mask)
                self._masks_at.setdefault(id(mask), (mask, within))

    def _known(self, value: Any) -> Any:
        """Return the weight or array that an argument is or stands for, or None."""
        if id(value) in self._arrays:
            return self._arrays[id(value)]
        return next((t.known[id(value)] for t in self._traced if id(value) in t.known), None)

    def _tensor(self, value: Any) -> Tensor:
        """Return shape and dtype; axes that are free outside all opened layers stay free."""
        tensor = tensor_of(value)
        for traced in reversed(self._traced):
            tensor = replace(tensor, shape=traced.free_axes(tensor.shape))
        return tensor


_Apart = tuple[Reader, Traced, list[tuple[str, int]]]
"""Reader of the calls inside a layer or operation, the trace and its ends."""


def _has_skip_path(apart: _Apart) -> bool:
    """Return whether there is a skip path among the calls inside a layer."""
    from plots.skips import skip_paths

    reader, traced, ends = apart
    inside = graph_inside(reader.nodes, reader.edges, traced, ends)
    return inside is not None and bool(skip_paths(inside))
