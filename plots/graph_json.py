"""Graphs as canonical JSON, out and in again, without Keras."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any

from plots.annotations import Note, Overlay, SkipPath
from plots.declaration import Declaration
from plots.graph import Constant, Edge, Graph, Loss, Node, Tensor
from plots.registry import graph_renderer

FORMAT = "functional graph"
VERSION = 3


@graph_renderer("json", (".json",))
def graph_to_json(graph: Graph) -> str:
    """The graph itself, for `Graph.from_json` to read back; see `Graph.to_json`."""
    document = graph_document(graph)
    return json.dumps(document, ensure_ascii=False, allow_nan=False, sort_keys=True, indent=1)


def graph_document(graph: Graph) -> dict[str, Any]:
    """What `graph_to_json` writes, as plain dictionaries, lists, texts and numbers."""
    document = {"format": FORMAT, "version": VERSION} | _plain(graph)
    for node, plain in zip(graph.nodes, document["nodes"], strict=True):
        if not node.has_own_name:  # counted up by Keras over all that the process has built
            del plain["name"]
    return document


def graph_from_json(text: str | bytes) -> Graph:
    """See `Graph.from_json`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is no JSON, so no graph can be read from it: {error}") from None
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise ValueError(
            f'this is no graph: a JSON object with "format": "{FORMAT}" is expected, as '
            "Graph.to_json() writes it"
        )
    if document.get("version") != VERSION:
        raise ValueError(
            f"the graph has version {document.get('version')!r}, but only {VERSION} can be read: "
            "write it anew with the release that is installed"
        )
    try:
        graph = _graph(document)
        check_graph(graph)
    except (AttributeError, KeyError, TypeError, IndexError) as error:
        raise ValueError(
            f"the graph is damaged ({type(error).__name__}: {error}): write it anew"
        ) from None
    return graph


def check_graph(graph: Graph) -> None:
    """Check that the parts of a graph fit together.

    Raises:
        ValueError: if ids are not unique, if a part refers to a call, output or edge that is not
            there, or if a call comes before one that it takes from.
    """
    for what, parts in (("calls", graph.nodes), ("edges", graph.edges)):
        twice = [place for place, times in Counter(p.id for p in parts).items() if times > 1]
        if twice:
            raise ValueError(
                f"the graph {graph.name!r} has several {what} with the id {twice[0]!r}"
            )
    for edge in graph.edges:
        ends = graph.index.get(edge.source), graph.index.get(edge.target)
        if ends[0] is None or ends[1] is None:
            raise ValueError(f"the edge {edge.id!r} begins or ends at a call that is not there")
        if ends[0] >= ends[1]:
            raise ValueError(f"the call {edge.target!r} comes before {edge.source!r}, its source")
        if not 0 <= edge.output < len(graph.node(edge.source).outputs):
            raise ValueError(f"the edge {edge.id!r} begins at an output that is not there")
    for node_id, output in graph.outputs:
        if node_id in graph.index and not 0 <= output < len(graph.node(node_id).outputs):
            raise ValueError(f"the graph {graph.name!r} gives out {node_id}[{output}], not in it")
    calls = set(graph.index)
    places = calls | {edge.id for edge in graph.edges}
    for what, referred, allowed in (
        ("inputs", graph.inputs, calls),
        ("outputs", (node_id for node_id, _ in graph.outputs), calls),
        ("the stream", (end for pair in graph.stream for end in pair), calls),
        (
            "skip_paths",
            (i for path in graph.skip_paths for i in (*path.line, *path.bypassed)),
            calls,
        ),
        ("pictures", graph.pictures, calls),
        ("notes", (place for note in graph.notes for place in note.about), places),
        ("overlays", (place for overlay in graph.overlays for place in overlay.values), places),
    ):
        unknown = next((place for place in referred if place not in allowed), None)
        if unknown is not None:
            raise ValueError(f"{what} of the graph {graph.name!r} name {unknown!r}, not in it")


def _plain(value: Any) -> Any:
    """`value` as JSON-able data; fields of data classes that have their default are left out."""
    if is_dataclass(value):
        plain = {}
        for field in fields(value):
            item = getattr(value, field.name)
            empty = field.default_factory() if field.default_factory is not MISSING else None
            if item != (field.default if empty is None else empty):
                plain[field.name] = _plain(item)
        return plain
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value


def _graph(document: dict[str, Any]) -> Graph:
    read = {name: value for name, value in document.items() if name not in ("format", "version")}
    parts: dict[str, Callable[[Any], Any]] = {
        "nodes": _node,
        "edges": _edge,
        "outputs": lambda pair: (pair[0], pair[1]),
        "losses": lambda loss: Loss(**loss),
        "skip_paths": lambda path: SkipPath(**_with_tuples(path)),
        "stream": lambda pair: (pair[0], pair[1]),
        "overlays": lambda overlay: Overlay(**overlay),
        "notes": lambda note: Note(**_with_tuples(note)),
    }
    for name, part in parts.items():
        if name in read:
            read[name] = tuple(part(item) for item in read[name])
    return Graph(**read | {"inputs": tuple(read["inputs"])})


def _node(read: dict[str, Any]) -> Node:
    given = _with_tuples({name: value for name, value in read.items() if name != "config"})
    given["outputs"] = tuple(_tensor(tensor) for tensor in read["outputs"])
    given["constants"] = tuple(Constant(**_with_shape(c)) for c in read.get("constants", ()))
    if "declaration" in read:
        given["declaration"] = Declaration(**_with_tuples(read["declaration"]))
    given.setdefault("name", read["id"])
    return Node(config=read["config"], **given)


def _edge(read: dict[str, Any]) -> Edge:
    return Edge(**read | {"tensor": _tensor(read["tensor"])})


def _tensor(read: dict[str, Any]) -> Tensor:
    return Tensor(**_with_tuples(read))


def _with_shape(read: dict[str, Any]) -> dict[str, Any]:
    return read | {"shape": tuple(read["shape"])} if read.get("shape") is not None else read


def _with_tuples(read: dict[str, Any]) -> dict[str, Any]:
    return {key: tuple(item) if isinstance(item, list) else item for key, item in read.items()}
