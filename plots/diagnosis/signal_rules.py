"""Rules on signals and gradients: norms, skip paths, and constants in place of weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Literal

from plots.annotations import Note, SkipPath, counted
from plots.attentions import attentions_with_masks, has_way_around, position_flow
from plots.diagnosis.closed import is_closed
from plots.diagnosis.rules import diagnosis_rule, finding, listed, named, remark
from plots.graph import Constant, Edge, Graph, Node, Shape
from plots.hierarchy import enclosing_block, find_namespaces, numbered
from plots.layers import (
    PRODUCTS,
    is_additive_merge,
    is_attention,
    is_linear_projection,
    is_norm,
    is_shape_only,
    is_softmax,
)
from plots.skips import Stream, calls_at, past_identities, residual_streams
from plots.traversal import Reachability, once_per_graph, reachability

NOT_DIFFERENTIABLE: set[str] = {
    "Ceil",
    "Embedding",  # with respect to the ids, which some models take as floats
    "Floor",
    "Heaviside",
    "Round",
    "Sign",
    "StopGradient",
    "Trunc",
}
"""Calls from floats to floats that pass no gradient on."""

NormStyle = Literal["pre", "post", "none"]

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
_BACKPROPAGATION = (
    "Bengio et al. 2013, Estimating or Propagating Gradients Through Stochastic Neurons, section 1"
)
_BAKED_IN = "github.com/keras-team/keras-io/pull/1797"
_TIED = (
    "Press and Wolf 2017, Using the Output Embedding to Improve Language Models; "
    "tensorflow.org/api_docs/python/tf/keras/layers/ReversibleEmbedding"
)


@once_per_graph
def _up_to_weights(graph: Graph) -> Reachability:
    """Return the reachability on paths that stop at calls with weights."""
    return Reachability(graph, stop=lambda node: node.parameters > 0)


@once_per_graph
def _up_to_work(graph: Graph) -> Reachability:
    """Return the reachability on paths that stop behind a nonlinear or closed call with weights."""

    def stops(node: Node) -> bool:
        return (node.parameters > 0 and not is_linear_projection(node)) or is_norm(node)

    return Reachability(graph, stop=stops)


def leads_to_a_norm(graph: Graph, start: str) -> bool:
    """Return whether a call leads to a norm, past linear projections, or to a closed layer.

    Norms follow 1x1 convolutions in the necks of ViTDet, and may be the first calls inside layers
    that the graph does not open.
    """
    nodes = [graph.node(node_id) for node_id in _up_to_work(graph).descendants(start)]
    return any(is_norm(node) or is_closed(node) for node in nodes)


def meets_a_norm(graph: Graph, *starts: str) -> bool:
    """Return whether a norm follows one of some calls before any other call with weights."""
    return any(is_norm(graph.node(i)) for i in _up_to_weights(graph).descendants(*starts))


def _is_sublayer_part(node: Node) -> bool:
    """Return whether a call does the work of a Transformer's sublayer: attends or projects."""
    return is_attention(node) or node.is_a({"Dense", "EinsumDense"})


@diagnosis_rule("mixed_norms")
def mixed_norms(graph: Graph) -> Iterator[Note]:
    """Some sublayers of a residual stream are pre-norm, others post-norm or without a norm."""
    for stream in residual_streams(graph):
        styles = _styles(graph, stream)
        ranked = Counter(style for style in styles if style is not None).most_common()
        if len(ranked) < 2 or ranked[0][0] == "none" or not stream.has_token_norms(graph):
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
    for stream in streams:
        end = stream.paths[-1].target
        # One sublayer for each step of an iteration, as in slot attention, adds up nothing.
        before = [other.paths[-1].target for other in streams if other is not stream]
        is_step = len(stream.paths) == 1 and any(reached.depends(stream.root, on=i) for i in before)
        if is_step or _style(stream.paths[-1]) != "pre" or not stream.has_token_norms(graph):
            continue
        if not _is_normed_at_its_end(graph, stream):
            yield finding(
                [end],
                f"A pre-norm stream without a final norm, from {named(graph, [end])} on: its "
                "output is the sum of all sublayers, which grows with the depth.",
                f"{_XIONG} (b); {_GPT_2}",
            )


def _is_normed_at_its_end(graph: Graph, stream: Stream) -> bool:
    """Return whether a norm follows the last merge of a stream, or it leads to another stream."""
    end = stream.paths[-1].target
    reached = reachability(graph)
    roots = (other.root for other in residual_streams(graph) if other is not stream)
    feeds_another = any(root != end and reached.depends(root, on=end) for root in roots)
    return feeds_another or leads_to_a_norm(graph, end)


