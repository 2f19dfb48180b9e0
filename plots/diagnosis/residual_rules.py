"""Rules on residual streams: where their norms are, and sublayers without a skip path."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from plots.annotations import Note, SkipPath, counted
from plots.attentions import Attention, find_attentions, query_flow
from plots.diagnosis.rules import diagnosis_rule, finding, listed, named
from plots.graph import Graph, Node
from plots.hierarchy import enclosing_block, find_namespaces, numbered
from plots.operation_kinds import is_attention, is_norm
from plots.reachability import Reachability
from plots.skips import (
    NormStyle,
    Stream,
    calls_at,
    norm_style,
    past_identities,
    residual_streams,
)

_STYLES: dict[NormStyle, str] = {
    "pre": "pre-norm, x + f(norm(x))",
    "post": "post-norm, norm(x + f(x))",
    "none": "without a norm, x + f(x)",
}
_XIONG = "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, figure 1"
_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.1"
_SWIN_V2 = "Liu et al. 2022, Swin Transformer V2, section 3.2"
_FIXUP = "Zhang et al. 2019, Fixup Initialization, section 2"
_GPT_2 = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3"
_RESIDUAL = f"He et al. 2016, Deep Residual Learning for Image Recognition, section 3; {_VASWANI}"


def is_sublayer_part(node: Node) -> bool:
    """Return whether a call does the work of a Transformer's sublayer: attends or projects."""
    return is_attention(node) or node.is_a({"Dense", "EinsumDense"})


def up_to_weights(graph: Graph) -> Reachability:
    """Return the reachability on paths that stop at calls with weights."""
    return Reachability(graph, stop=lambda node: node.parameters > 0)


def meets_a_norm(ahead: Reachability, start: str) -> bool:
    """Return whether a norm follows `start` before any other call with weights.

    Args:
        ahead: See `up_to_weights`.
        start: Id of a call.
    """
    return any(is_norm(ahead.graph.node(node_id)) for node_id in ahead.descendants(start))


# Norms ------------------------------------------------------------------------------------------


@diagnosis_rule("mixed_norms")
def mixed_norms(graph: Graph) -> Iterator[Note]:
    """Some sublayers of a residual stream are pre-norm, others post-norm or without a norm."""
    ahead = up_to_weights(graph)
    for stream in residual_streams(graph):
        styles = _styles(graph, stream)
        ranked = Counter(style for style in styles if style is not None).most_common()
        if len(ranked) < 2 or ranked[0][0] == "none" or not stream.has_token_norms(graph):
            continue
        if styles[-1] == "none" and set(styles[:-1]) == {"post"}:
            yield from _no_norm_after_the_last_merge(ahead, stream)
            continue
        parts, about = [], []
        for style, number in ranked[1:]:
            places = [k for k, own in enumerate(styles) if own == style]
            merges = [stream.paths[k].target for k in places]
            parts.append(f"{number} {_STYLES[style]} (merged at {named(graph, merges)})")
            norms = stream.norms if style != "none" else [()] * len(styles)
            about += [place for k in places for place in (*norms[k], stream.paths[k].target)]
        usual, number = ranked[0]
        yield finding(
            about,
            f"The norms of one residual stream are mixed: {counted(number, 'sublayer')} "
            f"{_STYLES[usual]}, but {' and '.join(parts)}.",
            _XIONG,
        )


@diagnosis_rule("norm_on_branch_output")
def norm_on_branch_output(graph: Graph) -> Iterator[Note]:
    """The only norm of a sublayer is on the output of its branch, before the merge."""
    for stream in residual_streams(graph):
        places = [k for k, path in enumerate(stream.paths) if path.placement == "branch_end"]
        norms = [norm for k in places for norm in stream.norms[k]]
        if norms and stream.has_token_norms(graph):
            yield finding(
                norms,
                "A norm on the branch output before the merge, and no other norm on the path: "
                f"{named(graph, norms)}. That is x + norm(f(x)), often a mistake for post-norm, "
                "norm(x + f(x)); Swin Transformer V2 (res-post-norm) and OLMo 2 do it on purpose.",
                f"{_VASWANI}; {_SWIN_V2}",
            )


