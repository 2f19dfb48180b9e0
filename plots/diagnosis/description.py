"""Description of a model in one sentence: "Pre-norm Transformer decoder: 12 blocks with ...".

Every word is decided by the structure of the graph, or by a class of Keras or KerasHub, and never
by the name of a layer, class or model. What the graph does not show is not said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from types import MappingProxyType

from plots.annotations import NormPlace, SkipPath, counted, number_text
from plots.attention_parts import Attention
from plots.attentions import (
    Masked,
    attentions_with_masks,
    has_way_around,
    position_flow,
)
from plots.diagnosis.blocks import Blocks, blocks_of
from plots.diagnosis.closed import closed_layers
from plots.diagnosis.placement_rules import begins_at_a_norm, meets_a_norm
from plots.diagnosis.rules import listed
from plots.graph import Graph, Node
from plots.layers import (
    UPSAMPLING,
    is_identity_like,
    is_linear_projection,
    is_norm,
    is_rearrangement,
    is_recurrent,
)
from plots.positions import kinds_of_positions
from plots.streams import Stream, residual_streams, stream_roots
from plots.traversal import Reachability, data_flow, reachability

_TRANSFORMER_LAYERS = frozenset({"TransformerDecoder", "TransformerEncoder"})
_EMBEDDINGS = frozenset({"PositionEmbedding", "ReversibleEmbedding", "TokenAndPositionEmbedding"})
_CONVOLUTIONS = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2D", "SeparableConv2D"})
_PROJECTIONS = frozenset({"Dense", "EinsumDense"})

_PLACES: dict[NormPlace, str] = {
    "branch_start": "first on the branch",
    "branch_end": "last on the branch",
    "stream": "on the stream",
}


def description_of(graph: Graph) -> str:
    """Return one sentence about a model: "Pre-norm Transformer decoder: 12 blocks with ..."."""
    attentions, flow, masked = attentions_with_masks(graph)
    closed = closed_layers(graph)
    streams = [stream for stream in residual_streams(graph) if _attends(stream, attentions)]
    recurrent = [node for node in graph.nodes if is_recurrent(node) and node.id == node.layer]
    is_transformer = _is_transformer(graph, streams, attentions, flow)
    if recurrent:
        text = _of_recurrent_network(graph, recurrent, attentions, flow)
    elif is_transformer and _may_hide_blocks(graph, closed, streams):
        text = _of_partly_opened(graph, closed, attentions, masked)
    elif is_transformer:
        text = _of_transformer(graph, streams, attentions, masked, flow)
    elif _are_transformer_layers(closed):
        text = _of_transformer_layers(graph, closed)
    elif graph.skip_paths:
        text = _of_residual_network(graph, attentions, closed)
    else:
        layers = len({node.layer for node in graph.nodes if node.parameters})
        has = f"with {counted(len(attentions), 'attention')} and no" if attentions else "without"
        text = f"Network {has} skip paths{' that the graph shows' if closed else ''}"
        if joined := _concatenated_skips(graph):
            seen = f"{counted(len(attentions), 'attention')}, " if attentions else ""
            text = f"Network with {seen}{_joined_in_words(joined)}"
        text += ": "
        text += f"{counted(layers, 'layer')} with weights"
        text += f", {len(closed)} of them closed ({classes_in_words(closed)})" if closed else ""
    return f"{text}; {number_text(graph.parameters)} parameters."


def _concatenated_skips(graph: Graph) -> int:
    """Return how many calls concatenate features with what is computed from them.

    Such as the skip connections of a U-Net (Ronneberger et al. 2015) and those of DenseNet.
    """
    flow = data_flow(graph)

    def origin(node_id: str) -> str:
        node, sources = graph.node(node_id), flow.sources[node_id]
        passes_on = is_identity_like(node) or is_rearrangement(node) or node.is_a(UPSAMPLING)
        return origin(sources[0]) if passes_on and len(sources) == 1 else node_id

    begun: dict[str, list[str]] = {}
    for path in graph.skip_paths:
        begun.setdefault(path.target, []).append(path.source)

    def is_bypass(first: str, second: str) -> bool:
        is_computed = flow.depends_on_input(first) and flow.depends(second, on=first)
        # A stream that is changed by another one, as in RevNet, is no way past something.
        is_stream = any(not flow.depends(source, on=first) for source in begun.get(second, ()))
        return (
            is_computed
            and not is_stream
            and any(graph.node(node_id).parameters for node_id in flow.between(first, [second]))
        )

    found = 0
    for node in graph.nodes:
        axis, rank = node.config.get("axis", -1), len(node.outputs[0].shape)
        if node.is_a({"Concatenate"}) and axis in (-1, rank - 1):
            taken = sorted({origin(i) for i in flow.sources[node.id]}, key=graph.index.__getitem__)
            found += any(is_bypass(first, second) for first, second in pairwise(taken))
    return found


def _joined_in_words(number: int) -> str:
    return counted(number, "concatenated skip connection")


def _attends(stream: Stream, attentions: Iterable[Attention]) -> bool:
    """Return whether a skip path of a stream bypasses an attention."""
    return any(attention.output in stream.bypassed for attention in attentions)


def _is_transformer(
    graph: Graph, streams: Sequence[Stream], attentions: Sequence[Attention], flow: Reachability
) -> bool:
    """Return whether attentions and feed-forwards, or several attentions, follow each other.

    A convolutional network with more residual convolutions than attentions is not one, nor is one
    with a single attention among its convolutions.
    """
    convolutions = [
        path
        for path in graph.skip_paths
        if any(graph.node(node_id).is_a(_CONVOLUTIONS) for node_id in path.bypassed)
    ]
    if len(attentions) < max(len(convolutions), 1):
        return False
    outputs = {attention.output for attention in attentions}
    if streams:
        projected = [
            path
            for stream in streams
            for path in stream.paths
            if outputs.isdisjoint(path.bypassed)
            and any(graph.node(node_id).is_a(_PROJECTIONS) for node_id in path.bypassed)
        ]
        number = sum(len(outputs & stream.bypassed) for stream in streams)
        has_kernels = any(node.is_a(_CONVOLUTIONS) for node in graph.nodes)
        return number > 1 or bool(projected) or not has_kernels
    own = [attention for attention in attentions if attention.is_self]
    pairs = pairwise(own)
    is_deep = any(flow.depends(after.query.source, on=before.output) for before, after in pairs)
    has_projections = any(node.is_a(_PROJECTIONS) for node in graph.nodes)
    is_around_projections = all(
        any(graph.node(node_id).is_a(_PROJECTIONS) for node_id in path.bypassed)
        for path in graph.skip_paths
    )
    return is_deep and has_projections and is_around_projections and not convolutions


def _of_transformer(
    graph: Graph,
    streams: Sequence[Stream],
    attentions: Sequence[Attention],
    masked: Mapping[str, Masked],
    flow: Reachability,
) -> str:
    parts = _parts(graph, attentions, masked, flow)
    paths = [path for stream in streams for path in stream.paths]
    crosses = [attention for attention in attentions if not attention.is_self]
    title = _title(parts, bool(crosses), masked)
    counts = {part: blocks_of(graph, streams, own) for part, own in parts.items()}
    blocks = [
        counted(count.number, f"{part} block" if part and len(parts) > 1 else "block")
        for part, count in counts.items()
        if count.number is not None
    ]
    residual = f" with {_paths_in_words(paths)}"
    if not paths:
        others = _paths_in_words(graph.skip_paths)
        outputs = {attention.output for attention in attentions}
        is_past = any(not outputs.isdisjoint(path.bypassed) for path in graph.skip_paths)
        beside = "" if is_past else ", none past an attention"
        residual = f" with {others}{beside}" if graph.skip_paths else ""
        if not graph.skip_paths and not _has_other_streams(graph, attentions):
            residual = " with no skip paths"
    clauses = [
        f"{' and '.join(blocks)}{residual}{_final_norm_in_words(graph, streams)}".removeprefix(
            " with "
        ),
        _attentions_in_words(graph, parts, masked, counts),
        *_sharing_in_words(graph, attentions),
        _positions_in_words(graph, attentions),
    ]
    norms = _norms_in_words(graph, paths or _paths_of_streams(graph))
    return f"{norms}{title}: {'; '.join(filter(None, clauses))}"


def _paths_of_streams(graph: Graph) -> list[SkipPath]:
    """Return the paths of several streams that are mixed, if the norms on all of them are known."""
    paths = [path for path in graph.skip_paths if path.projected]
    return paths if all(path.norms for path in paths) else []


def _paths_in_words(paths: Sequence[SkipPath]) -> str:
    """Return the number of skip paths: "4 residual paths", "2 gated skip paths" or both."""
    gated = sum(path.gated for path in paths)
    plain = len(paths) - gated
    parts = [counted(plain, "residual path")] if plain or not gated else []
    parts += [counted(gated, "gated skip path")] if gated else []
    return " and ".join(parts)


def _has_other_streams(graph: Graph, attentions: Sequence[Attention]) -> bool:
    """Return whether something other than a skip path leads past an attention."""
    flow = position_flow(graph, attentions)
    return any(has_way_around(graph, flow, attention.output) for attention in attentions)


def _parts(
    graph: Graph,
    attentions: Sequence[Attention],
    masked: Mapping[str, Masked],
    flow: Reachability,
) -> dict[str, list[Attention]]:
    """Return the attentions of the encoder and of the decoder, or of the only stack ("").

    A decoder attends to itself and to the output of a stack, the encoder, that does not attend to
    it. Without skip paths, the causal self-attentions are those of the decoder.
    """
    roots = stream_roots(graph)
    crosses = [attention for attention in attentions if not attention.is_self]
    own = [attention for attention in attentions if attention.is_self]
    whole = {"": list(attentions)}

    def streams_of(attention: Attention) -> frozenset[str]:
        return roots.get(attention.output, frozenset())

    if not roots:
        causal = [attention for attention in own if masked[attention.id].causal]
        both = {"encoder": [a for a in own if a not in causal], "decoder": [*causal, *crosses]}
        return both if crosses and causal and both["encoder"] else whole
    decoding = frozenset[str]().union(*(streams_of(cross) for cross in crosses))
    decoder = [a for a in attentions if not decoding.isdisjoint(streams_of(a))]
    encoder = [a for a in own if a not in decoder]
    is_read = any(
        flow.depends(source, on=attention.output)
        for cross in crosses
        for source in (*cross.memory, cross.query.source)  # also if the two are swapped
        for attention in encoder
    )
    has_own = any(attention.is_self for attention in decoder)
    outside = [cross for cross in crosses if cross not in decoder]
    if not (is_read and has_own) or outside:
        return whole
    return {"encoder": encoder, "decoder": decoder}


def _title(
    parts: Mapping[str, Sequence[Attention]], crosses: bool, masked: Mapping[str, Masked]
) -> str:
    """Return "Transformer", and what the masks show it to be."""
    if len(parts) > 1:
        return "Transformer encoder-decoder"
    selves = [masked[a.id] for own in parts.values() for a in own if a.is_self]
    causal = {True if own.direction == "prefix" else _is_causal(own) for own in selves}
    if causal == {True}:
        return "Transformer decoder"
    return "Transformer encoder" if causal == {False} and not crosses else "Transformer"


def _norms_in_words(graph: Graph, paths: Sequence[SkipPath]) -> str:
    """Return how sublayers are normalised, without paths inside of one, such as an adapter's."""
    inside = {node_id for path in paths for node_id in path.bypassed}
    outer = [path for path in paths if path.target not in inside]
    if not outer:
        return ""
    # A first sublayer without a norm may read normalized embeddings.
    bare = [path for path in outer if path.placement == "none" and begins_at_a_norm(graph, path)]
    outer = [path for path in outer if path not in bare] or outer
    placements = {path.placement for path in outer}
    if all("branch_start" in path.norms for path in outer) and "post" not in placements:
        return "Sandwich-norm " if placements == {"sandwich"} else "Pre-norm "
    if all("branch_start" in path.norms for path in outer) and len(placements) > 1:
        return "Pre-norm "  # as in a Conformer, whose blocks also end with a norm
    if len(placements) > 1:
        return "Mixed-norm "
    names = {"post": "Post-norm ", "branch_end": "Res-post-norm "}
    return names.get(placements.pop(), "Norm-free ")


