"""Fold a graph: of a run of equal blocks draw one, and close boxes that lie too deep to be seen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from plots.annotations import DIFFERENCES, Note
from plots.folding.contract import Contraction
from plots.folding.groups import close_groups
from plots.graph import Constant, Edge, Graph, Node, Tensor
from plots.hierarchy import boxes
from plots.registry import graph_plugin

_LONGEST_PERIOD = 8
"""Most blocks in a pattern that repeats, such as the two of a model that alternates its windows."""

_NUMBERED = re.compile(r"(?P<stem>.*?[_@#]?)(?P<number>\d+)")


@graph_plugin("fold")
def fold(graph: Graph, depth: int | None = None, blocks: int | None = 1) -> Graph:
    """Runs of equal blocks as one box "× 12", and boxes closed that lie deeper than `depth`.

    Args:
        graph: The graph.
        depth: How many levels of boxes stay open; None leaves all open. Boxes are those of the
            dotted names (`decoder.block_3.self_attention` lies three deep) and of nested models.
        blocks: How many blocks (or periods of a pattern that repeats) to keep of every run; None
            folds no runs.

    Raises:
        ValueError: if `depth` is negative or `blocks` less than one.
    """
    if blocks is not None:
        graph = fold_blocks(graph, blocks)
    return graph if depth is None else close_groups(graph, depth)


def fold_blocks(graph: Graph, blocks: int = 1) -> Graph:
    """Keep the first `blocks` of every run of equal blocks in a stack.

    A stack is what is numbered in the names: `<prefix>.block_0`, `<prefix>.block_1`, ..., boxes as
    well as single calls that follow each other. Blocks are equal if they hold the same calls with
    the same configuration, output shapes and inner connections. Several blocks that take turns are
    a run as well, whose period is kept. A block that deviates from the run before it stays in the
    graph, with a note that says in what. What came out of a block that is left out comes out of the
    last one that is kept, and `Graph.repeats` says how many blocks that one stands for.

    Raises:
        ValueError: if `blocks` is less than one.
    """
    if blocks < 1:
        raise ValueError(f"blocks is {blocks!r}; at least one block has to be kept")
    into: dict[str, str] = {}
    repeats: dict[str, int] = {}
    notes: list[Note] = []
    compared = any(note.kind == "difference" for note in graph.notes)
    for stack in _stacks(graph):
        kept: list[_Block] = []
        runs = list(_runs([block.signature for block in stack]))
        for start, period, times in runs:
            keep = min(blocks, times)
            kept += stack[start : start + keep * period]
            last = stack[start + (keep - 1) * period : start + keep * period]
            for offset in range(keep * period, times * period):
                left_out, stand_in = stack[start + offset], last[offset % period]
                same = zip(left_out.nodes, stand_in.nodes, strict=True)
                into.update({node.id: stands.id for node, stands in same})
            if times > keep:
                repeats.update({block.name: times - keep + 1 for block in last})
        # Of a comparison the differences say it themselves.
        if not compared and any(times > 1 for _, _, times in runs):
            notes += _deviations(kept)
    folded = _without(graph, into)
    return replace(folded, repeats={**folded.repeats, **repeats}, notes=(*folded.notes, *notes))


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
    for stack in _stacks(graph):
        for start, period, times in _runs([block.signature for block in stack]):
            if times > 1:
                blocks = stack[start : start + period * times]
                calls = tuple(tuple(node.id for node in block.nodes) for block in blocks)
                found.append(BlockRun(tuple(block.name for block in blocks), calls, period))
    return tuple(found)


def _without(graph: Graph, into: Mapping[str, str]) -> Graph:
    """The graph without the calls that are keys of `into`; their values stand for them."""
    if not into:
        return graph
    edges: list[Edge] = []
    edge_ids: dict[str, str] = {}
    for edge in graph.edges:
        if edge.target not in into:
            edges.append(replace(edge, source=into.get(edge.source, edge.source)))
            edge_ids[edge.id] = edges[-1].id
    return Contraction(
        nodes=tuple(node for node in graph.nodes if node.id not in into),
        edges=tuple(edges),
        outputs=tuple((into.get(node_id, node_id), k) for node_id, k in graph.outputs),
        calls=into,
        edge_ids=edge_ids,
        gone=frozenset(into),
    ).of(graph)


@dataclass(frozen=True, slots=True)
class _Block:
    """One block of a stack: its namespace (or the id of its only call), and what is in it."""

    name: str
    nodes: tuple[Node, ...]
    signature: list[_Call]


@dataclass(frozen=True, slots=True)
class _Call:
    """What a call has to share with another one for the one to stand for the other.

    `sources` says where each of its inputs comes from: ("inside", place in the block), ("before",
    place in the block before) or ("outside", id). `differences` says what the plugin "diff" has
    noted about it; where a call was moved from may be another place in every block.
    """

    label: str | None
    class_name: str
    config: Mapping[str, Any]
    outputs: tuple[Tensor, ...]
    constants: tuple[Constant, ...]
    ports: tuple[tuple[str, int], ...]
    sources: tuple[tuple[str, str], ...]
    differences: tuple[tuple[str, str], ...]


def _stacks(graph: Graph) -> Iterator[list[_Block]]:
    """Runs of blocks that are numbered one after the other and feed each other, outermost only."""
    members: dict[tuple[str, str], dict[int, tuple[str, list[Node]]]] = {}
    namespaces = boxes(graph)
    for node in graph.nodes:
        for family, number, name in _numbers(node, namespaces[node.id]):
            members.setdefault(family, {}).setdefault(number, (name, []))[1].append(node)
    stacked: set[str] = set()
    for blocks in members.values():
        nodes = [node for number in blocks for node in blocks[number][1]]
        if len(blocks) > 1 and not any(node.id in stacked for node in nodes):
            for stack in _consecutive(graph, blocks):
                stacked.update(node.id for block in stack for node in block.nodes)
                yield stack


def _numbers(node: Node, namespace: str) -> Iterator[tuple[tuple[str, str], int, str]]:
    """The numbered boxes around a call and the call itself, outermost first.

    As (what they are a stack of, number, name): decoder.block_3.query lies in
    (("decoder", "block"), 3, "decoder.block_3").
    """
    parts = namespace.split(".") if namespace else []
    names = [".".join(parts[: depth + 1]) for depth in range(len(parts))]
    if node.kind in ("layer", "model", "group") and node.has_own_name:
        names.append(node.id)
    for name in names:
        around, _, last = name.rpartition(".")
        if match := _NUMBERED.fullmatch(last):
            yield (around, match["stem"]), int(match["number"]), name
        else:  # the first call of what is called again as "block@2", "block@3", ...
            yield (around, f"{last}@"), 1, name


def _consecutive(
    graph: Graph, blocks: Mapping[int, tuple[str, list[Node]]]
) -> Iterator[list[_Block]]:
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


def _signed(graph: Graph, stack: list[tuple[str, list[Node]]]) -> Iterator[list[_Block]]:
    """The stack with the signatures of its blocks; nothing if it has only one."""
    if len(stack) < 2:
        return
    signatures = [
        _signature(graph, nodes, stack[number - 1][1] if number else [])
        for number, (_, nodes) in enumerate(stack)
    ]
    # The first block takes from what is before the stack where the others take from a block.
    for other in signatures[1 : 1 + _LONGEST_PERIOD]:
        if _enters_like(signatures[0], other):
            signatures[0] = other
            break
    yield [
        _Block(name, tuple(nodes), signature)
        for (name, nodes), signature in zip(stack, signatures, strict=True)
    ]


def _runs(signatures: list[list[_Call]]) -> Iterator[tuple[int, int, int]]:
    """Parts that repeat, as (start, period, times), from the first block to the last.

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