@diagnosis_rule("no_final_norm")
def no_final_norm(graph: Graph) -> Iterator[Note]:
    """A pre-norm stream ends without a norm after its last merge."""
    streams = residual_streams(graph)
    ahead, reachability = up_to_weights(graph), Reachability(graph)
    for stream in streams:
        end = stream.paths[-1].target
        if norm_style(stream.paths[-1]) != "pre" or not stream.has_token_norms(graph):
            continue
        roots = (other.root for other in streams if other is not stream)
        feeds_another = any(root != end and reachability.depends(root, on=end) for root in roots)
        if not feeds_another and not meets_a_norm(ahead, end):
            yield finding(
                [end],
                f"A pre-norm stream without a final norm, from {named(graph, [end])} on: its "
                "output is the sum of all sublayers, which grows with the depth.",
                f"{_XIONG} (b); {_GPT_2}",
            )


@diagnosis_rule("no_norm")
def no_norm(graph: Graph) -> Iterator[Note]:
    """A residual stream of several attentions has no norm at all, and nothing in its place."""
    attended = {attention.output for attention in find_attentions(graph)}
    ahead, identities = up_to_weights(graph), past_identities(graph)
    for stream in residual_streams(graph):
        merges = [path.target for path in stream.paths]
        is_deep = len(attended & stream.bypassed) > 1
        has_norm = any(is_norm(graph.node(place)) for place in stream.bypassed) or any(
            meets_a_norm(ahead, merge) for merge in merges
        )
        # A learned factor at the end of the branch (ReZero, LayerScale) is there instead of a norm.
        ends = (e for path in stream.paths for e in calls_at(identities, path, "branch_end"))
        if is_deep and not has_norm and all(is_sublayer_part(end) for end in ends):
            yield finding(
                merges,
                f"No norm on a residual stream of {counted(len(merges), 'sublayer')}, merged at "
                f"{named(graph, merges)}: with the usual initial weights, activations and "
                "gradients grow with the depth.",
                _FIXUP,
            )


def _styles(graph: Graph, stream: Stream) -> list[NormStyle | None]:
    """Return the styles of all paths of a stream.

    The final norm of a pre-norm stack does not make its last sublayer post-norm, if that one has no
    norm and others of the stack have none either.
    """
    styles = [_style(graph, path) for path in stream.paths]
    if styles[-1] == "post" and "none" in styles and styles.count("post") == 1:
        styles[-1] = "none"
    return styles


def _style(graph: Graph, path: SkipPath) -> NormStyle | None:
    """Return the style of a path; None for a branch without a norm that is no sublayer.

    A convolution for positions, as in wav2vec 2.0, is added to the stream without a norm.
    """
    style = norm_style(path)
    is_sublayer = any(is_sublayer_part(graph.node(node_id)) for node_id in path.bypassed)
    return style if style != "none" or is_sublayer else None


def _no_norm_after_the_last_merge(ahead: Reachability, stream: Stream) -> Iterator[Note]:
    last = stream.paths[-1].target
    if not meets_a_norm(ahead, last):
        yield finding(
            [last],
            "All sublayers are post-norm, norm(x + f(x)), but no norm follows the last merge, "
            f"{named(ahead.graph, [last])}. If pre-norm was meant, the skip paths have to start "
            "before the norms: x + f(norm(x)), not norm(x) + f(norm(x)).",
            _XIONG,
        )


# Skip paths -------------------------------------------------------------------------------------


@diagnosis_rule("no_skip_paths")
def no_skip_paths(graph: Graph) -> Iterator[Note]:
    """Self-attentions follow each other, and no skip path bypasses any."""
    attentions = find_attentions(graph)
    flow = query_flow(graph, attentions)
    if _is_stack_without_skip_paths(attentions, flow, _bypassed(graph)):
        places = [attention.id for attention in attentions]
        yield finding(
            places,
            f"No skip path bypasses any of the {len(places)} attentions, {named(graph, places)}: "
            "signals and gradients have to pass through one sublayer after the other.",
            _RESIDUAL,
        )