def _final_norm_in_words(graph: Graph, streams: Sequence[Stream]) -> str:
    flow = reachability(graph)
    if not streams:
        last_path = _paths_of_streams(graph)[-1:]
        ends_in_norm = any(p.norms and meets_a_norm(graph, p.target) for p in last_path)
        return ", final norm" if ends_in_norm else ""
    roots = [stream.root for stream in streams]
    ends = [stream.paths[-1] for stream in streams if stream.has_token_norms(graph)]
    last = [p for p in ends if not any(r in flow.descendants(p.target) for r in roots)] or ends
    on_branch = [path.target for path in last if path.norms and not path.norm_on_stream]
    is_normed = on_branch and all(meets_a_norm(graph, end) for end in on_branch)
    return ", final norm" if is_normed else ""


def _attentions_in_words(
    graph: Graph,
    parts: Mapping[str, Sequence[Attention]],
    masked: Mapping[str, Masked],
    counts: Mapping[str, Blocks] = MappingProxyType({}),
) -> str:
    kinds = []
    for part, own in parts.items():
        where = f" in the {part}" if part and len(parts) > 1 else ""
        selves = [attention for attention in own if attention.is_self]
        if channels := [a for a in selves if _is_between_channels(graph, a)]:
            kinds.append(f"attention between channels{where}")
        rest = [masked[a.id] for a in selves if a not in channels]
        if rest:
            kinds.append(f"{_direction_in_words(rest)}{_in_some_blocks(counts.get(part))}{where}")
    has_cross = any(not attention.is_self for own in parts.values() for attention in own)
    return ", ".join(kinds + ["cross-attention"] * has_cross)


