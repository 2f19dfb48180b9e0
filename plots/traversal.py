"""Walks over a graph: which calls depend on which, and orders of calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Set
from dataclasses import replace
from functools import cached_property, reduce, wraps
from operator import or_
from typing import TYPE_CHECKING, TypeVar

from plots.graph import Edge, Graph, Node
from plots.layers import is_shape_only

if TYPE_CHECKING:
    import networkx as nx

Item = TypeVar("Item", bound=Hashable)
Result = TypeVar("Result")


def once_per_graph(function: Callable[[Graph], Result]) -> Callable[[Graph], Result]:
    """Decorator for functions of a graph: the result is kept with the graph, as that of a property.

    A graph with the results of another plugin is another graph.
    """
    key = f"{function.__module__}.{function.__qualname__}"

    @wraps(function)
    def cached(graph: Graph) -> Result:
        if key not in vars(graph):
            vars(graph)[key] = function(graph)
        result: Result = vars(graph)[key]
        return result

    return cached


@once_per_graph
def _bits(graph: Graph) -> Mapping[str, int]:
    """Return the bit of each call, by its id."""
    return {node_id: 1 << position for node_id, position in graph.index.items()}


class Reachability:
    """The calls that can be reached from each call, along some of the edges.

    Kept as bit sets over the positions of `graph.nodes`: a stack of a hundred blocks has thousands
    of calls, and a query for each of them must stay cheap.

    Args:
        graph: The graph.
        dropped: Positions in `graph.edges` of those that no path uses.
        stops: Ids of calls where paths end. Such a call is reached, and can be the start of a path,
            but no path leads past it.

    Attributes:
        incoming: Id of a call -> its incoming edges that are followed.
    """

    def __init__(self, graph: Graph, dropped: Set[int], stops: Set[str] = frozenset()) -> None:
        self.graph = graph
        self.incoming = dict(graph.incoming)
        left_out = {id(graph.edges[position]) for position in dropped}
        for target in {graph.edges[position].target for position in dropped}:
            edges = graph.incoming[target]
            self.incoming[target] = tuple(edge for edge in edges if id(edge) not in left_out)
        self._bit = _bits(graph)
        self._dropped = dropped
        self._stops = stops

    @cached_property
    def sources(self) -> Mapping[str, tuple[str, ...]]:
        """Id of a call -> ids at the other end of these edges."""
        return {i: tuple(edge.source for edge in edges) for i, edges in self.incoming.items()}

    def stops_at(self, node_id: str) -> bool:
        """Return whether paths end at a call."""
        return node_id in self._stops

    def stopping_at(self, *node_ids: str) -> Reachability:
        """Return the reachability along the same edges whose paths end at other calls."""
        return Reachability(self.graph, self._dropped, frozenset(node_ids))

    def ancestors(self, *node_ids: str) -> list[str]:
        """Return the ids of all calls that any of `node_ids` can be reached from, in order."""
        return self._ids(_union(self._before[node_id] for node_id in node_ids))

    def descendants(self, *node_ids: str) -> list[str]:
        """Return the ids of all calls that can be reached from any of `node_ids`, in order."""
        return self._ids(_union(self._after[node_id] for node_id in node_ids))

    def between(self, start: str, ends: Iterable[str]) -> list[str]:
        """Return the ids on the paths from `start` to any of `ends`, in order, without `start`."""
        return self._ids(self._after[start] & _union(map(self._up_to, ends)))

    def along(self, starts: Iterable[str], ends: Iterable[str]) -> list[str]:
        """Return the ids on the paths from any of `starts` to any of `ends`, all included."""
        from_starts = _union(self._bit[start] | self._after[start] for start in starts)
        return self._ids(from_starts & _union(map(self._up_to, ends)))

    def leading_to(self, ends: Iterable[str], node_ids: Iterable[str]) -> list[str]:
        """Return those of `node_ids` that any of `ends` depends on, or is."""
        before = _union(map(self._up_to, ends))
        return [node_id for node_id in node_ids if before & self._bit[node_id]]

    def takers(self, node_id: str, output: int) -> list[str]:
        """Return the ids of the calls that take one output of a call, in order."""
        return self._takers.get((node_id, output), [])

    def common(self, first: str, second: str) -> list[str]:
        """Return the ids of the calls that both calls depend on, in order."""
        return self._ids(self._up_to(first) & self._up_to(second))

    def depends(self, node_id: str, on: str) -> bool:
        """Return whether `node_id` can be reached from `on`; a call depends on itself."""
        return bool(self._up_to(node_id) & self._bit[on])

    def depends_on_input(self, node_id: str) -> bool:
        """Return whether a call depends on an input of the model."""
        return bool(self._up_to(node_id) & self._inputs)

    @cached_property
    def _takers(self) -> dict[tuple[str, int], list[str]]:
        takers: dict[tuple[str, int], dict[str, None]] = {}
        for edges in self.incoming.values():
            for edge in edges:
                takers.setdefault((edge.source, edge.output), {})[edge.target] = None
        return {value: list(found) for value, found in takers.items()}

    @cached_property
    def _before(self) -> dict[str, int]:
        before: dict[str, int] = {}
        for node_id, edges in self.incoming.items():
            before[node_id] = self._reached((edge.source for edge in edges), before)
        return before

    @cached_property
    def _after(self) -> dict[str, int]:
        targets: dict[str, list[str]] = {node_id: [] for node_id in self.incoming}
        for node_id, edges in self.incoming.items():
            for edge in edges:
                targets[edge.source].append(node_id)
        after: dict[str, int] = {}
        for node_id in reversed(targets):
            after[node_id] = self._reached(targets[node_id], after)
        return after

    @cached_property
    def _inputs(self) -> int:
        return _union(self._bit[node.id] for node in self.graph.nodes if node.kind == "input")

    def _up_to(self, node_id: str) -> int:
        return self._before[node_id] | self._bit[node_id]

    def _reached(self, neighbours: Iterable[str], known: Mapping[str, int]) -> int:
        """Return the bits of some neighbours, and of what is known to lie beyond them."""
        bits = 0
        for neighbour in neighbours:
            bits |= self._bit[neighbour]
            if neighbour not in self._stops:
                bits |= known[neighbour]
        return bits

    def _ids(self, bits: int) -> list[str]:
        first = (bits & -bits).bit_length() - 1
        digits = bin(bits >> max(first, 0))[:1:-1]  # quicker than to take bits off one by one
        return [self.graph.nodes[first + k].id for k, digit in enumerate(digits) if digit == "1"]


def _union(bits: Iterable[int]) -> int:
    return reduce(or_, bits, 0)


def data_flow(
    graph: Graph, without: Iterable[str] = (), stop: Callable[[Node], bool] | None = None
) -> Reachability:
    """Return the reachability along edges whose values are used.

    Skips implicit masks, inputs whose shape alone is used, and the edges in `without`, by id.
    """
    left_out = frozenset(without)
    dropped, stops = _edges_without_values(graph), _ids_where(graph, stop)
    if not left_out:
        return _shared(graph, dropped, stops)
    others = {position for position, edge in enumerate(graph.edges) if edge.id in left_out}
    return Reachability(graph, dropped | others, stops)


def reachability(
    graph: Graph,
    follow: Callable[[Edge], bool] | None = None,
    stop: Callable[[Node], bool] | None = None,
) -> Reachability:
    """Return the reachability along some edges.

    Args:
        graph: The graph.
        follow: Whether a path may use an edge; None: all edges.
        stop: Whether paths end at a call, see `Reachability`; None: at no call.
    """
    edges = enumerate(graph.edges) if follow else ()
    dropped = frozenset(position for position, edge in edges if follow and not follow(edge))
    return _shared(graph, dropped, _ids_where(graph, stop))


def _shared(graph: Graph, dropped: frozenset[int], stops: frozenset[str]) -> Reachability:
    """Return the reachability that was made before for the same edges and calls, or a new one."""
    known = _reachabilities(graph)
    if (dropped, stops) not in known:
        known[dropped, stops] = Reachability(graph, dropped, stops)
    return known[dropped, stops]


@once_per_graph
def _reachabilities(graph: Graph) -> dict[tuple[frozenset[int], frozenset[str]], Reachability]:
    return {}


@once_per_graph
def _edges_without_values(graph: Graph) -> frozenset[int]:
    """Return the positions of edges whose values are not used: implicit masks, and shapes."""
    shape_only = {node.id for node in graph.nodes if is_shape_only(node)}
    return frozenset(
        position
        for position, edge in enumerate(graph.edges)
        if edge.implicit or edge.target in shape_only
    )


def _ids_where(graph: Graph, holds: Callable[[Node], bool] | None) -> frozenset[str]:
    return frozenset(node.id for node in graph.nodes if holds(node)) if holds else frozenset()


def walk_back(graph: Graph, node: Node, passes: Callable[[Node], bool]) -> Node:
    """Return the call that is reached backwards from a call, past calls with one input each.

    `passes` says which of them are passed.
    """
    while passes(node) and len(graph.incoming[node.id]) == 1:
        node = graph.node(graph.incoming[node.id][0].source)
    return node


@once_per_graph
def without_unused_weights(graph: Graph) -> Graph:
    """Return a graph without the nodes of weights that no call takes, for what asks for calls."""
    unused = {node.id for node in graph.nodes} - {node.id for node in graph.calls}
    if not unused:
        return graph
    notes = []
    for note in graph.notes:
        about = tuple(place for place in note.about if place not in unused)
        if about or not note.about:
            notes.append(replace(note, about=about))
    values = ({i: v for i, v in o.values.items() if i not in unused} for o in graph.overlays)
    overlays = (replace(o, values=v) for o, v in zip(graph.overlays, values, strict=True))
    return replace(graph, nodes=graph.calls, notes=tuple(notes), overlays=tuple(overlays))


class CycleError(ValueError):
    """There is no topological order.

    Attributes:
        cycle: Items, each before the next one, and the last one before the first.
    """

    def __init__(self, cycle: list[Hashable]) -> None:
        super().__init__(f"there is no topological order of {cycle}: each comes before the next")
        self.cycle = cycle


def topological_order(
    priority: Mapping[Item, int], edges: Iterable[tuple[Item, Item]]
) -> list[Item]:
    """Return the keys of `priority`, each after its predecessors, and else by their values.

    Args:
        priority: Item -> its place in the order if no edge asks for another one; all different.
        edges: (predecessor, successor). Edges from an item to itself are ignored.

    Raises:
        CycleError: if the edges form a cycle.
    """
    import networkx as nx

    graph = _directed(priority, (edge for edge in edges if edge[0] != edge[1]))
    try:
        return list(nx.lexicographical_topological_sort(graph, key=priority.__getitem__))
    except nx.NetworkXUnfeasible:
        raise CycleError([source for source, _ in nx.find_cycle(graph)]) from None


def component_numbers(items: Iterable[Item], edges: Iterable[tuple[Item, Item]]) -> dict[Item, int]:
    """Return the number of each item's strongly connected component.

    Two items have the same number if each can be reached from the other.
    """
    import networkx as nx

    components = nx.strongly_connected_components(_directed(items, edges))
    return {item: number for number, members in enumerate(components) for item in members}


def _directed(items: Iterable[Item], edges: Iterable[tuple[Item, Item]]) -> nx.DiGraph:
    import networkx as nx

    graph = nx.DiGraph()
    graph.add_nodes_from(items)
    graph.add_edges_from(edges)
    return graph
