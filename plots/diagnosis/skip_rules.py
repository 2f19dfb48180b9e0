"""Rules on skip paths: sublayers and whole stacks that none leads past."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from plots.annotations import Note
from plots.diagnosis.attentions import Attention, Lineage, attentions_of, is_sublayer_part
from plots.diagnosis.rules import diagnosis_rule, finding, listed, named
from plots.diagnosis.streams import Stream, computed_from, streams_of
from plots.graph import Graph, Node
from plots.hierarchy import enclosing_block, find_namespaces, numbered
from plots.operation_kinds import is_norm

_RESIDUAL = (
    "He et al. 2016, Deep Residual Learning for Image Recognition, section 3; "
    "Vaswani et al. 2017, Attention Is All You Need, section 3.1"
)


@diagnosis_rule("no_skip_paths")
def no_skip_paths(graph: Graph) -> Iterator[Note]:
    """Self-attentions follow each other, and no skip path leads past any."""
    attentions, lineage = attentions_of(graph)
    if _is_stack_without_skip_paths(attentions, lineage, _bypassed(graph)):
        places = [attention.id for attention in attentions]
        yield finding(
            places,
            f"No skip path leads past any of the {len(places)} attentions, {named(graph, places)}: "
            "signals and gradients have to go through one sublayer after the other.",
            _RESIDUAL,
        )


@diagnosis_rule("sublayer_without_skip_path")
def sublayer_without_skip_path(graph: Graph) -> Iterator[Note]:
    """A sublayer that no skip path leads past, where others have one."""
    attentions, lineage = attentions_of(graph)
    bypassed = _bypassed(graph)
    if not any(_is_part(graph, node_id) for node_id in bypassed):
        return
    if _is_stack_without_skip_paths(attentions, lineage, bypassed):
        return  # which another rule says of all of them
    lacking = set(_unlike_their_siblings(graph, bypassed))
    merges = [path.target for path in graph.skip_paths]
    for stream in streams_of(graph):
        if not _has_sublayers(graph, stream):
            continue
        for attention in attentions:
            is_before = lineage.holds(stream.root, attention.output)
            follows = any(lineage.holds(attention.query, merge) for merge in merges)
            if is_before and (attention.is_self or follows):
                lacking.add(attention.id)
        lacking.update(_feedforward_before(graph, lineage, stream, merges))
    places = sorted(lacking - bypassed, key=graph.index.__getitem__)
    if places:
        around = find_namespaces(graph)
        sublayers = dict.fromkeys(_sublayer(graph.node(place), around[place]) for place in places)
        yield finding(
            places,
            f"No skip path leads past {listed(list(sublayers))}, although other sublayers of the "
            "model are bypassed: here signals and gradients have to go through.",
            _RESIDUAL,
        )


@diagnosis_rule("attention_lost_to_the_stream")
def attention_lost_to_the_stream(graph: Graph) -> Iterator[Note]:
    """The skip path of a feed-forward begins before the attention: x + f(x + attention(x))."""
    attended = {attention.output for attention in attentions_of(graph)[0]}
    for stream in streams_of(graph):
        closed_by = {path.target: path for path in stream.paths}
        bypassed = {node_id for path in stream.paths for node_id in path.bypassed}
        lost: list[str] = []
        parts: list[str] = []
        ends: list[str] = []
        for long_path in stream.long_paths:
            merges = [node_id for node_id in long_path.bypassed if node_id in closed_by]
            if not merges:
                continue
            last = closed_by[merges[-1]]
            if last.source != long_path.source:
                continue  # it leads past a whole stack
            behind = computed_from(graph, last.target) - bypassed
            own = [i for i in long_path.bypassed if i in behind and _is_part(graph, i)]
            before = [node_id for node_id in last.bypassed if node_id in attended]
            if before and len(own) > 1:
                lost += before
                parts += own
                ends.append(long_path.target)
        if lost:
            yield finding(
                [*parts, *ends],
                f"The skip path past {named(graph, parts)} begins before {named(graph, lost)}, so "
                f"that what attention adds to the stream is not in {named(graph, ends)}. If that "
                "was not meant, the feed-forward has to be added to what the merge before it "
                "gives out: x = x + attention(x), then x = x + f(x).",
                _RESIDUAL,
            )


def _bypassed(graph: Graph) -> set[str]:
    return {node_id for path in graph.skip_paths for node_id in path.bypassed}


def _is_stack_without_skip_paths(
    attentions: Sequence[Attention], lineage: Lineage, bypassed: set[str]
) -> bool:
    """Whether self-attentions follow each other, and no skip path leads past any attention."""
    stack = [attention for attention in attentions if attention.is_self]
    is_deep = any(lineage.holds(after.query, before.output) for before, after in pairwise(stack))
    return is_deep and not any(attention.output in bypassed for attention in attentions)


def _is_part(graph: Graph, node_id: str) -> bool:
    return is_sublayer_part(graph.node(node_id))


def _has_sublayers(graph: Graph, stream: Stream) -> bool:
    inside = (node_id for path in stream.paths for node_id in path.bypassed)
    return any(_is_part(graph, node_id) for node_id in inside)


def _feedforward_before(
    graph: Graph, lineage: Lineage, stream: Stream, merges: Iterable[str]
) -> list[str]:
    """What lies between the merge of another stream and this one, if it is a feed-forward.

    That is two or more projections; one alone, or one that changes the width, leads from one stage
    of a model to the next.
    """
    before = [merge for merge in merges if lineage.holds(stream.root, merge)]
    if not before:
        return []
    merge = max(before, key=graph.index.__getitem__)
    ends = [graph.node(node_id).outputs[0].shape for node_id in (merge, stream.root)]
    between = [node for node in lineage.calls_of(stream.root) if lineage.holds(node.id, merge)]
    projections = [node.id for node in between if is_sublayer_part(node)]
    is_one = len(projections) > 1 and len(ends[0]) == len(ends[1]) and ends[0][-1] == ends[1][-1]
    return projections if is_one else []


def _unlike_their_siblings(graph: Graph, bypassed: set[str]) -> Iterator[str]:
    """Calls that no skip path leads past, as one does past their like in most numbered blocks."""
    siblings: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        block = enclosing_block(node.namespace)
        if block and node.has_own_name and node.parameters and not is_norm(node):
            stack, _ = numbered(block) or (block, -1)
            siblings.setdefault((stack, node.id.removeprefix(block)), []).append(node.id)
    for ids in siblings.values():
        lacking = [node_id for node_id in ids if node_id not in bypassed]
        if 2 * len(lacking) <= len(ids):
            yield from (node_id for node_id in lacking if _goes_on(graph, node_id))


def _goes_on(graph: Graph, node_id: str) -> bool:
    """Whether a call leads to weights outside of its sublayer, and not to an output of the model.

    Where a model gives out what is inside of it, the rest of the last block is not in the graph.
    """
    inside = f"{graph.node(node_id).namespace}."
    after = (graph.node(other) for other in computed_from(graph, node_id))
    return any(node.parameters and not f"{node.namespace}.".startswith(inside) for node in after)


def _sublayer(node: Node, namespace: str) -> str:
    """The name of the sublayer that a call belongs to; of the call, if it is one by itself."""
    return namespace if namespace and enclosing_block(namespace) != namespace else node.id
