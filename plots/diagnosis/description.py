"""Description of a model in one sentence: "Pre-norm Transformer decoder: 12 blocks with ...".

Every word is decided by the structure of the graph, or by a class of Keras or KerasHub, and never
by the name of a layer, class or model. What the graph does not show is not said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

from plots.annotations import NormPlace, SkipPath, counted, number_text
from plots.attention_parts import Attention
from plots.attentions import (
    Masked,
    attentions_with_masks,
    has_way_around,
    position_flow,
)
from plots.diagnosis.blocks import blocks_of
from plots.diagnosis.closed import closed_layers
from plots.diagnosis.parts_in_words import (
    attentions_in_words,
    classes_in_words,
    closed_in_words,
    final_norm_in_words,
    is_causal,
    norms_in_words,
    paths_in_words,
    paths_of_streams,
    positions_in_words,
    sharing_in_words,
    token_norms_in_words,
)
from plots.graph import Graph, Node
from plots.layers import (
    UPSAMPLING,
    is_identity_like,
    is_linear_projection,
    is_norm,
    is_rearrangement,
    is_recurrent,
)
from plots.streams import Stream, residual_streams, stream_roots
from plots.traversal import Reachability, data_flow

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
    residual = f" with {paths_in_words(paths)}"
    if not paths:
        others = paths_in_words(graph.skip_paths)
        outputs = {attention.output for attention in attentions}
        is_past = any(not outputs.isdisjoint(path.bypassed) for path in graph.skip_paths)
        beside = "" if is_past else ", none past an attention"
        residual = f" with {others}{beside}" if graph.skip_paths else ""
        if not graph.skip_paths and not _has_other_streams(graph, attentions):
            residual = " with no skip paths"
    clauses = [
        f"{' and '.join(blocks)}{residual}{final_norm_in_words(graph, streams)}".removeprefix(
            " with "
        ),
        attentions_in_words(graph, parts, masked, counts),
        *sharing_in_words(graph, attentions),
        positions_in_words(graph, attentions),
    ]
    norms = norms_in_words(graph, paths or paths_of_streams(graph))
    return f"{norms}{title}: {'; '.join(filter(None, clauses))}"


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
    causal = {True if own.direction == "prefix" else is_causal(own) for own in selves}
    if causal == {True}:
        return "Transformer decoder"
    return "Transformer encoder" if causal == {False} and not crosses else "Transformer"


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
        parts.append(paths_in_words(graph.skip_paths))
    return f"{title}: {', '.join(parts)}"


def _of_residual_network(
    graph: Graph, attentions: Sequence[Attention], closed: Sequence[Node]
) -> str:
    paths = graph.skip_paths
    projected = sum(path.projected for path in paths)
    linear = sum(_bypasses_one_projection(graph, path) for path in paths)
    text = paths_in_words(paths)
    if linear == len(paths):
        text = f"{counted(linear, 'skip path')} past a single linear layer{' each' * (linear > 1)}"
    elif linear:
        text += f", {linear} of them past a single linear layer"
    text += f", {projected} of them projected" if projected else ""
    text += f", {_joined_in_words(joined)}" if (joined := _concatenated_skips(graph)) else ""
    text += f", {counted(len(attentions), 'attention')}" if attentions else ""
    text += f", {closed_in_words(closed)}" if closed else ""
    norms = Counter(node.class_name for node in graph.nodes if is_norm(node)).most_common(1)
    places = Counter(place for path in paths for place in path.norms).most_common(1)
    if norms:
        usual = places and 2 * places[0][1] > len(paths)
        text += f"; {norms[0][0]}" + (f" {_PLACES[places[0][0]]}" if usual else "")
    placed = token_norms_in_words(graph)
    return f"{placed}residual network: {text}" if placed else f"Residual network: {text}"


def _bypasses_one_projection(graph: Graph, path: SkipPath) -> bool:
    """Return whether a path bypasses nothing but one linear layer, such as x + Dense(x)."""
    nodes = [graph.node(node_id) for node_id in path.bypassed]
    computing = [node for node in nodes if not is_identity_like(node)]
    return len(computing) == 1 and is_linear_projection(computing[0])


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
    paths = paths_in_words(graph.skip_paths)
    seen = counted(len(attentions), "attention")
    words = attentions_in_words(graph, {"": attentions}, masked)
    positions = positions_in_words(graph, attentions)
    hidden = closed_in_words(closed)
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
    positions = positions_in_words(graph, ())
    return f"{title}: {closed_in_words(blocks)}, which the graph does not open; {positions}"
