"""A model as one web page that opens anywhere, offline: boxes to open, search, trace, compare.

The page carries the graph, our own script (`explorer/*.js`) and Graphviz compiled to WebAssembly,
which lays out whatever is open at the moment. Graphviz comes from the wheel of graphviz-anywidget,
read as a file: nothing of that package is imported, and nothing is fetched, neither when the page
is written nor when it is opened (its content security policy forbids it).
"""

from __future__ import annotations

import base64
import functools
import gzip
import html
import importlib.metadata
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, replace
from math import isfinite
from pathlib import Path
from typing import Any

from plots.annotations import DIFFERENCES, Overlay, Quantity
from plots.folding.fold import block_runs, fold_blocks
from plots.graph import Graph
from plots.graph_json import graph_document
from plots.hierarchy import boxes_around
from plots.operation_kinds import is_additive_merge
from plots.registry import graph_renderer
from plots.renderers.boxes import role_of
from plots.renderers.layout import lay_out
from plots.renderers.legend import letter_meanings, total_text

_ASSETS = Path(__file__).parent / "explorer"
_SCRIPTS = (
    *("model.js", "view.js", "dot.js", "engine.js", "svg.js", "labels.js", "zoom.js", "pane.js"),
    *("panel.js", "search.js", "address.js", "explorer.js"),
)

_ENGINE_PACKAGE = "graphviz-anywidget"
_ENGINE_FILE = "graphviz_anywidget/static/widget.js"

# The bundler that made the file names every module that it put in, in a line of its own.
_MODULE = re.compile(
    r"^// (?P<path>node_modules/@hpcc-js/wasm[\w./-]*)\n(?P<code>.*?)(?=^// [\w@./-]+\.js$)",
    re.M | re.S,
)
_GRAPHVIZ_CLASS = re.compile(
    r"^var (?P<name>\w+) = class [^{]*\{(?:(?!^\};).)*?static load\(\)", re.M | re.S
)


@graph_renderer("html", suffixes=(".html",))
def page(graph: Graph, depth: int = 2, before: Graph | None = None, shapes: bool = False) -> bytes:
    """A web page to explore: boxes open and close, search, skip paths traced; needs no network.

    As bytes, because what it says is packed. See `to_html` for the arguments and errors.
    """
    return to_html(graph, depth, before, shapes).encode()


def to_html(graph: Graph, depth: int = 2, before: Graph | None = None, shapes: bool = False) -> str:
    """A web page to explore: boxes open and close, search, skip paths traced; needs no network.

    Args:
        graph: The graph, not folded: the page folds and closes boxes when they are clicked.
        depth: How many levels of boxes are open at first.
        before: The older graph of a comparison, to see both side by side; see
            `plots.differences.union.older_side`.
        shapes: Whether shapes stand beside the lines at first.

    Raises:
        ImportError: if graphviz-anywidget, which carries the layout engine, is not installed or of
            a release that cannot be used.
        ValueError: if `depth` is negative.
    """
    if depth < 0:
        raise ValueError(f"depth is {depth!r}; it is a number of levels, 0 or more")
    content = page_data(graph) | {"depth": depth, "shapes": shapes}
    if before is not None:
        content["before"] = page_data(before)
    data = json.dumps(content, ensure_ascii=False, allow_nan=False, sort_keys=True)
    packed = base64.b64encode(gzip.compress(data.encode(), mtime=0)).decode()
    parts = {
        "title": html.escape(graph.name),
        "style": _asset("explorer.css"),
        "script": "\n".join(_asset(name) for name in _SCRIPTS),
        "engine": layout_engine() + _asset("worker.js"),
        "graph": packed,
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("explorer.html"))


