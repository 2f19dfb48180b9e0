"""Rules on skip paths: sublayers that none leads past, and paths that start too early."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import pairwise

from plots.annotations import Note, SkipPath
from plots.attentions import attentions_with_masks, has_way_around, position_flow
from plots.diagnosis.merge_rules import blocks_without_their_addition
from plots.diagnosis.rules import (
    diagnosis_rule,
    finding,
    finding_rule,
    listed,
    named,
    remark_rule,
)
from plots.graph import Graph, Node
from plots.hierarchy import enclosing_block, find_namespaces, numbered
from plots.layers import is_additive_merge, is_attention, is_identity_like, is_norm
from plots.streams import Stream, residual_streams
from plots.traversal import Reachability, data_flow, reachability

_RESIDUAL = (
    "He et al. 2016, Deep Residual Learning for Image Recognition, section 3; "
    "Vaswani et al. 2017, Attention Is All You Need, section 3.1"
)


@diagnosis_rule("no_skip_paths")
def no_skip_paths(graph: Graph) -> Iterator[Note]:
    """Self-attentions follow each other, and no skip path bypasses any."""
    if _is_stack_without_skip_paths(graph):
        places = [attention.id for attention in attentions_with_masks(graph)[0]]
        yield finding(
            places,
            f"No skip path leads past any of the {len(places)} attentions, {named(graph, places)}: "
            "signals and gradients have to pass through one sublayer after the other.",
            _RESIDUAL,
        )


@remark_rule(
    "Samples that are lost: {places:set} all numbers of some samples to 0 in training, and no skip "
    "path leads past, so that what follows learns nothing from them. Stochastic depth drops the "
    "branch of a skip path: x + drop(f(x)).",
    "Huang et al. 2016, Deep Networks with Stochastic Depth, section 3",
)
def samples_dropped_whole(graph: Graph) -> list[str]:
    """A dropout of whole samples that no skip path bypasses."""
    bypassed = {node_id for path in graph.skip_paths for node_id in path.bypassed}
    return [
        node.id
        for node in graph.of_class({"Dropout"})
        if node.id not in bypassed
        for shape in [node.config.get("noise_shape")]
        if isinstance(shape, list | tuple) and len(shape) > 1 and {*shape[1:]} == {1}
    ]


@diagnosis_rule("sublayer_without_skip_path")
def sublayer_without_skip_path(graph: Graph) -> Iterator[Note]:
    """A sublayer that no skip path bypasses, although other sublayers have one."""
    bypassed = {node_id for path in graph.skip_paths for node_id in path.bypassed}
    if _is_stack_without_skip_paths(graph) or not has_sublayer(graph, bypassed):
        return  # the rule above reports a whole stack
    attentions, flow, _ = attentions_with_masks(graph)
    lacking = set(_unlike_their_siblings(graph, bypassed))
    merges = [path.target for path in graph.skip_paths]
    for stream in residual_streams(graph):
        if not has_sublayer(graph, stream.bypassed):
            continue
        for attention in attentions:
            is_before = flow.depends(stream.root, on=attention.output)
            follows = any(flow.depends(attention.query.source, on=merge) for merge in merges)
            if is_before and (attention.is_self or follows):
                lacking.add(attention.id)
        lacking.update(_feedforward_before(graph, flow, stream, merges))
    lacking -= {i for calls, _ in blocks_without_their_addition(graph) for i in calls}
    if lacking <= bypassed:
        return
    along = position_flow(graph, attentions)
    around_them = {
        i
        for i in lacking - bypassed
        if has_way_around(graph, along if len(graph.node(i).outputs[0].shape) > 2 else flow, i)
    }
    places = sorted(lacking - bypassed - around_them, key=graph.index.__getitem__)
    if places:
        around = find_namespaces(graph)
        # The sublayer that a call belongs to, or the call, if it is one itself.
        sublayers = dict.fromkeys(
            place if enclosing_block(around[place]) == around[place] else around[place]
            for place in places
        )
        yield finding(
            places,
            f"No skip path leads past {listed(list(sublayers))}, although other sublayers of the "
            "model have one: here signals and gradients have to pass through.",
            _RESIDUAL,
        )


@diagnosis_rule("attention_lost_to_the_stream")
def attention_lost_to_the_stream(graph: Graph) -> Iterator[Note]:
    """The skip path of a feed-forward starts before the attention: x + f(x + attention(x))."""
    attentions, _, _ = attentions_with_masks(graph)
    attended = {attention.output for attention in attentions}
    reached = reachability(graph)
    for stream in residual_streams(graph):
        closed_by = {path.target: path for path in stream.paths}
        lost: list[str] = []
        parts: list[str] = []
        ends: list[str] = []
        for long_path in stream.long_paths:
            merges = [node_id for node_id in long_path.bypassed if node_id in closed_by]
            if not merges or closed_by[merges[-1]].source != long_path.source:
                continue  # it bypasses a whole stack
            last = closed_by[merges[-1]]
            behind = {*reached.descendants(last.target)} - stream.bypassed
            own = [i for i in long_path.bypassed if i in behind and has_sublayer(graph, [i])]
            before = [node_id for node_id in last.bypassed if node_id in attended]
            attends = any(node_id in attended for node_id in own)
            is_kept = _arrives(graph, last.target, long_path.target)
            is_kept = is_kept or _goes_on(graph, last.target, long_path)
            if before and (len(own) > 1 or attends) and not is_kept:
                lost += before
                parts += own
                ends.append(long_path.target)
        if lost:
            yield finding(
                [*parts, *ends],
                f"The skip path past {named(graph, parts)} starts before {named(graph, lost)}, so "
                f"the attention is not added to the stream at {named(graph, ends)}. If that was "
                "not meant, add the feed-forward to the output of the merge before it: "
                "x = x + attention(x), then x = x + f(x).",
                _RESIDUAL,
            )


def _arrives(graph: Graph, merge: str, end: str) -> bool:
    """Return whether the sum at a merge also arrives at another one by identities, norms and sums.

    As in the B2T connection, norm(x + y + f(y)) with y = norm(x + attention(x)).
    """
    waiting, seen = [edge.source for edge in graph.incoming[end]], set[str]()
    while waiting:
        node = graph.node(waiting.pop())
        if node.id == merge:
            return True
        passes = is_identity_like(node) or is_norm(node) or is_additive_merge(node)
        if passes and node.id not in seen:
            seen.add(node.id)
            waiting += [edge.source for edge in graph.incoming[node.id]]
    return False


def _goes_on(graph: Graph, merge: str, path: SkipPath) -> bool:
    """Return whether a sum goes on in another stream, beside a path and past its end.

    As in a reversible network, with a = a + attention(b), then b = b + f(a).
    """
    inside, waiting, seen = {*path.bypassed}, [merge], {path.target}
    while waiting:
        node_id = waiting.pop()
        if node_id in seen:
            continue
        if node_id not in inside:
            return True
        seen.add(node_id)
        node = graph.node(node_id)
        if is_identity_like(node) or is_additive_merge(node):
            waiting += [edge.target for edge in graph.outgoing[node_id]]
    return False


@finding_rule(
    "A sublayer that takes a branch in the place of the stream: what is added at {places} is "
    "computed from the output of {others} before it is merged, so it does not see the rest of the "
    "stream. Take the output of the merge: x = norm(x + y), then f(x), not f(y).",
    _RESIDUAL,
)
def takes_a_branch(graph: Graph) -> Iterator[tuple[str, str]]:
    """A sublayer takes the output of the one before it, and not the stream that it is added to."""
    flow = data_flow(graph)
    up_to_merges = data_flow(graph, stop=is_additive_merge)
    ends_at = {path.target: path for path in graph.skip_paths if not path.projected}
    for node in graph.nodes:
        terms = [edge.source for edge in graph.incoming[node.id]]
        if not is_additive_merge(node) or len(terms) != 2:
            continue
        for stream, branch in (terms, terms[::-1]):
            before = _merge_before(graph, stream, ends_at)
            if before is None or flow.depends(branch, on=before):
                continue
            bypassed = ends_at[before].bypassed
            outputs = [
                edge
                for edge in graph.incoming[before]
                if edge.source in bypassed and _merge_before(graph, edge.source, ends_at) is None
            ]  # and not a stream of its own
            for own in outputs:
                inside = up_to_merges.between(own.source, [branch])
                if inside and _is_sublayer(graph, inside, stream != before):
                    yield node.id, own.source


def _merge_before(graph: Graph, node_id: str, merges: Collection[str]) -> str | None:
    """Return the merge whose sum a call returns, up to identities and norms; None if none does."""
    node = graph.node(node_id)
    while node.id not in merges:
        is_passed = is_identity_like(node) or is_norm(node)
        if not is_passed or len(graph.incoming[node.id]) != 1:
            return None
        node = graph.node(graph.incoming[node.id][0].source)
    return node.id


def _is_sublayer(graph: Graph, inside: Iterable[str], is_normed: bool) -> bool:
    """Return whether calls are a sublayer of their own, unlike a narrow adapter, y + f(y)."""
    parts = [graph.node(i) for i in inside if is_sublayer_part(graph.node(i))]
    if not parts:
        return False
    narrows = [
        (graph.incoming[node.id][0].tensor.shape[-1] or 0) > (node.outputs[0].shape[-1] or 0)
        for node in parts
    ]
    return is_normed or any(map(is_attention, parts)) or not narrows[0]


def _is_stack_without_skip_paths(graph: Graph) -> bool:
    """Return whether self-attentions follow each other, and no skip path bypasses an attention."""
    attentions, flow, _ = attentions_with_masks(graph)
    stack = pairwise(attention for attention in attentions if attention.is_self)
    is_deep = any(flow.depends(after.query.source, on=before.output) for before, after in stack)
    bypassed = {node_id for path in graph.skip_paths for node_id in path.bypassed}
    if not is_deep or not bypassed.isdisjoint(attention.output for attention in attentions):
        return False
    along = position_flow(graph, attentions)  # gates and mixed streams lead past them, too
    return not any(has_way_around(graph, along, attention.output) for attention in attentions)


def _feedforward_before(
    graph: Graph, flow: Reachability, stream: Stream, merges: Iterable[str]
) -> list[str]:
    """Return the calls between the merge of another stream and this one that are a feed-forward.

    That is two or more projections; one alone, or one that changes the width, leads from one stage
    of a model to the next.
    """
    before = [merge for merge in merges if flow.depends(stream.root, on=merge)]
    if not before:
        return []
    merge = max(before, key=graph.index.__getitem__)
    start, end = (graph.node(node_id).outputs[0].shape for node_id in (merge, stream.root))
    between = [merge, *flow.between(merge, [stream.root])]
    projections = [i for i in between if has_sublayer(graph, [i])]
    is_one = len(projections) > 1 and len(start) == len(end) and start[-1] == end[-1]
    return projections if is_one else []


def _unlike_their_siblings(graph: Graph, bypassed: set[str]) -> Iterator[str]:
    """Yield calls without a skip path whose counterparts in most numbered blocks have one."""
    siblings: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        block = enclosing_block(node.namespace)
        if block and node.has_own_name and node.parameters and is_sublayer_part(node):
            stack, _ = numbered(block) or (block, -1)
            siblings.setdefault((stack, node.id.removeprefix(block)), []).append(node.id)
    reached = reachability(graph)

    def continues(node_id: str) -> bool:
        """Return whether a call leads to weights outside of its sublayer, not just to an output.

        Where a model returns internal activations, the graph lacks the rest of the last block.
        """
        inside = f"{graph.node(node_id).namespace}."
        after = (graph.node(other) for other in reached.descendants(node_id))
        return any(n.parameters and not f"{n.namespace}.".startswith(inside) for n in after)

    for ids in siblings.values():
        lacking = [node_id for node_id in ids if node_id not in bypassed]
        if 2 * len(lacking) <= len(ids):
            yield from filter(continues, lacking)


def has_sublayer(graph: Graph, bypassed: Iterable[str]) -> bool:
    """Return whether any of some calls does the work of a Transformer's sublayer."""
    return any(is_sublayer_part(graph.node(node_id)) for node_id in bypassed)


def is_sublayer_part(node: Node) -> bool:
    """Return whether a call does the work of a Transformer's sublayer: attends or projects."""
    return is_attention(node) or node.is_a({"Dense", "EinsumDense"})
