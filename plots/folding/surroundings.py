"""Calls outside of numbered blocks that belong to one block each: slices, and calls in between."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from heapq import heapify, heappop, heappush

from plots.folding.openings import has_weights
from plots.folding.signatures import call_signatures
from plots.graph import Graph, Node

NamedBlock = tuple[str, list[Node]]
"""Name and calls of a block."""

_LONGEST_CHAIN = 4
"""Maximum number of calls between two blocks that belong to the first one."""


def with_calls_between(graph: Graph, blocks: Mapping[int, NamedBlock]) -> dict[int, NamedBlock]:
    """Return numbered blocks, each with the calls on the way to the next one.

    Such as a dropout between residual blocks. Only if at least two blocks end in the same calls.
    """
    number_of = {node.id: number for number, (_, nodes) in blocks.items() for node in nodes}
    if not all(any(_merges(graph, node) for node in nodes) for _, nodes in blocks.values()):
        return dict(blocks)
    last = max(blocks)
    chains = {
        number: _chain_behind(graph, nodes, {None} if number == last else {number + 1}, number_of)
        for number, (_, nodes) in blocks.items()
    }
    kinds = call_signatures(graph)
    ends = {n: tuple(kinds[node.id].kind for node in chain) for n, chain in chains.items()}
    counts = Counter(end for number, end in ends.items() if end and number != last)
    usual = counts.most_common(1)[0][0] if counts else ()
    ends[last] = ends[last][: len(usual)]
    alike = [number for number, end in ends.items() if end == usual]
    if len(alike) < 2:
        return dict(blocks)
    added = {number: chains[number][: len(usual)] for number in alike}
    return {n: (name, nodes + added.get(n, [])) for n, (name, nodes) in blocks.items()}


def _merges(graph: Graph, node: Node) -> bool:
    return len({edge.source for edge in graph.incoming[node.id]}) > 1


def _chain_behind(
    graph: Graph, nodes: Iterable[Node], ends: set[int | None], number_of: Mapping[str, int]
) -> list[Node]:
    """Return the calls outside that lead from a block to the next one, each to the next alone.

    Behind the last block, these are the calls until the way forks or joins another one.

    Args:
        graph: The graph.
        nodes: The calls of the block.
        ends: The numbers of the blocks that take the output of the last call; None for no block.
        number_of: Id of a call -> number of its block.
    """
    found = []
    firsts = dict.fromkeys(edge.target for node in nodes for edge in graph.outgoing[node.id])
    for first in firsts:
        if first in number_of:
            continue
        chain, following = list[Node](), {first}
        while len(following) == 1 and len(chain) < _LONGEST_CHAIN:
            (node_id,) = following
            if node_id in number_of or len({e.source for e in graph.incoming[node_id]}) > 1:
                break
            chain.append(graph.node(node_id))
            following = {edge.target for edge in graph.outgoing[node_id]}
        after = {number_of.get(node_id) for node_id in following}
        if chain and (after or {None}) == ends:
            found.append(chain)
    return found[0] if len(found) == 1 else []


def with_slices(graph: Graph, blocks: Sequence[NamedBlock]) -> list[NamedBlock]:
    """Return blocks with the operations outside that compute a part of something for each of them.

    Such as the slice of a table that each block takes. What only one block takes is its input.
    """
    block_of = {node.id: k for k, (_, nodes) in enumerate(blocks) for node in nodes}
    before = _for_one_block_alone(graph, block_of)
    kinds = call_signatures(graph)
    takers: dict[tuple[str, int], set[int]] = {}  # by source and kind of the operation
    for node in before:
        for edge in graph.incoming[node.id]:
            at = edge.source, kinds[node.id].kind
            takers.setdefault(at, set()).add(block_of[node.id])
    added: dict[str, int] = {}
    for node in before:
        block, kind = block_of[node.id], kinds[node.id].kind
        sources = [edge.source for edge in graph.incoming[node.id]]
        shared = (added.get(i) == block or len(takers[i, kind]) > 1 for i in sources)
        if sources and all(shared):
            added[node.id] = block
    return [
        (name, [n for n in before if added.get(n.id) == k] + nodes)
        for k, (name, nodes) in enumerate(blocks)
    ]


def _for_one_block_alone(graph: Graph, block_of: dict[str, int]) -> list[Node]:
    """Return the operations outside of blocks whose output only one block takes.

    They are added to `block_of`.
    """
    waiting = [-graph.index[edge.source] for i in block_of for edge in graph.incoming[i]]
    heapify(waiting)
    before: list[Node] = []
    seen = set(block_of)
    while waiting:  # from the end, so that the users of a call are known
        node = graph.nodes[-heappop(waiting)]
        if node.id in seen:
            continue
        seen.add(node.id)
        users = {block_of.get(edge.target) for edge in graph.outgoing[node.id]}
        user = users.pop() if len(users) == 1 else None
        if user is not None and node.kind == "operation" and not has_weights(node):
            block_of[node.id] = user
            before.insert(0, node)
            for edge in graph.incoming[node.id]:
                heappush(waiting, -graph.index[edge.source])
    return before
