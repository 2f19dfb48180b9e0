"""Residual streams: the skip paths that follow each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from plots.annotations import SkipPath
from plots.branches import Value, scaled_value
from plots.graph import Graph
from plots.layers import is_identity_like, is_norm
from plots.skips import calls_at, past_identities
from plots.traversal import Reachability, data_flow, once_per_graph


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
    and the start of the other, or if they start at the same call; `_side_by_side` names the
    exception. Projected paths are left out, and so are those of vectors that are added again and
    again beside a stream, as the positions in DETR: they bypass merges of the stream, and either
    depend on no values of an input or are added to a tensor that other calls take as well.
    """
    flow = data_flow(graph)
    all_merges = {path.target for path in graph.skip_paths}
    root_at: dict[str, Value] = {}
    paths_from: dict[Value, list[tuple[SkipPath, set[str]]]] = {}
    for path in graph.skip_paths:
        is_injected = not all_merges.isdisjoint(path.bypassed) and (
            not flow.depends_on_input(path.source) or _is_taken_elsewhere(graph, path)
        )
        if not path.projected and not is_injected:
            start, before = _root(flow, path, root_at)
            root_at[path.target] = start
            on_path = root_at.keys() & {before, *path.line[1:]}
            paths_from.setdefault(start, []).append((path, on_path))
    identities = past_identities(graph)
    streams = []
    for (root, _), given in paths_from.items():
        for paths in _side_by_side(given):
            merges = {path.target for path in paths}
            single = tuple(path for path in paths if merges.isdisjoint(path.bypassed))
            long_paths = tuple(path for path in paths if not merges.isdisjoint(path.bypassed))
            norms = (
                {n.id: n for at in path.norms for n in calls_at(identities, path, at)}
                for path in single
            )
            streams.append(Stream(root, single, tuple(map(tuple, norms)), long_paths))
    return tuple(streams)


def _side_by_side(given: Sequence[tuple[SkipPath, set[str]]]) -> list[list[SkipPath]]:
    """Return the paths from one value as one stream, or as several that meet at no merge.

    Those of a reversible network, a + f(b) and b + g(a), may begin as the same value. Each of the
    two bypasses merges of the other, unlike one path around a whole stack.

    Args:
        given: The paths, in the order of their merges, with the merges that each one starts at,
            passes and ends at.
    """
    chain_of: dict[str, str] = {}  # merge -> its chain, named by a merge
    parts: dict[str, set[str]] = {}  # the merges of each chain
    for path, merges in given:
        joined = {chain_of[merge] for merge in merges if merge in chain_of}
        first = min(joined, default=path.target)
        added = merges.union(*(parts.pop(chain) for chain in joined - {first}))
        parts.setdefault(first, set()).update(added)
        chain_of |= dict.fromkeys(added, first)
    chains: dict[str, list[SkipPath]] = {}
    for path, _ in given:
        chains.setdefault(chain_of[path.target], []).append(path)
    streams: list[set[str]] = []
    for chain, paths in chains.items():
        for others in streams:
            around = [path for other in others for path in chains[other]]
            if not (_bypass(paths, around) and _bypass(around, paths)):
                others.add(chain)
                break
        else:
            streams.append({chain})
    return [[path for path, _ in given if chain_of[path.target] in own] for own in streams]


def _bypass(paths: Sequence[SkipPath], others: Sequence[SkipPath]) -> bool:
    """Return whether one of the paths bypasses a merge of others."""
    merges = {path.target for path in others}
    return any(not merges.isdisjoint(path.bypassed) for path in paths)


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


def _is_taken_elsewhere(graph: Graph, path: SkipPath) -> bool:
    """Return whether another call than the merge takes the output of the branch."""
    ends = {edge.source for edge in graph.incoming[path.target]} & {*path.bypassed}
    return any(edge.target != path.target for end in ends for edge in graph.outgoing[end])


def _root(flow: Reachability, path: SkipPath, root_at: Mapping[str, Value]) -> tuple[Value, str]:
    """Return the start of the stream that `path` is on, given that of each merge before it.

    And the merge that the path begins after, or the call that the stream begins at.
    """
    graph = flow.graph
    source, after = path.line[:2]
    leaving = [edge for edge in graph.outgoing[source] if not edge.implicit]
    branched = {edge.output for edge in leaving if edge.target in path.bypassed}
    passed = [edge.output for edge in leaving if edge.target == after]
    output = next((output for output in passed if output in branched), 0)
    while source not in root_at:
        edges, node = graph.incoming[source], graph.node(source)
        if (before := scaled_value(flow, node)) is not None:
            source, output = before
            continue
        if len(edges) != 1 or not (is_identity_like(node) or is_norm(node)):
            return (source, output), source
        source, output = edges[0].source, edges[0].output
    return root_at[source], source
