"""The edges of residual streams, which a picture draws as one line."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from plots.annotations import SkipPath
from plots.branches import scaled_value, unchanged_values
from plots.graph import Graph
from plots.traversal import data_flow


def stream_edges(
    graph: Graph, paths: tuple[SkipPath, ...]
) -> tuple[dict[tuple[str, str], None], dict[tuple[str, str], None]]:
    """Return the residual stream as (source, target) pairs, which a picture draws as one line.

    Returns:
        The pairs along the skip paths, and the pairs that join one path to the next (past the norm
        of a post-norm block, or the merge of a skip path across blocks), lead to the first one and
        continue from the last one. Ordered.
    """
    on_paths = dict.fromkeys(pair for path in paths for pair in pairwise(path.line))
    merges, sources = {path.target for path in paths}, {path.source for path in paths}
    branches = {node_id for path in paths for node_id in path.bypassed}
    joints: list[tuple[str, str]] = []
    around: dict[str, list[SkipPath]] = {}
    for path in paths:
        for node_id in path.bypassed:
            around.setdefault(node_id, []).append(path)
    for path in paths:
        # Those that lead from one branch into a later one, as the values of attention.
        left = [other for other in around.get(path.source, ()) if other.target != path.target]
        if any(other not in around.get(path.target, ()) for other in left):
            continue
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
    joints += _past_long_skips(graph, paths, merges | sources)
    return on_paths, dict.fromkeys(pair for pair in joints if pair not in on_paths)


def _past_long_skips(
    graph: Graph, paths: tuple[SkipPath, ...], on_stream: set[str]
) -> Iterator[tuple[str, str]]:
    """Yield the pairs that lead a stream into merges with streams from before other merges.

    Such as x + w x_m in the second half of a U-net. In its middle, x_m is x, and no path ends.

    Args:
        graph: The graph.
        paths: Its skip paths.
        on_stream: Where they begin and end.
    """
    merges = {path.target for path in paths}
    flow = data_flow(graph)
    doubling = {node.id for node in graph.nodes if scaled_value(flow, node) is not None}
    for merge in dict.fromkeys(
        path.target for path in paths if not merges.isdisjoint(path.bypassed)
    ):
        last = {path.line[-2] for path in paths if path.target == merge}
        for edge in flow.incoming[merge]:
            line = [merge, *(i for i, _ in unchanged_values(flow, (edge.source, edge.output)))]
            if edge.source not in last and line[-1] in on_stream | doubling:
                yield from pairwise(reversed(line))
    for merge in doubling:
        lines = [
            [merge, *(i for i, _ in unchanged_values(flow, (edge.source, edge.output)))]
            for edge in flow.incoming[merge]
        ]
        if (shortest := min(lines, key=len))[-1] in on_stream:
            yield from pairwise(reversed(shortest))