@diagnosis_rule("no_norm")
def no_norm(graph: Graph) -> Iterator[Note]:
    """A residual stream of several attentions has no norm at all, and nothing in its place."""
    attentions, _, _ = attentions_with_masks(graph)
    attended = {attention.output for attention in attentions}
    identities = past_identities(graph)
    for stream in residual_streams(graph):
        merges = [path.target for path in stream.paths]
        is_deep = len(attended & stream.bypassed) > 1
        has_norm = any(is_norm(graph.node(place)) for place in stream.bypassed)
        has_norm = has_norm or meets_a_norm(graph, *merges)
        # A learned factor at the end of the branch (ReZero, LayerScale) is there instead of a norm.
        ends = (e for path in stream.paths for e in calls_at(identities, path, "branch_end"))
        if is_deep and not has_norm and all(_is_sublayer_part(end) for end in ends):
            yield finding(
                merges,
                f"No norm on a residual stream of {counted(len(merges), 'sublayer')}, merged at "
                f"{named(graph, merges)}: with the usual initial weights, activations and "
                "gradients grow with the depth.",
                _FIXUP,
            )


def _styles(graph: Graph, stream: Stream) -> list[NormStyle | None]:
    """Return the styles of all paths of a stream; None for a branch without a norm or sublayer.

    A convolution for positions, as in wav2vec 2.0, is such a branch. The final norm of a pre-norm
    stack does not make its last sublayer post-norm, if that one has no norm and others of the stack
    have none either.
    """
    styles = [_style(path) for path in stream.paths]
    for k, path in enumerate(stream.paths):
        if styles[k] == "none" and not _has_sublayer(graph, path.bypassed):
            styles[k] = None
    if styles[-1] == "post" and "none" in styles and styles.count("post") == 1:
        styles[-1] = "none"
    return styles


def _style(path: SkipPath) -> NormStyle | None:
    """Return whether a path is pre-norm, post-norm, or without a norm.

    None if it is both, as the last sublayer of a Conformer block, and if its only norm is the last
    call on the branch.
    """
    if "branch_start" in path.norms:
        return None if path.norm_on_stream else "pre"
    return "post" if path.norm_on_stream else None if path.norms else "none"


def _has_sublayer(graph: Graph, bypassed: Iterable[str]) -> bool:
    return any(_is_sublayer_part(graph.node(node_id)) for node_id in bypassed)


# Skip paths -------------------------------------------------------------------------------------


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


@diagnosis_rule("sublayer_without_skip_path")
def sublayer_without_skip_path(graph: Graph) -> Iterator[Note]:
    """A sublayer that no skip path bypasses, although other sublayers have one."""
    bypassed = {node_id for path in graph.skip_paths for node_id in path.bypassed}
    if _is_stack_without_skip_paths(graph) or not _has_sublayer(graph, bypassed):
        return  # the rule above reports a whole stack
    attentions, flow, _ = attentions_with_masks(graph)
    lacking = set(_unlike_their_siblings(graph, bypassed))
    merges = [path.target for path in graph.skip_paths]
    for stream in residual_streams(graph):
        if not _has_sublayer(graph, stream.bypassed):
            continue
        for attention in attentions:
            is_before = flow.depends(stream.root, on=attention.output)
            follows = any(flow.depends(attention.query.source, on=merge) for merge in merges)
            if is_before and (attention.is_self or follows):
                lacking.add(attention.id)
        lacking.update(_feedforward_before(graph, flow, stream, merges))
    along = position_flow(graph, attentions)
    around_them = {i for i in lacking - bypassed if has_way_around(graph, along, i)}
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
            own = [i for i in long_path.bypassed if i in behind and _has_sublayer(graph, [i])]
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
    projections = [i for i in between if _has_sublayer(graph, [i])]
    is_one = len(projections) > 1 and len(start) == len(end) and start[-1] == end[-1]
    return projections if is_one else []


def _unlike_their_siblings(graph: Graph, bypassed: set[str]) -> Iterator[str]:
    """Yield calls without a skip path whose counterparts in most numbered blocks have one."""
    siblings: dict[tuple[str, str], list[str]] = {}
    for node in graph.nodes:
        block = enclosing_block(node.namespace)
        if block and node.has_own_name and node.parameters and _is_sublayer_part(node):
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


# Gradients --------------------------------------------------------------------------------------