def _in_some_blocks(blocks: Blocks | None) -> str:
    """Return " in 1 of 4 blocks" where others have something else in the place of attention."""
    if blocks is None or blocks.number is None or blocks.attending == blocks.number:
        return ""
    return f" in {blocks.attending} of {blocks.number} blocks"


def _is_causal(masked: Masked) -> bool | None:
    """Return whether an attention is causal; None if it is neither, nor sees both directions."""
    return None if masked.direction == "later" else masked.causal


def _direction_in_words(masked: Sequence[Masked]) -> str:
    """Return which positions self-attentions see, as far as the graph shows it."""
    if {own.direction for own in masked} == {"prefix"}:
        return "self-attention that is causal after a prefix, and in both directions in it"
    causal = [*map(_is_causal, masked)]
    if set(causal) == {True}:
        return "causal self-attention"
    if set(causal) == {False}:
        return "self-attention in both directions"
    if None in causal:
        return "self-attention"
    return f"self-attention, {causal.count(True)} of {len(causal)} causal"


def _is_between_channels(graph: Graph, attention: Attention) -> bool:
    """Return whether scores are products over positions, so that channels attend to channels."""
    around = [path.target for path in graph.skip_paths if attention.output in path.bypassed]
    if attention.axes is None or not around:
        return False
    stream = graph.node(around[0]).outputs[0].shape
    keys = graph.node(attention.id).outputs[0].shape[attention.axes[1]]
    *_, features, summed = attention.query.tensor.shape
    return len(stream) == 3 and summed == stream[1] != keys == features


