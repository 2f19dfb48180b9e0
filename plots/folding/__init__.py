"""Fold a graph: draw one block of every run of equal blocks, and close deep namespaces."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from plots.annotations import DIFFERENCES, Note
from plots.folding.groups import Contraction, close_groups
from plots.graph import Constant, Graph, Node, Tensor
from plots.hierarchy import enclosing_namespaces, find_namespaces, numbered
from plots.registry import OptionError, graph_plugin

_LONGEST_PERIOD = 8
"""Maximum number of blocks in a repeating pattern, such as 2 for alternating windows."""

Run = tuple[int, int, int]
"""(start, period, times): blocks of a stack that repeat, or a single block."""


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a stack: its namespace (or the id of its only node), and its nodes."""

    name: str
    nodes: tuple[Node, ...]
    signature: list[Signature]


@dataclass(frozen=True, slots=True)
class Signature:
    """The properties in which a node must equal another one to stand for it.

    `sources` has the source of every input: ("inside", index in the block), ("before", index in the
    previous block, from its end) or ("outside", id). `repeats` has the counts of folded blocks that
    contain the node, within the block. `differences` has the notes of the plugin "diff"; moves and
    rewirings without their texts, because those may name another place in every block.
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
    """Consecutive equal blocks, or equal patterns of alternating blocks.

    Attributes:
        names: Namespace of every block (or the id of its only node), in order.
        calls: Ids of the nodes of every block; those at one position are equal.
        period: Number of blocks in the repeating pattern; 1 if all blocks are equal.
    """

    names: tuple[str, ...]
    calls: tuple[tuple[str, ...], ...]
    period: int


@graph_plugin("fold")
def fold(graph: Graph, depth: int | None = None, blocks: int | None = 1) -> Graph:
    """Runs of equal blocks as one block "× 12", and namespaces deeper than `depth` closed.

    Args:
        graph: The graph.
        depth: Number of levels of namespaces that stay open; None leaves all open. Levels are those
            of dotted names (`decoder.block_3.self_attention` has three) and of nested models.
        blocks: Number of blocks (or periods of a repeating pattern) to keep of every run; None
            folds no runs.

    Raises:
        ValueError: if `depth` is negative or `blocks` less than one.
    """
    for name, value, least in (("depth", depth, 0), ("blocks", blocks, 1)):
        if value is not None and (type(value) is not int or value < least):
            raise OptionError(f"{name} is {value!r}; it must be None or an int, {least} or more")
    if blocks is not None:
        graph = fold_blocks(graph, blocks)
    return graph if depth is None else close_groups(graph, depth)


def fold_blocks(graph: Graph, blocks: int = 1) -> Graph:
    """Keep the first `blocks` of every run of equal blocks in a stack.

    A stack is a sequence of numbered names, `<prefix>.block_0`, `<prefix>.block_1`, ..., of
    namespaces or of single layers, where each block feeds the next. Blocks are equal if they have
    the same calls with the same configuration, output shapes and connections. Alternating blocks
    are a run too, of which one period is kept. A block that deviates from its neighbours stays in
    the graph, with a note on the first difference. Outputs of removed blocks come from the last
    kept one, and `Graph.repeats` has the number of blocks that it stands for.

    Raises:
        ValueError: if `blocks` is less than one.
    """
    if blocks < 1:
        raise OptionError(f"blocks is {blocks!r}; it must be at least 1")
    into: dict[str, str] = {}
    repeats = dict(graph.repeats)  # not empty if the graph is folded already
    notes: list[Note] = []
    compared = any(note.kind == "difference" for note in graph.notes)
    for stack, runs in _stacks(graph):
        kept: list[tuple[Block, int]] = []
        for start, period, times in runs:
            keep = min(blocks, times)
            kept += [(block, times) for block in stack[start : start + keep * period]]
            last = stack[start + (keep - 1) * period : start + keep * period]
            for offset in range(keep * period, times * period):
                removed, stand_in = stack[start + offset], last[offset % period]
                same = zip(removed.nodes, stand_in.nodes, strict=True)
                into.update({node.id: stands.id for node, stands in same})
                count = repeats.get(stand_in.name, 1) + repeats.get(removed.name, 1)
                inside = f"{removed.name}."
                repeats = {n: k for n, k in repeats.items() if not f"{n}.".startswith(inside)}
                repeats[stand_in.name] = count
        # In a comparison, the notes on differences say it.
        if not compared and _is_uniform(stack, runs):
            notes += _deviations(kept)
    folded = _without(graph, into)
    # A stack within a deviating block may be folded too.
    notes = [replace(n, about=tuple(i for i in n.about if i not in into)) for n in notes]
    new = (note for note in notes if note not in folded.notes)
    return replace(folded, repeats=repeats, notes=(*folded.notes, *new))


def block_runs(graph: Graph) -> tuple[BlockRun, ...]:
    """Return the runs that `fold_blocks` folds, for renderers that fold interactively."""
    found = []
    for stack, runs in _stacks(graph):
        for start, period, times in runs:
            if times > 1:
                blocks = stack[start : start + period * times]
                calls = tuple(tuple(node.id for node in block.nodes) for block in blocks)
                found.append(BlockRun(tuple(block.name for block in blocks), calls, period))
    return tuple(found)


def _without(graph: Graph, into: Mapping[str, str]) -> Graph:
    """Return the graph without the nodes that are keys of `into`, replaced by their values."""
    if not into:
        return graph
    kept = {
        edge.id: replace(edge, source=into.get(edge.source, edge.source))
        for edge in graph.edges
        if edge.target not in into
    }
    return Contraction(
        nodes=tuple(node for node in graph.nodes if node.id not in into),
        edges=tuple(kept.values()),
        outputs=tuple((into.get(node_id, node_id), k) for node_id, k in graph.outputs),
        replaced=into,
        edge_ids={before: edge.id for before, edge in kept.items()},
        dropped=frozenset(into),
    ).of(graph)


def _stacks(graph: Graph) -> Iterator[tuple[list[Block], list[Run]]]:
    """Yield stacks of consecutively numbered blocks that feed each other, with their runs.

    Stacks inside blocks that do not repeat, such as the stages of a ResNet, follow the outer ones.
    """
    members: dict[tuple[str, str], dict[int, tuple[str, list[Node]]]] = {}
    namespaces = find_namespaces(graph)
    for node in graph.nodes:
        for family, number, name in _numbers(node, namespaces[node.id]):
            members.setdefault(family, {}).setdefault(number, (name, []))[1].append(node)
    repeated: set[str] = set()
    for blocks in members.values():
        nodes = [node for number in blocks for node in blocks[number][1]]
        if len(blocks) > 1 and not any(node.id in repeated for node in nodes):
            for part in _consecutive(graph, blocks):
                stack = _signed(graph, part)
                runs = list(_runs([block.signature for block in stack]))
                for start, period, times in runs:
                    if times > 1:
                        run = stack[start : start + period * times]
                        repeated.update(node.id for block in run for node in block.nodes)
                yield stack, runs


def _numbers(node: Node, namespace: str) -> Iterator[tuple[tuple[str, str], int, str]]:
    """Yield (stack, number, name) of the numbered namespaces around a node, and of the node itself.

    Outermost first; decoder.block_3.query yields (("decoder", "block_"), 3, "decoder.block_3").
    """
    names = enclosing_namespaces(namespace)
    if node.kind in ("layer", "model", "group") and node.has_own_name:
        names.append(node.id)
    for name in names:
        around, _, last = name.rpartition(".")
        # Of the calls "block", "block@2", "block@3" of one layer, the first has no number.
        stem, number = numbered(last) or (f"{last}@", 1)
        yield (around, stem), number, name


def _consecutive(
    graph: Graph, blocks: Mapping[int, tuple[str, list[Node]]]
) -> list[list[tuple[str, list[Node]]]]:
    """Return runs of two or more consecutive numbers where each block feeds the next."""
    stacks: list[list[tuple[str, list[Node]]]] = []
    for number in sorted(blocks):
        sources = {edge.source for node in blocks[number][1] for edge in graph.incoming[node.id]}
        _, before = blocks.get(number - 1, ("", []))
        if not any(node.id in sources for node in before):
            stacks.append([])
        stacks[-1].append(blocks[number])
    return [stack for stack in stacks if len(stack) > 1]


def _signed(graph: Graph, stack: list[tuple[str, list[Node]]]) -> list[Block]:
    """Return the blocks of a stack with their signatures."""
    signatures = [
        _signature(graph, name, nodes, stack[number - 1][1] if number else [])
        for number, (name, nodes) in enumerate(stack)
    ]
    # Inputs of the first block come from outside the stack, not from a previous block.
    for other in signatures[1 : 1 + _LONGEST_PERIOD]:
        if _enters_like(signatures[0], other):
            signatures[0] = other
            break
    return [
        Block(name, tuple(nodes), signature)
        for (name, nodes), signature in zip(stack, signatures, strict=True)
    ]


def _runs(signatures: list[list[Signature]]) -> Iterator[Run]:
    """Yield the runs from the first block to the last.

    If several periods match, the one that covers most blocks is used, and of those the shortest.
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


