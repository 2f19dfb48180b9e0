"""A layout without search, for graphs that Graphviz cannot lay out in time.

All calls are in one column, in order. An edge to the next call is a line, any other an arc at the
side of the column.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from math import sqrt
from typing import TYPE_CHECKING

from plots.renderers.dot import new_dot
from plots.renderers.placement import (
    Flow,
    Key,
    Placement,
    Point,
    ends_of,
    extent_of,
    nodes_of,
    placed_by_graphviz,
    point_text,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pydot

_BETWEEN = 22.0  # points between calls
_BESIDE = 18.0  # points between a tag and its call
_TIP = 7.0  # length of an arrowhead


def place_with_arcs(dot: pydot.Dot, order: Sequence[str]) -> Placement:
    """Return the positions of all nodes and edges.

    Args:
        dot: The graph. Its edges are between nodes of the column, or lead from a tag into one.
        order: Names of the nodes in the column. All others are tags.
    """
    flow = Flow(dot.get("rankdir"))
    alone = new_dot(dot.get("rankdir"), None, "line")
    for node in nodes_of(dot):
        alone.add_node(node)
    sizes = placed_by_graphviz([alone])[0].attributes
    half = {
        name: flow.extent((36 * float(found["width"]), 36 * float(found["height"])))
        for (_, name), found in sizes.items()
    }
    edges = [edge for edge in dot.get_edges() if edge.get("style") != "invis"]
    row = {name: number for number, name in enumerate(order)}
    tags = defaultdict(list)
    for edge in edges:
        source, target = ends_of(edge)
        if source not in row:
            tags[target].append(source)
    centre: dict[str, Point] = {}
    end = 0.0
    for name in order:
        along = end + half[name][0]
        centre[name] = along, 0.0
        side = -half[name][1]
        for tag in tags[name]:
            centre[tag] = along, side - _BESIDE - half[tag][1]
            side -= _BESIDE + 2 * half[tag][1]
        end = along + half[name][0] + _BETWEEN
    attributes: dict[Key, Mapping[str, str]] = {
        ("node", name): {**sizes["node", name], "pos": point_text(flow.point(*place))}
        for name, place in centre.items()
    }
    numbers: Counter[Key] = Counter()
    for edge in edges:
        source, target = ends_of(edge)
        (a, b), (c, d) = centre[source], centre[target]
        if source not in row:
            start, tip, shaft = (a, b + half[source][1]), (c, d - half[target][1]), (c, d)
            shaft = c, tip[1] - _TIP
            points = [start, start, shaft, shaft]
        elif row[target] == row[source] + 1:
            start, tip = (a + half[source][0], b), (c - half[target][0], d)
            shaft = tip[0] - _TIP, d
            points = [start, start, shaft, shaft]
        else:
            start, tip = (a, b + half[source][1]), (c, d + half[target][1])
            shaft = c, tip[1] + _TIP
            out = max(start[1], tip[1]) + 6 * sqrt(c - a)
            points = [start, (a, out), (c, out), shaft]
        number = str(numbers[source, target])
        numbers[source, target] += 1
        where = f"e,{point_text(flow.point(*tip))} {flow.text(points)}"
        attributes["edge", source, target, number] = {"pos": where}
    return Placement(attributes, extent_of(attributes))
