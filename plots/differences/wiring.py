"""Who takes what from whom in two graphs, and where that is not the same."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import zip_longest

from plots.differences.alignment import Alignment, port_of
from plots.differences.difference import MODEL, Rewiring
from plots.graph import Edge, Graph, Node


@dataclass(frozen=True, slots=True)
class _Taken:
    """What a call takes at one port.

    `source` is the call that is in both graphs, by its id in `after`, that it comes from past calls
    that were added, removed or displaced; None if it comes from another sort of call.
    """

    edge: Edge
    source: str | None
    output: int
    directly: bool


class Wiring:
    """Who takes what from whom, so that it can be compared."""

    def __init__(self, before: Graph, after: Graph, alignment: Alignment) -> None:
        self.graphs = before, after
        partners = alignment.partners
        self._names = partners, {theirs: theirs for theirs in partners.values()}
        self._partners = partners
        # An added or removed call on a line is no reason for others to be wired in another way.
        self._passed = tuple(
            {node.id for node in graph.nodes if node.id not in names and _on_a_line(graph, node)}
            for graph, names in zip(self.graphs, self._names, strict=True)
        )
        self.displaced = self._really_displaced(alignment.displaced)
        self._passed[0].update(self.displaced)
        self._passed[1].update(partners[mine] for mine in self.displaced)

    def rewired(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Rewiring]:
        for mine, theirs in pairs:
            if mine not in self.displaced:
                old, new = self._taken(0, mine), self._taken(1, theirs)
                yield from self._differences(mine, theirs, old, new)
        old, new = self._given_out(0), self._given_out(1)
        yield from self._differences(MODEL, MODEL, old, new)

    def _really_displaced(self, candidates: frozenset[str]) -> frozenset[str]:
        """Those of the calls out of order that take from somewhere else, past each other.

        The order of two calls that do not depend on each other says nothing.
        """
        before, after = self.graphs
        moved = {
            mine
            for mine in candidates
            if _on_a_line(before, before.node(mine))
            and _on_a_line(after, after.node(self._partners[mine]))
        }
        while True:
            passed = (
                self._passed[0] | moved,
                self._passed[1] | {self._partners[mine] for mine in moved},
            )
            still = {
                mine
                for mine in moved
                if self._origin(0, mine, passed[0])
                != self._origin(1, self._partners[mine], passed[1])
            }
            if still == moved:
                return frozenset(moved)
            moved = still

    def _origin(self, side: int, node_id: str, passed: set[str]) -> tuple[str | None, int]:
        edge = line_into(self.graphs[side], node_id)
        taken = self._follow(side, edge, passed)
        return taken.source, taken.output

    def _taken(self, side: int, node_id: str) -> dict[str, list[_Taken]]:
        """What a call takes: port -> what comes in there."""
        node = self.graphs[side].node(node_id)
        taken: dict[str, list[_Taken]] = {}
        for edge in self.graphs[side].incoming[node_id]:
            found = self._follow(side, edge, self._passed[side])
            taken.setdefault(port_of(edge, node), []).append(found)
        return taken

    def _given_out(self, side: int) -> dict[str, list[_Taken]]:
        """What the model gives out, as if it were taken by one more call."""
        graph = self.graphs[side]
        taken = {}
        for number, (node_id, output) in enumerate(graph.outputs):
            tensor = graph.node(node_id).outputs[output]
            edge = Edge(node_id, MODEL, f"output {number}", output, tensor)
            taken[edge.port] = [self._follow(side, edge, self._passed[side])]
        return taken

    def _follow(self, side: int, edge: Edge, passed: set[str]) -> _Taken:
        graph, names = self.graphs[side], self._names[side]
        start = edge
        while edge.source in passed:
            edge = line_into(graph, edge.source)
        return _Taken(start, names.get(edge.source), edge.output, start.source in names)

    def _differences(
        self,
        mine: str,
        theirs: str,
        old: dict[str, list[_Taken]],
        new: dict[str, list[_Taken]],
    ) -> Iterator[Rewiring]:
        if mine != MODEL:
            before, after = self.graphs[0].node(mine), self.graphs[1].node(theirs)
            if before.class_name != after.class_name:  # other classes name other ports
                old, new = _in_one(old), _in_one(new)
        for port in dict.fromkeys((*old, *new)):
            was, now = _without_common(old.get(port, []), new.get(port, []))
            for left, right in zip_longest(was, now):
                if _is_of_its_own(left, right):
                    yield Rewiring(
                        mine, theirs, left.edge if left else None, right.edge if right else None
                    )


def _in_one(taken: dict[str, list[_Taken]]) -> dict[str, list[_Taken]]:
    return {"": [one for of_port in taken.values() for one in of_port]}


def _without_common(old: list[_Taken], new: list[_Taken]) -> tuple[list[_Taken], list[_Taken]]:
    """Both without what is in both."""
    left, right = [], list(new)
    for one in old:
        same = (o for o in right if o.source is not None)
        twin = next((o for o in same if (o.source, o.output) == (one.source, one.output)), None)
        if twin is None:
            left.append(one)
        else:
            right.remove(twin)
    return left, right


def _is_of_its_own(old: _Taken | None, new: _Taken | None) -> bool:
    """Whether the difference does not follow from a call that was added or removed."""
    if old is None or new is None:
        there = old or new
        return there is not None and there.directly
    return old.source is not None and new.source is not None


def _on_a_line(graph: Graph, node: Node) -> bool:
    """Whether the call has one input only, so that values flow through it as along a line."""
    return len({(e.source, e.output) for e in graph.incoming[node.id] if not e.implicit}) == 1


def line_into(graph: Graph, node_id: str) -> Edge:
    """The edge on which values flow into a call that lies on a line, as its only explicit one."""
    return next(edge for edge in graph.incoming[node_id] if not edge.implicit)
