"""Read a Keras model into a `Graph`: from its outputs to its inputs, and into what is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from plots.dtypes import bytes_of
from plots.graph import Constant, Edge, Graph, Node, Shape, Tensor
from plots.reading.flat_names import in_boxes
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
    losses_of,
    snake_case,
    tensor_of,
    weights_of,
)
from plots.reading.masks import CarriedMasks
from plots.reading.trace import Traced, trace, with_masks

if TYPE_CHECKING:
    import keras


def read_graph(model: keras.Model, open_nested: bool = False, open_layers: bool = False) -> Graph:
    """Read a Functional or Sequential Keras model into a plain graph of calls.

    Masks that Keras hands on behind the tensors (`_keras_mask`, from `mask_zero=True` or from a
    `Masking` layer) are edges like all others, marked as `implicit`. Those that come out of a
    nested model are seen if it is opened: Keras records nothing of them, it hands them on when it
    computes.

    Args:
        model: A Functional model, a built Sequential one, or a `keras.Function`.
        open_nested: Whether a model used as a layer is replaced by what is inside it (under its
            name as namespace), and so is what a `TimeDistributed` applies to every step. If not,
            each of its calls is one node; so is a call that is given a mask by hand, or a
            `TimeDistributed` model that gets one.
        open_layers: Whether a layer that is made of layers (such as a block of keras-nlp)
            or a subclassed model is replaced by what its `call` does, as far as that runs on
            symbolic tensors.

    Returns:
        The `Graph`. Its ids are those of the layers' names; a second call of a layer gets "@2", and
        what nobody named (`add_7`) is counted anew within the graph ("add#1"), so that they do not
        depend on what else was built in the same process.

    Raises:
        TypeError: if `model` is no Keras model, or a subclassed one, which has no graph.
        ValueError: if `model` is a Sequential model that is not built yet, or a `keras.Function`
            of tensors that are no `keras.Input`.
    """
    return read_calls(model, open_nested, open_layers)[0]


def read_calls(
    model: keras.Model,
    open_nested: bool = False,
    open_layers: bool = False,
    shapes: Mapping[int, Shape] = MappingProxyType({}),
) -> tuple[Graph, tuple[RecordedCall, ...]]:
    """As `read_graph`, and with it the calls, in the order in which Keras computes them.

    `shapes` are those of tensors in one batch, by id(tensor): only with them what is inside of
    layers that are made of layers can be computed.

    Raises:
        TypeError: as from `read_graph`, and so ValueError.
    """
    _check_has_graph(model)
    with ExitStack() as undoing:
        reader = _Reader(open_nested, open_layers, shapes, undoing)
        outputs = reader.read_model(model, _Place("", {}, ()))
    sources: dict[str, list[str]] = {node.id: [] for node in reader.nodes}
    for edge in reader.edges:
        sources[edge.target].append(edge.source)
    nodes = _by_last_input(reader.nodes, sources)
    nodes = in_boxes(nodes, sources, {box for box, is_flat in reader.flat.items() if is_flat})
    order = {node.id: position for position, node in enumerate(nodes)}
    owners = [node for node in nodes if node.owns_weights]
    graph = Graph(
        name=snake_case(type(model).__name__) if is_counted(model) else model.name,
        nodes=tuple(nodes),
        edges=tuple(sorted(reader.edges, key=lambda edge: order[edge.target])),
        inputs=tuple(node.id for node in nodes if node.kind == "input"),
        outputs=tuple(outputs),
        parameters=sum(node.parameters for node in owners),
        trainable_parameters=sum(node.trainable_parameters for node in owners),
        losses=losses_of(model),
    )
    return graph, tuple(sorted(reader.recorded, key=lambda call: call.when))


def _check_has_graph(model: Any) -> None:
    import keras

    if isinstance(model, keras.Sequential):
        # A Sequential model may be built and still have no graph, if one of its layers cannot be
        # called on a symbolic tensor; `inputs` then raises or is empty.
        if not model.built or not _safe_inputs(model):
            raise ValueError(
                f"the Sequential model {model.name!r} is not built, so its graph is not known yet: "
                "give it an input shape first, with a keras.Input as its first layer or with "
                "model.build(input_shape)"
            )
    elif isinstance(model, keras.Function):
        for tensor in model.inputs:
            history = getattr(tensor, "_keras_history", None)
            if not isinstance(getattr(history, "operation", None), keras.layers.InputLayer):
                raise ValueError(
                    f"{type(model).__name__} {model.name!r} begins at {tensor.name!r}, which is no "
                    "keras.Input, so that its calls cannot be told from those before: give it as "
                    "keras.Model(inputs, outputs), which makes inputs of its own"
                )
    elif isinstance(model, keras.Model):
        raise TypeError(
            f"{type(model).__name__} {model.name!r} is a subclassed model: its data flow is Python "
            "code in call(), so it has no graph to read. Build it with the Functional API, or wrap "
            "it as `x = keras.Input(shape); keras.Model(x, model.call(x))`, which records what "
            "call() does, and give that"
        )
    else:
        raise TypeError(
            "a Functional or Sequential Keras model is needed, but a "
            f"{type(model).__module__}.{type(model).__qualname__} was given"
            + (": load the file first, keras.models.load_model(path)" if _is_path(model) else "")
        )


def _safe_inputs(model: Any) -> Any:
    try:
        return model.inputs
    except (AttributeError, ValueError):
        return None


def _is_path(thing: Any) -> bool:
    return isinstance(thing, str) or hasattr(thing, "__fspath__")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a call, or a nested model, stands in the whole.

    Attributes:
        prefix: What the names there begin with: "", or the id of a nested model and a dot.
        origin: id(tensor) -> where it comes from, as (node id, output).
        when: When it is computed: the position in its model, after that of the model in its own.
    """

    prefix: str
    origin: dict[int, tuple[str, int]]
    when: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class _Sizes:
    """What a `Node` says about the weights of its layer.

    Attributes:
        parameters: How many there are, without the shared ones.
        trainable: How many of them are trained.
        bytes: What they take.
        shared: How many more it has that are counted at another layer.
    """

    parameters: int
    trainable: int
    bytes: float
    shared: int