def page_data(graph: Graph) -> dict[str, Any]:
    """What the page knows: `Graph.to_json`, and what Python finds out about it.

    Returns:
        "graph": as `to_json` has it, without overlays. "calls": id -> the box that a call is drawn
        in, its name there, what it is for, the tag that stands for it. "edges": their ids.
        "placements": those of the skip paths. "differences": kinds of notes on what is different.
        "feeds", "below" and "passed": see `Layout`. "runs": see `BlockRun`. "letters": what shape
        letters mean. "overlays": with every number as text, for boxes too.
    """
    layout = lay_out(graph)
    told = {note for note in graph.notes if note.kind == "deviates"}
    deviating = [n for n in fold_blocks(graph).notes if n.kind == "deviates" and n not in told]
    bare = replace(graph, overlays=(), notes=(*graph.notes, *deviating))
    return {
        "graph": graph_document(bare),
        "calls": {
            node.id: {
                "box": layout.blocks[node.id],
                "label": node.shown_name,
                "role": "merge" if is_additive_merge(node) else role_of(node),
                "tag": layout.tags.get(node.id, ""),
            }
            for node in graph.nodes
        },
        "edges": [edge.id for edge in graph.edges],
        "placements": [path.placement for path in graph.skip_paths],
        "differences": DIFFERENCES,
        "feeds": layout.feeds,
        "below": layout.below,
        "passed": layout.passed,
        "runs": [asdict(run) for run in block_runs(graph)],
        "letters": list(letter_meanings(graph)),
        "overlays": [_overlay_data(overlay, graph, layout.blocks) for overlay in graph.overlays],
    }


@functools.cache
def layout_engine() -> str:
    """JavaScript that defines the class `Graphviz`, with its WebAssembly inside.

    Raises:
        ImportError: if the package that carries it is not installed, or does not have it where it
            is looked for.
    """
    try:
        package = importlib.metadata.distribution(_ENGINE_PACKAGE)
        text = Path(str(package.locate_file(_ENGINE_FILE))).read_text(encoding="utf-8")
    except (importlib.metadata.PackageNotFoundError, OSError) as error:
        raise ImportError(
            "the HTML explorer needs Graphviz for browsers, which the wheel of "
            f"{_ENGINE_PACKAGE} carries: pip install {_ENGINE_PACKAGE}"
        ) from error
    return _graphviz_of(text, f"{_ENGINE_PACKAGE} {package.version}")


def _graphviz_of(text: str, release: str) -> str:
    """The part of a bundled script that is Graphviz, closed off, with its class as `Graphviz`."""
    module = _MODULE.search(text)
    found = module and _GRAPHVIZ_CLASS.search(module["code"])
    if not module or not found:
        raise ImportError(
            f"{release} does not hold Graphviz where the HTML explorer looks for it; a release "
            "that does: pip install 'graphviz-anywidget==0.8.*'"
        )
    notice = f"{module['path']} of {release}: Graphviz (EPL), by hpcc-js (Apache-2.0)"
    code = f"{_inside_script(module['code'])}return {found['name']};"
    return f"// {notice}\nconst Graphviz = (() => {{\n{code}\n}})();\n"


def _inside_script(code: str) -> str:
    """JavaScript in whose strings nothing ends, or begins, the element that it is written into."""
    return re.sub(r"<(?=!--|/?script)", r"\\x3C", code, flags=re.I)


def _asset(name: str) -> str:
    return (_ASSETS / name).read_text(encoding="utf-8")


def _overlay_data(overlay: Overlay, graph: Graph, boxes: Mapping[str, str]) -> dict[str, Any]:
    """An overlay as [number, text] of every call and edge, and of every box from what is in it."""
    inside: dict[str, list[Quantity]] = {}
    for node in graph.nodes:
        if node.id in overlay.values:
            for box in boxes_around(boxes[node.id]):
                inside.setdefault(box, []).append(overlay.values[node.id])
    of_boxes = {
        box: sum(values, Quantity()) if overlay.combine == "sum" else values[-1]
        for box, values in inside.items()
    }
    return {
        "name": overlay.name,
        "title": overlay.title,
        "scale": overlay.scale,
        "whole": total_text(overlay) if overlay.whole else "",
        "places": _numbers(overlay),
        "boxes": _numbers(replace(overlay, values=of_boxes)),
    }


def _numbers(overlay: Overlay) -> dict[str, tuple[float, str]]:
    """Number and text of every place; JSON has no numbers that are not finite."""
    return {
        place: (number, overlay.text(place))
        for place, quantity in overlay.values.items()
        if isfinite(number := overlay.number(quantity))
    }
