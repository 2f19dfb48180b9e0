"""Graphs as JSON for Model Explorer, the viewer of Google AI Edge.

The format follows the dataclasses in `graph_builder.py` and `node_data_builder.py` of the package
`ai-edge-model-explorer`.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from math import isfinite
from pathlib import Path
from typing import Any

from plots.annotations import Overlay, counted
from plots.arguments import takes_graphs
from plots.files import write_picture
from plots.graph import Edge, Graph, Node, Tensor
from plots.hierarchy import find_namespaces
from plots.registry import graph_renderer
from plots.renderers import (
    STREAM_COLOUR,
    constant_text,
    fill_colour,
    group_text,
    heat_colour,
    repeated,
)
from plots.renderers.labels import title_of

SUFFIX = ".model_explorer.json"


@graph_renderer("model_explorer", (SUFFIX,))
def to_model_explorer(graph: Graph) -> str:
    """JSON for Model Explorer, a viewer of large graphs: `model-explorer graph.json`.

    The residual stream is an edge overlay; selecting a call on it draws all of it. The viewer reads
    node data from separate files; see `model_explorer_files`. It collapses namespaces itself, so
    pass the graph unfolded.
    """
    collection = {"label": graph.name, "graphs": [_graph(graph)]}
    return json.dumps(collection, ensure_ascii=False, indent=1)


@takes_graphs
def model_explorer_files(graph: Graph, folder: str | os.PathLike[str]) -> list[Path]:
    """Write a graph for Model Explorer, and each of its overlays as a file of node data.

    To view them, run `pip install ai-edge-model-explorer`, then

        model-explorer model.model_explorer.json --node_data_paths=parameters.node_data.json,...

    or load them in the viewer ("View node data").

    Args:
        graph: The graph, preferably unfolded, with the overlays of plugins.
        folder: The folder to write to, created if missing. Files are named after the graph and the
            overlays.

    Returns:
        The paths of the files, that of the graph first.

    Raises:
        OSError: if a file cannot be written.
    """
    path = Path(folder) / f"{_file_name(graph.name)}{SUFFIX}"
    paths = [write_picture(path, to_model_explorer(graph))]
    for overlay in graph.overlays:
        if overlay.values.keys().isdisjoint(graph.index):
            continue  # values of edges are in the graph itself
        data = json.dumps({graph.name: _node_data(graph, overlay)}, ensure_ascii=False, indent=1)
        name = f"{_file_name(graph.name)}.{_file_name(overlay.name)}.node_data.json"
        paths.append(write_picture(Path(folder) / name, data))
    return paths


def _graph(graph: Graph) -> dict[str, Any]:
    namespaces = find_namespaces(graph)
    on_stream = {path.target for path in graph.skip_paths}
    return {
        "id": graph.name,
        "nodes": [
            _node(graph, node, _path(namespaces[node.id]), node.id in on_stream)
            for node in graph.nodes
        ],
        "groupNodeAttributes": {"": _facts(graph)}
        | {_path(name): {"repeats": f"× {times}"} for name, times in graph.repeats.items()},
        "tasksData": {"edgeOverlaysDataListLeftPane": [_stream(graph)] if graph.stream else []},
    }


def _path(namespace: str) -> str:
    """Return a namespace as Model Explorer writes it: "a/b" for "a.b"."""
    return namespace.replace("/", "\N{DIVISION SLASH}").replace(".", "/")


def _node(graph: Graph, node: Node, namespace: str, on_stream: bool) -> dict[str, Any]:
    incoming = graph.incoming[node.id]
    return {
        "id": node.id,
        "label": repeated(title_of(node, graph), graph.times(node)),
        "namespace": namespace,
        "attrs": _entries(_attributes(graph, node)),
        "incomingEdges": [
            {
                "sourceNodeId": edge.source,
                "sourceNodeOutputId": str(edge.output),
                "targetNodeInputId": str(number),
            }
            for number, edge in enumerate(incoming)
        ],
        "inputsMetadata": [
            _metadata(number, edge.tensor, [_tag(edge), *_findings(graph, edge.id)])
            for number, edge in enumerate(incoming)
        ],
        "outputsMetadata": [
            _metadata(number, tensor, []) for number, tensor in enumerate(node.outputs)
        ],
        "style": {
            "backgroundColor": fill_colour(node, graph),
            "borderColor": STREAM_COLOUR if on_stream else "",
        },
    }


def _attributes(graph: Graph, node: Node) -> Iterator[tuple[str, Any]]:
    """Yield the entries of the side panel for a call."""
    yield "class", group_text(node) if node.kind == "group" else node.class_name
    if node.has_own_name:
        yield "name", node.name
    if node.parameters:
        yield "parameters", f"{node.parameters:,}"
        yield "trainable parameters", f"{node.trainable_parameters:,}"
    if shared := [call for call in graph.ties.get(node.layer, ()) if call != node.id]:
        yield "shares weights with", {"type": "node_ids", "nodeIds": shared}
    yield from _findings(graph, node.id)
    for constant in node.constants:
        yield f"argument {constant.port}", constant_text(constant)
    for key, value in node.config.items():
        if value is not None:
            yield key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _findings(graph: Graph, place: str) -> Iterator[tuple[str, str]]:
    """Yield the overlay values of a call or edge, and its notes."""
    for overlay in graph.overlays:
        if place in overlay.values:
            yield overlay.title, overlay.text(place)
    for number, note in enumerate(graph.notes_about.get(place, ())):
        yield f"{note.kind} {number + 1}", note.full_text


def _entries(entries: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
    return [{"key": key, "value": value} for key, value in entries]


def _tag(edge: Edge) -> tuple[str, str]:
    return "__tensor_tag", edge.port + " (implicit)" * edge.implicit


def _metadata(number: int, tensor: Tensor, entries: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Return an input or output with its shape, as the viewer prints it on edges."""
    letters = tensor.letters or ["?" if size is None else str(size) for size in tensor.shape]
    shape = "tensor_shape", f"{tensor.dtype}[{', '.join(letters)}]"
    return {"id": str(number), "attrs": _entries([*entries, shape])}


