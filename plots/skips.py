"""Residual (skip) paths and residual streams, found by structure and never by names of layers.

A merge that adds up its inputs closes a skip path where one input arrives unchanged from a call
that the other input depends on:

    source ────────────────────► merge        the stream: nothing but identity-like calls
      └──► norm ──► sublayer ──────┘          the branch: the calls that the path bypasses

Adding positions to token embeddings is such a merge too, but closes no skip path: neither of the
two depends on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain

from plots.annotations import NormPlace, SkipPath
from plots.arguments import takes_graphs
from plots.branches import (
    Value,
    interpolates,
    is_added_again,
    is_branch,
    is_injected,
    keeps_values,
    mixed_streams,
    subtracted_values,
    unchanged_values,
    value_into,
)
from plots.graph import Graph, Node
from plots.layers import (
    RESAMPLING,
    is_factor,
    is_identity_like,
    is_learned_scale,
    is_linear_projection,
    is_norm,
    is_rearrangement,
    is_signed_merge,
)
from plots.norms import normalises
from plots.registry import graph_plugin
from plots.several_streams import norms_of_streams
from plots.stream_edges import stream_edges
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
@once_per_graph
def skip_paths(graph: Graph) -> tuple[SkipPath, ...]:
    """Return the residual paths of a graph, found by structure, in the order of their merges.

    The sets of classes in `plots.layers` define merges, identities and norms. What counts:

    * A merge adds, averages or subtracts its inputs, or sums a list of them that was stacked. A
      subtraction needs weights on the branch, unlike x - mean(x) in a normalisation.
    * The branch computes something besides norms; x + norm(x) has no sublayer. In x + x * g it is
      the product with the tensor g, which x passes unchanged; x * (1 + g) has the same values and
      no merge of x, so no path. A constant or a weight in the place of g only scales: x + x * 2 has
      none.
    * The stream is one output of a call. In `a, b = split(x)`, no path leads from `x` to
      `a + f(b)`, but one from `a` to `a + f(a)`.
    * It may be scaled by a constant factor, cropped, padded with zeros or reshaped on its way,
      and transposed if it is transposed back or the branch is transposed too. Crops of two
      different parts of one tensor are different streams.
    * A vector that every position receives, such as that of a condition, is not a stream, nor are
      positions or queries that are added again in every block (DETR, Universal Transformer): they
      depend on no value of an input, or only past a `stop_gradient`, and are added before.
    * A branch behind a `stop_gradient` is none: its values are fixed, such as the boxes that the
      last block of a detector predicts.
    * A path whose stream passes a norm, pooling, one linear projection or a learned scale of its
      features is `projected`, and so is one of several streams that are mixed, as in
      hyper-connections. One whose stream is multiplied by a gate, a sigmoid of another tensor, is
      `gated`, as in a highway network; x + a * (f(x) - x) makes none.
    """
    flow = data_flow(graph, stop=lambda node: node.is_a({"StopGradient"}))
    found: dict[str, list[_Line]] = {}
    for node in graph.nodes:
        if lines := _lines_into(flow, node, found):
            found[node.id] = lines
    paths = [line.path for lines in found.values() for line in lines]
    sources = {path.source for path in paths}
    identities = past_identities(graph)
    marked = [_with_norms(identities, path, sources) for path in paths]
    usual = {path.norms for path in marked}
    return tuple(_as_siblings(identities, path, usual) for path in marked)


@dataclass(frozen=True, slots=True)
class _Line:
    """A skip path.

    Attributes:
        path: The path.
        values: The values along it from its source, without those of the merge.
        bypassed: The calls that it bypasses.
    """

    path: SkipPath
    values: tuple[Value, ...]
    bypassed: frozenset[str]


def _lines_into(flow: Reachability, merge: Node, found: Mapping[str, list[_Line]]) -> list[_Line]:
    """Return the skip paths that end at `merge`: the unchanged ones, or else the projected ones."""
    terms, last = _terms(flow, merge)
    if len(terms) < 2 or interpolates(flow, merge):
        return []
    subtracted = {end: subtracted_values(flow, end) for end, _ in terms}
    unchanged = {term: unchanged_values(flow, term) for term in terms}
    ways: dict[str, Callable[[Value], list[Iterable[Value]]]] = {
        "unchanged": lambda term: [_unchanged(flow, term, found)],
        "projected": lambda term: [_projected(flow, term)],
        "gated": lambda term: _gated(flow, term, found),
    }
    for name, way in ways.items():
        lines = []
        for term in terms:
            others = {other: unchanged[other] for other in terms if other != term}
            for stream in way(term):
                projected = name == "projected"
                lines.append(
                    _line_along(flow, merge, stream, others, subtracted, last, projected, found)
                )
        those = [line for line in lines if line is not None]
        if name == "gated":
            those = [line for line in (_with_gate(flow, own) for own in those) if line is not None]
        if those:
            return those
    return []


def _terms(flow: Reachability, merge: Node) -> tuple[list[Value], list[Value]]:
    """Return the values that a merge adds up, and those between them and the merge."""
    edges, last = flow.incoming[merge.id], []
    if merge.operation in ("Sum", "Mean") and len(edges) == 1:
        stack = flow.graph.node(edges[0].source)
        axes = (node.config.get("axis") for node in (merge, stack))
        rank = len(edges[0].tensor.shape)
        reduced, stacked = (axis % rank if isinstance(axis, int) else None for axis in axes)
        if stack.operation == "Stack" and stacked == reduced is not None:
            edges, last = flow.incoming[stack.id], [(stack.id, 0)]
    if not (last or is_signed_merge(merge)):
        return [], []
    return list(dict.fromkeys((edge.source, edge.output) for edge in edges)), last


def _line_along(
    flow: Reachability,
    merge: Node,
    stream: Iterable[Value],
    others: Mapping[Value, list[Value]],
    subtracted: Mapping[str, list[Value]],
    last: list[Value],
    projected: bool,
    found: Mapping[str, list[_Line]],
) -> _Line | None:
    """Return the skip path up `stream` (from the merge backwards) to where a branch starts.

    It ends at a value that another term is, up to factors: x + 2 x has no branch, wherever x is
    from.
    """
    passed: list[Value] = []
    ends = list(dict.fromkeys(node_id for node_id, _ in others))
    same = {value for values in others.values() for value in values}
    away = {value for end in ends for value in subtracted[end]}
    for source in stream:
        through = [node_id for node_id, _ in reversed(passed)]
        takers = [i for i in flow.takers(*source) if i not in through and not flow.stops_at(i)]
        starts = flow.leading_to(ends, takers)
        bypassed = [i for i in flow.along(starts, ends) if i not in through] if starts else []
        lines = [line for i in bypassed for line in found.get(i, ())]
        is_stream = away.isdisjoint([source, *passed]) and not (
            is_added_again(flow, merge, source, bypassed, [line.path for line in lines])
            or is_injected(flow, source, starts, ends, [(o.path, o.bypassed) for o in lines])
        )
        if is_stream and is_branch(flow, merge, bypassed, through, starts, projected):
            between = [node_id for node_id, _ in (*reversed(passed), *last)]
            ids = (source[0], merge.id, tuple(between), tuple(bypassed))
            path = SkipPath(*ids, norms=(), projected=projected)
            return _Line(path, (source, *reversed(passed), *last), frozenset(bypassed))
        if source in same:
            return None
        passed.append(source)
    return None


def _unchanged(
    flow: Reachability, arrival: Value, found: Mapping[str, list[_Line]]
) -> Iterator[Value]:
    """Yield values backwards from `arrival`, as long as they stay the same.

    A merge that closes a skip path is passed along that path: in `(x + attention(x)) + mlp(x)`, x
    arrives unchanged at both merges.
    """
    value = arrival
    while True:
        yield value
        node = flow.graph.node(value[0])
        straight = [line for line in found.get(node.id, ()) if _is_plain(line.path)]
        if len(straight) == 1:
            *values, value = reversed(straight[0].values)
            yield from values
        elif keeps_values(node) and (before := value_into(flow, node)) is not None:
            value = before
        else:
            return


def _gated(
    flow: Reachability, arrival: Value, found: Mapping[str, list[_Line]]
) -> list[Iterable[Value]]:
    """Return the ways backwards from `arrival` past its product with a gate, if it is one."""
    node = flow.graph.node(arrival[0])
    edges = flow.incoming[node.id]
    if not node.is_a({"Multiply"}) or len(edges) != 2:
        return []
    factors = [(edge.source, edge.output) for edge in edges]
    return [
        chain([arrival], _unchanged(flow, factor, found))
        for factor, gate in (factors, factors[::-1])
        if _gate_calls(flow, gate)
    ]


def _gate_calls(flow: Reachability, value: Value) -> list[str]:
    """Return the calls that a gate is computed by, one after the other; none if it is no gate.

    A gate is a sigmoid, or computed from one without weights, as 1 - sigmoid(x) is.
    """
    calls, node, is_gate = [value[0]], flow.graph.node(value[0]), False
    while True:
        is_gate = is_gate or node.activation == "sigmoid" or node.is_a({"Sigmoid"})
        before = value_into(flow, node)
        if before is None or (node.parameters and not is_gate):
            return calls if is_gate else []
        node = flow.graph.node(before[0])
        calls.append(node.id)


def _with_gate(flow: Reachability, line: _Line) -> _Line | None:
    """Return the line of a gated path, whose branch is without the calls of the gate.

    None if nothing else is left: t x + (1 - t) x is x.
    """
    path = line.path
    ends = (path.source, *path.through)
    gates = {
        call
        for node_id in (*path.through, *path.bypassed)
        for edge in flow.incoming[node_id]
        if flow.graph.node(node_id).is_a({"Multiply"}) and edge.source not in ends
        for call in _gate_calls(flow, (edge.source, edge.output))
    }
    branch = tuple(node_id for node_id in path.bypassed if node_id not in gates)
    if all(flow.graph.node(node_id).is_a({"Multiply"}) for node_id in branch):
        return None
    branched = replace(path, bypassed=branch, gated=True)
    return replace(line, path=branched, bypassed=frozenset(branch))


def _is_plain(path: SkipPath) -> bool:
    return not (path.projected or path.gated)


def _projected(flow: Reachability, arrival: Value) -> Iterator[Value]:
    """Yield values backwards, past norms, pooling, pads and at most one linear projection."""
    value = arrival
    projections = 0
    while True:
        yield value
        node = flow.graph.node(value[0])
        mixed = mixed_streams(flow, node)
        projects = is_linear_projection(node) or is_learned_scale(node) or mixed is not None
        projections += projects
        passes = projects or keeps_values(node) or is_norm(node) or node.is_a(RESAMPLING)
        before = mixed or value_into(flow, node)
        if projections > 1 or not passes or before is None:
            return
        value = before


# Norms on a path --------------------------------------------------------------------------------


@once_per_graph
def past_identities(graph: Graph) -> Reachability:
    """Return the data flow through identity-like calls: it stops at all others."""
    return data_flow(graph, stop=lambda node: not is_identity_like(node))


@once_per_graph
def past_factors(graph: Graph) -> Reachability:
    """Return the data flow through calls that only multiply, by constants, weights or gates."""
    return data_flow(graph, stop=lambda node: not (is_factor(node) or is_learned_scale(node)))


@once_per_graph
def past_rearrangements(graph: Graph) -> Reachability:
    """Return the data flow through calls that pass on, rearrange or join what they take."""
    return data_flow(graph, stop=lambda node: not _passes_on(node))


def _passes_on(node: Node) -> bool:
    is_join = node.is_a({"Concatenate", "Split"})
    return is_identity_like(node) or is_rearrangement(node) or is_join


def calls_at(identities: Reachability, path: SkipPath, place: NormPlace) -> list[Node]:
    """Return the calls at a place of a skip path where norms can be, past identity-like calls."""
    bypassed = set(path.bypassed)
    graph = identities.graph
    if place == "stream":
        reached = identities.descendants(path.target)
    elif place == "branch_start":
        started = past_rearrangements(graph)
        reached = [i for i in started.descendants(path.source) if i in bypassed]
        reached = [i for i in reached if not _passes_on(graph.node(i))]
    else:
        scaled = past_factors(graph)
        reached = [i for i in scaled.ancestors(path.target) if i in bypassed]
        return [n for n in map(graph.node, reached) if not (is_factor(n) or is_learned_scale(n))]
    nodes = (identities.graph.node(node_id) for node_id in reached)
    return [node for node in nodes if not is_identity_like(node)]


def _with_norms(identities: Reachability, path: SkipPath, sources: set[str]) -> SkipPath:
    """Return `path` with the places of its norms."""
    if path.projected and (of_streams := norms_of_streams(identities, path)):
        return replace(path, norms=of_streams)
    norms: list[NormPlace] = []
    for place in ("branch_start", "branch_end"):
        calls = calls_at(identities, path, place)
        if calls and all(normalises(identities.graph, call) for call in calls):
            norms.append(place)
    # The last merge of a pre-norm stack also goes into a norm, the final one; unlike in post-norm,
    # its branch has a norm already and no further block follows.
    following = calls_at(identities, path, "stream")
    has_next_block = any(node.id in sources for node in following)
    is_normed = all(normalises(identities.graph, node) for node in following)
    if following and is_normed and (has_next_block or not norms):
        norms.append("stream")
    return replace(path, norms=tuple(norms))


def _as_siblings(
    identities: Reachability, path: SkipPath, usual: set[tuple[NormPlace, ...]]
) -> SkipPath:
    """Return a path with the norm after its merge, if those of other blocks have one there, too."""
    norms: tuple[NormPlace, ...] = (*path.norms, "stream")
    following = calls_at(identities, path, "stream")
    is_normed = all(normalises(identities.graph, node) for node in following)
    is_norm_last = bool(following) and is_normed
    is_like_others = path.norms and not path.norm_on_stream and norms in usual
    return replace(path, norms=norms) if is_like_others and is_norm_last else path
