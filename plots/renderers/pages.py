"""Lay out large graphs in parts, and arrange the parts in columns.

The time that Graphviz takes grows faster than the graph, and a deep model in one column is a strip
that fits no page. Between two blocks, all that leads from one to the other is usually one tensor:
there a graph is cut into parts, which are laid out one by one. Parts in the same column overlap in
one call, so that the stream runs through. A column starts with a dashed copy of the last call of
the column before.
"""

from __future__ import annotations

import time
import warnings
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import reduce
from itertools import pairwise
from math import inf, log, sqrt
from typing import TYPE_CHECKING

from plots.graph import Edge, Graph, Node
from plots.hierarchy import block_by_block, common_namespace, depth_of
from plots.renderers import Layout, free_tag, lay_out
from plots.renderers.arcs import place_with_arcs
from plots.renderers.boxes import Labels, quoted
from plots.renderers.dot import (
    BRANCH_COLOUR,
    STREAM_STYLE,
    Part,
    add_graph,
    add_graph_label,
    copy_of,
    new_dot,
)
from plots.renderers.engines import SECONDS
from plots.renderers.placement import (
    Flow,
    Key,
    Placement,
    Point,
    box,
    placed_by_graphviz,
    point_text,
    set_positions,
)

if TYPE_CHECKING:
    import pydot

_FEW_CALLS = 150  # up to which a graph is laid out as a whole, unless that gives a strip

MOST_PIXELS = 32_000_000
"""Number of pixels of a PNG, which takes a second to write; its dpi is reduced to this."""

_MOST_PAST = 3  # tensors, besides that at the cut, that may lead past a cut
_MOST_TAGS = 1 / 8  # of the number of calls: edges of these tensors
_CROWDED = 4000  # calls that edges lead past, in sum, above which Graphviz takes seconds

_TOGETHER = 25  # parts that are laid out by one start of Graphviz,
_SECONDS_TOGETHER = 3.0  # unless that takes longer

_LONG = 1500.0  # points along the flow, and
_SLIM = 5.0  # length divided by breadth, above which a picture is a strip
_PAGE = 595.0, 842.0  # points of A4
_MOST_PAGES = 4.0  # as often as wide or high as a page: letters of 12 points become 3 points high
_PAGE_RATIO = 1.35  # height divided by width of a page
_GAP = 48.0  # points between columns
_MOST_BREADTH = 1.4  # of a column, as a multiple of its broadest part
_BEND = 36.0  # points between a part and the copy of its last call below it
_TURN = 16.0  # points between a column and the line to the next one
_ROUND = 8.0  # radius of its corners
_TIP = 5.0  # length of its arrowhead


def page_of(
    graph: Graph,
    labels: Labels,
    rankdir: str,
    dpi: int | None,
    splines: str,
    columns: int | None,
) -> pydot.Dot:
    """Return a graph as DOT with all positions, for the layout engine "nop2".

    Args:
        graph: The graph.
        labels: What nodes show.
        rankdir: Direction of the flow.
        dpi: Dots per inch.
        splines: Shape of the edges.
        columns: Number of columns, as far as the graph can be cut; None: one, unless that would be
            a strip.

    Raises:
        ImportError, RuntimeError: see `run_graphviz`.
    """
    page = _Page(graph, labels, rankdir, splines)
    parts, placed = page.laid_out(columns)
    dot = new_dot(rankdir, dpi, splines)
    attributes: dict[Key, Mapping[str, str]] = {}
    before: Placement | None = None
    corners: tuple[Point, ...] = ()
    spans = [placement.span(page.flow) for placement in placed]
    starts = _column_starts(spans, columns)
    parts, placed = page.with_heads(parts, placed, starts[1:-1])
    for number, (first, last) in enumerate(pairwise(starts)):
        part, column = page.column(parts[first:last], placed[first:last], number)
        top, _, left, _ = column.span(page.flow)
        side = 0.0 if before is None else before.span(page.flow)[3] + _GAP
        column = column.moved(page.flow.point(-top, side - left)).with_free_titles()
        add_graph(dot, graph, labels, "", page.layout, part, is_placed=True)
        attributes |= {_in_column(key, number): found for key, found in column.attributes.items()}
        for joint in part.copies:
            if joint in part.ids:
                dot.add_edge(page.bend(joint, column))
            elif before is not None:
                dot.add_edge(page.turn(joint, before, column))
        before = column
        corners = box((*corners, *column.corners))
    (left, low), (right, high) = corners
    _warn_if_unreadable(graph, right - left, high - low)
    if dpi is not None:
        inches = (right - left) * (high - low) / 72**2
        dot.set("dpi", f"{min(dpi, sqrt(MOST_PIXELS / max(inches, 1))):.4g}")
    set_positions(dot, attributes)
    add_graph_label(dot, graph)
    return dot


