"""Find the residual (skip) paths of a graph by its structure, never by the names of its layers.

A merge that adds up its inputs closes a skip path where one input arrives unchanged from a call
that the other input was computed from:

    from ──────────────────────► merge        the stream: nothing but identity-like calls
      └──► norm ──► sublayer ──────┘          the branch: what the path bypasses

Adding positions to token embeddings is such a merge too, but closes no skip path: neither of the
two is computed from the other.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import pairwise

from plots.annotations import NormPlace, SkipPath
from plots.graph import Graph, Node
from plots.operation_kinds import (
    RESAMPLING,
    is_additive_merge,
    is_identity_like,
    is_linear,
    is_linear_projection,
    is_norm,
    is_shape_only,
)
from plots.registry import graph_plugin


@graph_plugin("skip_paths")
def mark_skip_paths(graph: Graph) -> Graph:
    """The residual stream as the spine of the picture, sublayers branching off and merging back.

    Fills `Graph.skip_paths` and `Graph.stream`; see `skip_paths` for what counts as one.
    """
    paths = skip_paths(graph)
    on_paths, joints = stream_edges(graph, paths)
    return replace(graph, skip_paths=paths, stream=(*on_paths, *joints))


def skip_paths(graph: Graph) -> tuple[SkipPath, ...]:
    """The residual paths of a graph, found by structure, in the order of their merges.

    What counts as a merge, an identity or a norm is said by class in `plots.operation_kinds`.
    """
    flow = _DataFlow(graph)
    found: dict[str, list[SkipPath]] = {}
    for node in graph.nodes:
        if is_additive_merge(node):
            paths = list(_paths_into(flow, node, found))
            if paths:
                found[node.id] = paths
    paths = [path for of_merge in found.values() for path in of_merge]
    sources = {path.source for path in paths}
    return tuple(_with_norms(graph, path, sources) for path in paths)


class _DataFlow:
    """Who computes from whose values, as bit sets over the positions of `graph.nodes`.

    Bit sets, because a stack of a hundred blocks has thousands of calls, and every merge asks.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.sources: dict[str, tuple[str, ...]] = {}
        self.targets: dict[str, list[str]] = {node.id: [] for node in graph.nodes}
        self.depends: dict[str, int] = {}  # itself included
        for position, node in enumerate(graph.nodes):
            edges = () if is_shape_only(node) else graph.incoming[node.id]
            sources = tuple(edge.source for edge in edges if not edge.implicit)
            self.sources[node.id] = sources
            bits = 1 << position
            for source in dict.fromkeys(sources):
                bits |= self.depends[source]
                self.targets[source].append(node.id)
            self.depends[node.id] = bits

    def bit(self, node_id: str) -> int:
        return 1 << self.graph.index[node_id]

    def between(self, source: str, ends: list[str]) -> list[str]:
        """Ids that depend on `source` and that one of `ends` depends on; ends included."""
        needed = 0
        for end in ends:
            needed |= self.depends[end]
        bit = self.bit(source)
        first, last = self.graph.index[source] + 1, needed.bit_length()
        return [
            node.id
            for position, node in enumerate(self.graph.nodes[first:last], start=first)
            if needed >> position & 1 and self.depends[node.id] & bit
        ]


def _paths_into(
    flow: _DataFlow, merge: Node, found: dict[str, list[SkipPath]]
) -> Iterator[SkipPath]:
    """Skip paths that end at `merge`: the unchanged ones, or else the projected ones."""
    inputs = flow.sources[merge.id]
    for walk, projected in ((_unchanged, False), (_projected, True)):
        paths = []
        for arrival in dict.fromkeys(inputs):
            others = [other for other in dict.fromkeys(inputs) if other != arrival]
            path = _path_along(flow, merge.id, walk(flow, arrival, found), others, projected)
            if path is not None:
                paths.append(path)
        if paths:
            yield from paths
            return


def _path_along(
    flow: _DataFlow, merge: str, stream: list[str], others: list[str], projected: bool
) -> SkipPath | None:
    """The skip path up `stream` (ids, from the merge backwards) to where a branch leaves it."""
    for position, source in enumerate(stream):
        ends = [other for other in others if flow.depends[other] & flow.bit(source)]
        through = tuple(reversed(stream[:position]))
        bypassed = [n for n in flow.between(source, ends) if n != source and n not in through]
        nodes = [flow.graph.node(node_id) for node_id in bypassed]
        if not ends or all(is_identity_like(node) for node in nodes):
            continue
        if projected:
            # Two linear maps added up are no residual block (as in `dense_1(x) + dense_2(x)`).
            changes = any(not is_identity_like(flow.graph.node(node_id)) for node_id in through)
            if not changes or all(is_linear(node) for node in nodes):
                continue
        return SkipPath(source, merge, through, tuple(bypassed), (), projected)
    return None


