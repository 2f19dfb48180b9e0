"""Renderers map a graph to the contents of a file.

This module holds their shared parts: the layout of a diagram, its labels, colours and legend.
"""

from __future__ import annotations

import textwrap
from collections import Counter, defaultdict
from collections.abc import Collection, Container, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from math import isfinite, log, prod
from typing import Any

from plots.annotations import DIFFERENCES, Note, Overlay, Quantity, counted, number_text
from plots.axes import meaning
from plots.graph import Constant, Edge, Graph, Node
from plots.hierarchy import common_namespace, enclosing_namespaces, find_namespaces
from plots.layers import is_attention, is_identity_like, is_norm, merge_sign
from plots.traversal import reachability

# Layout

DIRECTIONS = ("TB", "BT", "LR", "RL")
"""Top to bottom, bottom to top, left to right, right to left."""

SIDEWAYS = ("LR", "RL")


@dataclass(frozen=True)
class Layout:
    """Layout options of a graph.

    Attributes:
        namespaces: Node id -> namespace of the cluster that contains the node.
        stream: (source, target) pairs of the residual streams, drawn as one straight line.
        arcs: Those that only skip paths past other merges have, and those past other calls of the
            stream, which lead round it.
        merges: Ids of the merges on the stream.
        passed: Node id -> number of merges on the stream beside the node, where there are any: of
            parallel sublayers, all but the one that merges first.
        tags: Node id -> short name, for calls whose output is referenced by name where it is used,
            because edges to all users would cross the whole diagram: masks, and inputs other than
            the stream that several blocks share. A folded block counts with its repeats, so that it
            is drawn like the blocks that it stands for.
        feeds: Namespace -> id of the main source outside of its cluster. No part of the cluster may
            be drawn above it, or the cluster would reach up and push the stream aside.
        below: (upper, lower) pairs of calls that ensure this.
        needs_frame: Whether everything but the inputs needs an invisible cluster, because the
            stream enters a cluster and no cluster contains both. Otherwise Graphviz would draw the
            sublayers of such a cluster to the left of the stream, and others to its right.
        cut: Ids of edges that are drawn as tags because their ends are far apart.
    """

    namespaces: dict[str, str]
    stream: frozenset[tuple[str, str]]
    arcs: frozenset[tuple[str, str]]
    merges: frozenset[str]
    passed: dict[str, int]
    tags: dict[str, str]
    feeds: dict[str, str]
    below: tuple[tuple[str, str], ...]
    needs_frame: bool
    cut: frozenset[str] = frozenset()

    @cached_property
    def on_stream(self) -> frozenset[str]:
        """Ids of the calls on the stream."""
        return frozenset(node_id for pair in self.stream for node_id in pair)

    def is_referred(self, edge: Edge) -> bool:
        """Whether the edge is drawn as a tag at its target instead of a line."""
        if self.cut and edge.id in self.cut:
            return True
        ends = self.namespaces[edge.source], self.namespaces[edge.target]
        return edge.source in self.tags and ends[0] != ends[1]


def check_direction(rankdir: str) -> None:
    """Check the direction of the data flow; raise ValueError unless it is one of `DIRECTIONS`."""
    if rankdir not in DIRECTIONS:
        raise ValueError(f"rankdir is {rankdir!r}; it must be one of {', '.join(DIRECTIONS)}")


