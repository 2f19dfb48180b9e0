"""Positions of nodes, edges and clusters: read from Graphviz, moved, joined, and set in DOT."""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from plots.renderers.boxes import quoted
from plots.renderers.engines import SECONDS, run_graphviz

if TYPE_CHECKING:
    import pydot

Point = tuple[float, float]
"""In points (72 per inch), to the right and upwards."""

Key = tuple[str, ...]
"""("node", name), ("edge", source, target, number) or ("cluster", name), with names as in DOT."""

Attributes = Mapping[Key, Mapping[str, str]]
"""Key -> attributes of DOT."""

_PICTURE = re.compile(r"<img [^>]*/>")
_PAIR = re.compile(r"(-?[\d.]+(?:e[+-]?\d+)?),(-?[\d.]+(?:e[+-]?\d+)?)")
_ROW = 16.0  # points; edges are looked up by rows of this height
_ASIDE = 7.0  # points between a title and edges
_POSITIONS = ("pos", "lp", "xlp", "bb")
_FLOWS = {  # rankdir -> direction of the flow, direction across it
    "TB": ((0, -1), (1, 0)),
    "BT": ((0, 1), (1, 0)),
    "LR": ((1, 0), (0, -1)),
    "RL": ((-1, 0), (0, -1)),
}


class Flow:
    """Points as distances along the flow and across it; for "TB", downwards and to the right."""

    def __init__(self, rankdir: str) -> None:
        self.along, self.across = _FLOWS[rankdir]

    def point(self, along: float, across: float) -> Point:
        """Return the point at a distance along and across the flow."""
        (a, b), (c, d) = self.along, self.across
        return a * along + c * across, b * along + d * across

    def distances(self, point: Point) -> Point:
        """Return the distances of a point along and across the flow, the inverse of `point`."""
        (a, b), (c, d) = self.along, self.across
        return a * point[0] + b * point[1], c * point[0] + d * point[1]

    def extent(self, size: Point) -> Point:
        """Return a width and height as the size along and across the flow."""
        along, across = self.distances(size)
        return abs(along), abs(across)

    def text(self, distances: Iterable[Point]) -> str:
        """Return control points, given by distances, as the value of "pos"."""
        return " ".join(point_text(self.point(*pair)) for pair in distances)


@dataclass(frozen=True, slots=True)
class Placement:
    """Positions, as attributes of DOT.

    Attributes:
        attributes: "pos", "lp", "xlp" and "bb"; also "width" and "height" of nodes, in inches.
        corners: Lower left and upper right corner of the rectangle around everything.
        titles: Key of a cluster -> (width, height) of its title.
    """

    attributes: Attributes
    corners: tuple[Point, Point]
    titles: Mapping[Key, Point] = field(default_factory=dict)

    def moved(self, by: Point) -> Placement:
        """Return it moved by a vector."""
        dx, dy = by

        def shifted(pair: re.Match[str]) -> str:
            return point_text((float(pair[1]) + dx, float(pair[2]) + dy))

        attributes = {
            key: {name: _PAIR.sub(shifted, value) for name, value in found.items()}
            for key, found in self.attributes.items()
        }
        (x0, y0), (x1, y1) = self.corners
        corners = (x0 + dx, y0 + dy), (x1 + dx, y1 + dy)
        return replace(self, attributes=attributes, corners=corners)

    def joined(self, other: Placement) -> Placement:
        """Return both; a cluster that is in both reaches around its contents in both."""
        attributes = {**self.attributes, **other.attributes}
        for key in self.attributes.keys() & other.attributes.keys():
            if key[0] == "cluster":
                attributes[key] = _around(self.attributes[key], other.attributes[key])
        corners = box((*self.corners, *other.corners))
        return Placement(attributes, corners, {**self.titles, **other.titles})

    def with_free_titles(self) -> Placement:
        """Return it with the titles of clusters moved to where no edge crosses them.

        A title is as far to the right as possible.
        """
        rows: dict[int, list[Point]] = defaultdict(list)
        for key, found in self.attributes.items():
            if key[0] == "edge" and "pos" in found:
                for x, y in _along(_points(found["pos"])):
                    rows[round(y / _ROW)].append((x, y))
        attributes = dict(self.attributes)
        for key, (width, height) in self.titles.items():
            found = attributes.get(key, {})
            if "lp" not in found:
                continue
            (left, _), (right, _) = _points(found["bb"])
            ((_, y),) = _points(found["lp"])
            near = range(round((y - height) / _ROW) - 1, round((y + height) / _ROW) + 2)
            taken = [x for row in near for x, other in rows[row] if abs(other - y) < height / 2 + 3]
            end = right - _ASIDE
            for x in sorted(taken, reverse=True):
                if end - width - _ASIDE < x < end + _ASIDE:
                    end = x - _ASIDE
            if end - width < left + _ASIDE:  # there is no such place
                end = right - _ASIDE
            attributes[key] = {**found, "lp": point_text((end - width / 2, y))}
        return replace(self, attributes=attributes)

    def centre(self, name: str) -> Point:
        """Return the position of a node."""
        ((x, y),) = _points(self.attributes["node", quoted(name)]["pos"])
        return x, y

    def size(self, name: str) -> Point:
        """Return the width and height of a node."""
        found = self.attributes["node", quoted(name)]
        return 72 * float(found["width"]), 72 * float(found["height"])

    def span(self, flow: Flow) -> tuple[float, float, float, float]:
        """Return the first and last distance along the flow, and the same across."""
        (top, left), (bottom, right) = box(map(flow.distances, self.corners))
        return top, bottom, left, right