def _facts(graph: Graph) -> dict[str, str]:
    """Return the entries of the side panel for the whole graph, when no call is selected."""
    facts = {
        "parameters": f"{graph.parameters:,}",
        "trainable parameters": f"{graph.trainable_parameters:,}",
    }
    if graph.skip_paths:
        facts["skip paths"] = str(len(graph.skip_paths))
    facts |= {a: "variable" if size is None else str(size) for a, size in graph.letters.items()}
    for overlay in graph.overlays:
        if overlay.whole:
            facts[f"total {overlay.title}"] = overlay.whole_text
    for number, note in enumerate(graph.notes):
        if not note.about:
            facts[f"{note.kind} {number + 1}"] = note.full_text
    return facts


def _stream(graph: Graph) -> dict[str, Any]:
    """Return the residual stream as an edge overlay; labels count the bypassed calls."""
    past = {(path.source, path.target): len(path.bypassed) for path in graph.skip_paths}
    edges: list[dict[str, str]] = []
    for source, target in graph.stream:
        edges.append({"sourceNodeId": source, "targetNodeId": target})
        if count := past.get((source, target)):
            edges[-1]["label"] = f"past {counted(count, 'call')}"
    overlay = {"name": "residual stream", "edgeColor": STREAM_COLOUR, "edgeWidth": 4}
    return {"name": "skip paths", "type": "edge_overlays", "overlays": [overlay | {"edges": edges}]}


def _node_data(graph: Graph, overlay: Overlay) -> dict[str, Any]:
    """Return the finite values of an overlay, with the colours of the diagrams."""
    results = {
        node.id: {"value": number, "bgColor": heat_colour(overlay, node.id)}
        for node in graph.nodes
        if node.id in overlay.values
        and overlay.values[node.id].is_counted
        and isfinite(number := overlay.number(overlay.values[node.id]))
    }
    unit = f" ({overlay.unit})" if overlay.unit else ""
    return {"name": overlay.title + unit, "results": results}


def _file_name(name: str) -> str:
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "graph"
