"""The namespace of the cluster that contains each call, derived from names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import pairwise, takewhile

from plots.graph import Edge, Graph, Node
from plots.traversal import CycleError, once_per_graph, reachability, topological_order

_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)|(?P<before>.*\d)(?P<letter>[a-z])")
_DIMENSIONS = re.compile(r"(conv|pool|pooling|padding|dropout|sampling)[123]d$")


def numbered(name: str) -> tuple[str, int] | None:
    """Split a numbered name: ("a.block_", 3) for "a.block_3"; None if it is not numbered.

    A letter after a number is the number of the next level, as in EfficientNet: "block6b" is the
    second of "block6". The letter of "conv2d" is not a number.
    """
    match = _NUMBERED.fullmatch(name)
    if match is None or _DIMENSIONS.search(name):
        return None
    if match["letter"]:
        return match["before"], ord(match["letter"]) - ord("a")
    return match["stem"], int(match["number"])


def stem_and_number(name: str) -> tuple[str, int]:
    """Return a numbered name without its number, and the number; -1 if it is not numbered."""
    return numbered(name) or (name, -1)


def with_number(stem: str, number: int) -> str:
    """Return the numbered name, the inverse of `numbered` except for leading zeros."""
    return f"{stem}{chr(ord('a') + number) if stem[-1:].isdigit() else number}"


@once_per_graph
def find_namespaces(graph: Graph) -> dict[str, str]:
    """Return the namespace in which each call is drawn: id -> namespace.

    This is the namespace of the call, with four exceptions. Unnamed calls have that of
    `find_unnamed_namespaces`. Calls of shared layers have that of their users. If skip paths are
    marked, merges and norms on the stream have that of the block around the sublayer they are named
    after, because the stream runs past the sublayer. A block whose layers are called again has
    another namespace for each later pass: "block_0@2".

    Names only divide the calls of one opened model or layer (`Node.opened`): no call moves into
    or out of one.
    """
    namespaces = {node.id: node.namespace for node in graph.nodes}
    namespaces.update(find_unnamed_namespaces(graph))
    namespaces.update(_at_their_users(graph, namespaces))
    namespaces.update(_lifted_onto_stream(graph, namespaces))
    namespaces.update(_by_pass(graph, namespaces))
    return namespaces


@once_per_graph
def find_unnamed_namespaces(graph: Graph) -> dict[str, str]:
    """Return the namespaces of unnamed calls without weights, such as `x + y`.

    Such a call is in the common namespace of the calls before and after it, or in the numbered
    block whose output it computes. A folded graph lacks the calls to infer this from; its calls
    have their namespaces already (`Contraction`).
    """
    if graph.is_folded:
        return {}
    named = {  # an unnamed call has a namespace of its own only in a hand-made graph
        node.id: _within(node.namespace, node)
        for node in graph.nodes
        if node.has_own_name or node.parameters or _within(node.namespace, node)
    }
    if len(named) == len(graph.nodes):
        return {}

    def around(nodes: Iterable[Node], edges: Mapping[str, tuple[Edge, ...]]) -> dict[str, str]:
        """Return the deepest namespace next to each call; of equally deep ones the nearest."""
        found: dict[str, str] = {}
        for node in nodes:
            if node.id in named:
                found[node.id] = named[node.id]
                continue
            ends = {end for edge in edges[node.id] for end in (edge.source, edge.target)}
            place = graph.index[node.id]
            nearest = sorted(ends - {node.id}, key=lambda i: abs(graph.index[i] - place))
            seen = (_as_seen(graph.node(i), found[i], node) for i in nearest)
            found[node.id] = max(seen, key=depth_of, default="")
        return found

    before = around(graph.nodes, graph.incoming)
    after = around(reversed(graph.nodes), graph.outgoing)
    left: dict[str, list[str]] = {}  # unnamed call -> blocks whose output it computes
    namespaces = {}
    for node in graph.nodes:
        if node.id not in named:
            common = common_namespace(before[node.id], after[node.id])
            namespaces[node.id] = _joined(node, common)
            outer = enclosing_namespaces(common)
            blocks = [name for name in enclosing_namespaces(before[node.id]) if numbered(name)]
            if not blocks or blocks[-1] in outer:
                continue
            if _is_branch(graph, node, blocks[-1], before, named):
                following = [after[edge.target] for edge in graph.outgoing[node.id]]
                block = enclosing_block(reduce(common_namespace, following or [""]))
                if common_namespace(block, common) == common:
                    namespaces[node.id] = _joined(node, block)
            else:
                left[node.id] = [_joined(node, name) for name in blocks if name not in outer]
    return namespaces | _at_the_end_of_blocks(graph, left)


def _is_branch(
    graph: Graph, node: Node, block: str, before: Mapping[str, str], named: Mapping[str, str]
) -> bool:
    """Return whether named calls outside of a block take what an unnamed call takes from it.

    They are then branches of the next block, such as those of an Inception module, and the call is
    one of them, as the pooling on a shortcut is.

    Args:
        graph: The graph.
        node: The unnamed call.
        block: The namespace of the block.
        before: The namespaces before each call, or of it if it is named.
        named: The namespaces of the named calls.
    """
    return any(
        f"{before[edge.source]}.".startswith(f"{block}.")
        and not f"{named.get(other.target, block)}.".startswith(f"{block}.")
        for edge in graph.incoming[node.id]
        for other in graph.outgoing[edge.source]
    )


def _at_the_end_of_blocks(graph: Graph, left: Mapping[str, list[str]]) -> dict[str, str]:
    """Return the namespaces of calls that are part of a block whose output they compute.

    `left` has the blocks around the calls before each one, but not around those after it, outermost
    first. The call is part of the innermost of them whose siblings end in a call of its class.
    Nothing follows the last block to infer this from: the slice of the first position in BERT is
    not part of it, because no other block ends in one.
    """
    ends: dict[str, dict[str, set[str]]] = {}  # stack -> block -> classes at its end
    for name in {name for node in graph.nodes for name in enclosing_namespaces(node.namespace)}:
        if numbered(name):
            ends.setdefault(stem_and_number(name)[0], {})[name] = set()
    for node_id, blocks in left.items():
        for block in blocks:
            ends[stem_and_number(block)[0]][block].add(graph.node(node_id).class_name)
    counts = {  # stack -> class -> number of blocks that end in a call of it
        stack: Counter(name for classes in blocks.values() for name in classes)
        for stack, blocks in ends.items()
    }
    inside = {}
    for node_id, blocks in left.items():
        for block in reversed(blocks):
            stack, _ = stem_and_number(block)
            if len(ends[stack]) == 1 or counts[stack][graph.node(node_id).class_name] > 1:
                inside[node_id] = block
                break
    return inside


def _at_their_users(graph: Graph, namespaces: Mapping[str, str]) -> dict[str, str]:
    """Return new namespaces of calls of shared layers, whose names describe at most one use.

    An embedding that encoder and decoder share has one call in each. One that computes the logits,
    after a projection outside of the decoder, is drawn outside of it as well.
    """

    def seen(end: str, node: Node) -> str:
        return _as_seen(graph.node(end), _within(namespaces[end], graph.node(end)), node)

    moved = {}
    for node in graph.nodes:
        if len(graph.ties.get(node.layer, ())) > 1:
            own = _within(namespaces[node.id], node)
            before = [seen(edge.source, node) for edge in graph.incoming[node.id]]
            after = [seen(edge.target, node) for edge in graph.outgoing[node.id]]
            if own and not any(f"{other}.".startswith(f"{own}.") for other in before + after):
                moved[node.id] = _joined(node, reduce(common_namespace, before + after, own))
            elif not own and after:
                common = reduce(common_namespace, after).split(".")
                name = ".".join(takewhile(lambda part: numbered(part) is None, common))
                moved[node.id] = _joined(node, name)
    return moved


def _by_pass(graph: Graph, namespaces: Mapping[str, str]) -> dict[str, str]:
    """Return new namespaces of the later calls of blocks that a loop passes several times.

    All layers of such a block are called equally often, and each pass depends on the one before,
    unlike the towers of a siamese network.
    """
    inside: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in enclosing_namespaces(namespaces[node.id]) if graph.ties else ():
            inside.setdefault(name, []).append(node)
    moved: dict[str, str] = {}
    for name in sorted(inside, key=depth_of):
        if not moved.keys().isdisjoint(node.id for node in inside[name]):
            continue  # a part of a block
        is_block = numbered(name.rpartition(".")[2]) is not None
        for number, calls in enumerate(_passes(graph, inside[name], is_block)[1:], 2):
            for call in calls:
                moved[call] = f"{name}@{number}{namespaces[call].removeprefix(name)}"
    return moved


def _passes(graph: Graph, nodes: Sequence[Node], is_block: bool) -> list[tuple[str, ...]]:
    """Return the ids of the calls of a namespace by pass; none if no loop passes it.

    A numbered block may have calls of its own in the first pass, such as a factor by depth.
    """
    again = [node for node in nodes if node.layer in graph.ties]
    calls = [graph.ties[layer] for layer in dict.fromkeys(node.layer for node in again)]
    has_weights = any(node.parameters for node in again)
    if len({len(own) for own in calls}) != 1 or len(calls) < 2 or not has_weights:
        return []
    is_whole = len(again) == sum(map(len, calls))
    alone = [node for node in nodes if node.layer not in graph.ties]
    # Weights that are used once belong to no pass: a block may call single layers twice.
    if not is_whole or any(node.parameters or not is_block for node in alone):
        return []
    passes = list(zip(*calls, strict=True))
    flow = reachability(graph)
    ends = [max(own, key=graph.index.__getitem__) for own in passes]
    return passes if all(flow.depends(b, on=a) for a, b in pairwise(ends)) else []


# Opened models and layers -----------------------------------------------------------------------


def _within(namespace: str, node: Node) -> str:
    """Return a namespace around `node` as seen from the opened model or layer that contains it."""
    opened = node.opened[-1] if node.opened else ""
    return namespace.removeprefix(opened).removeprefix(".") if opened else namespace


def _joined(node: Node, within: str) -> str:
    """Return the full namespace, the inverse of `_within`."""
    return ".".join(filter(None, (*node.opened[-1:], within)))


def _as_seen(other: Node, within: str, node: Node) -> str:
    """Return the namespace of another call as seen from the opened model that contains `node`.

    Args:
        other: The other call.
        within: Its namespace, as `_within` returns it.
        node: The call.

    Returns:
        `within` if one opened model contains both; the namespace of the whole inner model if one
        below contains `other`; "", as for an input, if `other` is outside.
    """
    depth = len(node.opened)
    if other.opened == node.opened:
        return within
    if other.opened[:depth] == node.opened:
        return _within(other.opened[depth], node).rpartition(".")[0]
    return ""


# Dotted names -----------------------------------------------------------------------------------


def enclosing_block(namespace: str) -> str:
    """Return the namespace up to its last numbered part: "a.block_3" for "a.block_3.b", or ""."""
    while namespace and numbered(namespace) is None:
        namespace = namespace.rpartition(".")[0]
    return namespace


def common_namespace(first: str, second: str) -> str:
    """Return the longest common namespace: "a.b" for "a.b.c" and "a.b.d.e"."""
    if first == second:
        return first
    pairs = zip(first.split("."), second.split("."), strict=False)
    return ".".join(a for a, b in takewhile(lambda pair: pair[0] == pair[1], pairs))


def enclosing_namespaces(namespace: str) -> list[str]:
    """Return a namespace and those around it, outermost first: "a" and "a.b" for "a.b"."""
    parts = namespace.split(".") if namespace else []
    around = (".".join(parts[: depth + 1]) for depth in range(len(parts)))
    return [name for name in around if name]  # the first part of ".a" is empty


def depth_of(namespace: str) -> int:
    """Return the number of parts of a namespace: 2 for "a.b", 0 for ""."""
    return namespace.count(".") + bool(namespace)


# The residual stream and the order of blocks -----------------------------------------------------


def _lifted_onto_stream(graph: Graph, namespaces: dict[str, str]) -> dict[str, str]:
    """Return new namespaces of merges and stream norms that are named after their sublayer."""
    merges_in = Counter(namespaces[merge] for merge in {path.target for path in graph.skip_paths})
    lifted: dict[str, str] = {}
    for path in graph.skip_paths:
        merge = graph.node(path.target)
        sublayer = namespaces[path.target]
        block = sublayer.rpartition(".")[0]
        if not _within(sublayer, merge):
            continue  # an opened model or layer, which is more than a name
        # With several merges the namespace is the block itself, and the stream stays in it.
        if block and merges_in[sublayer] == 1 and enclosing_block(sublayer) != sublayer:
            lifted[path.target] = block
            following = {edge.target for edge in graph.outgoing[path.target]}
            if path.norm_on_stream and len(following) == 1:
                lifted |= {target: block for target in following if namespaces[target] == sublayer}
    return lifted


def block_by_block(graph: Graph, namespaces: Mapping[str, str]) -> list[Node]:
    """Return all calls in topological order, those of one block one after the other.

    `namespaces` has the namespace of the block of every call. A block that cannot be contiguous,
    because a path between two of its calls leaves it, comes in several parts.
    """
    return _arranged(graph, graph.nodes, namespaces, 0)


def _arranged(
    graph: Graph, nodes: Iterable[Node], namespaces: Mapping[str, str], depth: int
) -> list[Node]:
    """Return the calls of one block that is `depth` levels deep."""
    split: set[str] = set()

    def place(node: Node) -> tuple[bool, str]:
        """Return (whether it is a block, its name), since both may have the same name."""
        around = enclosing_namespaces(namespaces[node.id])[depth:]
        block = next((name for name in around if name not in split), None)
        return (False, node.id) if block is None else (True, block)

    while True:
        items = {node.id: place(node) for node in nodes}
        members: dict[tuple[bool, str], list[Node]] = {}
        for node in nodes:
            members.setdefault(items[node.id], []).append(node)
        priority = {item: graph.index[inside[0].id] for item, inside in members.items()}
        edges = (
            (items[edge.source], items[node.id])
            for node in nodes
            for edge in graph.incoming[node.id]
            if edge.source in items
        )
        try:
            order = topological_order(priority, edges)
        except CycleError as error:
            blocks = [item for item in members if item[0] and item in error.cycle]
            split.add(min(blocks, key=lambda item: len(members[item]))[1])
        else:
            break
    arranged: list[Node] = []
    for is_block, name in order:
        inside = members[is_block, name]
        arranged += _arranged(graph, inside, namespaces, depth_of(name)) if is_block else inside
    return arranged
