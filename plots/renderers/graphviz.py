"""Graphs as SVG, PNG, PDF and DOT files."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plots.graph import Graph
from plots.registry import graph_renderer
from plots.renderers import check_direction
from plots.renderers.boxes import Labels, picture_file, quoted
from plots.renderers.dot import graph_to_dot
from plots.renderers.engines import run_graphviz
from plots.renderers.pages import page_of
from plots.renderers.placement import place

if TYPE_CHECKING:
    import pydot

FORMATS = ("png", "jpg", "svg", "pdf", "dot")
"""Names of the renderers in this module."""

MAX_SIDE_PIXELS = 16_000
"""Longest side of a PNG. Viewers and browsers reject much larger ones."""

_MOST_SECONDS = 120  # to write a picture whose positions are known, which always ends


def _register(picture: str, suffixes: tuple[str, ...], summary: str) -> Callable[..., Any]:
    def renderer(
        graph: Graph,
        shapes: bool = False,
        dtypes: bool = False,
        full_names: bool = False,
        activations: bool = False,
        trainable: bool = False,
        rankdir: str = "TB",
        splines: str = "spline",
        dpi: int = 200,
        columns: int | None = None,
    ) -> str | bytes:
        check_style(rankdir, dpi, columns)
        labels = Labels(shapes, dtypes, full_names, activations, trainable)
        if picture == "dot":  # text cannot contain pictures
            graph = replace(graph, pictures={})
            drawn = graph_to_dot(graph, labels, rankdir, dpi, splines)
            return render_dot(drawn, picture).decode()
        pictures = tuple(graph.pictures.values())
        page = page_of(graph, labels, rankdir, dpi, splines, columns)
        return render_dot(page, picture, pictures, is_placed=True)

    renderer.__name__ = picture
    renderer.__doc__ = f"""{summary}

    Args:
        graph: The graph.
        shapes: Whether nodes show input and output shapes.
        dtypes: Whether nodes show output dtypes.
        full_names: Whether nodes show full dotted names.
        activations: Whether nodes show activation functions.
        trainable: Whether nodes show if a layer with weights is trainable.
        rankdir: Direction of the data flow: "TB", "BT", "LR" or "RL".
        splines: Shape of the edges, as in Graphviz: "spline", "polyline", "ortho", ...
        dpi: Dots per inch of a PNG, reduced for large graphs.
        columns: Number of columns of a large graph, as far as it can be cut between blocks; None:
            one, unless that would be a strip that fits no page.

    Raises:
        ImportError: if neither `dot` nor pygraphviz is installed.
        RuntimeError: if Graphviz cannot draw the graph.
        ValueError: if `rankdir`, `dpi` or `columns` is not allowed.
    """
    return graph_renderer(picture, suffixes)(renderer)


svg = _register("svg", (".svg",), "A scalable diagram of nodes and edges, for pages and papers.")
png = _register("png", (".png",), "The same diagram in pixels.")
jpg = _register("jpg", (".jpg", ".jpeg"), "The diagram in pixels, as JPEG.")
pdf = _register("pdf", (".pdf",), "The same diagram as a page, for LaTeX.")
dot = _register("dot", (".dot", ".gv"), "The same diagram as Graphviz source, not laid out.")


def check_style(rankdir: str, dpi: int, columns: int | None = None) -> None:
    """Check the options of a layout; raise ValueError for a value that is not allowed."""
    check_direction(rankdir)
    if not dpi > 0:
        raise ValueError(f"dpi is {dpi!r}; it must be a positive number")
    if columns is not None and columns < 1:
        raise ValueError(
            f"columns is {columns!r}; it must be None (automatic) or an int, 1 or more"
        )


def render_dot(
    dot: pydot.Dot, picture: str, in_nodes: Iterable[str] = (), is_placed: bool = False
) -> bytes:
    """Return `dot` in one of `FORMATS`; equal DOT is rendered as equal bytes.

    Args:
        dot: The diagram.
        picture: The format. A PNG is scaled down, whatever its dpi, so that no side is longer than
            `MAX_SIDE_PIXELS`; vector formats keep their size.
        in_nodes: The pictures inside nodes; see `Graph.pictures`.
        is_placed: Whether `dot` has all positions; otherwise they are set in it.

    Raises:
        ImportError: if neither `dot` nor pygraphviz is installed.
        RuntimeError: if Graphviz cannot draw the graph.
    """
    if picture != "dot" and not is_placed:
        place(dot)
    if picture in ("png", "jpg"):
        # `size` is the largest extent in inches; Graphviz scales down what is larger.
        inches = MAX_SIDE_PIXELS / float(dot.get("dpi") or 96)
        dot.set("size", f'"{inches:.2f},{inches:.2f}"')
    elif dot.get("dpi"):
        del dot.obj_dict["attributes"]["dpi"]
    if picture == "dot":
        return str(dot.to_string()).encode()
    contents = {picture_file(encoded): encoded for encoded in in_nodes}
    with tempfile.TemporaryDirectory() as folder:  # Graphviz reads pictures from files
        for name, encoded in contents.items():
            (Path(folder) / name).write_bytes(base64.b64decode(encoded))
        if contents:
            dot.set("imagepath", quoted(folder))
        data = run_graphviz(dot.to_string(), picture, "nop2", _MOST_SECONDS)
    if picture == "svg":
        for name, encoded in contents.items():
            link = f'href="data:image/png;base64,{encoded}"'
            data = data.replace(f'href="{name}"'.encode(), link.encode())
    return data
