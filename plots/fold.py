"""Fold runs of equal blocks: of a stack of twelve, draw one and say that it stands for twelve."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from plots.graph import Graph, Node
from plots.hierarchy import block_of_every_node, enclosing_block


def fold_blocks(graph: Graph, blocks: int = 1) -> Graph:
    """Keep the first `blocks` of every run of equal blocks in a stack.

    A stack is `<prefix>.block_0`, `<prefix>.block_1`, ... in the dotted names. Blocks are equal if
    they hold the same calls with the same configuration, output shapes and inner connections; one
    that deviates stays in the graph. What came out of a block that is left out comes out of the
    last one that is kept, and `Graph.repeats` says how many blocks that one stands for.

    Raises:
        ValueError: if `blocks` is less than one.
    """
    if blocks < 1:
        raise ValueError(f"blocks is {blocks!r}; at least one block has to be kept")
    stand_in: dict[str, str] = {}
    repeats: dict[str, int] = {}
    for stack in _stacks(graph).values():
        numbers = sorted(stack)
        start = 0
        while start < len(numbers):
            end = start + 1
            alike = _signature(graph, stack[numbers[start]][1])
            while end < len(numbers) and _signature(graph, stack[numbers[end]][1]) == alike:
                end += 1
            kept = min(start + blocks, end)
            if end > kept:
                name, last = stack[numbers[kept - 1]]
                repeats[name] = end - kept + 1
                for number in numbers[kept:end]:
                    for node, same in zip(stack[number][1], last, strict=True):
                        stand_in[node.id] = same.id
            start = end
    edges = []
    for edge in graph.edges:
        if edge.target not in stand_in:
            edges.append(replace(edge, source=stand_in.get(edge.source, edge.source)))
    return replace(
        graph,
        nodes=tuple(node for node in graph.nodes if node.id not in stand_in),
        edges=tuple(edges),
        outputs=tuple((stand_in.get(node_id, node_id), k) for node_id, k in graph.outputs),
        repeats={**graph.repeats, **repeats},
    )


def _stacks(graph: Graph) -> dict[str, dict[int, tuple[str, list[Node]]]]:
    """Prefix -> number of the block -> (its namespace, its calls in order)."""
    namespaces = block_of_every_node(graph)
    stacks: dict[str, dict[int, tuple[str, list[Node]]]] = {}
    for node in graph.nodes:
        block = enclosing_block(namespaces[node.id])
        if block:
            prefix, _, name = block.rpartition(".")
            number = int(name.removeprefix("block_"))
            stacks.setdefault(prefix, {}).setdefault(number, (block, []))[1].append(node)
    return stacks


def _signature(graph: Graph, nodes: list[Node]) -> list[Any]:
    """What has to be equal in two blocks for one to stand for the other."""
    position = {node.id: number for number, node in enumerate(nodes)}
    return [
        (
            node.label if node.has_own_name else None,
            node.class_name,
            node.config,
            node.outputs,
            [
                (edge.port, edge.output, position.get(edge.source))
                for edge in graph.incoming[node.id]
            ],
        )
        for node in nodes
    ]
