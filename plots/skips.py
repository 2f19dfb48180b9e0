"""Residual (skip) paths and residual streams, found by structure and never by names of layers.

A merge that adds its inputs closes a skip path where one input arrives unchanged from a call that
the other input depends on:

    source ────────────────────► merge        the stream: nothing but identity-like calls
      └──► norm ──► sublayer ──────┘          the branch: the calls that the path bypasses

Adding positions to token embeddings is such a merge too, but closes no skip path: neither of the
two depends on the other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

from plots.annotations import NormPlace, SkipPath
from plots.arguments import takes_graphs
from plots.graph import Graph, Node
from plots.layers import (
    RESAMPLING,
    is_additive_merge,
    is_identity_like,
    is_linear,
    is_linear_projection,
    is_norm,
)
from plots.registry import graph_plugin
from plots.traversal import Reachability, data_flow, once_per_graph


@graph_plugin("skip_paths")
def mark_skip_paths(graph: Graph) -> Graph:
    """The residual stream as the spine of the picture, with sublayers as its branches.

    Fills `Graph.skip_paths` and `Graph.stream`; see `skip_paths` for what counts as one.
    """
    paths = skip_paths(graph)
    on_paths, joints = stream_edges(graph, paths)
    return replace(graph, skip_paths=paths, stream=(*on_paths, *joints))


@takes_graphs
def skip_paths(graph: Graph) -> tuple[SkipPath, ...]:
    """Return the residual paths of a graph, found by structure, in the order of their merges.

    The sets of classes in `plots.layers` say what is a merge, an identity or a norm.
    """
    flow = data_flow(graph)
    found: dict[str, list[SkipPath]] = {}
    for node in graph.nodes:
        if is_additive_merge(node) and (into := _paths_into(flow, node.id, found)):
            found[node.id] = into
    paths = [path for into in found.values() for path in into]
    sources = {path.source for path in paths}
    identities = past_identities(graph)
    return tuple(_with_norms(identities, path, sources) for path in paths)


def _paths_into(flow: Reachability, merge: str, found: dict[str, list[SkipPath]]) -> list[SkipPath]:
    """Return the skip paths that end at `merge`: the unchanged ones, or else the projected ones."""
    inputs = tuple(dict.fromkeys(flow.sources[merge]))
    for projected in (False, True):
        paths = []
        for arrival in inputs:
            stream = _projected(flow, arrival) if projected else _unchanged(flow, arrival, found)
            others = [other for other in inputs if other != arrival]
            paths.append(_path_along(flow, merge, stream, others, projected))
        if those := [path for path in paths if path is not None]:
            return those
    return []


def _path_along(
    flow: Reachability, merge: str, stream: list[str], others: list[str], projected: bool
) -> SkipPath | None:
    """Return the skip path up `stream` (ids, from the merge backwards) to where a branch starts."""
    for position, source in enumerate(stream):
        ends = [other for other in others if flow.depends(other, on=source)]
        through = tuple(reversed(stream[:position]))
        bypassed = [n for n in flow.between(source, ends) if n not in through] if ends else []
        nodes = [flow.graph.node(node_id) for node_id in bypassed]
        if all(is_identity_like(node) for node in nodes):
            continue
        if projected:
            # Two linear maps added up are no residual block (as in `dense_1(x) + dense_2(x)`).
            changes = any(not is_identity_like(flow.graph.node(node_id)) for node_id in through)
            if not changes or all(is_linear(node) for node in nodes):
                continue
        return SkipPath(source, merge, through, tuple(bypassed), (), projected)
    return None


def _unchanged(flow: Reachability, arrival: str, found: dict[str, list[SkipPath]]) -> list[str]:
    """Return ids backwards from `arrival`, as long as the values stay the same.

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


def _projected(flow: Reachability, arrival: str) -> list[str]:
    """Return ids backwards from `arrival`, past norms, pooling, pads and at most one projection."""
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


# Norms on a path --------------------------------------------------------------------------------


def past_identities(graph: Graph) -> Reachability:
    """Return the data flow through identity-like calls: it stops at all others."""
    return data_flow(graph, stop=lambda node: not is_identity_like(node))


def calls_at(identities: Reachability, path: SkipPath, place: NormPlace) -> list[Node]:
    """Return the calls at a place of a skip path where norms can be, past identity-like calls."""
    bypassed = set(path.bypassed)
    if place == "stream":
        reached = identities.descendants(path.target)
    elif place == "branch_start":
        reached = [i for i in identities.descendants(path.source) if i in bypassed]
    else:
        reached = [i for i in identities.ancestors(path.target) if i in bypassed]
    nodes = (identities.graph.node(node_id) for node_id in reached)
    return [node for node in nodes if not is_identity_like(node)]