def _sharing_in_words(graph: Graph, attentions: Sequence[Attention]) -> list[str]:
    """Return how many attentions are calls of the same layers, if some are."""
    calls = [graph.node(a.id) for a in attentions if a.is_one_call]
    calls = [node for node in calls if node.kind == "layer"]
    layers = {node.layer for node in calls}
    if len(layers) == len(calls):
        return []
    number = counted(len(layers), "attention layer")
    return [f"{len(calls)} calls of {number}, which share weights"]


def _positions_in_words(graph: Graph, attentions: Sequence[Attention]) -> str:
    found = kinds_of_positions(graph, attentions)
    return f"{' and '.join(found)} positions" if found else "no positions that the graph shows"


# Other networks ---------------------------------------------------------------------------------


def _of_recurrent_network(
    graph: Graph,
    recurrent: Sequence[Node],
    attentions: Sequence[Attention],
    flow: Reachability,
) -> str:
    ids = {node.id for node in recurrent}
    passes_states = any(
        edge.port.startswith("initial_state") and any(flow.depends(edge.source, on=i) for i in ids)
        for edge in graph.edges
        if edge.target in ids
    )
    attends = any(
        any(flow.depends(source, on=i) for i in ids for source in attention.memory)
        for attention in attentions
        if not attention.is_self
    )
    title = "Recurrent encoder-decoder" if passes_states or attends else "Recurrent network"
    parts = [f"{counted(len(recurrent), 'recurrent layer')} ({classes_in_words(recurrent)})"]
    for is_self, kind in ((True, "self-attention"), (False, "cross-attention")):
        if number := sum(attention.is_self == is_self for attention in attentions):
            parts.append(counted(number, kind))
    if graph.skip_paths:
        parts.append(_paths_in_words(graph.skip_paths))
    return f"{title}: {', '.join(parts)}"


