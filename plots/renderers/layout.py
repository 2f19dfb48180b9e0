"""Decisions about a diagram that are made before it is drawn."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from plots.graph import Edge, Graph, Node
from plots.hierarchy import common_namespace, enclosing_namespaces, find_namespaces
from plots.traversal import Reachability

DIRECTIONS = ("TB", "BT", "LR", "RL")
"""Top to bottom, bottom to top, left to right, right to left."""

SIDEWAYS = ("LR", "RL")


@dataclass(frozen=True, slots=True)
class Layout:
    """How to lay out a graph.

    Attributes:
        namespaces: Node id -> namespace of the cluster that contains the node.
        stream: (source, target) pairs to draw as one straight line.
        merges: Ids of the merges on the stream.
        passed: Node id -> number of merges on the stream beside the node, where there are any: of
            parallel sublayers, all but the one that merges first.
        tags: Node id -> short name, for calls whose output is referenced by name where it is used,
            because edges to all users would cross the whole diagram: masks, and inputs other than
            the stream that several blocks share. A folded block counts with its repeats, so that it
            is drawn like the blocks that it stands for.
        feeds: Namespace -> id of the main source outside of its cluster. No part of the cluster may
            be drawn above it, or the cluster would reach up and push the stream aside.
        below: (upper, lower) pairs of calls that ensure this.
        needs_frame: Whether everything but the inputs needs an invisible cluster, because the
            stream enters a cluster and no cluster contains both. Otherwise Graphviz would draw the
            sublayers of such a cluster to the left of the stream, and others to its right.
    """

    namespaces: dict[str, str]
    stream: frozenset[tuple[str, str]]
    merges: frozenset[str]
    passed: dict[str, int]
    tags: dict[str, str]
    feeds: dict[str, str]
    below: tuple[tuple[str, str], ...]
    needs_frame: bool

    def is_referred(self, edge: Edge) -> bool:
        """Whether the edge is drawn as a tag at its target instead of a line."""
        ends = self.namespaces[edge.source], self.namespaces[edge.target]
        return edge.source in self.tags and ends[0] != ends[1]


def check_direction(rankdir: str) -> None:
    """Check the direction of the data flow.

    Raises:
        ValueError: if `rankdir` is not one of `DIRECTIONS`.
    """
    if rankdir not in DIRECTIONS:
        raise ValueError(f"rankdir is {rankdir!r}; it must be one of {', '.join(DIRECTIONS)}")


def lay_out(graph: Graph) -> Layout:
    """Return the layout of `graph`, the same in every process."""
    namespaces = find_namespaces(graph)
    tags = _tags(graph, namespaces)
    entries = _entries(graph, namespaces, tags)
    feeds = {
        namespace: _main_source(graph, namespace, namespaces, edges)
        for namespace, edges in entries.items()
    }
    merges = frozenset(path.target for path in graph.skip_paths)
    passed = {
        node_id: sum(merge in merges for merge in path.through)
        for path in graph.skip_paths
        for node_id in path.bypassed
    }
    return Layout(
        namespaces=namespaces,
        stream=frozenset(graph.stream),
        merges=merges,
        passed={node_id: count for node_id, count in passed.items() if count},
        tags=tags,
        feeds=feeds,
        below=_below(graph, entries, feeds),
        needs_frame=any(
            namespaces[target] and not common_namespace(namespaces[source], namespaces[target])
            for source, target in graph.stream
            if graph.node(source).kind != "input"
        ),
    )


def _tags(graph: Graph, namespaces: dict[str, str]) -> dict[str, str]:
    """Return short names of masks, and of inputs that sublayers share: rotary angles, biases."""
    bypassed = {node_id for path in graph.skip_paths for node_id in path.bypassed}
    main_flow = bypassed | {node_id for pair in graph.stream for node_id in pair}
    tags: dict[str, str] = {}
    for node in graph.nodes:
        if node.id in main_flow:
            continue
        is_mask = all(tensor.dtype == "bool" for tensor in node.outputs)
        users = {
            namespaces[edge.target]
            for edge in graph.outgoing[node.id]
            if (is_mask or edge.target in bypassed)
            and namespaces[edge.target] != namespaces[node.id]
        }
        times = sum(_times(graph, user, namespaces[node.id]) for user in users)
        if times > (0 if is_mask else 1):
            stem = "mask" if is_mask else node.class_name
            counted = f"{stem} {sum(tag.startswith(stem) for tag in tags.values()) + 1}"
            tags[node.id] = _free_name(node, tags) if node.has_own_name else counted
    return tags


def _times(graph: Graph, namespace: str, seen_from: str) -> int:
    """Return the number of namespaces that one stands for, with all folded ones around it."""
    outside = set(enclosing_namespaces(namespace)).difference(enclosing_namespaces(seen_from))
    return prod(graph.repeats.get(name, 1) for name in outside)


def _free_name(node: Node, tags: dict[str, str]) -> str:
    """Return the label of a call, or more of its id if the label is taken."""
    taken = set(tags.values())
    parts = node.id.split(".")
    longer = (".".join(parts[-count:]) for count in range(2, len(parts) + 1))
    return next((name for name in (node.label, *longer) if name not in taken), node.id)


def _entries(
    graph: Graph, namespaces: dict[str, str], tags: dict[str, str]
) -> dict[str, list[Edge]]:
    """Return the edges into every namespace from outside."""
    entries: dict[str, list[Edge]] = {}
    for edge in graph.edges:
        inside, outside = namespaces[edge.target], namespaces[edge.source]
        if edge.source not in tags and not (outside + ".").startswith(inside + "."):
            entries.setdefault(inside, []).append(edge)
    return entries


def _main_source(
    graph: Graph, namespace: str, namespaces: dict[str, str], entries: list[Edge]
) -> str:
    """Return the main source of a namespace: the stream, or the nearest and latest call."""
    stream = set(graph.stream)

    def nearness(edge: Edge) -> tuple[bool, int, int]:
        common = common_namespace(namespaces[edge.source], namespace)
        return (edge.source, edge.target) in stream, len(common), graph.index[edge.source]

    return max(entries, key=nearness).source


def _below(
    graph: Graph, entries: dict[str, list[Edge]], feeds: dict[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return pairs (main source of a namespace, call inside that has another source).

    The keys and values of a cross-attention depend on the encoder only, so nothing else prevents
    Graphviz from drawing them above the first decoder block.
    """
    reachability = Reachability(graph)
    pairs: dict[tuple[str, str], None] = {}
    for namespace, edges in entries.items():
        main = feeds[namespace]
        others = {edge.target: None for edge in edges if edge.source != main}
        fed = {edge.target for edge in edges if edge.source == main}
        if others and fed:
            above = {*reachability.ancestors(main)}
            pairs.update(
                {(main, node_id): None for node_id in others if node_id not in above | fed}
            )
    return tuple(pairs)
