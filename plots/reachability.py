"""Which calls of a graph depend on which."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property

from plots.graph import Edge, Graph, Node
from plots.operation_kinds import is_shape_only


class Reachability:
    """The calls that can be reached from each call, along some of the edges.

    Kept as bit sets over the positions of `graph.nodes`: a stack of a hundred blocks has thousands
    of calls, and a query for each of them must stay cheap.

    Args:
        graph: The graph.
        follow: Whether a path may use an edge; None: all edges.
        stop: Whether paths end at a call. Such a call is reached, and can be the start of a path,
            but no path leads past it. None: at no call.

    Attributes:
        sources: Id of a call -> ids at the other end of its incoming edges that are followed.
    """

    def __init__(
        self,
        graph: Graph,
        follow: Callable[[Edge], bool] | None = None,
        stop: Callable[[Node], bool] | None = None,
    ) -> None:
        self.graph = graph
        self.sources: dict[str, list[str]] = {node.id: [] for node in graph.nodes}
        for edge in filter(follow, graph.edges) if follow else graph.edges:
            self.sources[edge.target].append(edge.source)
        self._stops = {node.id for node in graph.nodes if stop(node)} if stop else set()
        self._before: list[int] = []
        for sources in self.sources.values():
            self._before.append(self._reached(sources, self._before))

    def ancestors(self, *node_ids: str) -> list[str]:
        """Return the ids of all calls that any of `node_ids` can be reached from, in order."""
        return self._ids(self._union(node_ids, self._before))

    def descendants(self, *node_ids: str) -> list[str]:
        """Return the ids of all calls that can be reached from any of `node_ids`, in order."""
        return self._ids(self._union(node_ids, self._after))

    def between(self, start: str, ends: Iterable[str]) -> list[str]:
        """Return the ids on the paths from `start` to any of `ends`, in order, without `start`."""
        reaching = 0
        for end in ends:
            position = self.graph.index[end]
            reaching |= self._before[position] | 1 << position
        return self._ids(self._after[self.graph.index[start]] & reaching)

    def depends(self, node_id: str, on: str) -> bool:
        """Return whether `node_id` can be reached from `on`; a call depends on itself."""
        return node_id == on or bool(
            self._before[self.graph.index[node_id]] >> self.graph.index[on] & 1
        )

    def depends_on_input(self, node_id: str) -> bool:
        """Return whether a call depends on an input of the model."""
        position = self.graph.index[node_id]
        return bool((self._before[position] | 1 << position) & self._inputs)

    def common(self, first: str, second: str) -> Iterator[Node]:
        """Yield the calls that both calls depend on, last ones first."""
        places = self.graph.index[first], self.graph.index[second]
        one, other = (self._before[place] | 1 << place for place in places)
        bits = one & other
        while bits:
            position = bits.bit_length() - 1
            bits ^= 1 << position
            yield self.graph.nodes[position]

    @cached_property
    def _after(self) -> list[int]:
        targets: dict[str, list[str]] = {node_id: [] for node_id in self.sources}
        for node_id, sources in self.sources.items():
            for source in sources:
                targets[source].append(node_id)
        after = [0] * len(targets)
        for node_id in reversed(targets):
            after[self.graph.index[node_id]] = self._reached(targets[node_id], after)
        return after

    @cached_property
    def _inputs(self) -> int:
        return sum(1 << k for k, node in enumerate(self.graph.nodes) if node.kind == "input")

    def _reached(self, neighbours: Iterable[str], known: list[int]) -> int:
        """Return the bits of some neighbours, and of what is known to lie beyond them."""
        bits = 0
        for neighbour in neighbours:
            position = self.graph.index[neighbour]
            bits |= 1 << position
            if neighbour not in self._stops:
                bits |= known[position]
        return bits

    def _union(self, node_ids: Iterable[str], known: list[int]) -> int:
        bits = 0
        for node_id in node_ids:
            bits |= known[self.graph.index[node_id]]
        return bits

    def _ids(self, bits: int) -> list[str]:
        found = []
        while bits:
            lowest = bits & -bits
            found.append(self.graph.nodes[lowest.bit_length() - 1].id)
            bits ^= lowest
        return found


def data_flow(
    graph: Graph, without: Iterable[str] = (), stop: Callable[[Node], bool] | None = None
) -> Reachability:
    """Return the reachability along edges whose values are used.

    Implicit masks are no such edges, nor is an input of which a call takes nothing but the shape.

    Args:
        graph: The graph.
        without: Ids of edges that are not followed either.
        stop: As for `Reachability`.
    """
    left_out = frozenset(without)
    shape_only = {node.id for node in graph.nodes if is_shape_only(node)}

    def follow(edge: Edge) -> bool:
        is_used = not edge.implicit and edge.target not in shape_only
        return is_used and not (left_out and edge.id in left_out)

    return Reachability(graph, follow, stop)