def _unchanged(flow: _DataFlow, arrival: str, found: dict[str, list[SkipPath]]) -> list[str]:
    """Ids backwards from `arrival`, as long as the values stay what they are.

    A merge that closes a skip path is passed along that path: in `(x + attention(x)) + mlp(x)`, x
    arrives unchanged at both merges.
    """
    stream = [arrival]
    while True:
        node = flow.graph.node(stream[-1])
        straight = [path for path in found.get(node.id, ()) if not path.projected]
        if len(straight) == 1:
            stream.extend(reversed(straight[0].line[:-1]))
        elif is_identity_like(node) and len(flow.sources[node.id]) == 1:
            stream.append(flow.sources[node.id][0])
        else:
            return stream


def _projected(flow: _DataFlow, arrival: str, found: dict[str, list[SkipPath]]) -> list[str]:
    """Ids backwards from `arrival`, past at most one linear projection and norms, pooling, pads."""
    stream = [arrival]
    projections = 0
    while len(flow.sources[stream[-1]]) == 1:
        node = flow.graph.node(stream[-1])
        projections += is_linear_projection(node)
        passes = is_identity_like(node) or is_norm(node) or node.is_a(RESAMPLING)
        if projections > 1 or not (passes or is_linear_projection(node)):
            break
        stream.append(flow.sources[node.id][0])
    return stream


def _with_norms(graph: Graph, path: SkipPath, sources: set[str]) -> SkipPath:
    """`path` with the places of its norms filled in."""
    norms: list[NormPlace] = []
    for place in ("branch_start", "branch_end"):
        calls = calls_at(graph, path, place)
        if calls and all(is_norm(node) for node in calls):
            norms.append(place)
    # The last merge of a pre-norm stack also goes into a norm, the final one; what tells it from
    # post-norm is that its branch has a norm already and no further block follows.
    onwards = calls_at(graph, path, "stream")
    if onwards and all(is_norm(node) for node in onwards):
        goes_on = any(node.id in sources for node in onwards)
        if goes_on or not norms:
            norms.append("stream")
    return replace(path, norms=tuple(norms))


def calls_at(graph: Graph, path: SkipPath, place: NormPlace) -> list[Node]:
    """The calls at a place of a skip path where norms can be, past identities and the like."""
    bypassed = set(path.bypassed)

    def before(node_id: str) -> list[str]:
        if is_shape_only(graph.node(node_id)):
            return []
        edges = [edge for edge in graph.incoming[node_id] if not edge.implicit]
        return [edge.source for edge in edges if edge.source in bypassed]

    def after(node_id: str) -> list[str]:
        edges = [edge for edge in graph.outgoing[node_id] if not edge.implicit]
        targets = [e.target for e in edges if not is_shape_only(graph.node(e.target))]
        return [target for target in targets if place == "stream" or target in bypassed]

    start = path.source if place == "branch_start" else path.target
    _, calls = past_identities(graph, start, before if place == "branch_end" else after)
    return calls


def past_identities(
    graph: Graph, start: str, neighbours: Callable[[str], Iterable[str]]
) -> tuple[list[Node], list[Node]]:
    """The identity-like calls next to `start` in one direction, and the first others beyond.

    Args:
        graph: The graph.
        start: Id of a call; it is not among those found.
        neighbours: Gives the ids of those next to a call in the direction in which to look.
    """
    passed: dict[str, Node] = {}
    beyond: dict[str, Node] = {}
    waiting = deque(neighbours(start))
    while waiting:
        node = graph.node(waiting.popleft())
        if not is_identity_like(node):
            beyond[node.id] = node
        elif node.id not in passed:
            passed[node.id] = node
            waiting.extend(neighbours(node.id))
    return list(passed.values()), list(beyond.values())


def stream_edges(
    graph: Graph, paths: tuple[SkipPath, ...]
) -> tuple[dict[tuple[str, str], None], dict[tuple[str, str], None]]:
    """The residual stream as (source, target) pairs: what a picture draws as one line.

    Returns:
        The pairs along the skip paths, and the pairs that join one path to the next (past the norm
        of a post-norm block), lead to the first one and go on from the last one. Ordered.
    """
    on_paths: dict[tuple[str, str], None] = {}
    for path in paths:
        on_paths.update(dict.fromkeys(pairwise(path.line)))
    joints: dict[tuple[str, str], None] = {}
    merges = {path.target for path in paths}
    for path in paths:
        backwards = [path.source]
        while backwards[-1] not in merges and len(graph.incoming[backwards[-1]]) == 1:
            backwards.append(graph.incoming[backwards[-1]][0].source)
        joints.update(dict.fromkeys(pairwise(reversed(backwards))))
    sources = {path.source for path in paths}
    branches = {node_id for path in paths for node_id in path.bypassed}
    for path in paths:
        forwards = [path.target]
        while forwards[-1] not in sources and len(graph.outgoing[forwards[-1]]) == 1:
            following = graph.outgoing[forwards[-1]][0].target
            if following in branches or len(graph.incoming[following]) > 1:
                break  # the output of an encoder goes into the branches of its decoder
            forwards.append(following)
        joints.update(dict.fromkeys(pairwise(forwards)))
    return on_paths, {pair: None for pair in joints if pair not in on_paths}
