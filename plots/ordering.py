"""Orders of calls, by NetworkX."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import TYPE_CHECKING, TypeVar

from plots.graph import Graph, Node
from plots.hierarchy import depth_of, enclosing_namespaces

if TYPE_CHECKING:
    import networkx as nx

Item = TypeVar("Item", bound=Hashable)


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


def block_by_block(graph: Graph, namespaces: Mapping[str, str]) -> list[Node]:
    """Return all calls in topological order, those of one block one after the other.

    A block that cannot be contiguous, because a path between two of its calls leaves it, comes in
    several parts.

    Args:
        graph: The graph.
        namespaces: Id of every call -> the dotted namespace of its block.
    """
    return _arranged(graph, graph.nodes, namespaces, 0)


def _arranged(
    graph: Graph, nodes: Iterable[Node], namespaces: Mapping[str, str], depth: int
) -> list[Node]:
    """Return the calls of one block that is `depth` levels deep."""
    split: set[str] = set()
    while True:
        # A block and a call may have the same name, hence the flags.
        items = {node.id: _item(node, namespaces[node.id], depth, split) for node in nodes}
        members: dict[tuple[bool, str], list[Node]] = {}
        for node in nodes:
            members.setdefault(items[node.id], []).append(node)
        priority = {item: graph.index[inside[0].id] for item, inside in members.items()}
        edges = (
            (items[edge.source], items[node.id])
            for node in nodes
            for edge in graph.incoming[node.id]
            if edge.source in items
        )
        try:
            order = topological_order(priority, edges)
        except CycleError as error:
            blocks = [item for item in members if item[0] and item in error.cycle]
            split.add(min(blocks, key=lambda item: len(members[item]))[1])
        else:
            break
    arranged: list[Node] = []
    for is_block, name in order:
        inside = members[is_block, name]
        arranged += _arranged(graph, inside, namespaces, depth_of(name)) if is_block else inside
    return arranged


def _item(node: Node, namespace: str, depth: int, split: set[str]) -> tuple[bool, str]:
    """Return (whether it is a block, its name): what a call is sorted with."""
    for name in enclosing_namespaces(namespace)[depth:]:
        if name not in split:
            return True, name
    return False, node.id