def lay_out(graph: Graph) -> Layout:
    """Return the layout of `graph`, the same in every process."""
    namespaces = find_namespaces(graph)
    tags = _tags(graph, namespaces)
    entries: dict[str, list[Edge]] = defaultdict(list)  # edges into every namespace from outside
    for edge in graph.edges:
        inside, outside = namespaces[edge.target], namespaces[edge.source]
        if edge.source not in tags and not f"{outside}.".startswith(f"{inside}."):
            entries[inside].append(edge)
    stream = frozenset(graph.stream)

    def nearness(edge: Edge) -> tuple[bool, int, int]:
        """Order the sources of a namespace: the stream, or else the nearest and latest call."""
        common = common_namespace(namespaces[edge.source], namespaces[edge.target])
        return (edge.source, edge.target) in stream, len(common), graph.index[edge.source]

    feeds = {inside: max(edges, key=nearness).source for inside, edges in entries.items()}
    merges = frozenset(path.target for path in graph.skip_paths)
    passed = {
        node_id: sum(merge in merges for merge in path.through)
        for path in graph.skip_paths
        for node_id in path.bypassed
    }
    short = {
        pair
        for path in graph.skip_paths
        if merges.isdisjoint(path.bypassed)
        for pair in pairwise(path.line)
    }
    along = {pair for path in graph.skip_paths for pair in pairwise(path.line)}
    return Layout(
        namespaces=namespaces,
        stream=stream,
        arcs=frozenset(along - short) | _past_others(graph),
        merges=merges,
        passed={node_id: count for node_id, count in passed.items() if count},
        tags=tags,
        feeds=feeds,
        below=_below(graph, entries, feeds),
        needs_frame=any(
            namespaces[target] and not common_namespace(namespaces[source], namespaces[target])
            for source, target in graph.stream
            if graph.node(source).kind != "input"
        ),
    )


def _past_others(graph: Graph) -> frozenset[tuple[str, str]]:
    """Return the pairs of the stream that lead past other calls of it, such as closed blocks."""
    onwards: dict[str, list[str]] = defaultdict(list)
    for source, target in dict.fromkeys(graph.stream):
        onwards[source].append(target)
    bit = {node_id: 1 << place for node_id, place in graph.index.items()}
    after: dict[str, int] = defaultdict(int)  # the bits of the calls of the stream behind a call
    for source in sorted(onwards, key=graph.index.__getitem__, reverse=True):
        for target in onwards[source]:
            after[source] |= bit[target] | after[target]
    return frozenset(
        (source, target)
        for source, targets in onwards.items()
        for target in targets
        if any(bit[target] & after[other] for other in targets)
    )


def _tags(graph: Graph, namespaces: dict[str, str]) -> dict[str, str]:
    """Return short names of masks, and of inputs that sublayers share: rotary angles, biases."""
    bypassed = {node_id for path in graph.skip_paths for node_id in path.bypassed}
    main_flow = bypassed | {node_id for pair in graph.stream for node_id in pair}
    tags: dict[str, str] = {}
    for node in graph.nodes:
        if node.id in main_flow:
            continue
        is_mask = all(tensor.dtype == "bool" for tensor in node.outputs)
        users = {
            namespaces[edge.target]
            for edge in graph.outgoing[node.id]
            if (is_mask or edge.target in bypassed)
            and namespaces[edge.target] != namespaces[node.id]
        }
        times = sum(_times(graph, user, namespaces[node.id]) for user in users)
        if times > (0 if is_mask else 1):
            tags[node.id] = free_tag(node, tags.values())
    return tags


def free_tag(node: Node, taken: Collection[str]) -> str:
    """Return a short name for a call, different from those that are taken."""
    if node.has_own_name:
        return _free_name(node, taken)
    is_mask = all(tensor.dtype == "bool" for tensor in node.outputs)
    stem = "mask" if is_mask else node.class_name
    return f"{stem} {sum(tag.startswith(stem) for tag in taken) + 1}"


def _times(graph: Graph, namespace: str, seen_from: str) -> int:
    """Return the number of namespaces that one stands for, with all folded ones around it."""
    outside = set(enclosing_namespaces(namespace)).difference(enclosing_namespaces(seen_from))
    return prod(graph.repeats.get(name, 1) for name in outside)


def _free_name(node: Node, taken: Container[str]) -> str:
    """Return the label of a call, or more of its id if the label is taken."""
    parts = node.id.split(".")
    longer = (".".join(parts[-count:]) for count in range(2, len(parts) + 1))
    return next((name for name in (node.label, *longer) if name not in taken), node.id)


