"""Reduce a graph to the level of a figure in a paper: one node for each sublayer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce
from itertools import chain, count

from plots.folding import fold_blocks
from plots.folding.groups import close
from plots.folding.order import post_dominators
from plots.folding.stacks import common_start
from plots.graph import Edge, Graph, Node
from plots.hierarchy import common_namespace, enclosing_block, find_namespaces
from plots.layers import is_identity_like, is_norm
from plots.registry import graph_plugin
from plots.skips import mark_skip_paths, past_identities
from plots.traversal import Reachability, reachability

Group = tuple[str, list[Node]]
"""Dotted name, and calls in the graph's order."""


@graph_plugin("outline")
def outline(graph: Graph) -> Graph:
    """Streams, norms and one node for each sublayer, as in the figure of a paper.

    A sublayer is the branch of a skip path or, in a block without one, a part of the block by its
    name. A norm at its start or end stays a node, so that pre-norm, post-norm and sandwich norm
    look different. Token embeddings and what follows before a stream are one node as well, called
    "embedding"; so are the branches into any other merge, such as those of an Inception module.
    Of equal blocks one is drawn. Masks and the calls that only compute masks are left out.
    """
    graph = fold_blocks(mark_skip_paths(_without_masks(graph)))
    taken = {node_id for path in graph.skip_paths for node_id in path.line[1:]}
    members: dict[str, list[Node]] = {}
    identities = past_identities(graph)
    for name, nodes in chain(_bypassed(graph), _named(graph), _embeddings(graph), _modules(graph)):
        free = [node for node in nodes if node.id not in taken]
        inner = _without_outer_norms(identities, free)
        if len(inner) > 1:
            members[_unused(name, members)] = inner
        taken.update(node.id for node in free)
    return close(_beside_groups(graph, members), members)


def _without_masks(graph: Graph) -> Graph:
    """Keep only the calls that an output depends on by numbers, not by booleans or masks."""

    def has_numbers(edge: Edge) -> bool:
        return edge.tensor.dtype != "bool" and not edge.implicit

    ends = [node_id for node_id, _ in graph.outputs]
    kept = {*ends, *reachability(graph, follow=has_numbers).ancestors(*ends)}
    return replace(
        graph,
        nodes=tuple(node for node in graph.nodes if node.id in kept),
        edges=tuple(edge for edge in filter(has_numbers, graph.edges) if edge.target in kept),
        inputs=tuple(node_id for node_id in graph.inputs if node_id in kept),
    )


def _bypassed(graph: Graph) -> Iterator[Group]:
    """Yield the branches of the skip paths, inner ones first, by the parts of their blocks."""
    namespaces = find_namespaces(graph)
    for path in sorted(graph.skip_paths, key=lambda path: len(path.bypassed)):
        around = namespaces[path.target]
        parts: dict[str, set[str]] = {}
        for node_id in path.bypassed:
            parts.setdefault(_part(namespaces[node_id], around), set()).add(node_id)
        for part, inside in parts.items():
            if part:
                # The keys and values of a cross-attention depend on the encoder alone.
                named = f"{around}.{part}".lstrip(".")
                inside |= {i for i in namespaces if f"{namespaces[i]}.".startswith(f"{named}.")}
                yield named, _nodes(graph, inside)
            elif len(parts) == 1:
                nodes = _nodes(graph, inside)
                yield f"{around}.{_name_of_branch(nodes, around)}".lstrip("."), nodes


def _name_of_branch(nodes: list[Node], around: str) -> str:
    """Return the name of the only layer with weights but norms, or the start of their names."""
    weighted = [node for node in nodes if node.parameters and not is_norm(node)]
    if len(weighted) == 1:
        return weighted[0].shown_name
    return common_start(weighted, around) or "branch"


def _named(graph: Graph) -> Iterator[Group]:
    """Yield the parts of the numbered blocks by their names.

    Between blocks with skip paths, a block that has neither skip paths nor parts is yielded as a
    whole, such as the first block of every stage of EfficientNet.
    """
    namespaces = find_namespaces(graph)
    parts: dict[str, dict[str, set[str]]] = {}
    for node_id, namespace in namespaces.items():
        if block := enclosing_block(namespace):
            inside = parts.setdefault(block, {})
            inside.setdefault(_part(namespace, block), set()).add(node_id)
    on_stream = {enclosing_block(namespaces[path.target]) for path in graph.skip_paths}
    for block, named in parts.items():
        for part, ids in named.items():
            if part:
                yield f"{block}.{part}", _nodes(graph, ids)
            elif len(named) == 1 and on_stream and block not in on_stream:
                yield block, _nodes(graph, ids)


