"""What a picture needs beyond the graph itself, decided before any of it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from plots.graph import Edge, Graph, Node
from plots.hierarchy import boxes, boxes_around, common_namespace
from plots.reachability import Reachability

DIRECTIONS = ("TB", "BT", "LR", "RL")
"""From top to bottom, from bottom to top, from left to right, from right to left."""

SIDEWAYS = ("LR", "RL")


@dataclass(frozen=True, slots=True)
class Layout:
    """How a graph is to be laid out.

    Attributes:
        blocks: Node id -> dotted namespace of the box that it is drawn in.
        stream: (source, target) pairs to be drawn as one straight line.
        merges: Ids of the merges on the stream.
        passed: Node id -> number of merges that lie on the stream beside it, of what works beside
            some: of parallel sublayers all but the one that merges first.
        tags: Node id -> short name, for calls whose output is referred to by name where it is
            used, because lines to all its users would run across the whole picture (masks, and
            what many blocks take besides the stream). A folded block counts as often as it is there
            in the model, so that it is drawn like those it stands for.
        feeds: Namespace -> id of the call outside of it that its box mainly takes from. No part of
            the box may begin above that one, or the box would reach up along what comes before it
            and push the stream aside.
        below: (upper, lower) pairs of calls that see to it.
        needs_frame: Whether all but the inputs have to be within one box that is not seen, because
            the stream comes into a box, and no box is around both. Graphviz would put the sublayers
            of such a box to the left of the stream, and those of others to its right.
    """

    blocks: dict[str, str]
    stream: frozenset[tuple[str, str]]
    merges: frozenset[str]
    passed: dict[str, int]
    tags: dict[str, str]
    feeds: dict[str, str]
    below: tuple[tuple[str, str], ...]
    needs_frame: bool

    def is_referred(self, edge: Edge) -> bool:
        """Whether the edge is drawn as a tag at its target instead of a line."""
        return edge.source in self.tags and self.blocks[edge.source] != self.blocks[edge.target]


def check_direction(rankdir: str) -> None:
    """Refuse directions of the data flow that there are not.

    Raises:
        ValueError: naming those that there are.
    """
    if rankdir not in DIRECTIONS:
        raise ValueError(f"rankdir is {rankdir!r}; allowed are {', '.join(DIRECTIONS)}")


def lay_out(graph: Graph) -> Layout:
    """Decide how to draw `graph`; the result is the same in every process."""
    blocks = boxes(graph)
    tags = _tags(graph, blocks)
    entries = _entries(graph, blocks, tags)
    feeds = {block: _main_source(graph, block, blocks, edges) for block, edges in entries.items()}
    merges = frozenset(path.target for path in graph.skip_paths)
    passed = {
        node_id: sum(merge in merges for merge in path.through)
        for path in graph.skip_paths
        for node_id in path.bypassed
    }
    return Layout(
        blocks=blocks,
        stream=frozenset(graph.stream),
        merges=merges,
        passed={node_id: count for node_id, count in passed.items() if count},
        tags=tags,
        feeds=feeds,
        below=_below(graph, entries, feeds),
        needs_frame=any(
            blocks[target] and not common_namespace(blocks[source], blocks[target])
            for source, target in graph.stream
            if graph.node(source).kind != "input"
        ),
    )


def _tags(graph: Graph, blocks: dict[str, str]) -> dict[str, str]:
    """Short names for masks, and for side inputs that sublayers share: rotary angles, biases."""
    bypassed = {node_id for path in graph.skip_paths for node_id in path.bypassed}
    main_flow = bypassed | {node_id for pair in graph.stream for node_id in pair}
    tags: dict[str, str] = {}
    for node in graph.nodes:
        if node.id in main_flow:
            continue
        is_mask = all(tensor.dtype == "bool" for tensor in node.outputs)
        users = {
            blocks[edge.target]
            for edge in graph.outgoing[node.id]
            if (is_mask or edge.target in bypassed) and blocks[edge.target] != blocks[node.id]
        }
        times = sum(_times(graph, user, blocks[node.id]) for user in users)
        if times > (0 if is_mask else 1):
            stem = "mask" if is_mask else node.class_name
            counted = f"{stem} {sum(tag.startswith(stem) for tag in tags.values()) + 1}"
            tags[node.id] = _free_name(node, tags) if node.has_own_name else counted
    return tags


def _times(graph: Graph, box: str, seen_from: str) -> int:
    """How many boxes one stands for, as seen from another: those around it may be folded."""
    outside = set(boxes_around(box)).difference(boxes_around(seen_from))
    return prod(graph.repeats.get(name, 1) for name in outside)


def _free_name(node: Node, tags: dict[str, str]) -> str:
    """The label of a call or, where another one has it as its tag, more of its id."""
    taken = set(tags.values())
    parts = node.id.split(".")
    longer = (".".join(parts[-count:]) for count in range(2, len(parts) + 1))
    return next((name for name in (node.label, *longer) if name not in taken), node.id)


def _entries(graph: Graph, blocks: dict[str, str], tags: dict[str, str]) -> dict[str, list[Edge]]:
    """Namespace -> the lines that lead into its box from outside."""
    entries: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        inside, outside = blocks[edge.target], blocks[edge.source]
        if edge.source not in tags and not (outside + ".").startswith(inside + "."):
            entries.setdefault(inside, []).append(edge)
    return entries


def _main_source(graph: Graph, block: str, blocks: dict[str, str], entries: list[Edge]) -> str:
    """What a box mainly takes from: the stream, or what is nearest in the hierarchy, and latest."""
    stream = set(graph.stream)

    def nearness(edge: Edge) -> tuple[bool, int, int]:
        common = common_namespace(blocks[edge.source], block)
        return (edge.source, edge.target) in stream, len(common), graph.index[edge.source]

    return max(entries, key=nearness).source


def _below(
    graph: Graph, entries: dict[str, list[Edge]], feeds: dict[str, str]
) -> tuple[tuple[str, str], ...]:
    """Pairs (what a box mainly takes from, another call of the box that something else leads into).

    The keys and values of a cross-attention depend on the encoder alone, so that nothing in the
    graph itself keeps them from being drawn above the decoder's first block.
    """
    reachability = Reachability(graph)
    pairs: dict[tuple[str, str], None] = {}
    for block, edges in entries.items():
        main = feeds[block]
        others = {edge.target: None for edge in edges if edge.source != main}
        fed = {edge.target for edge in edges if edge.source == main}
        if others and fed:
            above = {*reachability.ancestors(main)}
            pairs.update(
                {(main, node_id): None for node_id in others if node_id not in above | fed}
            )
    return tuple(pairs)
