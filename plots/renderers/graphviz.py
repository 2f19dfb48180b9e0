"""Graphs as DOT, SVG, PNG and PDF, without a Graphviz installation.

`dot` is used where it is installed; else the Graphviz that the wheel `pygraphviz` carries.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Collection
from contextlib import redirect_stderr
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plots.graph import Graph
from plots.registry import graph_renderer
from plots.renderers.boxes import Labels, quoted
from plots.renderers.dot import graph_to_dot
from plots.renderers.inlined import files_of, inlined
from plots.renderers.layout import check_direction

if TYPE_CHECKING:
    import pydot

FORMATS = ("png", "svg", "pdf", "dot")
"""Names of the renderers that are here."""

MAX_SIDE_PIXELS = 16_000
"""Longest side of a PNG. Viewers and browsers refuse much larger ones."""

_GRAPHVIZ_LOCK = threading.Lock()  # the bundled Graphviz is not thread-safe

_PDF_DATE = re.compile(rb"(/(?:CreationDate|ModDate) \(D:)\d{14}")


def _register(picture: str, suffixes: tuple[str, ...], summary: str) -> Callable[..., Any]:
    """Register the renderer of one format; all four take the same options."""

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
        if picture == "dot":  # text, which has no place for pictures in boxes
            graph = replace(graph, pictures={})
        drawn = graph_to_dot(graph, labels, rankdir, dpi, splines)
        data = render_dot(drawn, picture, graph.pictures.values())
        return data.decode() if picture == "dot" else data

    renderer.__name__ = picture
    renderer.__doc__ = f"""{summary}

    Args:
        graph: The graph.
        shapes: Whether boxes say what shapes go in and come out.
        dtypes: Whether they say the dtype of what comes out.
        full_names: Whether they show full dotted names.
        activations: Whether they name activation functions.
        trainable: Whether they say if a layer with weights is trained.
        rankdir: Direction of the data flow: "TB", "BT", "LR" or "RL".
        splines: How edges run, as in Graphviz: "spline", "polyline", "ortho", ...
        dpi: Dots per inch of a PNG, lowered for large graphs.

    Raises:
        ImportError: if neither `dot` nor pygraphviz is there.
        RuntimeError: if Graphviz cannot draw the graph.
        ValueError: if `rankdir` or `dpi` is not allowed.
    """
    return graph_renderer(picture, suffixes)(renderer)


svg = _register("svg", (".svg",), "A picture of boxes and lines that scales, for pages and papers.")
png = _register("png", (".png",), "The same picture as pixels.")
pdf = _register("pdf", (".pdf",), "The same picture as a page, for LaTeX.")
dot = _register("dot", (".dot", ".gv"), "The text that Graphviz lays these pictures out from.")


def check_style(rankdir: str, dpi: int) -> None:
    """Refuse directions and resolutions that there are not.

    Raises:
        ValueError: naming what is allowed.
    """
    check_direction(rankdir)
    if not dpi > 0:
        raise ValueError(f"dpi is {dpi!r}; it must be a positive number")


def render_dot(dot: pydot.Dot, picture: str, in_boxes: Collection[str] = ()) -> bytes:
    """The picture of `dot` in one of `FORMATS`. The same DOT gives the same bytes.

    `in_boxes` are the pictures that boxes show, see `Graph.pictures`.

    A PNG of a large graph is scaled down, whatever its dpi, so that no side is longer than
    `MAX_SIDE_PIXELS`; vector formats keep their natural size.

    Raises:
        ImportError: if neither `dot` nor pygraphviz is there.
        RuntimeError: if Graphviz cannot draw the graph.
    """
    if picture == "png":
        # `size` is the largest extent in inches; Graphviz scales down what is larger.
        inches = MAX_SIDE_PIXELS / float(dot.get("dpi") or 96)
        dot.set("size", f'"{inches:.2f},{inches:.2f}"')
    elif dot.get("dpi"):
        del dot.obj_dict["attributes"]["dpi"]
    if picture == "dot":
        return str(dot.to_string()).encode()
    with files_of(in_boxes) as folder:
        if in_boxes:
            dot.set("imagepath", quoted(folder))
        data = run_graphviz(dot.to_string(), picture)
    return inlined(data, in_boxes) if picture == "svg" else data


def run_graphviz(text: str, picture: str) -> bytes:
    """Lay out DOT text and give back the bytes of the picture in the given format.

    Raises:
        ImportError: if neither `dot` nor pygraphviz is there.
        RuntimeError: if Graphviz cannot draw the graph.
    """
    installed = shutil.which("dot")
    if installed:
        data = _run_installed(installed, text, picture)
    else:
        with _GRAPHVIZ_LOCK:
            data = _run_bundled(text, picture)
    # A PDF holds the time at which it was written. The new date is as long as the old one, because
    # the PDF's table of contents counts bytes.
    return _PDF_DATE.sub(rb"\g<1>19700101000000", data) if picture == "pdf" else data


def _run_installed(program: str, text: str, picture: str) -> bytes:
    done = subprocess.run(
        [program, f"-T{picture}"], input=text.encode(), capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{program} failed to draw the graph: {done.stderr.decode().strip()}")
    return done.stdout


def _run_bundled(text: str, picture: str) -> bytes:
    try:
        import pygraphviz
    except ImportError as error:
        raise ImportError(
            "drawing needs Graphviz: `pip install pygraphviz` (the wheel carries it), or put "
            "Graphviz' `dot` on the PATH; a .dot file can be written without either"
        ) from error
    try:
        graph = pygraphviz.AGraph(string=text)
        with redirect_stderr(io.StringIO()):  # its warning that a large graph may take long
            drawn = graph.draw(format=picture, prog="dot")
    except (ValueError, pygraphviz.DotError) as error:
        raise RuntimeError(f"Graphviz failed to draw the graph: {error}") from error
    graph.close()
    return drawn if isinstance(drawn, bytes) else drawn.encode()