@diagnosis_rule("sublayer_without_skip_path")
def sublayer_without_skip_path(graph: Graph) -> Iterator[Note]:
    """A sublayer that no skip path bypasses, although other sublayers have one."""
    bypassed = _bypassed(graph)
    if not any(is_sublayer_part(graph.node(node_id)) for node_id in bypassed):
        return
    attentions = find_attentions(graph)
    flow = query_flow(graph, attentions)
    if _is_stack_without_skip_paths(attentions, flow, bypassed):
        return  # another rule reports all of them
    lacking = set(_unlike_their_siblings(graph, bypassed))
    merges = [path.target for path in graph.skip_paths]
    for stream in residual_streams(graph):
        if not any(is_sublayer_part(graph.node(node_id)) for node_id in stream.bypassed):
            continue
        for attention in attentions:
            is_before = flow.depends(stream.root, on=attention.output)
            follows = any(flow.depends(attention.query.source, on=merge) for merge in merges)
            if is_before and (attention.is_self or follows):
                lacking.add(attention.id)
        lacking.update(_feedforward_before(graph, flow, stream, merges))
    places = sorted(lacking - bypassed, key=graph.index.__getitem__)
    if places:
        around = find_namespaces(graph)
        sublayers = dict.fromkeys(_sublayer(graph.node(place), around[place]) for place in places)
        yield finding(
            places,
            f"No skip path bypasses {listed(list(sublayers))}, although other sublayers of the "
            "model have one: here signals and gradients have to pass through.",
            _RESIDUAL,
        )


@diagnosis_rule("attention_lost_to_the_stream")
def attention_lost_to_the_stream(graph: Graph) -> Iterator[Note]:
    """The skip path of a feed-forward starts before the attention: x + f(x + attention(x))."""
    attended = {attention.output for attention in find_attentions(graph)}
    reachability = Reachability(graph)
    for stream in residual_streams(graph):
        closed_by = {path.target: path for path in stream.paths}
        lost: list[str] = []
        parts: list[str] = []
        ends: list[str] = []
        for long_path in stream.long_paths:
            merges = [node_id for node_id in long_path.bypassed if node_id in closed_by]
            if not merges:
                continue
            last = closed_by[merges[-1]]
            if last.source != long_path.source:
                continue  # it bypasses a whole stack
            behind = {*reachability.descendants(last.target)} - stream.bypassed
            own = [
                node_id
                for node_id in long_path.bypassed
                if node_id in behind and is_sublayer_part(graph.node(node_id))
            ]
            before = [node_id for node_id in last.bypassed if node_id in attended]
            if before and len(own) > 1:
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


def _bypassed(graph: Graph) -> set[str]:
    return {node_id for path in graph.skip_paths for node_id in path.bypassed}


def _is_stack_without_skip_paths(
    attentions: Sequence[Attention], flow: Reachability, bypassed: set[str]
) -> bool:
    """Return whether self-attentions follow each other, and no skip path bypasses an attention."""
    stack = [attention for attention in attentions if attention.is_self]
    is_deep = any(
        flow.depends(after.query.source, on=before.output) for before, after in pairwise(stack)
    )
    return is_deep and not any(attention.output in bypassed for attention in attentions)


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
    ends = [graph.node(node_id).outputs[0].shape for node_id in (merge, stream.root)]
    between = [merge, *flow.between(merge, [stream.root])]
    projections = [i for i in between if is_sublayer_part(graph.node(i))]
    is_one = len(projections) > 1 and len(ends[0]) == len(ends[1]) and ends[0][-1] == ends[1][-1]
    return projections if is_one else []


def _unlike_their_siblings(graph: Graph, bypassed: set[str]) -> Iterator[str]:
    """Yield calls without a skip path whose counterparts in most numbered blocks have one."""
    siblings: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        block = enclosing_block(node.namespace)
        if block and node.has_own_name and node.parameters and not is_norm(node):
            stack, _ = numbered(block) or (block, -1)
            siblings.setdefault((stack, node.id.removeprefix(block)), []).append(node.id)
    reachability = Reachability(graph)
    for ids in siblings.values():
        lacking = [node_id for node_id in ids if node_id not in bypassed]
        if 2 * len(lacking) <= len(ids):
            yield from (node_id for node_id in lacking if _continues(reachability, node_id))


def _continues(reachability: Reachability, node_id: str) -> bool:
    """Return whether a call leads to weights outside of its sublayer, not just to an output.

    Where a model returns internal activations, the rest of the last block is not in the graph.
    """
    graph = reachability.graph
    inside = f"{graph.node(node_id).namespace}."
    after = (graph.node(other) for other in reachability.descendants(node_id))
    return any(node.parameters and not f"{node.namespace}.".startswith(inside) for node in after)


def _sublayer(node: Node, namespace: str) -> str:
    """Return the name of the sublayer that a call belongs to, or of a call that is one itself."""
    return namespace if namespace and enclosing_block(namespace) != namespace else node.id