def _signature(graph: Graph, nodes: list[Node], before: list[Node]) -> list[_Call]:
    """What has to be equal in two blocks for one to stand for the other."""
    place = {node.id: ("before", str(number)) for number, node in enumerate(before)}
    place |= {node.id: ("inside", str(number)) for number, node in enumerate(nodes)}
    return [
        _Call(
            node.label if node.has_own_name and len(nodes) > 1 else None,
            node.class_name,
            node.config,
            node.outputs,
            node.constants,
            tuple((edge.port, edge.output) for edge in graph.incoming[node.id]),
            tuple(place.get(e.source, ("outside", e.source)) for e in graph.incoming[node.id]),
            tuple(
                (note.kind, "" if note.kind in ("moved", "rewired") else note.text)
                for note in graph.notes_about.get(node.id, ())
                if note.kind in DIFFERENCES
            ),
        )
        for node in nodes
    ]


def _enters_like(first: list[_Call], other: list[_Call]) -> bool:
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


def _deviations(kept: list[_Block]) -> Iterator[Note]:
    """A note for every block that is kept because it differs from the one before it."""
    for before, block in pairwise(kept):
        if block.signature != before.signature:
            difference = _difference(before, block)
            text = f"{block.name} differs from {before.name}: {difference}"
            yield Note("deviates", tuple(node.id for node in block.nodes), text)


def _difference(before: _Block, after: _Block) -> str:
    """The first thing in which two blocks differ, in words."""
    if len(before.nodes) != len(after.nodes):
        return f"it has {len(after.nodes)} calls, not {len(before.nodes)}"
    for old, new, node in zip(before.signature, after.signature, after.nodes, strict=True):
        if (old.class_name, old.label) != (new.class_name, new.label):
            return f"{node.label} ({new.class_name}) in the place of {old.label} ({old.class_name})"
        for key in sorted({*old.config, *new.config}):
            if old.config.get(key) != new.config.get(key):
                change = f"{new.config.get(key)!r}, not {old.config.get(key)!r}"
                return f"{key} of {node.label} is {change}"
        if old.outputs != new.outputs:
            shapes = [tensor.shape for tensor in new.outputs]
            return f"{node.label} gives out {shapes}, not {[t.shape for t in old.outputs]}"
        if old.constants != new.constants:
            return f"{node.label} takes other constants"
        for was, is_now in zip(old.sources, new.sources, strict=False):
            if was != is_now and "outside" in (was[0], is_now[0]):
                return f"{node.label} takes {_source_text(is_now)}, not {_source_text(was)}"
    return "its calls are connected in another way"


def _source_text(source: tuple[str, str]) -> str:
    where, what = source
    return what if where == "outside" else f"from {where} the block"
