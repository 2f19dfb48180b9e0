"""The parts of a description in words: skip paths, norms, attentions, positions, closed layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from plots.annotations import SkipPath, counted
from plots.attention_parts import Attention
from plots.attentions import Masked
from plots.diagnosis.blocks import Blocks
from plots.diagnosis.placement_rules import begins_at_a_norm, meets_a_norm
from plots.diagnosis.rules import listed
from plots.graph import Graph, Node
from plots.layers import is_function
from plots.positions import kinds_of_positions
from plots.streams import Stream, residual_streams
from plots.traversal import reachability

_PARTS_OF_NORMS = frozenset({"Moments", "Norm", "Normalize", "Rsqrt", "Std", "Var"})


def paths_of_streams(graph: Graph) -> list[SkipPath]:
    """Return the paths of several streams that are mixed, if the norms on all of them are known."""
    paths = [path for path in graph.skip_paths if path.projected]
    return paths if all(path.norms for path in paths) else []


def paths_in_words(paths: Sequence[SkipPath]) -> str:
    """Return the number of skip paths: "4 residual paths", "2 gated skip paths" or both."""
    gated = sum(path.gated for path in paths)
    plain = len(paths) - gated
    parts = [counted(plain, "residual path")] if plain or not gated else []
    parts += [counted(gated, "gated skip path")] if gated else []
    return " and ".join(parts)


def norms_in_words(graph: Graph, paths: Sequence[SkipPath]) -> str:
    """Return how sublayers are normalised, without paths inside of one, such as an adapter's."""
    ends = {path.target for path in paths}
    # One around a whole stack, as in the Hourglass Transformer, is no sublayer.
    around = [p for p in paths if p.placement == "none" and not ends.isdisjoint(p.bypassed)]
    paths = [path for path in paths if path not in around] or paths
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
    if placements == {"none"} and any(map(_may_normalise, graph.nodes)):
        return ""
    return names.get(placements.pop(), "Norm-free ")


def _may_normalise(node: Node) -> bool:
    """Return whether a call is part of a norm made by hand, or a layer that may be one."""
    return node.operation in _PARTS_OF_NORMS or is_function(node)


def token_norms_in_words(graph: Graph) -> str:
    """Return the placement of norms over features, if all residual paths have the same one."""
    streams = residual_streams(graph)
    paths = [path for stream in streams for path in stream.paths]
    if len(paths) < len(graph.skip_paths) or not all(s.has_token_norms(graph) for s in streams):
        return ""
    words = norms_in_words(graph, paths)
    return words if words not in ("Mixed-norm ", "Norm-free ") else ""


def final_norm_in_words(graph: Graph, streams: Sequence[Stream]) -> str:
    """Return ", final norm" where a norm follows streams that have none between their blocks."""
    flow = reachability(graph)
    if not streams:
        last_path = paths_of_streams(graph)[-1:]
        ends_in_norm = any(p.norms and meets_a_norm(graph, p.target) for p in last_path)
        return ", final norm" if ends_in_norm else ""
    roots = [stream.root for stream in streams]
    ends = [stream.paths[-1] for stream in streams if stream.has_token_norms(graph)]
    last = [p for p in ends if not any(r in flow.descendants(p.target) for r in roots)] or ends
    on_branch = [path.target for path in last if path.norms and not path.norm_on_stream]
    is_normed = on_branch and all(meets_a_norm(graph, end) for end in on_branch)
    return ", final norm" if is_normed else ""


def attentions_in_words(
    graph: Graph,
    parts: Mapping[str, Sequence[Attention]],
    masked: Mapping[str, Masked],
    counts: Mapping[str, Blocks] = MappingProxyType({}),
) -> str:
    """Return the kinds of attention: "self-attention in the encoder, cross-attention".

    Args:
        graph: The graph.
        parts: The attentions of the encoder and of the decoder, or of the only stack ("").
        masked: What the attentions see, by id.
        counts: The blocks of the parts, where some have no attention.
    """
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


def is_causal(masked: Masked) -> bool | None:
    """Return whether an attention is causal; None if it is neither, nor sees both directions."""
    return None if masked.direction == "later" else masked.causal


def _direction_in_words(masked: Sequence[Masked]) -> str:
    """Return which positions self-attentions see, as far as the graph shows it."""
    if {own.direction for own in masked} == {"prefix"}:
        return "self-attention that is causal after a prefix, and in both directions in it"
    causal = [*map(is_causal, masked)]
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


def sharing_in_words(graph: Graph, attentions: Sequence[Attention]) -> list[str]:
    """Return how many attentions are calls of the same layers, if some are."""
    calls = [graph.node(a.id) for a in attentions if a.is_one_call]
    calls = [node for node in calls if node.kind == "layer"]
    layers = {node.layer for node in calls}
    if len(layers) == len(calls):
        return []
    number = counted(len(layers), "attention layer")
    return [f"{len(calls)} calls of {number}, which share weights"]


def positions_in_words(graph: Graph, attentions: Sequence[Attention]) -> str:
    """Return the kinds of positions: "learned and rotary positions"."""
    found = kinds_of_positions(graph, attentions)
    return f"{' and '.join(found)} positions" if found else "no positions that the graph shows"


def closed_in_words(closed: Sequence[Node]) -> str:
    """Return the number of closed layers and their classes: "2 closed layers (Block)"."""
    return f"{counted(len(closed), 'closed layer')} ({classes_in_words(closed)})"


def classes_in_words(nodes: Sequence[Node]) -> str:
    """Return the classes of some calls, each once: "TransformerEncoder and TransformerDecoder"."""
    return listed(list(dict.fromkeys(node.class_name for node in nodes)), most=4)
