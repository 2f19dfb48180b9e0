"""Blocks that open a run of equal ones: the first of a stage, with a projected skip path."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from plots.folding.signatures import Block, Run, call_signatures
from plots.graph import Graph, Node

_LONGEST_SHORTCUT = 8
"""Maximum number of calls on the skip path."""


def with_openings(
    graph: Graph,
    blocks: Sequence[Block],
    runs: Iterable[Run],
    is_near: Callable[[Node], bool] = lambda _: True,
) -> tuple[list[Block], list[Run]]:
    """Return blocks and runs, with the opening block of each run as the first one of it.

    A run of blocks such as `x + f(x)` is often opened by `g(x) + f(x)`, where g changes the width,
    and f its strides. This block has all calls of the others, and those of g after them. Or the
    opening block is like the others, but takes tensors of other sizes, perhaps from other calls.

    Args:
        graph: The graph.
        blocks: The blocks of a stack.
        runs: Its runs. A block before a run stays what it is unless it has exactly the calls of
            such a block.
        is_near: Whether a call may be part of an opening block.
    """
    opened: list[Block] = []
    changed: list[Run] = []
    for start, period, times in runs:
        members = list(blocks[start : start + period * times])
        opening = _opening(graph, members[0]) if period == 1 and times > 1 else None
        if opening is not None and all(map(is_near, opening.nodes)):
            before = opened[-1] if opened else None
            if before is None:
                members.insert(0, opening)
            elif changed[-1][1:] == (1, 1) and _is_same(graph, before, opening):
                opened.pop()
                changed.pop()
                members.insert(0, Block(before.name, opening.nodes, opening.signature))
        elif (
            (period == 1 < times)
            and changed
            and changed[-1][1:] == (1, 1)
            and _differs_in_inputs(opened[-1], members[0])
        ):
            members.insert(0, opened.pop())
            changed.pop()
        changed.append((len(opened), period, len(members) // period))
        opened += members
    return opened, changed


def _differs_in_inputs(block: Block, following: Block) -> bool:
    """Return whether a block has the same configuration and outputs but takes other sizes.

    A single layer that widens, as the first convolution of a VGG block, is drawn.
    """
    return 1 < len(block.nodes) == len(following.nodes) and all(
        replace(one, sizes=other.sizes, parameters=other.parameters) == other
        and _computes_like(node, like)
        for one, other, node, like in zip(
            block.signature, following.signature, block.nodes, following.nodes, strict=True
        )
    )


def _is_same(graph: Graph, block: Block, opening: Block) -> bool:
    """Return whether a block has the calls of an opening one, or some of them if it has no name."""
    own, all_of_it = set(block.nodes), set(opening.nodes)
    return own <= all_of_it if block.name in graph.index else own == all_of_it


def _opening(graph: Graph, block: Block) -> Block | None:
    """Return the block before `block`, if it is like it but for calls on its skip path."""
    inside = {node.id for node in block.nodes}
    ends = {
        edge.source
        for node, call in zip(block.nodes, block.signature, strict=True)
        for edge, source in zip(graph.incoming[node.id], call.sources, strict=True)
        if source == ("1 back", "0") and edge.source not in inside
    }
    if len(ends) != 1:
        return None
    signatures = call_signatures(graph)
    counterpart: dict[str, str] = {}
    entries: list[str] = []
    waiting = [(block.nodes[-1], graph.node(ends.pop()))]
    while waiting:
        node, other = waiting.pop()
        if node.id in counterpart:
            if counterpart[node.id] != other.id:
                return None
            continue
        counterpart[node.id] = other.id
        if signatures[node.id].kind != signatures[other.id].kind:
            return None
        for edge, theirs in zip(graph.incoming[node.id], graph.incoming[other.id], strict=True):
            if edge.source in inside:
                waiting.append((graph.node(edge.source), graph.node(theirs.source)))
            elif edge.source != theirs.source:
                entries.append(theirs.source)
    own = [graph.node(counterpart[node.id]) for node in block.nodes if node.id in counterpart]
    if len(own) != len(block.nodes) or len(entries) < 2:
        return None
    entry = min(entries, key=graph.index.__getitem__)
    reached = {entry, *counterpart.values()}
    shortcuts = [_shortcut(graph, start, reached) for start in entries if start not in reached]
    if shortcuts and all(shortcuts):
        own += [node for shortcut in shortcuts for node in shortcut]
    elif not all(_computes_like(node, like) for node, like in zip(own, block.nodes, strict=True)):
        return None
    return Block(own[0].id, tuple(own), tuple(signatures[node.id] for node in own))


def _computes_like(node: Node, like: Node) -> bool:
    """Return whether calls have no weights, or the same configuration and outputs."""
    return not has_weights(node) or (node.config, node.outputs) == (like.config, like.outputs)


def has_weights(node: Node) -> bool:
    """Return whether a call takes weights, its own or those of an earlier call of its layer."""
    return bool(node.parameters or node.shared_parameters)


def _shortcut(graph: Graph, end: str, reached: set[str]) -> list[Node]:
    """Return the calls on the way from any that is `reached` to `end`, or none."""
    way: list[Node] = []
    while end not in reached:
        sources = {edge.source for edge in graph.incoming[end]}
        users = {edge.target for edge in graph.outgoing[end]}
        if len(sources) != 1 or len(users) != 1 or len(way) == _LONGEST_SHORTCUT:
            return []
        way.append(graph.node(end))
        (end,) = sources
    return way[::-1]
