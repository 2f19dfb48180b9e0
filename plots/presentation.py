"""How a graph shows itself where nobody said how: in notebooks and when it is printed."""

from __future__ import annotations

import html

from plots.folding.fold import fold_blocks
from plots.folding.groups import close_groups
from plots.graph import Graph
from plots.hierarchy import boxes, depth_of
from plots.skips import mark_skip_paths

MOST_CALLS = 150
"""In a picture with more calls nothing can be read."""


def presentable(graph: Graph, most_calls: int | None = None) -> Graph:
    """The graph with its stream marked and every run of equal blocks as one.

    Args:
        graph: The graph.
        most_calls: How many calls there may be before boxes are closed, the innermost first.
    """
    graph = fold_blocks(_marked(graph))
    if most_calls is not None and len(graph.nodes) > most_calls:
        deepest = max(map(depth_of, boxes(graph).values()), default=0)
        for depth in range(deepest - 1, -1, -1):
            closed = close_groups(graph, depth)
            if len(closed.nodes) <= most_calls or depth == 0:
                return closed
    return graph


def notebook_svg(graph: Graph) -> str | None:
    """See `Graph._repr_svg_`."""
    from plots.renderers.graphviz import svg

    small = presentable(graph, MOST_CALLS)
    if len(small.nodes) > 4 * MOST_CALLS:
        return None
    picture = svg(small).decode()
    return picture[picture.index("<svg") :]  # a notebook puts it into a page


def notebook_page(graph: Graph) -> str | None:
    """See `Graph._repr_html_`."""
    from plots.renderers.html import to_html

    try:
        page = to_html(_marked(graph))
    except ImportError:
        return None
    style = "width: 100%; height: 640px; border: 1px solid #ccc"
    return f'<iframe srcdoc="{html.escape(page)}" style="{style}"></iframe>'


def _marked(graph: Graph) -> Graph:
    return graph if graph.skip_paths else mark_skip_paths(graph)
