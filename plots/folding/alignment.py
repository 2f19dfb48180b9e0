"""The same order of calls in blocks that differ only in the order of independent calls."""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from plots.folding.signatures import call_signatures
from plots.graph import Graph, Node

Step = tuple[int, int, tuple[int, ...]]
"""What a call takes and what takes it, as hashes, and the places of the calls it takes from."""


def with_equal_orders(
    graph: Graph, blocks: Sequence[tuple[str, Sequence[Node]]]
) -> list[tuple[str, Sequence[Node]]]:
    """Return blocks with their calls in the order of the first block with the same structure.

    The order of a graph is one of many topological orders: where a call stands that others do not
    wait for, such as a cache that a layer returns, depends on the calls after the block.

    Args:
        graph: The graph.
        blocks: Name and calls of every block, in the order of the graph.
    """
    orders: dict[tuple[Step, ...], list[int]] = {}  # structure -> places of its steps in a block
    known: set[tuple[tuple[int, ...], ...]] = set()
    found: list[tuple[str, Sequence[Node]]] = []
    for name, nodes in blocks:
        if (plain := _plain_form(graph, nodes)) not in known:
            steps, places = _canonical_form(graph, nodes)
            first = orders.setdefault(steps, places)
            if first is places:
                known.add(plain)
            else:
                ordered = dict(zip(first, (nodes[place] for place in places), strict=True))
                nodes = [ordered[place] for place in range(len(nodes))]
        found.append((name, nodes))
    return found


def _plain_form(graph: Graph, nodes: Sequence[Node]) -> tuple[tuple[int, ...], ...]:
    """Return the kinds of the calls of a block in order, with the places they take from."""
    calls = call_signatures(graph)
    place = {node.id: number for number, node in enumerate(nodes)}
    return tuple(
        (calls[n.id].kind, *(place.get(edge.source, -1) for edge in graph.incoming[n.id]))
        for n in nodes
    )


def _canonical_form(graph: Graph, nodes: Sequence[Node]) -> tuple[tuple[Step, ...], list[int]]:
    """Return a description of a block that does not depend on its order, and its order.

    The calls are in a topological order in which their structure decides, as far as possible.

    Returns:
        The steps of the order, and the place in `nodes` of each one.
    """
    calls = call_signatures(graph)
    place = {node.id: number for number, node in enumerate(nodes)}
    taken = [
        [(place.get(edge.source, -1), edge.output) for edge in graph.incoming[node.id]]
        for node in nodes
    ]
    users: list[list[tuple[int, int, int]]] = [[] for _ in nodes]
    for number, sources in enumerate(taken):
        for port, (source, output) in enumerate(sources):
            if source >= 0:
                users[source].append((number, port, output))
    before, after = [0] * len(nodes), [0] * len(nodes)
    for number, node in enumerate(nodes):
        given = (
            (before[source] if source >= 0 else -1, output) for source, output in taken[number]
        )
        before[number] = hash((calls[node.id].kind, *given))
    for number in reversed(range(len(nodes))):
        ends = sorted((after[user], port, output) for user, port, output in users[number])
        after[number] = hash((calls[nodes[number].id].kind, *ends))
    steps: list[Step] = []
    order: dict[int, int] = {}  # place in `nodes` -> place in the new order
    missing = [len({source for source, _ in sources if source >= 0}) for sources in taken]
    ready: list[tuple[Step, int]] = [
        ((before[n], after[n], ()), n) for n, number in enumerate(missing) if not number
    ]
    heapify(ready)
    while ready:
        step, number = heappop(ready)
        order[number] = len(steps)
        steps.append(step)
        for user in {user for user, _, _ in users[number]}:
            missing[user] -= 1
            if not missing[user]:
                places = tuple(order.get(source, -1) for source, _ in taken[user])
                heappush(ready, ((before[user], after[user], places), user))
    return tuple(steps), list(order)