class _Reader:
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
        self._layer_sizes: dict[int, _Sizes] = {}
        self._counted: set[int] = set()  # id(variable) of the weights that a layer has been given
        self._taken: set[str] = set()
        self._traced: list[Traced] = []  # the layers that are being looked into, outermost first
        self._looked_into: list[Traced] = []  # all of them: what is known by id has to stay alive
        self._masks = CarriedMasks()
        self._masks_at: dict[int, tuple[Any, _Place]] = {}  # id(mask) -> (mask, place) to read

    def read_model(self, model: Any, place: _Place) -> list[tuple[str, int]]:
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
                self._read_call(call, _Place(place.prefix, origin, when))
        return [origin[id(tensor)] for tensor in model.outputs]

    def _read_call(self, call: Any, place: _Place) -> None:
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
        self._add(call, operation, node_id, prefix, tuple(constants))
        self.edges.extend(edges.values())
        results = tuple((node_id, k) for k in range(len(call.outputs)))
        self.recorded.append(RecordedCall(call, place.when, edges, results))
        origin.update(zip(map(id, call.outputs), results, strict=True))
        for mask in self._masks.hand_on(call):
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
    ) -> None:
        layer = self._layer_ids.setdefault(id(operation), node_id)
        if layer == node_id:
            self._layer_sizes[id(operation)] = self._sizes_of(operation)
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
            )
        )

    def _sizes_of(self, operation: Any) -> _Sizes:
        """How large the weights of a layer are that no layer before it has."""
        weights = {id(variable): variable for variable in weights_of(operation)}
        own = {key: variable for key, variable in weights.items() if key not in self._counted}
        trained = {id(variable) for variable in getattr(operation, "trainable_weights", ())}
        self._counted |= own.keys()
        numbers = {key: math.prod(variable.shape) for key, variable in weights.items()}
        return _Sizes(
            parameters=sum(numbers[key] for key in own),
            trainable=sum(numbers[key] for key in own if key in trained),
            bytes=sum(numbers[key] * bytes_of(own[key].dtype) for key in own),
            shared=sum(numbers[key] for key in weights if key not in own),
        )

    def _open(self, call: Any, place: _Place) -> list[tuple[str, int]] | None:
        """Read what is inside the nested model that `call` calls; None if it cannot be opened."""
        import keras

        outer = call.operation
        model = outer.layer if _is_time_distributed(outer) else outer
        if not isinstance(model, keras.Function | keras.Sequential) or not _safe_inputs(model):
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
        pairs = zip(inner.inputs, [*tensors, *present], strict=True)
        bound = {id(inside): origin[id(outside)] for inside, outside in pairs}
        within = _Place(self._enter(outer, place.prefix), bound, place.when)
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

    def _look_into(self, call: Any, place: _Place) -> list[tuple[str, int]] | None:
        """Read what a layer that is made of layers does; None if it cannot be looked into."""
        traced = trace(call, self.undoing, self.shapes, self._masks.of)
        if traced is None or len(traced.function.outputs) != len(call.outputs):
            return None
        bound = {id(inside): place.origin[id(outside)] for inside, outside in traced.given}
        within = _Place(self._enter(call.operation, place.prefix), bound, place.when)
        self._masks_at.update({id(inside): (mask, place) for inside, mask in traced.masks})
        self._looked_into.append(traced)
        self._traced.append(traced)
        inner = self.read_model(traced.function, within)
        self._traced.pop()
        self._hand_masks_on(traced.function, call, within)
        return inner

    def _hand_masks_on(self, inner: Any, call: Any, within: _Place) -> None:
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


def _by_last_input(nodes: list[Node], sources: Mapping[str, list[str]]) -> list[Node]:
    """The same nodes in an order that reads well: an encoder before the decoder that uses it.

    Sorted by the last of the model's inputs that a node depends on. What a node depends on never
    sorts after it, so the order remains one in which the calls can be computed.
    """
    last_input: dict[str, int] = {}
    for position, node in enumerate(nodes):
        needs = [last_input[source] for source in sources[node.id]]
        last_input[node.id] = position if node.kind == "input" else max(needs, default=-1)
    return sorted(nodes, key=lambda node: last_input[node.id])


def _is_time_distributed(operation: Any) -> bool:
    import keras

    return isinstance(operation, keras.layers.TimeDistributed)
