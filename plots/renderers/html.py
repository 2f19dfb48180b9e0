"""Graphs as one interactive web page that works offline: expand, search, trace, compare.

The page contains the graph, the scripts `explorer/*.js`, and Graphviz compiled to WebAssembly
(`explorer/wasm-graphviz`), which lays out the expanded clusters. It loads nothing; its content
security policy forbids it.
"""

from __future__ import annotations

import base64
import gzip
import html
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

from plots.annotations import DIFFERENCES, Overlay, Quantity
from plots.arguments import takes_graphs
from plots.folding import FOLDING, block_runs, fold_blocks, name_blocks
from plots.graph import Graph, graph_document
from plots.hierarchy import enclosing_namespaces
from plots.layers import merge_sign
from plots.registry import graph_renderer
from plots.renderers import (
    QUIET_NOTES,
    is_subtracted,
    lay_out,
    letter_meanings,
    role_of,
    total_text,
)
from plots.renderers.labels import class_of, details_of, frame_title, shared_of, title_of

_ASSETS = Path(__file__).parent / "explorer"
_SCRIPTS = (
    *("model.js", "view.js", "sections.js", "dot.js", "engine.js", "simple.js", "svg.js"),
    *("labels.js", "zoom.js", "pane.js", "panel.js", "search.js", "address.js", "toolbar.js"),
    "explorer.js",
)


@graph_renderer("html", suffixes=(".html",))
def page(graph: Graph, depth: int = 2, before: Graph | None = None, shapes: bool = False) -> bytes:
    """An interactive web page: expand clusters, search, trace skip paths; needs no network.

    Returned as bytes, because the graph in it is compressed. See `to_html`.
    """
    return to_html(graph, depth, before, shapes).encode()


@takes_graphs
def to_html(graph: Graph, depth: int = 2, before: Graph | None = None, shapes: bool = False) -> str:
    """Return an interactive web page: expand clusters, search, trace skip paths; works offline.

    Args:
        graph: The graph, not folded: the page folds blocks and collapses clusters itself.
        depth: Number of levels of clusters that are expanded at first.
        before: The older graph of a comparison, to show both side by side; see
            `plots.differences.union.older_side`.
        shapes: Whether edges show shapes at first.

    Raises:
        ValueError: if `depth` is negative.
    """
    if depth < 0:
        raise ValueError(f"depth is {depth!r}; it must be a number of levels, 0 or more")
    content = page_data(graph) | {"depth": depth, "shapes": shapes}
    if before is not None:
        content["before"] = page_data(before)
    data = json.dumps(content, ensure_ascii=False, allow_nan=False, sort_keys=True)
    packed = base64.b64encode(gzip.compress(data.encode(), mtime=0)).decode()
    parts = {
        "title": html.escape(graph.name),
        "style": _asset("explorer.css"),
        "script": "\n".join(_asset(name) for name in _SCRIPTS),
        "engine": _asset("wasm-graphviz/index.js"),
        "worker": _asset("worker.js"),
        "graph": packed,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("explorer.html"))


def page_data(graph: Graph) -> dict[str, Any]:
    """Return the data of the page: the graph, and what Python derives from it.

    Returns:
        "graph": as in `Graph.to_json`, without overlays. "calls": id -> the namespace in which a
        call is drawn, the words on its box, its role, sign and tag. "frames": namespace -> title.
        "edges": their ids. "subtracted": the ids of those with a minus. "placements": those of the
        skip paths. "differences", "quiet": the kinds of notes on differences, and of those that
        frame nothing. "feeds", "below" and "passed": see `Layout`. "runs": see `BlockRun`.
        "letters": the meanings of shape letters. "overlays": with every value as text, also for
        namespaces.
    """
    graph = name_blocks(graph)
    layout = lay_out(graph)
    folded = fold_blocks(replace(graph, overlays=()))  # the page shows the numbers of every block
    folding = [n for n in folded.notes if n.kind in FOLDING and n not in graph.notes]
    bare = replace(graph, overlays=(), notes=(*graph.notes, *folding))
    return {
        "graph": graph_document(bare),
        "calls": {
            node.id: {
                "namespace": layout.namespaces[node.id],
                "label": title_of(node, graph),
                "type": class_of(node),
                "details": details_of(node, graph),
                "shared": (shared_of(node, graph) or ("",))[0],
                "role": "merge" if merge_sign(node) else role_of(node),
                "sign": merge_sign(node),
                "tag": layout.tags.get(node.id, ""),
            }
            for node in graph.nodes
        },
        "frames": {
            name: frame_title(name, graph)
            for namespace in set(layout.namespaces.values())
            for name in enclosing_namespaces(namespace)
        },
        "edges": [edge.id for edge in graph.edges],
        "subtracted": [edge.id for edge in graph.edges if is_subtracted(edge, graph)],
        "placements": [path.placement for path in graph.skip_paths],
        "differences": DIFFERENCES,
        "quiet": QUIET_NOTES,
        "feeds": layout.feeds,
        "below": layout.below,
        "passed": layout.passed,
        "runs": [asdict(run) for run in block_runs(graph)],
        "letters": list(letter_meanings(graph)),
        "overlays": [_overlay_data(o, graph, layout.namespaces) for o in graph.overlays],
    }


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _overlay_data(overlay: Overlay, graph: Graph, namespaces: Mapping[str, str]) -> dict[str, Any]:
    """Return an overlay as [number, text] of every call and edge, and of every namespace."""
    inside: dict[str, list[Quantity]] = {}
    for node in graph.nodes:
        if node.id in overlay.values:
            for namespace in enclosing_namespaces(namespaces[node.id]):
                inside.setdefault(namespace, []).append(overlay.values[node.id])
    combined = {
        namespace: sum(values, Quantity()) if overlay.combine == "sum" else values[-1]
        for namespace, values in inside.items()
    }
    return {
        "name": overlay.name,
        "title": overlay.title,
        "scale": overlay.scale,
        "combine": overlay.combine,
        "unit": overlay.unit,
        "total": overlay.number(overlay.whole) if isfinite(overlay.number(overlay.whole)) else 0,
        "whole": total_text(overlay) if overlay.whole else "",
        "places": _numbers(overlay),
        "namespaces": _numbers(replace(overlay, values=combined)),
    }


def _numbers(overlay: Overlay) -> dict[str, tuple[float, str]]:
    """Return number and text of every place with a finite number, because JSON has no others."""
    return {
        place: (number, overlay.text(place))
        for place, quantity in overlay.values.items()
        if isfinite(number := overlay.number(quantity))
    }
