"""Fold a graph: draw one block of every run of equal blocks, and close deep namespaces."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from plots.annotations import Note, Overlay, Quantity
from plots.arguments import takes_graphs
from plots.folding.groups import Contraction, close_groups
from plots.folding.notes import alternations, deviations, range_notes
from plots.folding.signatures import Block
from plots.folding.stacks import Stack, find_inner_stacks, find_stacks, same_layers
from plots.graph import Edge, Graph
from plots.hierarchy import enclosing_namespaces
from plots.registry import graph_plugin

FOLDING = ("deviates", "varies")
"""Kinds of the notes of `fold_blocks`."""


_FEWEST_AROUND = 4
"""Minimum number of calls of a block that has two blocks of two calls inside."""


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
            raise ValueError(f"{name} is {value!r}; it must be None or an int, {least} or more")
    if blocks is not None:
        graph = fold_blocks(graph, blocks)
    return graph if depth is None else close_groups(graph, depth)


@takes_graphs
def fold_blocks(graph: Graph, blocks: int = 1) -> Graph:
    """Keep the first `blocks` of every run of equal blocks in a stack.

    A stack is a sequence of blocks where each feeds the next, found by structure (`find_stacks`);
    numbered names, `<prefix>.block_0`, `<prefix>.block_1`, ..., decide where blocks begin. Blocks
    are equal if they have the same calls with the same configuration, output shapes and
    connections. Numbers that progress from block to block, such as a drop rate that grows with the
    depth, get a note with their range. Alternating blocks are a run too, of which one period is
    kept. Of three or more equal branches into one call, `blocks` are kept as well.

    A block that deviates from its neighbours stays in the graph, with a note on the first
    difference. Outputs of removed blocks come from the last kept one, and `Graph.repeats` has the
    number of blocks that it stands for. Overlays that count have its mean over these blocks, so
    that their totals are right even if the blocks grow. Calls of an unnamed block are in a
    namespace "block_1". Equal residual blocks within a folded block are folded too.

    Raises:
        ValueError: if `blocks` is less than one.
    """
    if blocks < 1:
        raise ValueError(f"blocks is {blocks!r}; it must be at least 1")
    found = find_stacks(graph)
    folded = _fold_stacks(graph, found, blocks)
    while found[1]:
        # The blocks of a loop, whose passes share their weights, are drawn.
        stacks = (stack for stack in found[1] if not stack.is_loop)
        kept = [block for stack in stacks for block in stack.kept(blocks)]
        large = {block.name for block in kept if len(block.nodes) >= _FEWEST_AROUND}
        found = find_inner_stacks(folded, large)
        folded = _fold_stacks(folded, found, blocks)
    return folded


def _fold_stacks(graph: Graph, found: tuple[Graph, Sequence[Stack]], blocks: int) -> Graph:
    """Return a graph with the runs of some stacks folded.

    Args:
        graph: The graph.
        found: The graph with a namespace around each block, and the stacks.
        blocks: Number of blocks to keep of every run.
    """
    named, stacks = found
    into: dict[str, str] = {}
    extra: dict[str, int] = {}  # calls of opening blocks only
    repeats = dict(graph.repeats)  # not empty if the graph is folded already
    inside: dict[str, list[str]] = {}  # namespace -> keys of `repeats` in it
    for name in repeats:
        for around in enclosing_namespaces(name):
            inside.setdefault(around, []).append(name)
    notes: list[Note] = []
    for stack in stacks:
        for start, period, times in stack.runs:
            last = start + (min(blocks, times) - 1) * period
            for place in range(last, last + period):
                stand_in, *others = stack.blocks[place : start + times * period : period]
                for block in others:
                    same = zip(block.nodes, stand_in.nodes, strict=False)
                    into.update({node.id: stands.id for node, stands in same})
                    count = repeats.get(stand_in.name, 1) + repeats.get(block.name, 1)
                    for name in inside.pop(block.name, ()):
                        repeats.pop(name, None)
                    repeats[stand_in.name] = count
                    ids = (node.id for node in stand_in.nodes if node.id in stack.beside)
                    repeats |= dict.fromkeys(ids, count)
                if others:
                    for around in enclosing_namespaces(stand_in.name):
                        inside.setdefault(around, []).append(stand_in.name)
                    notes += _notes_on_run([stand_in, *others], graph.overlays)
                    shared = len(others) + 1
                    extra |= {node.id: shared for node in stand_in.nodes[len(others[0].nodes) :]}
            if times > blocks:
                notes += alternations(stack.blocks[last : last + period])
        # In a comparison, the notes on differences say it.
        if not any(note.kind == "difference" for note in graph.notes):
            notes += deviations(stack, blocks)
    folded = _without(named, into, extra) if into else graph
    # A stack within a deviating block may be folded too.
    notes = [replace(n, about=tuple(i for i in n.about if i not in into)) for n in notes]
    known = set(folded.notes)
    new = (note for note in notes if note not in known)
    return replace(folded, repeats=repeats, notes=(*folded.notes, *new))


def _notes_on_run(blocks: Sequence[Block], overlays: Sequence[Overlay]) -> Iterator[Note]:
    """Yield notes on what differs, or is shared, between blocks that the first one stands for."""
    is_pass = blocks[0].name.rpartition(".")[2].startswith("pass_")
    what = f"{len(blocks)} {'passes' if is_pass else 'blocks'}"
    yield from range_notes(blocks, overlays, what)
    if same_layers(blocks):
        calls = tuple(node.id for node in blocks[0].nodes)
        yield Note("varies", calls, f"the same weights in all {what}")


def name_blocks(graph: Graph) -> Graph:
    """Return the graph with a namespace around each block that `fold_blocks` folds."""
    return find_stacks(graph)[0]


def block_runs(graph: Graph) -> tuple[BlockRun, ...]:
    """Return the runs that `fold_blocks` folds, for renderers that fold interactively.

    Their names are namespaces of `name_blocks`.
    """
    found = []
    for stack in find_stacks(graph)[1]:
        for start, period, times in stack.runs:
            if times > 1:
                blocks = stack.blocks[start : start + period * times]
                calls = tuple(tuple(node.id for node in block.nodes) for block in blocks)
                found.append(BlockRun(tuple(block.name for block in blocks), calls, period))
    return tuple(found)


def _without(graph: Graph, into: Mapping[str, str], extra: Mapping[str, int]) -> Graph:
    """Return the graph without the nodes that are keys of `into`, replaced by their values.

    Where a call takes the same from several of them, as from branches, one edge is left.
    """
    first: dict[tuple[str, int, str], str] = {}
    kept: dict[str, Edge] = {}
    for edge in graph.edges:
        source = into.get(edge.source, edge.source)
        key = (source, edge.output, edge.target)
        if edge.target not in into and first.setdefault(key, edge.source) == edge.source:
            kept[edge.id] = replace(edge, source=source)
    return Contraction(
        nodes=tuple(node for node in graph.nodes if node.id not in into),
        edges=tuple(kept.values()),
        outputs=tuple((into.get(node_id, node_id), k) for node_id, k in graph.outputs),
        replaced=into,
        edge_ids={before: edge.id for before, edge in kept.items()},
        dropped=frozenset(into),
    ).of(replace(graph, overlays=tuple(_with_means(o, into, extra) for o in graph.overlays)))


def _with_means(overlay: Overlay, into: Mapping[str, str], extra: Mapping[str, int]) -> Overlay:
    """Return an overlay with the mean value of the calls that one stands for, if it counts.

    Values times `Graph.repeats` then add up to the whole, also where blocks grow or share weights,
    which count at one of them. `extra` has calls of one block only.
    """
    if overlay.combine != "sum":
        return overlay
    alike: dict[str, list[str]] = {}
    for removed, stand_in in into.items():
        alike.setdefault(stand_in, [stand_in]).append(removed)
    means = {}
    for stand_in, calls in alike.items():
        values = [overlay.values.get(call, Quantity()) for call in calls]
        if any(value != values[0] for value in values):
            means[stand_in] = sum(values, Quantity()) * (1 / len(values))
    for call in extra.keys() & overlay.values.keys():
        means[call] = overlay.values[call] * (1 / extra[call])
    return replace(overlay, values={**overlay.values, **means})
