"""Read a Keras model into a `Graph`: the only place of this package that knows Keras' graphs."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

from plots.graph import Constant, Edge, Graph, Kind, Node, Tensor

if TYPE_CHECKING:
    import keras


def read_graph(model: keras.Model, open_nested: bool = False) -> Graph:
    """Read a Functional or Sequential Keras model into a plain graph of calls.

    Args:
        model: A Functional model, a built Sequential one, or a `keras.Function`.
        open_nested: Whether a model used as a layer is replaced by what is inside it (under its
            name as namespace). If not, each of its calls is one node.

    Returns:
        The `Graph`. Its ids are those of the layers' names; a second call of a layer gets "@2", and
        what nobody named (`add_7`) is counted anew within the graph ("add#1"), so that they do not
        depend on what else was built in the same process.

    Raises:
        TypeError: if `model` is no Keras model, or a subclassed one, which has no graph.
        ValueError: if `model` is a Sequential model that is not built yet.
    """
    _check_has_graph(model)
    reader = _Reader(open_nested)
    outputs = reader.read_model(model, prefix="", bound={})
    nodes = _by_last_input(reader.nodes, reader.edges)
    order = {node.id: position for position, node in enumerate(nodes)}
    variables = {id(variable): variable for op in reader.called for variable in _weights(op)}
    trained = {id(v) for op in reader.called for v in getattr(op, "trainable_weights", ())}
    sizes = {key: math.prod(variable.shape) for key, variable in variables.items()}
    return Graph(
        name=_snake_case(type(model).__name__) if _is_counted(model) else model.name,
        nodes=tuple(nodes),
        edges=tuple(sorted(reader.edges, key=lambda edge: order[edge.target])),
        inputs=tuple(node.id for node in nodes if node.kind == "input"),
        outputs=tuple(outputs),
        parameters=sum(sizes.values()),
        trainable_parameters=sum(size for key, size in sizes.items() if key in trained),
    )


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
        return
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


class _Reader:
    """Walks a model from its outputs to its inputs, and collects nodes and edges on the way."""

    def __init__(self, open_nested: bool) -> None:
        self.open_nested = open_nested
        self.nodes: list[Node] = []
        self.edges: list[Edge] = []
        self.called: list[Any] = []
        self._layer_ids: dict[int, str] = {}
        self._layer_sizes: dict[int, tuple[int, int]] = {}
        self._taken: set[str] = set()

    def read_model(
        self, model: Any, prefix: str, bound: dict[int, tuple[str, int]]
    ) -> list[tuple[str, int]]:
        """Read `model` and give back where its outputs come from, as (node id, output).

        `bound` maps id(tensor) to where a tensor comes from. For a nested model it holds the
        model's own inputs, bound to what the outer graph hands in.
        """
        origin = dict(bound)
        for tensor in [*model.inputs, *model.outputs]:
            for call in _calls_in_order(tensor, origin):
                self._read_call(call, prefix, origin)
        return [origin[id(tensor)] for tensor in model.outputs]

    def _read_call(self, call: Any, prefix: str, origin: dict[int, tuple[str, int]]) -> None:
        operation = call.operation
        if self.open_nested and (inner := self._open(call, prefix, origin)) is not None:
            origin.update({id(t): end for t, end in zip(call.outputs, inner, strict=True)})
            return
        node_id = self._new_id(operation, prefix)
        constants = []
        for port, value in _arguments(call):
            if id(value) in origin:
                source, output = origin[id(value)]
                self.edges.append(Edge(source, node_id, port, output, _tensor(value)))
            elif value is not None:
                constants.append(_constant(port, value))
        layer = self._layer_ids.setdefault(id(operation), node_id)
        if layer == node_id:
            self.called.append(operation)
            self._layer_sizes[id(operation)] = (
                _count(_weights(operation)),
                _count(getattr(operation, "trainable_weights", ())),
            )
        parameters, trainable_parameters = self._layer_sizes[id(operation)]
        self.nodes.append(
            Node(
                id=node_id,
                name=prefix + operation.name,
                kind=_kind(call),
                class_name=type(operation).__name__,
                bases=_bases(operation.__class__),
                namespace=(prefix + operation.name).rpartition(".")[0],
                layer=layer,
                outputs=tuple(_tensor(tensor) for tensor in call.outputs),
                parameters=parameters,
                trainable_parameters=trainable_parameters,
                trainable=getattr(operation, "trainable", None) if not call.is_input else None,
                config=_config(operation),
                constants=tuple(constants),
            )
        )
        origin.update({id(tensor): (node_id, k) for k, tensor in enumerate(call.outputs)})

    def _open(
        self, call: Any, prefix: str, origin: Mapping[int, tuple[str, int]]
    ) -> list[tuple[str, int]] | None:
        """Read what is inside the nested model that `call` calls; None if it cannot be opened."""
        import keras

        model = call.operation
        if not isinstance(model, keras.Function | keras.Sequential) or not _safe_inputs(model):
            return None
        given = [value for _, value in _arguments(call) if id(value) in origin]
        if len(given) != len(model.inputs):
            return None
        model_id = self._new_id(model, prefix)
        self._layer_ids.setdefault(id(model), model_id)
        bound = {id(t): origin[id(g)] for t, g in zip(model.inputs, given, strict=True)}
        return self.read_model(model, model_id + ".", bound)

    def _new_id(self, operation: Any, prefix: str) -> str:
        """A stable id: the name, or for a counted name like `add_7` a count in this graph."""
        if _is_counted(operation):
            stem = _snake_case(type(operation).__name__)
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


def _by_last_input(nodes: list[Node], edges: list[Edge]) -> list[Node]:
    """The same nodes in an order that reads well: an encoder before the decoder that uses it.

    Sorted by the last of the model's inputs that a node depends on. What a node depends on never
    sorts after it, so the order remains one in which the calls can be computed.
    """
    sources: dict[str, list[str]] = {node.id: [] for node in nodes}
    for edge in edges:
        sources[edge.target].append(edge.source)
    last_input: dict[str, int] = {}
    for position, node in enumerate(nodes):
        needs = [last_input[source] for source in sources[node.id]]
        last_input[node.id] = position if node.kind == "input" else max(needs, default=-1)
    return sorted(nodes, key=lambda node: last_input[node.id])


def _is_counted(operation: Any) -> bool:
    """Whether Keras made up the name: the class in snake case and a counter, such as `add_7`."""
    stem = re.escape(_snake_case(type(operation).__name__))
    return re.fullmatch(rf"{stem}(_\d+)?", operation.name) is not None


def _calls_in_order(tensor: Any, origin: Mapping[int, Any]) -> Iterator[Any]:
    """Calls that `tensor` needs and that are not in `origin` yet, each after what it needs itself.

    The order follows the arguments only, so it is the same in every process. Iterative, because
    deep models exceed Python's recursion limit.
    """
    waiting = [(_call_of(tensor), False)] if id(tensor) not in origin else []
    while waiting:
        call, needs_are_read = waiting.pop()
        if all(id(output) in origin for output in call.outputs):
            continue
        if needs_are_read:
            yield call
            continue
        waiting.append((call, True))
        needed = [t for t in call.input_tensors if id(t) not in origin]
        waiting.extend((_call_of(t), False) for t in reversed(needed))


def _call_of(tensor: Any) -> Any:
    """The call record (Keras: `Node`) whose output `tensor` is."""
    operation, call_index, _ = tensor._keras_history
    return operation._inbound_nodes[call_index]


def _arguments(call: Any) -> Iterator[tuple[str, Any]]:
    """The call's arguments, flattened, as (port, value)."""
    args, kwargs = call.arguments.args, call.arguments.kwargs
    names = _parameter_names(call.operation.__class__)
    for position, value in enumerate(args):
        port = names[position] if position < len(names) else str(position)
        yield from _flatten(port, value)
    for name, value in kwargs.items():
        yield from _flatten(name, value)


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


