"""Which box of a picture a call belongs to, read from the dotted names."""

from __future__ import annotations

import re
from functools import reduce
from itertools import takewhile

from plots.graph import Graph

_NUMBERED = re.compile(r"(?P<stem>.*?)(?P<number>\d+)|(?P<before>.*\d)(?P<letter>[a-z])")
_DIMENSIONS = re.compile(r"(conv|pool|pooling|padding|dropout|sampling)[123]d$")


def numbered(name: str) -> tuple[str, int] | None:
    """What a name is numbered with: ("a.block_", 3) of "a.block_3"; None if it is not numbered.

    A letter behind a number counts the next level, as in EfficientNet: "block6b" is the second of
    "block6". That of "conv2d" counts nothing.
    """
    match = _NUMBERED.fullmatch(name)
    if match is None or _DIMENSIONS.search(name):
        return None
    if match["letter"]:
        return match["before"], ord(match["letter"]) - ord("a")
    return match["stem"], int(match["number"])


def with_number(stem: str, number: int) -> str:
    """The name that is numbered so: the inverse of `numbered`, but for zeros in front."""
    return f"{stem}{chr(ord('a') + number) if stem[-1:].isdigit() else number}"


def boxes(graph: Graph) -> dict[str, str]:
    """The dotted namespace in which each call is drawn: id -> namespace.

    That is its own namespace, with three exceptions: a call that nobody named (`boxes_of_unnamed`),
    one of a layer that is called in several places, which belongs to its use and not to its name,
    and, where skip paths are marked, a merge. It belongs not to the sublayer that it is named
    after, but to the block around it, because it lies on the stream *past* the sublayer; so does a
    norm on the stream.
    """
    namespaces = {node.id: node.namespace for node in graph.nodes}
    namespaces.update(boxes_of_unnamed(graph))
    namespaces.update(_at_their_users(graph, namespaces))
    namespaces.update(_lifted_onto_stream(graph, namespaces))
    return namespaces


def boxes_of_unnamed(graph: Graph) -> dict[str, str]:
    """Namespaces of the calls that nobody named and that have no weights, such as `x + y`.

    Such a call belongs to what the calls before and after it have in common, or to the numbered
    block that it comes out of. In a folded graph the blocks that would tell are gone; what folds
    has written down there what it saw (`Contraction`), so that all calls have their namespace.
    """
    if graph.is_folded:
        return {}
    named = {  # what nobody named has a namespace only inside of something that was opened
        node.id: node.namespace
        for node in graph.nodes
        if node.has_own_name or node.parameters or node.namespace
    }
    before: dict[str, str] = {}
    for node in graph.nodes:  # of equally deep ones the latest: it comes out of this block
        sources = sorted(
            {edge.source for edge in graph.incoming[node.id]}, key=graph.index.__getitem__
        )
        around = [before[source] for source in reversed(sources)]
        before[node.id] = named.get(node.id, max(around, key=depth_of, default=""))
    after: dict[str, str] = {}
    for node in reversed(graph.nodes):
        targets = sorted(
            {edge.target for edge in graph.outgoing[node.id]}, key=graph.index.__getitem__
        )
        around = [after[target] for target in targets]
        after[node.id] = named.get(node.id, max(around, key=depth_of, default=""))
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
    return {node_id: box for node_id, box in namespaces.items() if node_id not in named}


def _after_the_last_block(
    graph: Graph, came_out: dict[str, str], namespaces: dict[str, str]
) -> dict[str, str]:
    """Namespaces of calls that come out of the last block and are no part of it.

    Nothing follows the last block that would tell; but if no other block of the stack ends in a
    call of that class, as with the slice that takes the first position of BERT, it is no part.
    """

    def stack_of(block: str) -> str:
        stem, _ = numbered(block) or (block, -1)
        return stem

    ends: dict[str, dict[str, set[str]]] = {}  # stack -> block -> classes that come out of it
    for block in set(namespaces.values()):
        if enclosing_block(block) == block != "":
            ends.setdefault(stack_of(block), {}).setdefault(block, set())
    for node_id in came_out:
        block = namespaces[node_id]
        ends[stack_of(block)].setdefault(block, set()).add(graph.node(node_id).class_name)
    moved = {}
    for node_id, common in came_out.items():
        block = namespaces[node_id]
        others = [found for other, found in ends[stack_of(block)].items() if other != block]
        if others and not any(graph.node(node_id).class_name in found for found in others):
            moved[node_id] = common
    return moved


def _at_their_users(graph: Graph, namespaces: dict[str, str]) -> dict[str, str]:
    """New namespaces for calls of shared layers, whose names tell of one of their uses at most.

    An embedding that the encoder and the decoder share has one call in each; and one that gives the
    logits, past a projection outside of the decoder, is drawn outside of it as well.
    """
    moved = {}
    for node in graph.nodes:
        if len(graph.ties.get(node.layer, ())) > 1:
            own = namespaces[node.id]
            before, after = (
                [namespaces[end] for end in ends]
                for ends in (
                    (edge.source for edge in graph.incoming[node.id]),
                    (edge.target for edge in graph.outgoing[node.id]),
                )
            )
            if own and not any(f"{other}.".startswith(f"{own}.") for other in before + after):
                moved[node.id] = reduce(common_namespace, before + after, own)
            elif not own and after:
                common = reduce(common_namespace, after).split(".")
                moved[node.id] = ".".join(takewhile(lambda part: numbered(part) is None, common))
    return moved


def enclosing_block(namespace: str) -> str:
    """The namespace up to its last numbered part: "a.block_3" of "a.block_3.b"; "" without one."""
    while namespace and numbered(namespace) is None:
        namespace = namespace.rpartition(".")[0]
    return namespace


def common_namespace(first: str, second: str) -> str:
    """The longest namespace that both lie in: "a.b" of "a.b.c" and "a.b.d.e"."""
    common = []
    for a, b in zip(first.split("."), second.split("."), strict=False):
        if a != b:
            break
        common.append(a)
    return ".".join(common)


def boxes_around(namespace: str) -> list[str]:
    """A box and all boxes around it, outermost first: "a" and "a.b" of "a.b"."""
    parts = namespace.split(".") if namespace else []
    return [".".join(parts[: depth + 1]) for depth in range(len(parts))]


def depth_of(namespace: str) -> int:
    """Number of parts of a dotted namespace: 2 for "a.b", 0 for ""."""
    return namespace.count(".") + bool(namespace)


def _lifted_onto_stream(graph: Graph, namespaces: dict[str, str]) -> dict[str, str]:
    """New namespaces for merges and stream norms that are named after the sublayer they follow."""
    merges_in: dict[str, int] = {}
    for merge in dict.fromkeys(path.target for path in graph.skip_paths):
        merges_in[namespaces[merge]] = merges_in.get(namespaces[merge], 0) + 1
    lifted: dict[str, str] = {}
    for path in graph.skip_paths:
        sublayer = namespaces[path.target]
        block = sublayer.rpartition(".")[0]
        # Several merges in one namespace: that is the block itself, and the stream stays in it.
        if block and merges_in[sublayer] == 1 and enclosing_block(sublayer) != sublayer:
            lifted[path.target] = block
            following = {edge.target for edge in graph.outgoing[path.target]}
            if path.norm_on_stream and len(following) == 1:
                lifted.update(
                    {target: block for target in following if namespaces[target] == sublayer}
                )
    return lifted