def _below(
    graph: Graph, entries: dict[str, list[Edge]], feeds: dict[str, str]
) -> tuple[tuple[str, str], ...]:
    """Return pairs (main source of a namespace, call inside that has another source).

    The keys and values of a cross-attention depend on the encoder only, so nothing else prevents
    Graphviz from drawing them above the first decoder block.
    """
    reached = reachability(graph)
    pairs: dict[tuple[str, str], None] = {}
    for namespace, edges in entries.items():
        main = feeds[namespace]
        fed = {edge.target for edge in edges if edge.source == main}
        others = [edge.target for edge in edges if edge.source != main]
        if others and fed:
            lower = (i for i in others if i not in fed and not reached.depends(main, on=i))
            pairs |= {(main, node_id): None for node_id in lower}
    return tuple(pairs)


# Labels, colours and legend

STREAM_COLOUR = "#D55E00"  # vermilion of the Okabe-Ito palette, distinct for colour-blind readers
INK = "#222222"
GREY = "#8A8A8A"
DARK_GREY = "#5A5A5A"  # for text on a coloured background

_NOTE_COLOURS = {
    "difference": INK,
    "description": INK,
    "finding": "#C51B1B",
    "remark": "#9A6700",
    "closed": DARK_GREY,
    "deviates": DARK_GREY,
    "uncounted": DARK_GREY,
    "unused": DARK_GREY,
    "varies": DARK_GREY,
    "added": "#1B7837",
    "removed": "#B2182B",
    "changed": "#B06F00",
    "moved": "#2166AC",
    "reshaped": "#8C7B4F",
    "rewired": "#2166AC",
}
QUIET_NOTES = ("closed", "deviates", "uncounted", "unused", "varies")
"""Kinds of notes that are normal in a good model. Nothing is framed for them."""

_MAX_NOTES = 4
"""Number of differences that a group lists; more are only counted."""

_ROLE_FILLS = {
    "input": "#E3E3E3",
    "norm": "#F9E7B0",
    "embedding": "#E4D8F0",
    "attention": "#CDE8D8",
    "weights": "#D7E6F5",
}

# KerasHub has no base classes for these layers, and they declare no role.
_HUB_ATTENTION = frozenset(
    """
    Attention2d BloomAttention CachedGemma3Attention CachedGemmaAttention CachedMistralAttention
    CachedMixtralAttention ComputeAttentionMask DFineMultiheadAttention
    DFineMultiscaleDeformableAttention DINOV2Attention DINOV3Attention
    DisentangledAttentionEncoder DisentangledSelfAttention FalconAttention FluxRoPEAttention
    GPTNeoXAttention Gemma3VisionAttention Gemma3nAudioAttention Gemma3nAudioConformerAttention
    Gemma3nTextAttention Gemma4AudioAttention Gemma4AudioConformerAttention Gemma4TextAttention
    Gemma4VisionAttention GptOssAttention LlamaAttention MobileAttention
    MultiHeadAttentionPooling MultiHeadAttentionWithDownsampling
    MultiHeadAttentionWithRelativePE MultiQueryAttention2d PaliGemmaVitAttention Phi3Attention
    QFormerAttention Qwen3Attention Qwen3MoeAttention Qwen3_5Attention QwenAttention
    QwenMoeAttention RoformerAttention SAM3Attention SAM3RoPEAttention
    SegFormerMultiheadAttention SelfAttention SigLIPMultiHeadAttentionPooling SmolLM3Attention
    T5MultiHeadAttention TwoWayMultiHeadAttention VideoPrismAttention WindowAttention
    XLNetAttentionMaskLayer
    """.split()  # noqa: SIM905
)
_EMBEDDINGS = frozenset(
    """
    Embedding AddPositionalEmbedding AddRelativePositionalEmbedding
    BLIP2OPTEmbeddings CLIPVisionEmbedding ContentAndQueryEmbedding DINOV2Embedding
    DINOV2PatchEmbedding DINOV3Embedding DINOV3PatchEmbedding DINOV3RopePositionEmbedding
    DeiTEmbeddings Gemma3InterleaveEmbeddings Gemma3VisionEmbedding
    Gemma3nAudioRelativePositionEmbedding Gemma3nMultimodalEmbeddingProcessor
    Gemma3nTextScaledWordEmbedding Gemma4AudioRelativePositionEmbedding
    Gemma4InterleaveEmbeddings HGNetV2Embeddings MetaCLIP2VisionEmbedding
    OverlappingPatchingAndEmbedding PaliGemmaVitEmbeddings PatchEmbedding PositionEmbedding
    Qwen3_5InterleaveEmbeddings RandomFrequencyPositionalEmbeddings RelativeEmbedding
    RoformrPositionalEmbedding RotaryEmbedding RotaryPositionalEmbedding SAM3Embedding
    SAM3PatchEmbedding SAM3SinePositionEmbedding SAM3ViTRotaryEmbedding SigLIPTextEmbedding
    SigLIPVisionEmbedding SinePositionEncoding SinusoidalPositionalEmbedding
    SmolLM3RotaryEmbedding TimestepEmbedding TokenAndPositionEmbedding
    ViTDetPatchingAndEmbedding ViTPatchingAndEmbedding VideoPrismEmbedding
    VideoPrismPatchingAndEmbedding VideoPrismTemporalEmbedding
    """.split()  # noqa: SIM905
)


