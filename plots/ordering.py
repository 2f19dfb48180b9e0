"""Put calls in an order in which they can be computed, and that reads well."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterable, Mapping
from graphlib import CycleError, TopologicalSorter
from typing import TypeVar

from plots.graph import Graph, Node
from plots.hierarchy import depth_of, enclosing_namespaces

Item = TypeVar("Item", bound=Hashable)


def in_order(first: Mapping[Item, int], pairs: Iterable[tuple[Item, Item]]) -> list[Item]:
    """The keys of `first`, each after all that it takes from, and else the smallest value first.

    Args:
        first: Item -> its place in the order if nothing speaks against it; no two have the same.
        pairs: (source, target): what has to come before what. Pairs of equal items are ignored.

    Raises:
        CycleError: if there is no such order; its second argument is a cycle of items.
    """
    sorter: TopologicalSorter[Item] = TopologicalSorter(dict.fromkeys(first, ()))
    for source, target in pairs:
        if source != target:
            sorter.add(target, source)
    sorter.prepare()
    order: list[Item] = []
    ready = [(first[item], item) for item in sorter.get_ready()]
    heapq.heapify(ready)
    while ready:
        _, item = heapq.heappop(ready)
        order.append(item)
        sorter.done(item)
        for following in sorter.get_ready():
            heapq.heappush(ready, (first[following], following))
    return order


def circles(places: Iterable[str], edges: Iterable[tuple[str, str]]) -> dict[str, int]:
    """For every place the number of its circle: places share one that can be reached both ways.

    A place on no circle has a number of its own. (These are the strongly connected components, by
    the algorithm of Kosaraju and Sharir.)
    """
    targets: dict[str, list[str]] = {place: [] for place in places}
    sources: dict[str, list[str]] = {place: [] for place in targets}
    for source, target in edges:
        targets[source].append(target)
        sources[target].append(source)
    finished: list[str] = []
    seen: set[str] = set()
    for place in targets:
        waiting = [(place, iter(targets[place]))] if place not in seen else []
        seen.add(place)
        while waiting:
            current, onwards = waiting[-1]
            following = next((other for other in onwards if other not in seen), None)
            if following is None:
                finished.append(current)
                waiting.pop()
            else:
                seen.add(following)
                waiting.append((following, iter(targets[following])))
    circle: dict[str, int] = {}
    for number, place in enumerate(reversed(finished)):
        backwards = [place]
        while backwards:
            current = backwards.pop()
            if current not in circle:
                circle[current] = number
                backwards += sources[current]
    return circle


def box_by_box(graph: Graph, namespaces: Mapping[str, str]) -> list[Node]:
    """All calls, each after what it takes from, and those of one box one after the other.

    A box that cannot be in one piece, because something outside of it lies on the way between two
    of its calls, is in several.

    Args:
        graph: The graph.
        namespaces: Id of every call -> the dotted namespace of its box.
    """
    return _arranged(graph, graph.nodes, namespaces, 0)


def _arranged(
    graph: Graph, nodes: Iterable[Node], namespaces: Mapping[str, str], depth: int
) -> list[Node]:
    """What lies in one box that is `depth` levels deep."""
    opened: set[str] = set()
    while True:
        # Boxes and calls may have the same name, hence the marks.
        items = {node.id: _item(node, namespaces[node.id], depth, opened) for node in nodes}
        members: dict[tuple[bool, str], list[Node]] = {}
        for node in nodes:
            members.setdefault(items[node.id], []).append(node)
        first = {item: graph.index[inside[0].id] for item, inside in members.items()}
        pairs = (
            (items[edge.source], items[node.id])
            for node in nodes
            for edge in graph.incoming[node.id]
            if edge.source in items
        )
        try:
            order = in_order(first, pairs)
        except CycleError as error:
            in_cycle = [item for item in error.args[1] if item[0]]
            opened.add(min(in_cycle, key=lambda item: len(members[item]))[1])
        else:
            break
    arranged: list[Node] = []
    for is_box, name in order:
        inside = members[is_box, name]
        arranged += _arranged(graph, inside, namespaces, depth_of(name)) if is_box else inside
    return arranged


def _item(node: Node, namespace: str, depth: int, opened: set[str]) -> tuple[bool, str]:
    """(whether it is a box, its name): what is sorted as one piece with the call."""
    for name in enclosing_namespaces(namespace)[depth:]:
        if name not in opened:
            return True, name
    return False, node.id