def _with_norms(identities: Reachability, path: SkipPath, sources: set[str]) -> SkipPath:
    """Return `path` with the places of its norms."""
    norms: list[NormPlace] = []
    for place in ("branch_start", "branch_end"):
        calls = calls_at(identities, path, place)
        if calls and all(map(is_norm, calls)):
            norms.append(place)
    # The last merge of a pre-norm stack also goes into a norm, the final one; unlike in post-norm,
    # its branch has a norm already and no further block follows.
    following = calls_at(identities, path, "stream")
    has_next_block = any(node.id in sources for node in following)
    if following and all(map(is_norm, following)) and (has_next_block or not norms):
        norms.append("stream")
    return replace(path, norms=tuple(norms))


# Streams ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Stream:
    """One residual stream.

    Attributes:
        root: Id of the call that it begins at.
        paths: Its skip paths, one after the other, without `long_paths`.
        norms: Ids of the norms of each path: first or last on the branch, or on the stream.
        long_paths: Its skip paths that bypass other merges of the stream.
    """

    root: str
    paths: tuple[SkipPath, ...]
    norms: tuple[tuple[str, ...], ...]
    long_paths: tuple[SkipPath, ...] = ()

    @property
    def bypassed(self) -> set[str]:
        """Ids of the calls that `paths` bypass."""
        return {node_id for path in self.paths for node_id in path.bypassed}

    def has_token_norms(self, graph: Graph) -> bool:
        """Return whether it has norms, each over the features of one position.

        The placement of batch and group norms in a convolutional residual network is another
        question.
        """
        classes = [graph.node(node_id).class_name for ids in self.norms for node_id in ids]
        return bool(classes) and not any("Batch" in name or "Group" in name for name in classes)


@once_per_graph
def residual_streams(graph: Graph) -> tuple[Stream, ...]:
    """Return the residual streams of a graph with marked skip paths, in the order of their merges.

    Two paths lie on the same stream if there are only identities and norms between the end of one
    and the start of the other, or if they start at the same call. Projected paths are left out.
    """
    root_at: dict[str, str] = {}
    paths_from: dict[str, list[SkipPath]] = {}
    for path in graph.skip_paths:
        if not path.projected:
            root = _root(graph, path.source, root_at)
            root_at[path.target] = root
            paths_from.setdefault(root, []).append(path)
    identities = past_identities(graph)
    streams = []
    for root, paths in paths_from.items():
        merges = {path.target for path in paths}
        long_paths = tuple(path for path in paths if not merges.isdisjoint(path.bypassed))
        single = tuple(path for path in paths if path not in long_paths)
        norms = ({n.id: n for at in p.norms for n in calls_at(identities, p, at)} for p in single)
        streams.append(Stream(root, single, tuple(map(tuple, norms)), long_paths))
    return tuple(streams)


def stream_roots(graph: Graph) -> dict[str, frozenset[str]]:
    """Return the roots of the residual streams that bypass each call, by its id.

    Sublayers on the branches of one stream belong to one stack; those of an encoder whose output is
    added to the tokens of a decoder do not.
    """
    roots: dict[str, frozenset[str]] = {}
    for stream in residual_streams(graph):
        for node_id in stream.bypassed:
            roots[node_id] = roots.get(node_id, frozenset()) | {stream.root}
    return roots


def _root(graph: Graph, source: str, root_at: dict[str, str]) -> str:
    """Return the start of the stream that `source` is on, given that of each merge before it."""
    while source not in root_at:
        edges, node = graph.incoming[source], graph.node(source)
        if len(edges) != 1 or not (is_identity_like(node) or is_norm(node)):
            return source
        source = edges[0].source
    return root_at[source]


def stream_edges(
    graph: Graph, paths: tuple[SkipPath, ...]
) -> tuple[dict[tuple[str, str], None], dict[tuple[str, str], None]]:
    """Return the residual stream as (source, target) pairs, which a picture draws as one line.

    Returns:
        The pairs along the skip paths, and the pairs that join one path to the next (past the norm
        of a post-norm block), lead to the first one and continue from the last one. Ordered.
    """
    on_paths = dict.fromkeys(pair for path in paths for pair in pairwise(path.line))
    merges, sources = {path.target for path in paths}, {path.source for path in paths}
    branches = {node_id for path in paths for node_id in path.bypassed}
    joints: list[tuple[str, str]] = []
    for path in paths:
        line = [path.source]
        while line[-1] not in merges and len(graph.incoming[line[-1]]) == 1:
            line.append(graph.incoming[line[-1]][0].source)
        joints += pairwise(reversed(line))
    for path in paths:
        line = [path.target]
        while line[-1] not in sources and len(graph.outgoing[line[-1]]) == 1:
            following = graph.outgoing[line[-1]][0].target
            if following in branches or len(graph.incoming[following]) > 1:
                break  # the output of an encoder goes into the branches of its decoder
            line.append(following)
        joints += pairwise(line)
    return on_paths, dict.fromkeys(pair for pair in joints if pair not in on_paths)