def noted_colour(graph: Graph, place: str) -> str | None:
    """Return the colour of the notes about a call or edge; None if there are none.

    Several kinds of differences count as "changed". A finding takes precedence over a remark, and
    both over other kinds.
    """
    notes = graph.notes_about.get(place, ())
    kinds = [note.kind for note in notes if note.kind not in QUIET_NOTES]
    differences = {kind for kind in kinds if kind in DIFFERENCES}
    if differences:
        return note_colour("changed" if len(differences) > 1 else differences.pop())
    first = next((kind for kind in ("finding", "remark") if kind in kinds), None)
    return note_colour(first or kinds[-1]) if kinds else None


def note_colour(kind: str) -> str:
    """Return the colour of the frame around the subject of a note."""
    return _NOTE_COLOURS.get(kind, "#7B3294")


def role_of(node: Node) -> str:
    """Return the role that colours a node: "norm", "weights", ..., or "" for all others."""
    if node.kind in ("input", "weights"):
        return "input" if node.kind == "input" else "unused"
    if is_norm(node):
        return "norm"
    if node.kind == "group" or is_identity_like(node):
        return ""
    if node.is_a(_EMBEDDINGS) or node.role.endswith(("_positions", "position_ids")):
        return "embedding"
    if is_attention(node) or node.role == "attention_scores" or node.is_a(_HUB_ATTENTION):
        return "attention"
    return "weights" if node.parameters else ""


def heat_colour(overlay: Overlay, place: str) -> str:
    """Return a colour from white (smallest) to blue (largest value of the overlay).

    Values that are not finite are white.
    """
    low, high = _value_range(overlay)
    number = overlay.number(overlay.values.get(place, Quantity()))
    if not isfinite(number):
        return "#FFFFFF"
    if overlay.scale == "log":
        number = log(number) if number > 0 else low
    heat = min(max((number - low) / (high - low), 0.0), 1.0) if high > low else 0.0
    # The root keeps small shares visible next to one that is far larger.
    heat = heat if overlay.scale == "log" else heat**0.5
    return "#" + "".join(f"{round(255 + heat * (hot - 255)):02X}" for hot in (158, 202, 225))


@lru_cache(maxsize=8)  # called for every node of a diagram
def _value_range(overlay: Overlay) -> tuple[float, float]:
    """Return the values that are white and blue."""
    numbers = [n for n in map(overlay.number, overlay.values.values()) if isfinite(n)]
    if overlay.scale == "log":
        numbers = [log(number) for number in numbers if number > 0]
    low = min(numbers, default=0.0) if overlay.scale == "log" else 0.0
    return low, max(numbers, default=0.0)


def is_heated(node: Node, graph: Graph) -> bool:
    """Whether the colour of a node shows its value in the last overlay."""
    return bool(graph.overlays) and node.id in graph.overlays[-1].values


def fill_colour(node: Node, graph: Graph) -> str:
    """Return the colour of a node: its value in the last overlay, or else its role."""
    if is_heated(node, graph):
        return heat_colour(graph.overlays[-1], node.id)
    return "#FFFFFF" if graph.overlays else _ROLE_FILLS.get(role_of(node), "#FFFFFF")


def repeated(name: str, times: int) -> str:
    """Return a name with the number of equal blocks that it stands for: "block_0 × 12"."""
    return name if times == 1 else f"{name} × {times}"


