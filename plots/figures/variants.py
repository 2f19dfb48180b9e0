"""One page that lays variants next to each other, block against block."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from plots.annotations import number_text
from plots.figures.style import GRID, new_figure
from plots.folding.outline import outline
from plots.graph import Graph, Node
from plots.hierarchy import enclosing_block
from plots.reading.read import read_graph
from plots.renderers.dot import graphs_to_dot
from plots.renderers.graphviz import render_dot

if TYPE_CHECKING:
    import keras
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGE_INCHES = (11.0, 8.27)
"""As wide as letter and as high as A4, in landscape: fits both."""

_PICTURE_DPI = 200
_MOST_COMPONENTS = 7  # rows of the table; what has fewer parameters is put together
_ROW_INCHES = 0.21
_OTHER = "other"


def variants_page(models: Mapping[str, keras.Model | Graph], title: str | None = None) -> Figure:
    """One landscape page of models next to each other, and a table of their parameters.

    Of each model the streams are drawn, the norms, and one box for each sublayer and for what
    comes before the stream (see `plots.folding.outline`), so that variants differ where they are
    different and nowhere else; equal blocks are drawn once. Masks are left out.

    Args:
        models: Title -> model or graph, from left to right. Of four decoders or two
            encoder-decoders the names are 6 points high, of four encoder-decoders 4.
        title: Title of the page.

    Returns:
        A figure of 11 x 8.27 inches. For print save it with 300 dots per inch.

    Raises:
        TypeError: if something is no Keras model, or a subclassed one, which has no graph.
        ValueError: if there is no model, or one that is not built.
    """
    if not models:
        raise ValueError("no models were given: variants_page needs a mapping title -> model")
    graphs = {
        name: model if isinstance(model, Graph) else read_graph(model)
        for name, model in models.items()
    }
    picture, rows = _picture(graphs), _table_rows(graphs)
    width, height = PAGE_INCHES
    table_inches = _ROW_INCHES * (len(rows) + 1)
    free = height - 0.6 - table_inches  # the title above takes the rest
    picture_inches = min(free, (width - 0.2) * picture.shape[0] / picture.shape[1])
    figure = new_figure(width, height, title)
    ratios = (picture_inches, table_inches, max(free - picture_inches, 0.01))
    above, below, margin = figure.subplots(3, 1, height_ratios=ratios)
    above.imshow(picture)
    for panel in (above, below, margin):
        panel.set_axis_off()
    _draw_table(below, list(graphs), rows)
    return figure


def _picture(graphs: Mapping[str, Graph]) -> np.ndarray:
    """The outlines of the graphs next to each other, as pixels (rows, columns, colours)."""
    import numpy as np
    from matplotlib.image import imread

    outlines = {name: outline(graph) for name, graph in graphs.items()}
    png = render_dot(graphs_to_dot(outlines, dpi=_PICTURE_DPI), "png")
    return np.asarray(imread(io.BytesIO(png), format="png"))


def _draw_table(panel: Axes, titles: list[str], rows: Mapping[str, list[str]]) -> None:
    from matplotlib.transforms import Bbox

    table = panel.table(
        cellText=list(rows.values()),
        rowLabels=list(rows),
        colLabels=titles,
        cellLoc="right",
        colLoc="right",
        bbox=Bbox.from_bounds(0.16, 0.0, 0.84, 1.0),
        edges="horizontal",
    )
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (row, _), cell in table.get_celld().items():
        cell.set_edgecolor(GRID)
        cell.get_text().set_parse_math(False)
        if row in (0, len(rows)):
            cell.get_text().set_fontweight("bold")


def _table_rows(graphs: Mapping[str, Graph]) -> dict[str, list[str]]:
    """Component -> its parameters in each model as text; the largest first, the total last."""
    counts = [_components(graph) for graph in graphs.values()]
    weight: dict[str, float] = {}
    for of_model, graph in zip(counts, graphs.values(), strict=True):
        for name, count in of_model.items():
            share = count / max(graph.parameters, 1)
            weight[name] = max(weight.get(name, 0.0), share)
    ranked = sorted(weight, key=lambda name: -weight[name])
    shown, rest = ranked[:_MOST_COMPONENTS], ranked[_MOST_COMPONENTS:]
    rows = {name: [_cell(of_model.get(name, 0)) for of_model in counts] for name in shown}
    if rest:
        sums = [sum(of_model.get(name, 0) for name in rest) for of_model in counts]
        rows[_OTHER] = [_cell(count) for count in sums]
    return rows | {"total": [_cell(graph.parameters) for graph in graphs.values()]}


def _cell(count: int) -> str:
    return number_text(count) if count else "–"


def _components(graph: Graph) -> dict[str, int]:
    """Component -> parameters, every weight once; components without any are left out."""
    counts: dict[str, int] = {}
    for node in graph.nodes:
        if node.owns_weights:
            name = _component(node)
            counts[name] = counts.get(name, 0) + node.parameters
    return counts


def _component(node: Node) -> str:
    """The part of a block that a call lies in, else its own name; numbers are left out."""
    block = enclosing_block(node.namespace)
    inside = node.namespace.removeprefix(block).lstrip(".") if block else ""
    name = inside.partition(".")[0] or node.shown_name
    return re.sub(r"[_@#]?\d+", "", name) or node.class_name
