"""Stacks of numbered blocks, and which of the blocks are equal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from plots.annotations import DIFFERENCES
from plots.graph import Constant, Graph, Node, Tensor
from plots.hierarchy import boxes, boxes_around, numbered

_LONGEST_PERIOD = 8
"""Most blocks in a pattern that repeats, such as the two of a model that alternates its windows."""

Run = tuple[int, int, int]
"""(start, period, times): blocks of a stack that repeat, or one that does not."""


@dataclass(frozen=True, slots=True)
class Block:
    """One block of a stack: its namespace (or the id of its only call), and what is in it."""

    name: str
    nodes: tuple[Node, ...]
    signature: list[Call]


@dataclass(frozen=True, slots=True)
class Call:
    """What a call has to share with another one for the one to stand for the other.

    `sources` says where each of its inputs comes from: ("inside", place in the block), ("before",
    place in the block before, from its end) or ("outside", id). `repeats` says how many blocks the
    folded ones around it stand for, as far as they lie in the block. `differences` says what the
    plugin "diff" has noted about it; where a call was moved from may be another place in every
    block.
    """

    label: str | None
    class_name: str
    config: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    constants: tuple[Constant, ...]
    inputs: tuple[tuple[str, int, Tensor], ...]
    parameters: int
    repeats: tuple[int, ...]
    sources: tuple[tuple[str, str], ...]
    differences: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class BlockRun:
    """Equal blocks, or equal patterns of blocks that take turns, one after the other.

    Attributes:
        names: Namespace of every block (or the id of its only call), in order.
        calls: Ids of the calls of every block; those at one position are equal.
        period: How many blocks the pattern has that repeats; 1 where all blocks are equal.
    """

    names: tuple[str, ...]
    calls: tuple[tuple[str, ...], ...]
    period: int


def block_runs(graph: Graph) -> tuple[BlockRun, ...]:
    """What `fold_blocks` would fold: for a page that folds and unfolds when it is clicked."""
    found = []
    for stack, runs in stacks(graph):
        for start, period, times in runs:
            if times > 1:
                blocks = stack[start : start + period * times]
                calls = tuple(tuple(node.id for node in block.nodes) for block in blocks)
                found.append(BlockRun(tuple(block.name for block in blocks), calls, period))
    return tuple(found)


def stacks(graph: Graph) -> Iterator[tuple[list[Block], list[Run]]]:
    """Blocks that are numbered one after the other and feed each other, and what repeats in them.

    Stacks in blocks that do not repeat (as in the stages of a ResNet) come after those around them.
    """
    members: dict[tuple[str, str], dict[int, tuple[str, list[Node]]]] = {}
    namespaces = boxes(graph)
    for node in graph.nodes:
        for family, number, name in _numbers(node, namespaces[node.id]):
            members.setdefault(family, {}).setdefault(number, (name, []))[1].append(node)
    repeated: set[str] = set()
    for blocks in members.values():
        nodes = [node for number in blocks for node in blocks[number][1]]
        if len(blocks) > 1 and not any(node.id in repeated for node in nodes):
            for stack in _consecutive(graph, blocks):
                runs = list(_runs([block.signature for block in stack]))
                for start, period, times in runs:
                    if times > 1:
                        run = stack[start : start + period * times]
                        repeated.update(node.id for block in run for node in block.nodes)
                yield stack, runs


def _numbers(node: Node, namespace: str) -> Iterator[tuple[tuple[str, str], int, str]]:
    """The numbered boxes around a call and the call itself, outermost first.

    As (what they are a stack of, number, name): decoder.block_3.query lies in
    (("decoder", "block"), 3, "decoder.block_3").
    """
    names = boxes_around(namespace)
    if node.kind in ("layer", "model", "group") and node.has_own_name:
        names.append(node.id)
    for name in names:
        around, _, last = name.rpartition(".")
        # The first call of what is called again as "block@2", "block@3", ... has no number.
        stem, number = numbered(last) or (f"{last}@", 1)
        yield (around, stem), number, name


def _consecutive(
    graph: Graph, blocks: Mapping[int, tuple[str, list[Node]]]
) -> Iterator[list[Block]]:
    """Parts of a stack with numbers that follow each other, each block fed by the one before."""
    stack: list[tuple[str, list[Node]]] = []
    before: int | None = None
    for number in sorted(blocks):
        sources = {edge.source for node in blocks[number][1] for edge in graph.incoming[node.id]}
        fed = stack and any(node.id in sources for node in stack[-1][1])
        if before != number - 1 or not fed:
            yield from _signed(graph, stack)
            stack = []
        stack.append(blocks[number])
        before = number
    yield from _signed(graph, stack)


def _signed(graph: Graph, stack: list[tuple[str, list[Node]]]) -> Iterator[list[Block]]:
    """The stack with the signatures of its blocks; nothing if it has only one."""
    if len(stack) < 2:
        return
    signatures = [
        _signature(graph, name, nodes, stack[number - 1][1] if number else [])
        for number, (name, nodes) in enumerate(stack)
    ]
    # The first block takes from what is before the stack where the others take from a block.
    for other in signatures[1 : 1 + _LONGEST_PERIOD]:
        if _enters_like(signatures[0], other):
            signatures[0] = other
            break
    yield [
        Block(name, tuple(nodes), signature)
        for (name, nodes), signature in zip(stack, signatures, strict=True)
    ]


def _runs(signatures: list[list[Call]]) -> Iterator[Run]:
    """Parts that repeat, from the first block to the last.

    Where several periods fit, it is the one that covers most blocks, and of those the shortest.
    """
    start = 0
    while start < len(signatures):
        best = (1, 1)
        for period in range(1, min(_LONGEST_PERIOD, (len(signatures) - start) // 2) + 1):
            end = start + period
            while end < len(signatures) and signatures[end] == signatures[end - period]:
                end += 1
            times = (end - start) // period
            if times > 1 and times * period > best[0] * best[1]:
                best = (period, times)
        yield start, *best
        start += best[0] * best[1]


def _signature(graph: Graph, name: str, nodes: list[Node], before: list[Node]) -> list[Call]:
    """What has to be equal in two blocks for one to stand for the other."""
    folded = {box: times for box, times in graph.repeats.items() if box.startswith(f"{name}.")}
    # From the end, because blocks of other sizes give out what comes last in them as well.
    place = {node.id: ("before", str(number)) for number, node in enumerate(reversed(before))}
    place |= {node.id: ("inside", str(number)) for number, node in enumerate(nodes)}
    return [
        Call(
            node.label if node.has_own_name and len(nodes) > 1 else None,
            node.class_name,
            node.config,
            node.outputs,
            node.constants,
            tuple((edge.port, edge.output, edge.tensor) for edge in graph.incoming[node.id]),
            node.parameters,
            tuple(
                times
                for box, times in folded.items()
                if node.id == box or f"{node.namespace}.".startswith(f"{box}.")
            ),
            tuple(place.get(e.source, ("outside", e.source)) for e in graph.incoming[node.id]),
            tuple(
                (note.kind, "" if note.kind in ("moved", "rewired") else note.text)
                for note in graph.notes_about.get(node.id, ())
                if note.kind in DIFFERENCES
            ),
        )
        for node in nodes
    ]


def _enters_like(first: list[Call], other: list[Call]) -> bool:
    """Whether the first block is like another, but for taking from outside instead of a block."""
    if [replace(call, sources=()) for call in first] != [
        replace(call, sources=()) for call in other
    ]:
        return False
    stands_for: dict[tuple[str, str], tuple[str, str]] = {}
    for call, like in zip(first, other, strict=True):
        for source, expected in zip(call.sources, like.sources, strict=True):
            if expected[0] == "before":
                expected = stands_for.setdefault(expected, source)
            if source != expected:
                return False
    return True
