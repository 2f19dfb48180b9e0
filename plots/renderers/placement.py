"""Positions of nodes, edges and clusters: read from Graphviz, moved, joined, and set in DOT."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Any

from plots.renderers.boxes import quoted
from plots.renderers.engines import SECONDS, layouts_of
from plots.renderers.forms import form_of

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
_ASIDE = 7.0  # points between a title and edges
_STEP = 4.0  # points between those at which edges are looked up
_MOST_LAYOUTS = 4  # of a graph whose clusters are too narrow for their titles
_BESIDE_LABEL = 8.0  # points that Graphviz leaves on each side of the label of a cluster
_SPACE = 0.278  # width of a space in Helvetica, as a multiple of the size
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
class Title:
    """Title of a cluster, in points.

    Attributes:
        width: Width without the spaces that made the cluster wide.
        height: Height, which is also the size of its font.
        reserved: Width with these spaces, as Graphviz measures it.
    """

    width: float
    height: float
    reserved: float


@dataclass(frozen=True, slots=True)
class Placement:
    """Positions, as attributes of DOT.

    Attributes:
        attributes: "pos", "lp", "xlp" and "bb"; also "width" and "height" of nodes, in inches.
        corners: Lower left and upper right corner of the rectangle around everything.
        titles: Key of a cluster -> its title.
    """

    attributes: Attributes
    corners: tuple[Point, Point]
    titles: Mapping[Key, Title] = field(default_factory=dict)

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

    def renamed(self, names: Mapping[str, str]) -> Placement:
        """Return it for a graph that has other names for nodes and clusters."""

        def own(key: Key) -> Key:
            kind, *old = key
            return (kind, *(names.get(name, name) for name in old))

        return replace(
            self,
            attributes={own(key): found for key, found in self.attributes.items()},
            titles={own(key): title for key, title in self.titles.items()},
        )

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
        attributes = dict(self.attributes)
        for key, end, _ in self._free_ends():
            ((_, y),) = _points(attributes[key]["lp"])
            place = point_text((end - self.titles[key].width / 2, y))
            attributes[key] = {**attributes[key], "lp": place}
        return replace(self, attributes=attributes)

    def missing_widths(self) -> dict[Key, float]:
        """Return the points by which clusters are too narrow for a title that no edge crosses."""
        return {key: missing for key, _, missing in self._free_ends() if missing > 0}

    def _free_ends(self) -> Iterator[tuple[Key, float, float]]:
        """Yield (key of a cluster, right end of its title, points by which it is too narrow)."""
        curves = [
            curve
            for key, found in self.attributes.items()
            if self.titles and key[0] == "edge" and "pos" in found
            for curve in _curves(_points(found["pos"]))
        ]
        for key, title in self.titles.items():
            found = self.attributes.get(key, {})
            if "lp" not in found:
                continue
            (left, _), (right, _) = _points(found["bb"])
            ((_, y),) = _points(found["lp"])
            half = title.height / 2 + 3
            taken = [
                x
                for curve in curves
                if min(v for _, v in curve) < y + half and max(v for _, v in curve) > y - half
                for x, other in _along(curve)
                if abs(other - y) < half
            ]
            end = right - _ASIDE
            for x in sorted(taken, reverse=True):
                if end - title.width - _ASIDE < x < end + _ASIDE:
                    end = x - _ASIDE
            if end - title.width > left + _ASIDE:
                yield key, end, 0.0
            else:  # there is no such place
                last = max((x for x in taken if x < right), default=left)
                yield key, right - _ASIDE, max(last, left) + 2 * _ASIDE + title.width - right + 1

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


def _curves(points: Sequence[Point]) -> Iterator[Sequence[Point]]:
    """Yield the cubic Bézier curves of an edge, after the line to the tip of its arrow."""
    tip = (len(points) - 1) % 3
    if tip:
        yield points[0], points[0], points[-1], points[-1]
    for start in range(tip, len(points) - 3, 3):
        yield points[start : start + 4]


def _along(curve: Sequence[Point]) -> Iterator[Point]:
    """Yield points on a cubic Bézier curve that are close to each other."""
    length = sum(abs(c - a) + abs(d - b) for (a, b), (c, d) in pairwise(curve))
    steps = ceil(length / _STEP) + 1
    for step in range(steps + 1):
        t = step / steps
        weights = (1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3
        weighted = list(zip(weights, curve, strict=True))
        yield sum(w * x for w, (x, _) in weighted), sum(w * y for w, (_, y) in weighted)


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


def placed_by_graphviz(dots: Sequence[pydot.Dot], seconds: float = SECONDS) -> list[Placement]:
    """Return where Graphviz places the nodes and edges of each of some graphs.

    Clusters in which edges leave no room for the title are made wider, by spaces in their labels in
    the graph, as far as that helps. Of graphs with the same form, one is laid out.

    Args:
        dots: The graphs.
        seconds: The time limit for all of them.

    Raises:
        ImportError, RuntimeError: see `run_graphviz`.
    """
    forms = [form_of(_text(dot)) for dot in dots]
    first: dict[str, int] = {}
    for number, form in enumerate(forms):
        first.setdefault(form.text, number)
    placed = _placed([dots[number] for number in first.values()], seconds)
    placement_of = dict(zip(first, placed, strict=True))
    return [
        placement_of[form.text].renamed(
            dict(zip(forms[first[form.text]].names, form.names, strict=True))
        )
        for form in forms
    ]


def _placed(dots: Sequence[pydot.Dot], seconds: float) -> list[Placement]:
    end = time.monotonic() + seconds
    placements = _layouts(dots, seconds)
    narrow = {
        number: missing
        for number, placement in enumerate(placements)
        if (missing := placement.missing_widths())
    }
    with suppress(RuntimeError):  # such as at the time limit
        for _ in range(_MOST_LAYOUTS - 1):
            seconds = end - time.monotonic()
            if not narrow or seconds <= 0:
                break
            for number, missing in narrow.items():
                _widen(dots[number], placements[number], missing)
            wider = _layouts([dots[number] for number in narrow], seconds)
            for (number, missing), placement in zip([*narrow.items()], wider, strict=True):
                narrow[number] = placement.missing_widths()
                if len(narrow[number]) < len(missing):
                    placements[number] = placement
            narrow = {number: missing for number, missing in narrow.items() if missing}
    return placements


def _layouts(dots: Sequence[pydot.Dot], seconds: float) -> list[Placement]:
    return [*map(read_placement, layouts_of([*map(_text, dots)], seconds))]


def _text(dot: pydot.Dot) -> str:
    """Return a graph in DOT. Cells of pictures have fixed sizes: their files are not needed."""
    return _PICTURE.sub("", dot.to_string())


def _widen(dot: pydot.Dot, placement: Placement, missing: Mapping[Key, float]) -> None:
    """Put spaces before the titles of clusters, which are to become wider by so many points."""
    for cluster in _clusters_of(dot):
        key = "cluster", str(cluster.get_name())
        if key in missing:
            title = placement.titles[key]
            (left, _), (right, _) = _points(placement.attributes[key]["bb"])
            width = right - left - 2 * _BESIDE_LABEL + missing[key] - title.reserved
            spaces = "\N{NO-BREAK SPACE}" * ceil(max(width, 0) / (_SPACE * title.height))
            cluster.set("label", f'"{spaces}{str(cluster.get("label"))[1:]}')


def place(dot: pydot.Dot) -> None:
    """Set the positions of a graph that has none, for the layout engine "nop2".

    Raises:
        ImportError, RuntimeError: see `run_graphviz`.
    """
    (placement,) = placed_by_graphviz([dot])
    set_positions(dot, placement.with_free_titles().attributes)
    for cluster in _clusters_of(dot):
        if label := cluster.get("label"):
            title = str(label)[1:].lstrip("\N{NO-BREAK SPACE}")
            cluster.set("label", f'"{title}')


def read_placement(document: Mapping[str, Any]) -> Placement:
    """Return the positions in a layout that Graphviz has written as "json0"."""
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
    titles: dict[Key, Title] = {
        ("cluster", _as_in_dot(found["name"])): _title_of(found)
        for found in document.get("objects", ())
        if "bb" in found and found.get("label")
    }
    first, second = _points(document["bb"])
    return Placement(attributes, (first, second), titles)


def _title_of(found: Mapping[str, Any]) -> Title:
    label, size = str(found["label"]), float(found.get("fontsize", 14))
    width = 0.6 * size * len(label.strip("\N{NO-BREAK SPACE}"))
    return Title(width, size, 72 * float(found.get("lwidth", 0)))


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