def _warn_if_unreadable(graph: Graph, width: float, height: float) -> None:
    """Warn about a picture whose letters are tiny when it is as large as a page."""
    short, long = sorted((width, height))
    if short > _MOST_PAGES * _PAGE[0] or long > _MOST_PAGES * _PAGE[1]:
        warnings.warn(
            f"the picture of {graph.name!r} is {width:,.0f} x {height:,.0f} points, too large to "
            "read on a page: draw fewer calls (depth=1, or the plugin 'outline'), or explore an "
            ".html file",
            stacklevel=2,
        )


class _Page:
    """A graph with the data to lay out its parts."""

    def __init__(self, graph: Graph, labels: Labels, rankdir: str, splines: str) -> None:
        self.graph = graph
        self.labels = labels
        self.rankdir = rankdir
        self.splines = splines
        self.flow = Flow(rankdir)
        self.layout = lay_out(graph)
        self.seconds_left: float = SECONDS
        self.has_warned = False

    def laid_out(self, columns: int | None) -> tuple[list[Part], list[Placement]]:
        """Return the parts of the graph, one if possible, and the placement of each."""
        whole = Part(frozenset(self.graph.index))
        if len(whole.ids) <= _FEW_CALLS and not self._is_crowded(whole):
            with suppress(RuntimeError):
                (placement,) = self._by_graphviz([self._dot(whole)], SECONDS / 2)
                if columns == 1 or (columns is None and not _is_strip(placement.span(self.flow))):
                    return [whole], [placement]
        parts = self._parts()
        return parts, self._placed_together(parts)

    def _parts(self) -> list[Part]:
        """Cut the graph into parts; edges past a cut become tags in the layout."""
        order = _sources_last(self.graph, block_by_block(self.graph, self.layout.namespaces))
        cuts = _cuts(self.graph, self.layout, order)
        ends = [0, *(cut + 1 for cut in cuts), len(order)]
        joints = ["", *(order[cut] for cut in cuts), ""]
        parts: list[Part] = []
        past: set[str] = set()
        tags = dict(self.layout.tags)
        for number, (first, last) in enumerate(pairwise(ends)):
            start, end = joints[number : number + 2]
            part = Part(frozenset(order[first:last]), start, end)
            parts.append(part)
            for edge in self._lines_into(part):
                if edge.source not in part.ids and edge.source != start:
                    past.add(edge.id)
                    if edge.source not in tags:
                        tags[edge.source] = self._tag(edge.source, tags.values())
        self.layout = replace(self.layout, cut=frozenset(past), tags=tags)
        return parts

    def _tag(self, node_id: str, taken: Collection[str]) -> str:
        """Return a name for a call that is far away: the full one if the short one is ambiguous."""
        node = self.graph.node(node_id)
        same = [other for other in self.graph.nodes if other.label == node.label]
        is_ambiguous = node.has_own_name and len(same) > 1
        return node_id if is_ambiguous else free_tag(node, taken)

    def _lines_into(self, part: Part) -> Iterator[Edge]:
        """Yield the edges into the calls of a part that are drawn as lines, in order."""
        for node_id in sorted(part.ids, key=self.graph.index.__getitem__):
            for edge in self.graph.incoming[node_id]:
                if not self.layout.is_referred(edge):
                    yield edge

    def with_heads(
        self, parts: Sequence[Part], places: Sequence[Placement], numbers: Sequence[int]
    ) -> tuple[list[Part], list[Placement]]:
        """Return all parts, of which some start with a copy of the last call before them."""
        heads = [self._with_copy(parts[number]) for number in numbers]
        copied = dict(zip(numbers, heads, strict=True))
        moved = dict(zip(numbers, self._placed_together(heads), strict=True))
        return (
            [copied.get(number, part) for number, part in enumerate(parts)],
            [moved.get(number, place) for number, place in enumerate(places)],
        )

    def column(
        self, parts: Sequence[Part], places: Sequence[Placement], number: int
    ) -> tuple[Part, Placement]:
        """Return all parts of a column as one, and its placement.

        Each part starts at the end of the one before. A part that would then stick out at the side
        starts with a copy of that call below it.
        """
        breadth = max(right - left for _, _, left, right in (p.span(self.flow) for p in places))
        first, whole = parts[0], places[0]
        copies = dict(first.copies)
        for part, place in zip(parts[1:], places[1:], strict=True):
            there, here = whole.centre(part.start), place.centre(part.start)
            longer = whole.joined(place.moved((there[0] - here[0], there[1] - here[1])))
            _, bottom, left, _ = whole.span(self.flow)
            _, _, low, high = longer.span(self.flow)
            if high - low > _MOST_BREADTH * breadth:
                copied = self._with_copy(part)
                copies |= copied.copies
                place = self.placed(copied)
                top, _, side, _ = place.span(self.flow)
                gap = self.flow.point(bottom + _BEND - top, left - side)
                longer = whole.joined(place.moved(gap))
            whole = longer
        ids = frozenset[str]().union(*(part.ids for part in parts))
        return Part(ids, first.start, "", number, copies), whole

    def _with_copy(self, part: Part) -> Part:
        """Return a part which shows a copy of its start."""
        inside = [self.layout.namespaces[node_id] for node_id in part.ids]
        around = reduce(common_namespace, inside, self.layout.namespaces[part.start])
        return replace(part, copies={part.start: around})

    def _placed_together(self, parts: Sequence[Part]) -> list[Placement]:
        """Lay out parts with few starts of Graphviz."""
        together: dict[int, Placement] = {}
        easy = [number for number, part in enumerate(parts) if not self._is_crowded(part)]
        for first in range(0, len(easy), _TOGETHER):
            some = easy[first : first + _TOGETHER]
            with suppress(RuntimeError):  # a part that takes long holds up the others
                dots = [self._dot(parts[number]) for number in some]
                seconds = min(_SECONDS_TOGETHER, self.seconds_left / 2)
                together |= zip(some, self._by_graphviz(dots, seconds), strict=True)
        return [together.get(n) or self.placed(part) for n, part in enumerate(parts)]

    def placed(self, part: Part) -> Placement:
        """Lay out a part: with Graphviz, or with arcs if that would take long."""
        dot = self._dot(part)
        if self._is_crowded(part):
            why = "too many edges lead past other calls"
        elif self.seconds_left <= 0:
            why = f"Graphviz did not finish within {SECONDS} s"
        else:
            try:
                return self._by_graphviz([dot], self.seconds_left)[0]
            except RuntimeError as error:
                why = str(error)
        if not self.has_warned:
            self.has_warned = True
            warnings.warn(
                f"{self.graph.name!r} is drawn as a column with arcs: {why}", stacklevel=2
            )
        order = [part.start] * bool(part.start)
        order += sorted(part.ids, key=self.graph.index.__getitem__)
        return place_with_arcs(dot, [quoted(part.name(node_id)) for node_id in order])

    def _dot(self, part: Part) -> pydot.Dot:
        dot = new_dot(self.rankdir, None, self.splines)
        dot.set("nslimit", "4")  # bounds the time for large parts
        dot.set("nslimit1", "4")
        add_graph(dot, self.graph, self.labels, "", self.layout, part)
        return dot

    def _by_graphviz(self, dots: Sequence[pydot.Dot], seconds: float) -> list[Placement]:
        begin = time.monotonic()
        try:
            return placed_by_graphviz(dots, seconds)
        finally:
            self.seconds_left -= time.monotonic() - begin

    def _is_crowded(self, part: Part) -> bool:
        """Return whether edges lead past so many ranks that Graphviz would take long."""
        rank: dict[str, int] = {}
        lines = list(self._lines_into(part))
        for edge in lines:
            rank[edge.target] = max(rank.get(edge.target, 0), rank.setdefault(edge.source, 0) + 1)
        return sum(rank[edge.target] - rank[edge.source] - 1 for edge in lines) > _CROWDED

    def turn(self, joint: str, before: Placement, after: Placement) -> pydot.Edge:
        """Return the line from the last call of a column to its copy in the next column."""
        start, end = self._ends(joint, before, after)
        bottom, top = before.span(self.flow)[1] + _TURN, after.span(self.flow)[0] - _TURN
        middle = before.span(self.flow)[3] + _GAP / 2
        corners = [start, (bottom, start[1]), (bottom, middle), (top, middle), (top, end[1])]
        return self._line(joint, [*_rounded([*corners, (end[0] - _TIP, end[1])]), end])

    def bend(self, joint: str, column: Placement) -> pydot.Edge:
        """Return the line from a call to its copy below it in the same column."""
        start, end = self._ends(joint, column, column)
        middle = (start[0] + end[0]) / 2
        points = [start, (middle, start[1]), (middle, end[1]), (end[0] - _TIP, end[1]), end]
        return self._line(joint, points)

    def _ends(self, joint: str, before: Placement, after: Placement) -> tuple[Point, Point]:
        """Return the point below a call, and the point above its copy."""
        a, b = self.flow.distances(before.centre(joint))
        c, d = self.flow.distances(after.centre(copy_of(joint)))
        upper = self.flow.extent(before.size(joint))[0]
        lower = self.flow.extent(after.size(copy_of(joint)))[0]
        return (a + upper / 2, b), (c - lower / 2, d)

    def _line(self, joint: str, points: Sequence[Point]) -> pydot.Edge:
        """Return an edge from a call to its copy, with control points and the tip of its arrow."""
        import pydot

        is_stream = any(source == joint for source, _ in self.layout.stream)
        style = STREAM_STYLE if is_stream else {"color": quoted(BRANCH_COLOUR)}
        tip = point_text(self.flow.point(*points[-1]))
        position = quoted(f"e,{tip} {self.flow.text(points[:-1])}")
        return pydot.Edge(quoted(joint), quoted(copy_of(joint)), pos=position, **style)