def _of_residual_network(
    graph: Graph, attentions: Sequence[Attention], closed: Sequence[Node]
) -> str:
    paths = graph.skip_paths
    projected = sum(path.projected for path in paths)
    linear = sum(_bypasses_one_projection(graph, path) for path in paths)
    text = _paths_in_words(paths)
    if linear == len(paths):
        text = f"{counted(linear, 'skip path')} past a single linear layer{' each' * (linear > 1)}"
    elif linear:
        text += f", {linear} of them past a single linear layer"
    text += f", {projected} of them projected" if projected else ""
    text += f", {_joined_in_words(joined)}" if (joined := _concatenated_skips(graph)) else ""
    text += f", {counted(len(attentions), 'attention')}" if attentions else ""
    text += f", {_closed_in_words(closed)}" if closed else ""
    norms = Counter(node.class_name for node in graph.nodes if is_norm(node)).most_common(1)
    places = Counter(place for path in paths for place in path.norms).most_common(1)
    if norms:
        usual = places and 2 * places[0][1] > len(paths)
        text += f"; {norms[0][0]}" + (f" {_PLACES[places[0][0]]}" if usual else "")
    placed = _token_norms_in_words(graph)
    return f"{placed}residual network: {text}" if placed else f"Residual network: {text}"


def _bypasses_one_projection(graph: Graph, path: SkipPath) -> bool:
    """Return whether a path bypasses nothing but one linear layer, such as x + Dense(x)."""
    nodes = [graph.node(node_id) for node_id in path.bypassed]
    computing = [node for node in nodes if not is_identity_like(node)]
    return len(computing) == 1 and is_linear_projection(computing[0])


def _token_norms_in_words(graph: Graph) -> str:
    """Return the placement of norms over features, if all residual paths have the same one."""
    streams = residual_streams(graph)
    paths = [path for stream in streams for path in stream.paths]
    if len(paths) < len(graph.skip_paths) or not all(s.has_token_norms(graph) for s in streams):
        return ""
    words = _norms_in_words(graph, paths)
    return words if words not in ("Mixed-norm ", "Norm-free ") else ""


# Closed layers ----------------------------------------------------------------------------------


def _may_hide_blocks(graph: Graph, closed: Sequence[Node], streams: Sequence[Stream]) -> bool:
    """Return whether a closed layer is as large as one of the blocks that the graph shows."""
    shown = {node_id for stream in streams for node_id in stream.bypassed}
    nodes = [graph.node(node_id) for node_id in shown]
    number = sum(len(stream.paths) for stream in streams)
    size = sum(node.parameters for node in nodes) / max(number, 1)
    large = [n for n in closed if n.kind == "model" or n.parameters >= size]
    return any(node.call_class or node.operation not in _EMBEDDINGS for node in large)


def _of_partly_opened(
    graph: Graph,
    closed: Sequence[Node],
    attentions: Sequence[Attention],
    masked: Mapping[str, Masked],
) -> str:
    paths = _paths_in_words(graph.skip_paths)
    seen = counted(len(attentions), "attention")
    words = _attentions_in_words(graph, {"": attentions}, masked)
    positions = _positions_in_words(graph, attentions)
    hidden = _closed_in_words(closed)
    return f"Partly opened network: {hidden}, {seen}, {paths}; {words}; {positions}"


def _are_transformer_layers(closed: Sequence[Node]) -> bool:
    """Return whether closed layers are those of KerasHub that are Transformer blocks."""
    others = [node for node in closed if node.call_class or node.operation not in _EMBEDDINGS]
    return bool(others) and all(
        not node.call_class and node.operation in _TRANSFORMER_LAYERS for node in others
    )


def _of_transformer_layers(graph: Graph, closed: Sequence[Node]) -> str:
    blocks = [node for node in closed if node.operation in _TRANSFORMER_LAYERS]
    kinds = [k for k in ("Encoder", "Decoder") if any(k in node.class_name for node in blocks)]
    first = {node.config.get("normalize_first") for node in blocks}
    norms = "Pre-norm " if first == {True} else "Post-norm " if first == {False} else ""
    title = f"{norms}Transformer {'-'.join(kinds).lower()}".strip()
    positions = _positions_in_words(graph, ())
    return f"{title}: {_closed_in_words(blocks)}, which the graph does not open; {positions}"


def _closed_in_words(closed: Sequence[Node]) -> str:
    return f"{counted(len(closed), 'closed layer')} ({classes_in_words(closed)})"


def classes_in_words(nodes: Sequence[Node]) -> str:
    """Return the classes of some calls, each once: "TransformerEncoder and TransformerDecoder"."""
    return listed(list(dict.fromkeys(node.class_name for node in nodes)), most=4)
