"""The namespace of the cluster that contains each call, derived from names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import reduce
from itertools import takewhile

from plots.graph import Edge, Graph, Node

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


def find_namespaces(graph: Graph) -> dict[str, str]:
    """Return the namespace in which each call is drawn: id -> namespace.

    This is the namespace of the call, with three exceptions. Unnamed calls have that of
    `find_unnamed_namespaces`. Calls of shared layers have that of their users. If skip paths are
    marked, merges and norms on the stream have that of the block around the sublayer they are named
    after, because the stream runs past the sublayer.
    """
    namespaces = {node.id: node.namespace for node in graph.nodes}
    namespaces.update(find_unnamed_namespaces(graph))
    namespaces.update(_at_their_users(graph, namespaces))
    namespaces.update(_lifted_onto_stream(graph, namespaces))
    return namespaces


def find_unnamed_namespaces(graph: Graph) -> dict[str, str]:
    """Return the namespaces of unnamed calls without weights, such as `x + y`.

    Such a call is in the common namespace of the calls before and after it, or in the numbered
    block whose output it computes. A folded graph lacks the calls to infer this from; its calls
    have their namespaces already (`Contraction`).
    """
    if graph.is_folded:
        return {}
    named = {  # an unnamed call has a namespace only inside an opened model or layer
        node.id: node.namespace
        for node in graph.nodes
        if node.has_own_name or node.parameters or node.namespace
    }

    def around(nodes: Iterable[Node], edges: Mapping[str, tuple[Edge, ...]]) -> dict[str, str]:
        """Return the deepest namespace next to each call; of equally deep ones the nearest."""
        found: dict[str, str] = {}
        for node in nodes:
            ends = {end for edge in edges[node.id] for end in (edge.source, edge.target)}
            place = graph.index[node.id]
            nearest = sorted(ends - {node.id}, key=lambda i: abs(graph.index[i] - place))
            namespace = max((found[i] for i in nearest), key=depth_of, default="")
            found[node.id] = named.get(node.id, namespace)
        return found

    before = around(graph.nodes, graph.incoming)
    after = around(reversed(graph.nodes), graph.outgoing)
    namespaces = dict(named)
    came_out: dict[str, str] = {}
    for node in graph.nodes:
        if node.id not in named:
            common = common_namespace(before[node.id], after[node.id])
            block = enclosing_block(before[node.id])
            inside = (common + ".").startswith(block + ".") or not block
            namespaces[node.id] = common if inside else block
            if not inside:
                came_out[node.id] = common
    namespaces.update(_after_the_last_block(graph, came_out, namespaces))
    return {i: namespace for i, namespace in namespaces.items() if i not in named}


def _after_the_last_block(
    graph: Graph, came_out: dict[str, str], namespaces: dict[str, str]
) -> dict[str, str]:
    """Return the namespaces of calls that follow the last block without being part of it.

    Nothing follows the last block to infer this from. A call is not part of it if no other block of
    the stack ends in a call of its class, such as the slice of the first position in BERT.
    """
    ends: dict[str, dict[str, set[str]]] = {}  # stack -> block -> classes at its end
    for block in set(namespaces.values()):
        if enclosing_block(block) == block != "":
            stack, _ = stem_and_number(block)
            ends.setdefault(stack, {})[block] = set()
    places = [(graph.node(node_id), namespaces[node_id]) for node_id in came_out]
    for node, block in places:
        stack, _ = stem_and_number(block)
        ends[stack][block].add(node.class_name)
    moved = {}
    for node, block in places:
        stack, _ = stem_and_number(block)
        others = [found for other, found in ends[stack].items() if other != block]
        if others and not any(node.class_name in found for found in others):
            moved[node.id] = came_out[node.id]
    return moved


def _at_their_users(graph: Graph, namespaces: dict[str, str]) -> dict[str, str]:
    """Return new namespaces of calls of shared layers, whose names describe at most one use.

    An embedding that encoder and decoder share has one call in each. One that computes the logits,
    after a projection outside of the decoder, is drawn outside of it as well.
    """
    moved = {}
    for node in graph.nodes:
        if len(graph.ties.get(node.layer, ())) > 1:
            own = namespaces[node.id]
            before = [namespaces[edge.source] for edge in graph.incoming[node.id]]
            after = [namespaces[edge.target] for edge in graph.outgoing[node.id]]
            if own and not any(f"{other}.".startswith(f"{own}.") for other in before + after):
                moved[node.id] = reduce(common_namespace, before + after, own)
            elif not own and after:
                common = reduce(common_namespace, after).split(".")
                moved[node.id] = ".".join(takewhile(lambda part: numbered(part) is None, common))
    return moved


def enclosing_block(namespace: str) -> str:
    """Return the namespace up to its last numbered part: "a.block_3" for "a.block_3.b", or ""."""
    while namespace and numbered(namespace) is None:
        namespace = namespace.rpartition(".")[0]
    return namespace


def common_namespace(first: str, second: str) -> str:
    """Return the longest common namespace: "a.b" for "a.b.c" and "a.b.d.e"."""
    pairs = zip(first.split("."), second.split("."), strict=False)
    return ".".join(a for a, b in takewhile(lambda pair: pair[0] == pair[1], pairs))


def enclosing_namespaces(namespace: str) -> list[str]:
    """Return a namespace and those around it, outermost first: "a" and "a.b" for "a.b"."""
    parts = namespace.split(".") if namespace else []
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]


def depth_of(namespace: str) -> int:
    """Return the number of parts of a namespace: 2 for "a.b", 0 for ""."""
    return namespace.count(".") + bool(namespace)


def _lifted_onto_stream(graph: Graph, namespaces: dict[str, str]) -> dict[str, str]:
    """Return new namespaces of merges and stream norms that are named after their sublayer."""
    merges_in = Counter(namespaces[merge] for merge in {path.target for path in graph.skip_paths})
    lifted: dict[str, str] = {}
    for path in graph.skip_paths:
        sublayer = namespaces[path.target]
        block = sublayer.rpartition(".")[0]
        # With several merges the namespace is the block itself, and the stream stays in it.
        if block and merges_in[sublayer] == 1 and enclosing_block(sublayer) != sublayer:
            lifted[path.target] = block
            following = {edge.target for edge in graph.outgoing[path.target]}
            if path.norm_on_stream and len(following) == 1:
                lifted |= {target: block for target in following if namespaces[target] == sublayer}
    return lifted