def _rounded(corners: Sequence[Point]) -> Iterator[Point]:
    """Yield the control points of cubic Bézier curves along straight lines, with round corners."""
    here = corners[0]
    yield here
    for (a, b), corner, (c, d) in zip(corners, corners[1:], corners[2:], strict=False):
        stop = _towards(corner, (a, b))
        on = _towards(corner, (c, d))
        yield from (here, stop, stop, corner, corner, on)
        here = on
    yield from (here, corners[-1], corners[-1])


def _towards(start: Point, end: Point) -> Point:
    """Return the point on a line at the start of a round corner."""
    length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
    share = min(_ROUND / length, 0.5) if length else 0.0
    return start[0] + share * (end[0] - start[0]), start[1] + share * (end[1] - start[1])


def _in_column(key: Key, number: int) -> Key:
    """Return the key in the whole picture: clusters have the number of their column."""
    if key[0] != "cluster" or not number:
        return key
    return "cluster", key[1].replace('"cluster_', f'"cluster_{number}:', 1)


def _sources_last(graph: Graph, nodes: Iterable[Node]) -> list[str]:
    """Return ids in order, but those without incoming edges right before their first user."""
    order: dict[str, None] = {}
    waiting = []
    for node in nodes:
        if not graph.incoming[node.id] and graph.outgoing[node.id]:
            waiting.append(node.id)
            continue
        order |= {edge.source: None for edge in graph.incoming[node.id]}
        order[node.id] = None
    return [*order, *(node_id for node_id in waiting if node_id not in order)]