@cache
def _parameter_names(operation_class: type) -> tuple[str, ...]:
    """Names of the positional arguments of a class's `call`, as far as they have names."""
    try:
        parameters = list(inspect.signature(operation_class.call).parameters.values())[1:]  # type: ignore[attr-defined]
    except (AttributeError, TypeError, ValueError):
        return ()
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return tuple(parameter.name for parameter in parameters if parameter.kind in positional)


def _tensor(tensor: Any) -> Tensor:
    shape = () if tensor.shape is None else tensor.shape
    return Tensor(tuple(None if n is None else int(n) for n in shape), str(tensor.dtype))


def _constant(port: str, value: Any) -> Constant:
    import keras

    if isinstance(value, bool | int | float | str):
        return Constant(port, value)
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        shape = tuple(int(n) for n in value.shape)
        return Constant(port, None, shape, keras.backend.standardize_dtype(value.dtype))
    return Constant(port, _plain(value))


def _kind(call: Any) -> Kind:
    import keras

    if isinstance(call.operation, keras.layers.InputLayer):
        return "input"
    if isinstance(call.operation, keras.Model | keras.Function):
        return "model"
    return "layer" if isinstance(call.operation, keras.layers.Layer) else "operation"


@cache
def _bases(operation_class: type) -> tuple[str, ...]:
    """Names of the classes below `Layer`, `Model` or `Operation` that a class derives from."""
    import keras

    roots = (keras.layers.Layer, keras.Model, keras.Operation)
    names = []
    for base in operation_class.__mro__[1:]:
        if base in roots:
            break
        names.append(base.__name__)
    return tuple(names)


def _weights(operation: Any) -> list[Any]:
    return list(getattr(operation, "weights", ()))


def _count(variables: Any) -> int:
    return sum({id(variable): math.prod(variable.shape) for variable in variables}.values())


def _config(operation: Any) -> dict[str, Any]:
    """The configuration as JSON-able values, without the name, which may be a counted one."""
    import keras

    if isinstance(operation, keras.Model | keras.Function):
        return {}  # the whole inner graph: read it with open_nested instead
    try:
        config = operation.get_config()
    except Exception:  # a foreign layer's get_config may fail in any way; the picture still comes
        return {}
    return {str(key): _plain(value) for key, value in config.items() if key != "name"}


def _plain(value: Any) -> Any:
    """`value` as JSON-able data that is the same in every process (so never its `repr`)."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, slice):
        parts = ["" if part is None else str(_plain(part)) for part in (value.start, value.stop)]
        return ":".join(parts) + ("" if value.step is None else f":{value.step}")
    if value is Ellipsis:
        return "..."
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return _plain(value.item())
    return getattr(value, "__name__", type(value).__name__)


@cache
def _snake_case(class_name: str) -> str:
    """The stem of the names that Keras counts up: "add" for Add, "layer_norm" for LayerNorm."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
