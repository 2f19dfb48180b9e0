"""Graphs as SVG, PNG, PDF and DOT files.

Uses the program `dot` if it is installed, or else the Graphviz in the wheel of pygraphviz.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plots.graph import Graph
from plots.registry import graph_renderer
from plots.renderers import check_direction
from plots.renderers.dot import Labels, graph_to_dot, picture_file, quoted

if TYPE_CHECKING:
    import pydot

FORMATS = ("png", "jpg", "svg", "pdf", "dot")
"""Names of the renderers in this module."""

MAX_SIDE_PIXELS = 16_000
"""Longest side of a PNG. Viewers and browsers reject much larger ones."""

_GRAPHVIZ_LOCK = threading.Lock()  # the bundled Graphviz is not thread-safe

_PDF_DATE = re.compile(rb"(/(?:CreationDate|ModDate) \(D:)\d{14}")


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
    ) -> str | bytes:
        check_style(rankdir, dpi)
        labels = Labels(shapes, dtypes, full_names, activations, trainable)
        if picture == "dot":  # text cannot contain pictures
            graph = replace(graph, pictures={})
        drawn = graph_to_dot(graph, labels, rankdir, dpi, splines)
        data = render_dot(drawn, picture, graph.pictures.values())
        return data.decode() if picture == "dot" else data

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

    Raises:
        ImportError: if neither `dot` nor pygraphviz is installed.
        RuntimeError: if Graphviz cannot draw the graph.
        ValueError: if `rankdir` or `dpi` is not allowed.
    """
    return graph_renderer(picture, suffixes)(renderer)


svg = _register("svg", (".svg",), "A scalable diagram of nodes and edges, for pages and papers.")
png = _register("png", (".png",), "The same diagram in pixels.")
jpg = _register("jpg", (".jpg", ".jpeg"), "The diagram in pixels, as JPEG.")
pdf = _register("pdf", (".pdf",), "The same diagram as a page, for LaTeX.")
dot = _register("dot", (".dot", ".gv"), "The same diagram as Graphviz source, not laid out.")


def check_style(rankdir: str, dpi: int) -> None:
    """Check the direction of the data flow and the resolution; raise ValueError if not allowed."""
    check_direction(rankdir)
    if not dpi > 0:
        raise ValueError(f"dpi is {dpi!r}; it must be a positive number")


def render_dot(dot: pydot.Dot, picture: str, in_nodes: Iterable[str] = ()) -> bytes:
    """Return `dot` in one of `FORMATS`; equal DOT gives equal bytes.

    Args:
        dot: The diagram.
        picture: The format. A PNG is scaled down, whatever its dpi, so that no side is longer than
            `MAX_SIDE_PIXELS`; vector formats keep their size.
        in_nodes: The pictures inside nodes; see `Graph.pictures`.

    Raises:
        ImportError: if neither `dot` nor pygraphviz is installed.
        RuntimeError: if Graphviz cannot draw the graph.
    """
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
        data = run_graphviz(dot.to_string(), picture)
    if picture == "svg":
        for name, encoded in contents.items():
            link = f'href="data:image/png;base64,{encoded}"'
            data = data.replace(f'href="{name}"'.encode(), link.encode())
    return data


def run_graphviz(text: str, picture: str) -> bytes:
    """Lay out DOT text and return the bytes of the given format.

    Raises:
        ImportError: if neither `dot` nor pygraphviz is installed.
        RuntimeError: if Graphviz cannot draw the graph.
    """
    program = shutil.which("dot")
    if program is None:
        with _GRAPHVIZ_LOCK:
            data = _run_bundled(text, picture)
    else:
        command = [program, f"-T{picture}"]
        done = subprocess.run(command, input=text.encode(), capture_output=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"{program} failed to draw the graph: {done.stderr.decode().strip()}"
            )
        data = done.stdout
    # A PDF contains the time of writing. The new date has the same length, because the table of
    # contents of a PDF refers to byte offsets.
    return _PDF_DATE.sub(rb"\g<1>19700101000000", data) if picture == "pdf" else data


def _run_bundled(text: str, picture: str) -> bytes:
    try:
        import pygraphviz
    except ImportError as error:
        raise ImportError(
            "drawing needs Graphviz: `pip install pygraphviz` (its wheel includes Graphviz), or "
            "put the program `dot` on the PATH; a .dot file can be written without either"
        ) from error
    try:
        graph = pygraphviz.AGraph(string=text)
        with redirect_stderr(io.StringIO()):  # its warning that a large graph may take long
            drawn = graph.draw(format=picture, prog="dot")
    except (ValueError, pygraphviz.DotError) as error:
        raise RuntimeError(f"Graphviz failed to draw the graph: {error}") from error
    graph.close()
    return drawn if isinstance(drawn, bytes) else drawn.encode()
