"""Fold a graph: of a run of equal blocks draw one, and close boxes that lie too deep to be seen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise

from plots.annotations import Note
from plots.folding.contract import Contraction
from plots.folding.groups import close_groups
from plots.folding.stacks import Block, Run, stacks
from plots.graph import Edge, Graph, Node
from plots.registry import graph_plugin


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
    repeats = dict(graph.repeats)  # some, where a folded graph is folded once more
    notes: list[Note] = []
    compared = any(note.kind == "difference" for note in graph.notes)
    for stack, runs in stacks(graph):
        kept: list[tuple[Block, int]] = []
        for start, period, times in runs:
            keep = min(blocks, times)
            kept += [(block, times) for block in stack[start : start + keep * period]]
            last = stack[start + (keep - 1) * period : start + keep * period]
            for offset in range(keep * period, times * period):
                left_out, stand_in = stack[start + offset], last[offset % period]
                same = zip(left_out.nodes, stand_in.nodes, strict=True)
                into.update({node.id: stands.id for node, stands in same})
                count = repeats.get(stand_in.name, 1) + repeats.get(left_out.name, 1)
                inside = f"{left_out.name}."
                repeats = {n: k for n, k in repeats.items() if not f"{n}.".startswith(inside)}
                repeats[stand_in.name] = count
        # Of a comparison the differences say it themselves.
        if not compared and _is_uniform(stack, runs):
            notes += _deviations(kept)
    folded = _without(graph, into)
    # Of a block that deviates some calls may be left out as well, in a stack within it.
    said = [replace(n, about=tuple(i for i in n.about if i not in into)) for n in notes]
    new = (note for note in said if note not in folded.notes)
    return replace(folded, repeats=repeats, notes=(*folded.notes, *new))


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


def _is_uniform(stack: list[Block], runs: list[Run]) -> bool:
    """Whether at least half of the blocks repeat and are the same, so that others deviate."""
    firsts = [(stack[start].signature, period * times) for start, period, times in runs]
    return any(
        2 * sum(size for first, size in firsts if first == usual) >= len(stack)
        for (usual, _), (_, _, times) in zip(firsts, runs, strict=True)
        if times > 1
    )


def _deviations(kept: list[tuple[Block, int]]) -> Iterator[Note]:
    """A note for every block that differs from one next to it that is found at least as often."""
    noted = set()
    for (before, times_before), (block, times) in pairwise(kept):
        odd, usual = (before, block) if times_before < times else (block, before)
        if odd.signature != usual.signature and odd.name not in noted:
            noted.add(odd.name)
            text = f"{odd.name} differs from {usual.name}: {_difference(usual, odd)}"
            yield Note("deviates", tuple(node.id for node in odd.nodes), text)


def _difference(before: Block, after: Block) -> str:
    """The first thing in which a block differs from the one named first, in words."""
    if len(before.nodes) != len(after.nodes):
        labels, others = (
            Counter(node.shown_name for node in block.nodes) for block in (before, after)
        )
        ways = (("also has", others - labels), ("lacks", labels - others))
        return "it " + " and ".join(f"{verb} {_some(found)}" for verb, found in ways if found)
    for old, new, was, node in zip(
        before.signature, after.signature, before.nodes, after.nodes, strict=True
    ):
        name = node.shown_name
        if (old.class_name, old.label) != (new.class_name, new.label):
            return f"{_with_class(node)} in the place of {_with_class(was)}"
        for key in sorted({*old.config, *new.config}):
            if old.config.get(key) != new.config.get(key):
                change = f"{new.config.get(key)!r}, not {old.config.get(key)!r}"
                return f"{key} of {name} is {change}"
        if old.outputs != new.outputs:
            shapes = [tensor.shape for tensor in new.outputs]
            return f"{name} gives out {shapes}, not {[t.shape for t in old.outputs]}"
        if old.parameters != new.parameters:
            return f"{name} has {new.parameters:,} parameters, not {old.parameters:,}"
        if old.constants != new.constants:
            return f"{name} takes other constants"
        for before_it, is_now in zip(old.sources, new.sources, strict=False):
            if before_it != is_now and "outside" in (before_it[0], is_now[0]):
                return f"{name} takes {_source_text(is_now)}, not {_source_text(before_it)}"
    return "its calls are connected in another way"


def _some(labels: Counter[str]) -> str:
    """Two labels, or how many there are: "0_conv and 0_bn", "7 calls"."""
    return " and ".join(labels.elements()) if labels.total() < 3 else f"{labels.total()} calls"


def _source_text(source: tuple[str, str]) -> str:
    where, what = source
    return what if where == "outside" else f"from {where} the block"


def _with_class(node: Node) -> str:
    return f"{node.label} ({node.class_name})" if node.has_own_name else node.class_name