@diagnosis_rule("no_gradient")
def no_gradient(graph: Graph) -> Iterator[Note]:
    """Trainable weights that no gradient of an output reaches."""
    flow = Reachability(graph, follow=lambda edge: _is_differentiable(graph, edge))
    ends = [i for i, k in graph.outputs if "float" in graph.node(i).outputs[k].dtype]
    if not ends:
        return  # a graph that returns decisions alone, such as tokens, is not there for training
    trained = {graph.node(node_id).layer for node_id in (*ends, *flow.ancestors(*ends))}
    places: dict[tuple[str, ...], list[str]] = {}
    for node in graph.nodes:
        if node.trainable_parameters and node.layer not in trained and node.id == node.layer:
            places.setdefault(_blocks(flow, node), []).append(node.id)
    for blocks, ids in places.items():
        why = (
            f"Every path to an output leads through {named(graph, blocks)}, which passes no "
            "gradient on"
            if blocks
            else "No output depends on them: no call takes what they return"
        )
        yield finding(
            [*ids, *blocks],
            f"Weights without a gradient: {named(graph, ids)}. {why}, so they are not trained, "
            "unless by a loss inside of a layer.",
            _BACKPROPAGATION,
        )


@diagnosis_rule("baked_in_positions")
def baked_in_positions(graph: Graph) -> Iterator[Note]:
    """A constant table that is never trained is added to every sequence."""
    ahead = _up_to_weights(graph)
    for node in graph.nodes:
        tables = [c for c in node.constants if _is_table_of_positions(c, node.outputs[0].shape)]
        if not tables or not is_additive_merge(node):
            continue
        # Masks and biases are added to attention scores.
        if not any(is_softmax(graph.node(other)) for other in ahead.descendants(node.id)):
            yield finding(
                [node.id],
                f"A constant of shape {tables[0].shape} is added to every sequence, at "
                f"{named(graph, [node.id])}. If it is the output of an Embedding for a "
                "constant, such as ops.arange(t), that layer is not in the model and is never "
                "trained: compute positions from the input, as "
                "ops.cumsum(ops.ones_like(tokens), axis=1) - 1.",
                _BAKED_IN,
            )


@diagnosis_rule("baked_in_embedding")
def baked_in_embedding(graph: Graph) -> Iterator[Note]:
    """A product with a copy of the weights of an Embedding instead of the weights themselves."""
    embeddings: dict[Shape, str] = {
        (node.config.get("input_dim"), node.config.get("output_dim")): node.id
        for node in reversed(graph.nodes)
        if node.is_a({"Embedding"})
    }
    for node in graph.nodes:
        for constant in node.constants if node.class_name in PRODUCTS else ():
            shape = constant.shape or ()
            embedding = embeddings.get(shape) or embeddings.get(shape[::-1])
            # The weights themselves, as einsum takes them, have no digest, and are trained.
            is_copy = constant.digest is not None and not constant.pattern
            if embedding and is_copy and "float" in str(constant.dtype):
                yield finding(
                    [node.id, embedding],
                    f"A constant of shape {shape} is a factor at {named(graph, [node.id])}, the "
                    f"shape of the weights of {named(graph, [embedding])}. If these were meant, "
                    "the model holds a copy of their values when it was built, which is never "
                    "trained. keras.layers.ReversibleEmbedding, called again with reverse=True, "
                    "shares them.",
                    _TIED,
                )


def _is_differentiable(graph: Graph, edge: Edge) -> bool:
    target = graph.node(edge.target)
    blocks = target.class_name in NOT_DIFFERENTIABLE or is_shape_only(target)
    return "float" in edge.tensor.dtype and not blocks


def _blocks(flow: Reachability, node: Node) -> tuple[str, ...]:
    """Return the calls at which all gradients on their way to `node` end.

    `flow` is the reachability along differentiable edges.
    """
    graph = flow.graph
    blocks: dict[str, None] = {}
    for node_id in (node.id, *flow.descendants(node.id)):
        for edge in graph.outgoing[node_id]:
            if "float" not in edge.tensor.dtype:
                blocks[edge.source] = None  # such as an ArgMax or a comparison
            elif not _is_differentiable(graph, edge):
                blocks[edge.target] = None
    return tuple(blocks)


def _is_table_of_positions(constant: Constant, stream: Shape) -> bool:
    """Return whether a constant has a vector for each position of a stream (b, t, d).

    Its shape is (t, d) or (1, t, d). Zeros, ones and sinusoids are not a trained table.
    """
    shape = constant.shape or ()
    if len(stream) != 3 or len(shape) < 2 or "float" not in str(constant.dtype):
        return False
    *batch, length, width = shape
    fits = stream[1] in (length, None) and stream[2] == width and not constant.pattern
    return fits and length != 1 and width != 1 and set(batch) <= {1}