def _along(points: Sequence[Point], steps: int = 12) -> Iterator[Point]:
    """Yield points on consecutive cubic Bézier curves, after the tip of an arrow."""
    tip = (len(points) - 1) % 3
    yield from points[:tip]
    for start in range(tip, len(points) - 3, 3):
        for step in range(steps + 1):
            t = step / steps
            weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
            corners = list(zip(weights, points[start : start + 4], strict=True))
            yield sum(w * x for w, (x, _) in corners), sum(w * y for w, (_, y) in corners)


def _around(first: Mapping[str, str], second: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes of a cluster around two others with the same title."""
    lower, other = sorted((first, second), key=lambda found: _points(found["bb"])[0][1])
    corners = _points(lower["bb"])
    whole = box((*corners, *_points(other["bb"])))
    attributes = {**lower, "bb": ",".join(map(point_text, whole))}
    if "lp" in attributes:  # the title stays at the lower right
        ((x, y),) = _points(attributes["lp"])
        attributes["lp"] = point_text((x + whole[1][0] - corners[1][0], y))
    return attributes


def box(points: Iterable[Point]) -> tuple[Point, Point]:
    """Return the lower left and upper right corner of the rectangle around points."""
    xs, ys = zip(*points, strict=True)
    return (min(xs), min(ys)), (max(xs), max(ys))


def _points(value: str) -> list[Point]:
    return [(float(x), float(y)) for x, y in _PAIR.findall(value)]


def point_text(point: Point) -> str:
    """Return a point as DOT writes it."""
    return f"{point[0]:.2f},{point[1]:.2f}"


def placed_by_graphviz(dot: pydot.Dot, seconds: float = SECONDS) -> Placement:
    """Return where Graphviz places the nodes and edges of a graph.

    Cells of pictures have fixed sizes, so that their files are not needed.

    Raises:
        ImportError, RuntimeError: see `run_graphviz`.
    """
    text = _PICTURE.sub("", dot.to_string())
    return read_placement(run_graphviz(text, "json0", seconds=seconds))


def read_placement(data: bytes) -> Placement:
    """Return the positions in a layout that Graphviz has written as "json0"."""
    document = json.loads(data)
    attributes: dict[Key, Mapping[str, str]] = {}
    names: dict[int, str] = {}
    for found in document.get("objects", ()):
        name = names[found["_gvid"]] = _as_in_dot(found["name"])
        if "pos" in found:
            attributes["node", name] = _chosen(found, ("pos", "width", "height"))
        elif "bb" in found:
            attributes["cluster", name] = _chosen(found, _POSITIONS)
    numbers: Counter[Key] = Counter()
    for found in document.get("edges", ()):
        ends = names[found["tail"]], names[found["head"]]
        attributes["edge", *ends, str(numbers[ends])] = _chosen(found, _POSITIONS)
        numbers[ends] += 1
    titles: dict[Key, Point] = {
        ("cluster", _as_in_dot(found["name"])): _title_size(found)
        for found in document.get("objects", ())
        if "bb" in found and found.get("label")
    }
    first, second = _points(document["bb"])
    return Placement(attributes, (first, second), titles)


def _title_size(found: Mapping[str, Any]) -> Point:
    """Return the size of the title of a cluster, without the spaces that made the cluster wide."""
    label, size = str(found["label"]), float(found.get("fontsize", 14))
    return 0.6 * size * len(label.strip("\N{NO-BREAK SPACE}")), size


def _as_in_dot(name: str) -> str:
    return '"' + name.replace('"', '\\"') + '"'


def _chosen(found: Mapping[str, Any], names: Iterable[str]) -> dict[str, str]:
    return {name: str(found[name]) for name in names if name in found}


def extent_of(attributes: Attributes) -> tuple[Point, Point]:
    """Return the corners of the rectangle around nodes and edges."""
    points: list[Point] = []
    for key, found in attributes.items():
        if key[0] == "node":
            ((x, y),) = _points(found["pos"])
            dx, dy = 36 * float(found["width"]), 36 * float(found["height"])
            points += [(x - dx, y - dy), (x + dx, y + dy)]
        elif key[0] == "edge":
            points += _points(found["pos"])
    return box(points)


def ends_of(edge: pydot.Edge) -> tuple[str, str]:
    """Return the names of source and target of an edge in DOT."""
    return str(edge.get_source()), str(edge.get_destination())


def set_positions(dot: pydot.Dot, attributes: Attributes) -> None:
    """Set the positions of all nodes, edges and clusters in DOT."""
    numbers: Counter[Key] = Counter()
    for node in nodes_of(dot):
        _set(node, attributes.get(("node", node.get_name())))
    for edge in dot.get_edges():
        ends = ends_of(edge)
        _set(edge, attributes.get(("edge", *ends, str(numbers[ends]))))
        numbers[ends] += 1
    for cluster in _clusters_of(dot):
        _set(cluster, attributes.get(("cluster", str(cluster.get_name()))))


def _set(part: pydot.Common, attributes: Mapping[str, str] | None) -> None:
    for name, value in (attributes or {}).items():
        part.set(name, f'"{value}"')


def nodes_of(dot: pydot.Graph) -> Iterator[pydot.Node]:
    """Yield the nodes in DOT, also those inside clusters, without the entries for defaults."""
    for graph in (dot, *_clusters_of(dot)):
        yield from (node for node in graph.get_nodes() if node.get_name() not in ("node", "edge"))


def _clusters_of(dot: pydot.Graph) -> Iterator[pydot.Subgraph]:
    for cluster in dot.get_subgraphs():
        yield cluster
        yield from _clusters_of(cluster)
