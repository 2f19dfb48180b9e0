"""Rules on the places of norms in residual streams: pre-norm, post-norm, mixtures, none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

from plots.annotations import Note, SkipPath, counted
from plots.attentions import attentions_with_masks
from plots.diagnosis.activations import activation_of
from plots.diagnosis.closed import is_closed
from plots.diagnosis.projections import up_to_weights
from plots.diagnosis.rules import diagnosis_rule, doing, finding, named, remark
from plots.diagnosis.skip_path_rules import has_sublayer, is_sublayer_part
from plots.graph import Graph, Node
from plots.layers import is_attention, is_identity_like, is_linear_projection
from plots.norms import normalises
from plots.skips import past_identities
from plots.streams import Stream, residual_streams
from plots.traversal import Reachability, data_flow, once_per_graph, reachability

NormStyle = Literal["pre", "post", "none", "both"]

_STYLES: dict[NormStyle, str] = {
    "pre": "pre-norm, x + f(norm(x))",
    "post": "post-norm, norm(x + f(x))",
    "none": "without a norm, x + f(x)",
    "both": "with a norm on both sides, norm(x + f(norm(x)))",
}
_XIONG = "Xiong et al. 2020, On Layer Normalization in the Transformer Architecture, figure 1"
_MIX_LN = f"{_XIONG}; Li et al. 2024, Mix-LN, section 3, begins with post-norm on purpose"
_EVOFORMER = "Jumper et al. 2021, AlphaFold 2, supplement 1.9.8, has heads on maps as they are"
_FT_TRANSFORMER = (
    f"{_XIONG}; Gorishniy et al. 2021, Revisiting Deep Learning Models for Tabular Data, "
    "section 3.3, leaves out the first norm on purpose"
)
_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.1"
_SWIN_V2 = "Liu et al. 2022, Swin Transformer V2, section 3.2"
_FIXUP = "Zhang et al. 2019, Fixup Initialization, section 2"
_GPT_2 = "Radford et al. 2019, Language Models are Unsupervised Multitask Learners, section 2.3"


@once_per_graph
def _up_to_work(graph: Graph) -> Reachability:
    """Return the reachability on paths that stop behind a nonlinear or closed call with weights."""

    def stops(node: Node) -> bool:
        return (node.parameters > 0 and not is_linear_projection(node)) or normalises(graph, node)

    return reachability(graph, stop=stops)


def leads_to_a_norm(graph: Graph, start: str) -> bool:
    """Return whether a call leads to a norm, past linear projections, or to a closed layer.

    Norms follow 1x1 convolutions in the necks of ViTDet, and may be the first calls inside layers
    that the graph does not open.
    """
    nodes = [graph.node(node_id) for node_id in _up_to_work(graph).descendants(start)]
    return any(normalises(graph, node) or is_closed(node) for node in nodes)


def meets_a_norm(graph: Graph, *starts: str) -> bool:
    """Return whether a norm follows one of some calls before any other call with weights."""
    return any(normalises(graph, graph.node(i)) for i in up_to_weights(graph).descendants(*starts))


@diagnosis_rule("mixed_norms")
def mixed_norms(graph: Graph) -> Iterator[Note]:
    """Some sublayers of a residual stream are pre-norm, others post-norm or without a norm."""
    for stream in residual_streams(graph):
        styles = _styles(graph, stream)
        if not stream.has_token_norms(graph):
            continue
        if styles[-1] == "none" and set(styles[:-1]) == {"post"}:
            last = stream.paths[-1].target
            if not meets_a_norm(graph, last):
                yield finding(
                    [last],
                    "All sublayers are post-norm, norm(x + f(x)), but no norm follows the last "
                    f"merge, {named(graph, [last])}. If pre-norm was meant, the skip paths have to "
                    "start before the norms: x + f(norm(x)), not norm(x) + f(norm(x)).",
                    _XIONG,
                )
        elif ranked := _mixture(styles):
            parts, about = [], []
            for style, number in ranked[1:]:
                places = [k for k, own in enumerate(styles) if own == style]
                merges = [stream.paths[k].target for k in places]
                parts.append(f"{number} {_STYLES[style]} (merged at {named(graph, merges)})")
                norms = stream.norms if style != "none" else [()] * len(styles)
                about += [place for k in places for place in (*norms[k], stream.paths[k].target)]
            usual, number = ranked[0]
            text = (
                f"The norms of one residual stream are mixed: {counted(number, 'sublayer')} "
                f"{_STYLES[usual]}, but {' and '.join(parts)}."
            )
            if {style for style, _ in ranked} == {"both", "none"}:
                text += " So each second skip path begins on the wrong side of a norm."
            published = _source_of_mixture(styles)
            yield (remark if published else finding)(about, text, published or _XIONG)


def _mixture(styles: Sequence[NormStyle | None]) -> list[tuple[NormStyle, int]]:
    """Return the styles that do not go together and their numbers, the most frequent first.

    A norm on both sides goes with pre-norm, as in a Conformer, whose blocks end with a norm, and
    with post-norm, as in TabTransformer. A stream that mostly has no norms is not mixed.
    """
    numbers = Counter(style for style in styles if style is not None)
    if numbers.keys() & {"pre", "post"}:
        del numbers["both"]
    ranked = sorted(numbers.items(), key=lambda item: (-item[1], item[0] == "none"))
    is_pair = len(styles) < 3 and styles[0] == "none"
    return ranked if len(ranked) > 1 and ranked[0][0] != "none" and not is_pair else []


def _source_of_mixture(styles: Sequence[NormStyle | None]) -> str:
    """Return the source of a published design that a stream with mixed norms may have, or ""."""
    posts = styles.count("post")
    before, after = set(styles[:posts]), set(styles[posts:])
    if posts > 1 and len(styles) - posts > 1 and before == {"post"} and after == {"pre"}:
        return _MIX_LN
    if len(styles) > 3 and styles[0] == "none" and {*styles[1:]} == {"pre"}:
        return _FT_TRANSFORMER
    return ""


@diagnosis_rule("norm_on_the_skip_path")
def norm_on_the_skip_path(graph: Graph) -> Iterator[Note]:
    """Merges add a branch without a norm to the norm of what the branch begins with."""
    paths = [path for path in graph.skip_paths if _norms_the_stream(graph, path)]
    if not paths:
        return
    norms = [n for path in paths for n in path.through if normalises(graph, graph.node(n))]
    merges = [path.target for path in paths]
    yield (finding if len(paths) > 1 else remark)(
        [*norms, *merges],
        f"The norm is on the skip path: {doing(graph, norms, 'normalise')} the stream on its way "
        f"to {named(graph, merges)}, while the branch takes it without a norm. That is norm(x) + "
        "f(x), where pre-norm is x + f(norm(x)): the branch takes the norm, and the stream passes.",
        f"{_XIONG}; He et al. 2016, Identity Mappings in Deep Residual Networks, section 3",
    )


def _norms_the_stream(graph: Graph, path: SkipPath) -> bool:
    """Return whether a stream passes norms of tokens and nothing else, and the branch no norm."""
    through = [graph.node(node_id) for node_id in path.through]
    norms = [node for node in through if normalises(graph, node)]
    return (
        bool(norms)
        and not any(node.is_a({"BatchNormalization"}) for node in norms)
        and all(normalises(graph, node) or is_identity_like(node) for node in through)
        and not any(normalises(graph, graph.node(place)) for place in path.bypassed)
        and has_sublayer(graph, path.bypassed)
    )


@diagnosis_rule("norm_on_branch_output")
def norm_on_branch_output(graph: Graph) -> Iterator[Note]:
    """The only norm of a sublayer is on the output of its branch, before the merge.

    Published designs with such norms have a final norm, so without one it is a mistake.
    """
    for stream in residual_streams(graph):
        places = [k for k, path in enumerate(stream.paths) if path.placement == "branch_end"]
        norms = [norm for k in places for norm in stream.norms[k]]
        if not norms or not stream.has_token_norms(graph):
            continue
        text = (
            "A norm on the branch output before the merge, and no other norm on the path: "
            f"{named(graph, norms)}. That is x + norm(f(x)), often a mistake for post-norm, "
            "norm(x + f(x))"
        )
        if _is_normed_at_its_end(graph, stream):
            text += "; Swin Transformer V2 (res-post-norm) and OLMo 2 do it on purpose."
            yield remark(norms, text, f"{_VASWANI}; {_SWIN_V2}")
        else:
            text += (
                ". Swin Transformer V2 (res-post-norm) and OLMo 2 do it on purpose, but with a "
                "final norm, which is missing here. Move the norms behind the merges, or add one "
                "after the last merge."
            )
            yield finding(norms, text, f"{_VASWANI}; {_SWIN_V2}")


@diagnosis_rule("no_final_norm")
def no_final_norm(graph: Graph) -> Iterator[Note]:
    """A pre-norm stream ends without a norm after its last merge."""
    streams, reached = residual_streams(graph), reachability(graph)
    attended = {attention.output for attention in attentions_with_masks(graph)[0]}
    for stream in streams:
        if attended.isdisjoint(stream.bypassed):
            continue  # as in convolutional networks, whose streams are short
        end = stream.paths[-1].target
        # One sublayer for each step of an iteration, as in slot attention, adds up nothing.
        before = [other.paths[-1].target for other in streams if other is not stream]
        is_step = len(stream.paths) == 1 and any(reached.depends(stream.root, on=i) for i in before)
        if is_step or _style(stream.paths[-1]) != "pre" or not stream.has_token_norms(graph):
            continue
        if not _is_normed_at_its_end(graph, stream):
            is_map = len(graph.node(end).outputs[0].shape) > 3
            yield (remark if is_map or _is_loop(graph, stream) else finding)(
                [end],
                f"A pre-norm stream without a final norm, from {named(graph, [end])} on: its "
                "output is the sum of all sublayers, which grows with the depth.",
                f"{_XIONG} (b); {_GPT_2}" + f"; {_EVOFORMER}" * is_map,
            )


def _is_loop(graph: Graph, stream: Stream) -> bool:
    """Return whether all sublayers are calls of the same layers, as those of slot attention are."""
    weights = [node for node in map(graph.node, stream.bypassed) if node.parameters]
    return bool(weights) and all(node.layer in graph.ties for node in weights)


def _is_normed_at_its_end(graph: Graph, stream: Stream) -> bool:
    """Return whether a norm follows the last merge of a stream, or it leads to another stream."""
    end = stream.paths[-1].target
    reached = reachability(graph)
    roots = (other.root for other in residual_streams(graph) if other is not stream)
    feeds_another = any(root != end and reached.depends(root, on=end) for root in roots)
    return feeds_another or leads_to_a_norm(graph, end)


@diagnosis_rule("head_before_the_final_norm")
def head_before_the_final_norm(graph: Graph) -> Iterator[Note]:
    """A head takes the end of a pre-norm stream, which is normalised for other outputs only."""
    places = {place for place, _ in graph.outputs}
    if len(places) < 2:
        return
    reached = reachability(graph)
    up_to_norms = reachability(graph, stop=lambda n: normalises(graph, n) or is_closed(n))
    for stream in residual_streams(graph):
        end = stream.paths[-1].target
        if _style(stream.paths[-1]) != "pre" or not stream.has_token_norms(graph):
            continue
        plain = [graph.node(i) for i in up_to_norms.descendants(end)]
        norms = [node.id for node in plain if normalises(graph, node)]
        bare = {n.id for n in plain if not up_to_norms.stops_at(n.id)} & places
        others = [i for i in reached.descendants(*norms) if i in places - bare] if norms else []
        heads = [
            node.id
            for node in plain
            if is_linear_projection(node) and bare & {node.id, *up_to_norms.descendants(node.id)}
        ]
        if heads and others:
            is_map = len(graph.node(end).outputs[0].shape) > 3
            yield (remark if is_map else finding)(
                [heads[0], end, norms[0]],
                f"A head before the final norm: {named(graph, heads[:1])} takes the sum of all "
                f"sublayers from {named(graph, [end])}, which grows with the depth, while "
                f"{named(graph, norms[:1])} normalises it for another output. Take the output of "
                "the norm for both.",
                f"{_XIONG} (b); {_GPT_2}" + f"; {_EVOFORMER}" * is_map,
            )


@diagnosis_rule("no_norm")
def no_norm(graph: Graph) -> Iterator[Note]:
    """A residual stream of several attentions has no norm at all, and nothing in its place."""
    attentions, _, _ = attentions_with_masks(graph)
    attended = {attention.output for attention in attentions}
    identities = past_identities(graph)
    for stream in residual_streams(graph):
        merges = [path.target for path in stream.paths]
        if len(attended & stream.bypassed) < 2:
            continue
        has_norm = any(normalises(graph, graph.node(place)) for place in stream.bypassed)
        has_norm = has_norm or meets_a_norm(graph, *merges)
        # A learned factor at the end of the branch (ReZero, LayerScale) is there instead of a norm,
        # and so is a gate.
        has_gate = any(path.gated for path in stream.paths)
        branches = [graph.node(place) for place in stream.bypassed]
        has_factor = any(n.parameters and is_identity_like(n) for n in branches)
        ends = [end for path in stream.paths for end in _last_calls(identities, path)]
        is_bare = not (has_norm or has_gate or has_factor) and all(map(is_sublayer_part, ends))
        if is_bare:
            yield finding(
                merges,
                f"No norm on a residual stream of {counted(len(merges), 'sublayer')}, merged at "
                f"{named(graph, merges)}: with the usual initial weights, activations and "
                "gradients grow with the depth.",
                _FIXUP,
            )


def _last_calls(identities: Reachability, path: SkipPath) -> list[Node]:
    """Return the calls that end the branch of a skip path, factors included."""
    reached = (i for i in identities.ancestors(path.target) if i in path.bypassed)
    nodes = map(identities.graph.node, reached)
    return [node for node in nodes if not is_identity_like(node)]


def _styles(graph: Graph, stream: Stream) -> list[NormStyle | None]:
    """Return the styles of all paths of a stream; None for a branch without a norm or sublayer.

    A convolution for positions, as in wav2vec 2.0, is such a branch, and so are a linear one, and a
    whole stack of sublayers that a long skip path leads past, as in the Hourglass Transformer. The
    final norm of a pre-norm stack does not make its last sublayer post-norm, if that one has no
    norm and others of the stack have none either.
    """
    styles = [_style(path) for path in stream.paths]
    ends = {path.target for path in graph.skip_paths}
    for k, path in enumerate(stream.paths):
        is_long = not ends.isdisjoint(path.bypassed)
        is_sublayer = has_sublayer(graph, path.bypassed) and not _is_linear(graph, path)
        if styles[k] == "none" and (is_long or not is_sublayer):
            styles[k] = None
    if styles[0] == "none" and begins_at_a_norm(graph, stream.paths[0]):
        styles[0] = None  # it reads normalized embeddings, as in ModernBERT
    elif styles[0] == "none" and not data_flow(graph).depends_on_input(stream.root):
        styles[0] = None  # it begins with trained vectors, the latents of a Perceiver
    if styles[-1] == "post" and _is_linear(graph, stream.paths[-1]) and "pre" in styles:
        styles[-1] = None
    if styles[-1] == "post" and "none" in styles and styles.count("post") == 1:
        styles[-1] = "none"
    return styles


def _is_linear(graph: Graph, path: SkipPath) -> bool:
    """Return whether a branch only projects and moves what it takes, as for summaries of blocks."""
    nodes = [graph.node(node_id) for node_id in path.bypassed]
    bent = (activation_of(node) not in ("", "linear") or is_attention(node) for node in nodes)
    return not any(bent) and not any(map(is_closed, nodes))


def begins_at_a_norm(graph: Graph, path: SkipPath) -> bool:
    """Return whether the stream that a path leaves is the output of a norm."""
    identities = past_identities(graph)
    node = graph.node(path.source)
    while is_identity_like(node) and len(identities.incoming[node.id]) == 1:
        node = graph.node(identities.incoming[node.id][0].source)
    return normalises(graph, node)


def _style(path: SkipPath) -> NormStyle | None:
    """Return the style of a path; None if its only norm is the last call on the branch."""
    if "branch_start" in path.norms:
        return "both" if path.norm_on_stream else "pre"
    return "post" if path.norm_on_stream else None if path.norms else "none"
