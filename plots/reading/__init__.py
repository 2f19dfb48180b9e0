"""Read a Keras model, or a file, into a `Graph`."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from plots.annotations import Note
from plots.arguments import collection_paused, model_of
from plots.graph import Graph, Node, Shape
from plots.hierarchy import numbered
from plots.reading.free_sizes import has_unexplained_sizes, with_free_sizes
from plots.reading.ids import is_auto_named, snake_case
from plots.reading.keras_calls import RecordedCall
from plots.reading.keras_values import losses_of
from plots.reading.operations import inputs_of
from plots.reading.places import Place
from plots.reading.reader import Reader
from plots.reading.unused import notes_on_unused_weights, with_unused_weights

if TYPE_CHECKING:
    import keras

_TOKENS = re.compile(r"[^\W\d_]+_\d+(?=_|$)|[^_]+")
"""A word with its number ("stage_0"), or any text between two underscores ("block2a")."""


@collection_paused()
def read_graph(model: keras.Model, open_nested: bool = False, open_layers: bool = False) -> Graph:
    """Read a Functional or Sequential Keras model into a plain graph of calls.

    Masks that Keras passes along with tensors (`_keras_mask`, from `mask_zero=True` or a `Masking`
    layer) are edges marked as `implicit`. Those returned by a nested model are read only if it is
    opened, because Keras does not record them.

    Args:
        model: A Functional model, a built Sequential one, or a `keras.Function`; or an object that
            holds one as its attribute `model`.
        open_nested: Whether the calls inside a model used as a layer, or inside a `TimeDistributed`
            layer, replace it, with its name as their namespace. Otherwise each of its calls is one
            node. A nested model called with an explicit mask stays closed, and so does a
            `TimeDistributed` model whose input carries a mask.
        open_layers: Whether the calls inside a composite layer (such as a KerasHub block) or a
            subclassed model replace it, if its `call` runs on symbolic tensors; and those of a
            layer that overrides `call` of a layer of Keras, whose own `call` is one of them.
            Keras's own layers, KerasHub's attention layers and layers that declare attention stay
            closed. A function inside that takes no symbolic tensors, or loops over time steps, is
            one call. A note of the kind "closed" says why such a function, or another composite
            layer, is not opened.
            Weights of an opened layer or model that no call takes are a node of the kind "weights",
            so that all parameters are in the graph.

    Returns:
        The `Graph`. Ids are the names of the layers; the second call of a layer gets "@2".
        Generated names (`add_7`) are counted anew within the graph ("add#1"), so that ids do not
        depend on other models built in the same process.

    Raises:
        TypeError: if `model` is not a Keras model, or a subclassed one, which has no graph.
        ValueError: if `model` is a Sequential model that is not built, or a `keras.Function`
            of tensors other than `keras.Input`.
    """
    return read_calls(model, open_nested, open_layers)[0]


def graph_of(
    source: Graph | keras.Model | str | os.PathLike[str], open_layers: bool = False
) -> Graph:
    """Return a graph as it is, read a model with nested models opened, or load a graph file.

    `open_layers` is passed to `read_graph`, and ignored for a graph or a file.

    Raises:
        OSError: if the file cannot be read.
        TypeError: as from `read_graph`.
        ValueError: if the file holds no graph, or the model is not built.
    """
    if isinstance(source, Graph):
        return source
    if isinstance(source, str | os.PathLike):
        try:
            return Graph.from_json(Path(source).read_text("utf-8"))
        except ValueError as error:  # UnicodeDecodeError included
            raise ValueError(f"{os.fspath(source)}: {error}") from None
    return read_graph(source, open_nested=True, open_layers=open_layers)


def read_calls(
    model: keras.Model,
    open_nested: bool = False,
    open_layers: bool = False,
    shapes: Mapping[int, Shape] = MappingProxyType({}),
    open_functions: bool = False,
) -> tuple[Graph, tuple[RecordedCall, ...]]:
    """Return the graph of `read_graph` and its calls, in the order in which Keras computes them.

    `shapes` are those of tensors in a batch, by id(tensor). Without them, the calls inside
    composite layers cannot be computed. `open_functions` shows the calls inside `Lambda` layers.
    Raises the errors of `read_graph`.
    """
    model = model_of(model)
    _check_has_graph(model)
    graph, calls, has_stand_ins = _read(model, open_nested, open_layers, shapes, 0, open_functions)
    if has_stand_ins and has_unexplained_sizes(graph, model):
        other = _read(model, open_nested, open_layers, shapes, 1, open_functions)[0]
        graph = with_free_sizes(graph, other)
    return graph, calls


def _read(
    model: keras.Model,
    open_nested: bool,
    open_layers: bool,
    shapes: Mapping[int, Shape],
    stand_ins: int = 0,
    open_functions: bool = False,
) -> tuple[Graph, tuple[RecordedCall, ...], bool]:
    """Return graph and calls of `read_calls`, and whether numbers stood for axes of variable size.

    `stand_ins` chooses these numbers.
    """
    with ExitStack() as cleanup:
        reader = Reader(open_nested, open_layers, shapes, cleanup, stand_ins, open_functions)
        outputs = reader.read_model(model, Place((), {}, ()))
    sources: dict[str, list[str]] = {node.id: [] for node in reader.nodes}
    for edge in reader.edges:
        sources[edge.target].append(edge.source)
    nodes = _by_last_input(reader.nodes, sources)
    flat = {namespace for namespace, is_flat in reader.flat.items() if is_flat}
    nodes = _in_numbered_namespaces(nodes, sources, flat)
    unused = reader.unused_weights(model)
    nodes = with_unused_weights(nodes, unused)
    order = {node.id: position for position, node in enumerate(nodes)}
    owners = [node for node in nodes if node.owns_weights]
    graph = Graph(
        name=snake_case(type(model).__name__) if is_auto_named(model) else model.name,
        nodes=tuple(nodes),
        edges=tuple(sorted(reader.edges, key=lambda edge: order[edge.target])),
        inputs=tuple(node.id for node in nodes if node.kind == "input"),
        outputs=tuple(outputs),
        parameters=sum(node.parameters for node in owners),
        trainable_parameters=sum(node.trainable_parameters for node in owners),
        losses=losses_of(model),
        notes=(
            *_notes_on_closed_layers(nodes, reader.closed),
            *notes_on_unused_weights(unused),
        ),
    )
    recorded = sorted(reader.recorded, key=lambda call: call.when)
    return graph, tuple(_with_masks_first(recorded)), reader.has_stand_ins


def _with_masks_first(calls: Sequence[RecordedCall]) -> Iterator[RecordedCall]:
    """Yield the calls in their order, but those that compute a mask before those that it is for.

    Keras has no order of the calls that compute implicit masks, so they are the last ones; but a
    call inside an opened layer may take one as an argument.
    """
    by_result = {place: call for call in calls for place in call.results}
    done: set[int] = set()
    waiting = list(reversed(calls))
    while waiting:  # no recursion: deep models exceed Python's limit
        call = waiting.pop()
        if id(call) in done:
            continue
        taken = [(e.source, e.output) for e in call.edges.values() if not e.implicit]
        sources = [by_result[place] for place in taken if place in by_result]
        if missing := [source for source in sources if id(source) not in done]:
            waiting += [call, *reversed(missing)]
        else:
            done.add(id(call))
            yield call


def _notes_on_closed_layers(nodes: list[Node], closed: Mapping[str, str]) -> tuple[Note, ...]:
    """Return a note for each class of composite layers that could not be opened, and reason."""
    places: dict[tuple[str, str], list[str]] = {}
    for node in nodes:
        if node.id in closed:
            places.setdefault((node.class_name, closed[node.id]), []).append(node.id)
    return tuple(
        Note("closed", tuple(ids), f"{class_name} stays closed: {reason}.")
        for (class_name, reason), ids in places.items()
    )


def _check_has_graph(model: Any) -> None:
    import keras

    if isinstance(model, keras.Sequential):
        # A built Sequential model has no graph if one of its layers cannot be called on a symbolic
        # tensor; `inputs` then raises or is empty.
        if not model.built or not inputs_of(model):
            raise ValueError(
                f"the Sequential model {model.name!r} is not built, so it has no graph yet: give "
                "it an input shape first, with a keras.Input as its first layer or with "
                "model.build(input_shape)"
            )
    elif isinstance(model, keras.Function):
        for tensor in model.inputs:
            history = getattr(tensor, "_keras_history", None)
            if not isinstance(getattr(history, "operation", None), keras.layers.InputLayer):
                raise ValueError(
                    f"{type(model).__name__} {model.name!r} begins at {tensor.name!r}, which is "
                    "not a keras.Input, so its calls cannot be separated from earlier ones: pass "
                    "keras.Model(inputs, outputs), which creates inputs of its own"
                )
    elif isinstance(model, keras.Model):
        raise TypeError(
            f"{type(model).__name__} {model.name!r} is a subclassed model: its data flow is Python "
            "code in call(), so it has no graph to read. Build it with the Functional API, or "
            "record what call() does: `x = keras.Input(shape); keras.Model(x, model.call(x))`"
        )
    else:
        advice = ""
        if isinstance(model, str | os.PathLike):
            advice = ": load the file first, keras.models.load_model(path)"
        elif isinstance(model, Graph):
            advice = ", which is what a model is read into"
        elif isinstance(model, keras.layers.Layer):
            advice = ": put it into a model first, keras.Sequential([keras.Input(shape), layer])"
        raise TypeError(
            "expected a Functional or Sequential Keras model, but got a "
            f"{type(model).__module__}.{type(model).__qualname__}{advice}"
        )


def _by_last_input(nodes: list[Node], sources: Mapping[str, list[str]]) -> list[Node]:
    """Return the nodes with an encoder before the decoder that uses it.

    Nodes are sorted by the last model input that they depend on. A node never sorts before its
    sources, so the order remains topological.
    """
    last_input: dict[str, int] = {}
    for position, node in enumerate(nodes):
        needs = [last_input[source] for source in sources[node.id]]
        last_input[node.id] = position if node.kind == "input" else max(needs, default=-1)
    return sorted(nodes, key=lambda node: last_input[node.id])


def _in_numbered_namespaces(
    nodes: list[Node], sources: Mapping[str, list[str]], flat: Collection[str]
) -> list[Node]:
    """Return the nodes with namespaces from numbered names: "conv4.block2" of "conv4_block2_conv".

    A numbered prefix ("conv4", "conv4_block2", "stage_0") is a namespace if several names start
    with it, and no node with another name, or with weights and no name, lies on a path between two
    of its nodes. `flat` are the
    namespaces of models whose names have no dots, which are the author's own namespaces.
    """
    prefixes = {
        node.id: _numbered_prefixes(node.namespace, node.name)
        for node in nodes
        if node.namespace in flat and node.has_own_name and node.kind != "input"
    }
    members: dict[str, dict[str, str]] = {}  # prefix -> node id -> name
    for node in nodes:
        for prefix in prefixes.get(node.id, ()):
            members.setdefault(prefix, {})[node.id] = node.name
    order = [node.id for node in nodes]
    index = {node_id: position for position, node_id in enumerate(order)}
    named = {node.id for node in nodes if node.has_own_name or node.parameters}

    def is_contiguous(ids: Collection[str]) -> bool:
        places = [index[node_id] for node_id in ids]
        return _is_contiguous(ids, order[min(places) : max(places) + 1], sources, named)

    several = {prefix: names for prefix, names in members.items() if len({*names.values()}) > 1}
    kept = {prefix for prefix, names in several.items() if is_contiguous(names)}
    renamed = []
    for node in nodes:
        inner = [*takewhile(kept.__contains__, prefixes.get(node.id, ()))]
        renamed.append(replace(node, namespace=inner[-1]) if inner else node)
    return renamed


def _numbered_prefixes(namespace: str, name: str) -> list[str]:
    """Return the prefixes of a name that end in a number, as dotted names in the namespace."""
    prefixes, part = [], []
    prefix = namespace
    for token in _TOKENS.findall(name.removeprefix(namespace).lstrip(".")):
        part.append(token)
        if not token[0].isdigit() and numbered(token):
            prefix = f"{prefix}.{'_'.join(part)}".lstrip(".")
            prefixes.append(prefix)
            part = []
    return prefixes


def _is_contiguous(
    ids: Collection[str],
    between: Sequence[str],
    sources: Mapping[str, Sequence[str]],
    named: Collection[str],
) -> bool:
    """Return whether no other named node lies on a path between two of the nodes.

    An unnamed node without weights, such as an addition, belongs to its surroundings, and is not
    among `named`. `between` has all nodes from the first to the last one of `ids`, in topological
    order.
    """
    inside, left = set(ids), set[str]()  # `left`: computed from nodes outside that follow inside
    for node_id in between:
        taken = sources[node_id]
        if node_id in ids:
            if not left.isdisjoint(taken):
                return False
        elif not left.isdisjoint(taken) or (node_id in named and not inside.isdisjoint(taken)):
            left.add(node_id)
        elif not inside.isdisjoint(taken):
            inside.add(node_id)
    return True