def _cuts(graph: Graph, layout: Layout, order: Sequence[str]) -> list[int]:
    """Return the positions in `order` after which to cut: those of calls that all else is above.

    Few tensors besides the output of that call lead past a cut. Cuts between outer blocks are
    preferred to those inside of one.
    """
    position = {node_id: number for number, node_id in enumerate(order)}
    last_use = [0] * len(order)
    uses = Counter[int]()
    for edge in graph.edges:
        if not layout.is_referred(edge):
            source = position[edge.source]
            last_use[source] = max(last_use[source], position[edge.target])
            uses[source] += 1
    ending: dict[int, list[int]] = defaultdict(list)
    crossing: set[int] = set()
    costs: dict[int, int] = {}
    for number, node_id in enumerate(order[:-1]):
        crossing.difference_update(ending.pop(number, ()))
        if last_use[number] > number:
            crossing.add(number)
            ending[last_use[number]].append(number)
            tags = (
                sum(uses[other] for other in crossing) if len(crossing) <= 1 + _MOST_PAST else inf
            )
            if tags - uses[number] <= _MOST_TAGS * len(order):
                ends = layout.namespaces[node_id], layout.namespaces[order[number + 1]]
                costs[number] = 10 * (len(crossing) - 1) + depth_of(common_namespace(*ends))
    least = max(8, min(len(order) // 30, 25))
    cuts: list[int] = []
    first = 0
    while True:
        near = [cut for cut in range(first + least, first + 4 * least) if cut in costs]
        further = (cut for cut in range(first + 4 * least, len(order)) if cut in costs)
        best = min(near, key=lambda cut: (costs[cut], cut), default=next(further, None))
        if best is None or best > len(order) - least // 2:
            return cuts
        cuts.append(best)
        first = best


def _is_strip(span: tuple[float, float, float, float]) -> bool:
    """Return whether something is so long and slim that columns are easier to read."""
    top, bottom, left, right = span
    length, breadth = bottom - top, right - left
    slim = _SLIM if length < _MOST_PAGES * _PAGE[1] else 2
    return length > max(_LONG, slim * breadth)


def _column_starts(
    spans: Sequence[tuple[float, float, float, float]], columns: int | None
) -> list[int]:
    """Return the numbers of the parts with which columns start, and the number of parts.

    Args:
        spans: See `Placement.span`.
        columns: See `page_of`.
    """
    lengths = [bottom - top for top, bottom, _, _ in spans]
    breadth = max(right - left for _, _, left, right in spans)
    if columns is None and not _is_strip((0, sum(lengths), 0, breadth)):
        columns = 1
    numbers = [columns] if columns is not None else range(1, len(spans) + 1)
    choices = [_split(lengths, min(number, len(spans))) for number in numbers]

    def misfit(starts: Sequence[int]) -> float:
        length = max(sum(lengths[first:last]) for first, last in pairwise(starts))
        return abs(log(length / ((len(starts) - 1) * (breadth + _GAP)) / _PAGE_RATIO))

    return min(choices, key=misfit)


def _split(lengths: Sequence[float], number: int) -> list[int]:
    """Split a sequence of lengths into so many runs that the longest is as short as possible."""
    low, high = max(lengths), sum(lengths)
    starts = [0, len(lengths)]
    for _ in range(20):
        room = (low + high) / 2
        found = [0]
        length = 0.0
        for place, each in enumerate(lengths):
            if length + each > room:
                found.append(place)
                length = 0.0
            length += each
        if len(found) > number:
            low = room
        else:
            high, starts = room, [*found, len(lengths)]
    return starts
