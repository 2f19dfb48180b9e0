"""Read a Keras model into a `Graph`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from plots.graph import Graph, Node, Shape
from plots.reading.flat_names import in_boxes
from plots.reading.keras_calls import RecordedCall
from plots.reading.keras_values import is_counted, losses_of, snake_case
from plots.reading.reader import Place, Reader, inputs_of

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
        reader = Reader(open_nested, open_layers, shapes, undoing)
        outputs = reader.read_model(model, Place("", {}, ()))
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
        if not model.built or not inputs_of(model):
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


def _is_path(thing: Any) -> bool:
    return isinstance(thing, str) or hasattr(thing, "__fspath__")


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