def numbers_at(node: Node, graph: Graph) -> list[str]:
    """Return the overlay values of a call, with titles if there are several overlays."""
    return [
        overlay.titled(node.id) if len(graph.overlays) > 1 else overlay.text(node.id)
        for overlay in graph.overlays
        if node.id in overlay.values
    ]


def notes_at(node: Node, graph: Graph) -> list[Note]:
    """Return the notes to print at a call; a note about several calls is printed at the first.

    A group lists a few differences, and only counts more of them.
    """
    notes = [n for n in graph.notes_about.get(node.id, ()) if n.about[0] == node.id]
    differences = [note for note in notes if note.kind in DIFFERENCES]
    if node.kind != "group" or len(differences) <= _MAX_NOTES:
        return notes
    counts = Counter(note.kind for note in differences)
    return [
        *(note for note in notes if note not in differences),
        *(Note(kind, (node.id,), f"{number} {kind}") for kind, number in counts.items()),
    ]


def edge_labels(edge: Edge, graph: Graph, is_parallel: bool) -> list[str]:
    """Return the labels of an edge: a minus, its argument if it has parallels, letters, values.

    The terms of a sum are alike.
    """
    words = ["−"] if is_subtracted(edge, graph) else []
    words += [edge.port] if is_parallel and merge_sign(graph.node(edge.target)) != "+" else []
    words += [" ".join(edge.tensor.letters)] if edge.tensor.letters else []
    return words + [o.text(edge.id) for o in graph.overlays if edge.id in o.values]


def is_subtracted(edge: Edge, graph: Graph) -> bool:
    """Whether the edge leads to what a merge subtracts."""
    return edge.port in ("inputs.1", "x2") and merge_sign(graph.node(edge.target)) == "−"


def group_text(node: Node) -> str:
    """Return the content of a group: "12 calls, 2 skip paths"."""
    counts = (("calls", "call"), ("skip_paths", "skip path"))
    return ", ".join(counted(node.config[key], noun) for key, noun in counts if key in node.config)


def wrapped(text: str, width: int, **options: Any) -> list[str]:
    """Return the lines of a text, wrapped at `width`, with options of `textwrap.wrap`."""
    return [part for line in text.splitlines() for part in textwrap.wrap(line, width, **options)]


def constant_text(constant: Constant) -> str:
    """Return a constant argument: "2.0", or "float32 (5, 3), zeros" for an array."""
    if constant.shape is None or constant.value is not None:
        return repr(constant.value)
    return f"{constant.dtype} {constant.shape}" + (f", {constant.pattern}" * bool(constant.pattern))


def legend(graph: Graph) -> list[str]:
    """Return the lines of the legend: totals of the overlays, and the meanings of letters."""
    # An overlay without total and values has counted nothing, which the legend has to say.
    summed = [overlay for overlay in graph.overlays if overlay.whole or not overlay.values]
    lines = [total_text(overlay) for overlay in summed]
    if len(lines) > 1 and summed[-1] is graph.overlays[-1]:
        lines[-1] += "; coloured"
    return [*lines, *letter_meanings(graph)]


def total_text(overlay: Overlay) -> str:
    """Return "FLOPs: 36.9 kFLOP b t² + 247 MFLOP b t; shares at b = 1, t = 1024 (292 GFLOP)"."""
    if not overlay.sizes:
        return overlay.total_text
    sizes = ", ".join(f"{letter} = {size}" for letter, size in overlay.sizes.items())
    number = number_text(overlay.number(overlay.whole), overlay.unit)
    return f"{overlay.total_text}; shares at {sizes} ({number})"


def letter_meanings(graph: Graph) -> Iterator[str]:
    """Yield "d = 768: width of the residual stream" for every letter on an edge or output."""
    shown = [edge.tensor for edge in graph.edges]
    shown += [graph.node(node_id).outputs[number] for node_id, number in graph.outputs]
    signs = {sign for tensor in shown for letters in tensor.letters for sign in letters}
    for letter, size in graph.letters.items():
        if letter in signs:
            yield f"{letter}{'' if size is None else f' = {size}'}: {meaning(letter)}"