def _signature(graph: Graph, name: str, nodes: list[Node], before: list[Node]) -> list[Signature]:
    """Return what must be equal in two blocks for one to stand for the other."""
    folded = {inner: n for inner, n in graph.repeats.items() if inner.startswith(f"{name}.")}
    # Counted from the end: blocks of other sizes also return the output of their last node.
    place = {node.id: ("before", str(number)) for number, node in enumerate(reversed(before))}
    place |= {node.id: ("inside", str(number)) for number, node in enumerate(nodes)}
    return [
        Signature(
            node.label if node.has_own_name and len(nodes) > 1 else None,
            node.class_name,
            node.config,
            node.outputs,
            node.constants,
            tuple((edge.port, edge.output, edge.tensor) for edge in graph.incoming[node.id]),
            node.parameters,
            tuple(
                times
                for inner, times in folded.items()
                if node.id == inner or f"{node.namespace}.".startswith(f"{inner}.")
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


def _enters_like(first: list[Signature], other: list[Signature]) -> bool:
    """Return whether the first block equals another, except that its inputs come from outside."""
    here, there = ([replace(call, sources=()) for call in block] for block in (first, other))
    if here != there:
        return False
    stands_for: dict[tuple[str, str], tuple[str, str]] = {}
    for call, like in zip(first, other, strict=True):
        for source, expected in zip(call.sources, like.sources, strict=True):
            if expected[0] == "before":
                expected = stands_for.setdefault(expected, source)
            if source != expected:
                return False
    return True


def _is_uniform(stack: list[Block], runs: list[Run]) -> bool:
    """Return whether at least half of the blocks are equal repeats, so that others deviate."""
    firsts = [(stack[start].signature, period * times) for start, period, times in runs]
    return any(
        2 * sum(size for first, size in firsts if first == usual) >= len(stack)
        for (usual, _), (_, _, times) in zip(firsts, runs, strict=True)
        if times > 1
    )


def _deviations(kept: list[tuple[Block, int]]) -> Iterator[Note]:
    """Yield a note on every block that differs from a neighbour that is at least as frequent."""
    noted = set()
    for (before, times_before), (block, times) in pairwise(kept):
        odd, usual = (before, block) if times_before < times else (block, before)
        if odd.signature != usual.signature and odd.name not in noted:
            noted.add(odd.name)
            text = f"{odd.name} differs from {usual.name}: {_difference(usual, odd)}"
            yield Note("deviates", tuple(node.id for node in odd.nodes), text)


def _difference(before: Block, after: Block) -> str:
    """Return the first difference of two blocks in words."""
    if len(before.nodes) != len(after.nodes):
        names, others = (Counter(n.shown_name for n in block.nodes) for block in (before, after))
        ways = {"also has": others - names, "lacks": names - others}
        calls = {
            verb: " and ".join(n.elements()) if n.total() < 3 else f"{n.total()} calls"
            for verb, n in ways.items()
        }
        return "it " + " and ".join(f"{verb} {some}" for verb, some in calls.items() if some)
    for old, new, was, node in zip(
        before.signature, after.signature, before.nodes, after.nodes, strict=True
    ):
        name = node.shown_name
        if (old.class_name, old.label) != (new.class_name, new.label):
            return f"{_with_class(node)} in place of {_with_class(was)}"
        for key in sorted({*old.config, *new.config}):
            if old.config.get(key) != new.config.get(key):
                change = f"{new.config.get(key)!r}, not {old.config.get(key)!r}"
                return f"{key} of {name} is {change}"
        if old.outputs != new.outputs:
            shapes = [tensor.shape for tensor in new.outputs]
            return f"{name} returns {shapes}, not {[t.shape for t in old.outputs]}"
        if old.parameters != new.parameters:
            return f"{name} has {new.parameters:,} parameters, not {old.parameters:,}"
        if old.constants != new.constants:
            return f"{name} takes other constants"
        for source, other in zip(old.sources, new.sources, strict=False):
            if source != other and "outside" in (source[0], other[0]):
                here, there = (
                    what if where == "outside" else f"from {where} the block"
                    for where, what in (other, source)
                )
                return f"{name} takes {here}, not {there}"
    return "its calls are connected differently"


def _with_class(node: Node) -> str:
    return f"{node.label} ({node.class_name})" if node.has_own_name else node.class_name
