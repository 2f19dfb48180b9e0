"""Orders of calls in which each comes after what it takes from."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from graphlib import TopologicalSorter


def topological_order(places: Iterable[str], edges: Iterable[tuple[str, str]]) -> list[str]:
    """The places, each after all that it takes from, and else in the order that they are given in.

    Args:
        places: Ids, in the order that is wanted.
        edges: (source, target) pairs of them.

    Raises:
        graphlib.CycleError: if there is no such order.
    """
    wanted = {place: number for number, place in enumerate(places)}
    sorter: TopologicalSorter[str] = TopologicalSorter(dict.fromkeys(wanted, ()))
    for source, target in edges:
        sorter.add(target, source)
    sorter.prepare()
    order: list[str] = []
    ready = [(wanted[place], place) for place in sorter.get_ready()]
    heapq.heapify(ready)
    while ready:
        _, place = heapq.heappop(ready)
        order.append(place)
        sorter.done(place)
        for following in sorter.get_ready():
            heapq.heappush(ready, (wanted[following], following))
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