def _embeddings(graph: Graph) -> Iterator[Group]:
    """Yield the calls before each stream, up to its first branch; or those before each stack."""
    namespaces = find_namespaces(graph)
    branching = {path.source for path in graph.skip_paths}
    continued = {target for _, target in graph.stream}
    heads = {source for source, _ in graph.stream} - continued
    if not heads:
        heads = {e.source for e in graph.edges if enclosing_block(namespaces[e.target])}
        heads = {source for source in heads if not enclosing_block(namespaces[source])}
    reached = reachability(graph)
    for head in sorted(heads, key=graph.index.__getitem__):
        before = {head, *reached.ancestors(head)}
        following = [head]
        while following and following[0] not in branching:
            following = [target for source, target in graph.stream if source == following[0]]
            before.update(following)
        nodes = [node for node in _nodes(graph, before) if node.kind != "input"]
        if any(map(_is_embedding, nodes)) and not any(
            enclosing_block(namespaces[node.id]) for node in nodes
        ):
            named = [node.namespace for node in nodes if node.has_own_name]
            common = reduce(common_namespace, named) if named else ""
            yield f"{common}.embedding".lstrip("."), nodes


def _is_embedding(node: Node) -> bool:
    """Return whether a call looks up tokens or adds positions."""
    classes = (node.class_name, *node.bases)
    return node.role.endswith("_positions") or any("Embedding" in name for name in classes)


def _modules(graph: Graph) -> Iterator[Group]:
    """Yield the merges that all of the flow from an input leads through, with their branches.

    One that holds most of the model, such as the outermost merge of a U-Net, is left out.
    """
    onwards = post_dominators(graph)
    spine: dict[str, None] = {}
    for call in graph.inputs[:1]:
        while call := onwards.get(call, ""):
            spine[call] = None
    module: dict[str, str] = {}
    members: dict[str, list[Node]] = {}
    for node in reversed(graph.nodes):
        ahead = onwards.get(node.id, "")
        module[node.id] = node.id if node.id in spine else module.get(ahead, "")
        members.setdefault(module[node.id], []).insert(0, node)
    for merge in reversed(spine):
        inside = members[merge]
        if 2 < len(inside) <= len(graph.nodes) / 2:
            node = graph.node(merge)
            is_told = node.has_own_name and node.label != node.namespace.rpartition(".")[2]
            label = node.label if is_told else "branches"
            yield f"{node.namespace}.{label}".lstrip("."), inside


def _unused(name: str, used: Iterable[str]) -> str:
    """Return `name`, or if it is used already, name@2, name@3, ..."""
    return next(n for n in chain([name], (f"{name}@{k}" for k in count(2))) if n not in used)


def _part(namespace: str, block: str) -> str:
    """Return the part of a block that a namespace is: "attention" of "block.attention.heads"."""
    if common_namespace(namespace, block) != block:
        return ""
    return namespace.removeprefix(block).lstrip(".").partition(".")[0]


def _nodes(graph: Graph, ids: Iterable[str]) -> list[Node]:
    """Return calls by their ids, in the graph's order."""
    return [graph.nodes[position] for position in sorted(graph.index[i] for i in ids)]


def _without_outer_norms(identities: Reachability, nodes: list[Node]) -> list[Node]:
    """Return calls without a norm before or after all others, and identities beyond it."""
    inside = {node.id for node in nodes}
    outer: set[str] = set()
    for reached in (identities.ancestors, identities.descendants):
        for node in nodes:
            if is_norm(node):
                near = inside.intersection(reached(node.id))
                if all(is_identity_like(identities.graph.node(node_id)) for node_id in near):
                    outer |= {node.id, *near}
    return [node for node in nodes if node.id not in outer]


def _beside_groups(graph: Graph, members: dict[str, list[Node]]) -> Graph:
    """Move the remaining calls of a namespace that became a group out of it, next to the group."""
    grouped = {node.id for nodes in members.values() for node in nodes}
    nodes = tuple(
        replace(node, namespace=node.namespace.rpartition(".")[0])
        if node.namespace in members and node.id not in grouped
        else node
        for node in graph.nodes
    )
    return replace(graph, nodes=nodes)
