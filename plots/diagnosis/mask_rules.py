"""Rules on masks: attention to the future in a decoder, and to padding."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from plots.annotations import Note
from plots.attention_parts import Attention
from plots.attentions import Masked, attentions_with_masks
from plots.diagnosis.closed import is_closed
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Graph, Node
from plots.layers import RESAMPLING, TRACED
from plots.streams import stream_roots
from plots.traversal import Reachability, once_per_graph

_NO_FUTURE = "Vaswani et al. 2017, Attention Is All You Need, sections 3.1 and 3.2.3"
_MASKING = "Keras guide, https://keras.io/guides/understanding_masking_and_padding/"


@diagnosis_rule("sees_the_future")
def sees_the_future(graph: Graph) -> Iterator[Note]:
    """Self-attention of a decoder is not causal.

    Other attentions of its stack are, or its stack attends to another one that reads tokens.
    """
    attentions, flow, masked = attentions_with_masks(graph)
    streams = stream_roots(graph)
    places: dict[str, list[str]] = {}
    for attention in attentions:
        if attention.is_self and masked[attention.id].causal is False:
            here = streams.get(attention.output, frozenset())
            stack = [a for a in attentions if here & streams.get(a.output, frozenset())]
            reason = _why_it_decodes(graph, attentions, stack, masked, flow)
            if reason and _maps_tokens_to_tokens(graph, attention, flow):
                places.setdefault(reason, []).append(attention.id)
    for reason, ids in places.items():
        yield finding(
            ids,
            f"Self-attention without a causal mask: {named(graph, ids)}, although {reason}. Every "
            "token sees those after it, so a model trained to predict them learns to look them up.",
            _NO_FUTURE,
        )


def _why_it_decodes(
    graph: Graph,
    attentions: Sequence[Attention],
    stack: Sequence[Attention],
    masked: Mapping[str, Masked],
    flow: Reachability,
) -> str:
    """Return what shows that an attention belongs to a decoder; "" if nothing does.

    `stack` has the attentions on the branches of the same residual stream. A stack that another one
    attends to is an encoder, or one of two that attend to each other, as text and image in LXMERT.
    One that attends to an image may be an encoder, too, as in ALBEF and BLIP.
    """
    memories = [source for other in attentions if not other.is_self for source in other.memory]
    is_memory = any(flow.depends(m, on=own.output) for m in memories for own in stack)
    causal = (own.id for own in stack if own.is_self and masked[own.id].causal)
    crossing = (
        own.id
        for own in stack
        if not own.is_self
        and not is_memory
        and any(_reads_tokens(graph, m, flow) for m in own.memory)
    )
    for ids, verb in ((causal, "has one"), (crossing, "attends to an encoder of tokens")):
        if found := next(ids, None):
            return f"{named(graph, [found])} of the same stack {verb}"
    return ""


@diagnosis_rule("nothing_is_causal")
def nothing_is_causal(graph: Graph) -> Iterator[Note]:
    """A model returns logits for its own tokens, and none of its attentions is causal."""
    attentions, flow, masked = attentions_with_masks(graph)
    own = [attention for attention in attentions if attention.is_self]
    if len(own) < len(attentions) or any(masked[a.id].causal is not False for a in own):
        return
    places = [a.id for a in own if _maps_tokens_to_tokens(graph, a, flow, to_vocabulary=True)]
    if places:
        yield Note(
            "remark",
            tuple(places),
            f"No attention has a causal mask ({named(graph, places)}), and the model returns "
            "logits for each of its own tokens. That is right for masked language modelling. A "
            "model that is trained to predict the next token needs a causal mask, "
            "use_causal_mask=True: it sees that token otherwise.",
            _NO_FUTURE,
        )


def _maps_tokens_to_tokens(
    graph: Graph, attention: Attention, flow: Reachability, to_vocabulary: bool = False
) -> bool:
    """Return whether an attention is between embedded tokens and an output for each of them.

    `to_vocabulary` asks for as many features of the output as there are tokens.
    """
    source = attention.query.source
    sizes = {
        graph.node(node_id).config.get("input_dim")
        for node_id in (source, *flow.ancestors(source))
        if _embeds_tokens(graph, node_id, flow)
    }
    shapes = [
        graph.node(node_id).outputs[k].shape
        for node_id, k in graph.outputs
        if flow.depends(node_id, attention.output)
    ]
    return bool(sizes) and any(
        len(shape) > 2 and (shape[-1] in sizes or not to_vocabulary) for shape in shapes
    )


def _embeds_tokens(graph: Graph, node_id: str, flow: Reachability) -> bool:
    node = graph.node(node_id)
    is_embedding = node.is_a({"Embedding", "TokenAndPositionEmbedding"}) and bool(node.parameters)
    by_value = flow.depends_on_input(node_id)
    return (
        is_embedding and by_value and any(len(e.tensor.shape) == 2 for e in graph.incoming[node_id])
    )


def _reads_tokens(graph: Graph, node_id: str, flow: Reachability) -> bool:
    return any(_embeds_tokens(graph, i, flow) for i in (node_id, *flow.ancestors(node_id)))


# Padding ----------------------------------------------------------------------------------------


@diagnosis_rule("implicit_mask_lost")
def implicit_mask_lost(graph: Graph) -> Iterator[Note]:
    """The mask of an `Embedding(mask_zero=True)` or a `Masking` layer does not reach its keys."""
    attentions, _, masked = attentions_with_masks(graph)
    places: dict[tuple[str, str], list[str]] = {}
    for attention in attentions:
        if _sees_padding(attention, masked[attention.id]):
            takes_masks = graph.node(attention.output).kind == "layer"
            keys = _joined([_sequences(graph)[source] for source in attention.memory])
            for origin, lost_at in keys.lost_at.items():
                where = lost_at if takes_masks else ""
                places.setdefault((origin, where), []).append(attention.id)
    for (origin, lost_at), ids in places.items():
        why = "Operations and many layers neither use nor pass on such a mask: pass it in."
        if lost_at:
            why = (
                f"The mask is lost at {named(graph, [lost_at])}: operations pass no mask on, and a "
                "merge only if all of its inputs have one."
            )
        yield finding(
            [*ids, lost_at] if lost_at else ids,
            f"Attention without the padding mask of {origin}: {named(graph, ids)}. {why}",
            _MASKING,
        )


@diagnosis_rule("padding_seen")
def padding_seen(graph: Graph) -> Iterator[Note]:
    """Some attentions mask the padding of a sequence, and others to the same sequence do not."""
    attentions, _, masked = attentions_with_masks(graph)
    keys = {a.id: _joined([_sequences(graph)[source] for source in a.memory]) for a in attentions}
    masking = {keys[a.id].inputs: a.id for a in reversed(attentions) if masked[a.id].padding}
    places: dict[str, list[str]] = {}
    for attention in attentions:
        inputs, lost_at, _ = keys[attention.id]
        if (
            inputs
            and inputs in masking
            and not lost_at
            and _sees_padding(attention, masked[attention.id])
        ):
            places.setdefault(masking[inputs], []).append(attention.id)
    for other, ids in places.items():
        yield finding(
            ids,
            f"Attention without a padding mask: {named(graph, ids)}, although "
            f"{named(graph, [other])} masks the padding of the same sequence. Tokens are mixed "
            "with padding.",
            _MASKING,
        )


def _sees_padding(attention: Attention, masked: Masked) -> bool:
    """Return whether no mask that the graph shows can be one of padding, and padding matters.

    In a causal self-attention, padding at the end lies in the future of every real token.
    """
    may_be_causal = attention.is_self and masked.causal is not False
    return masked.padding is False and not may_be_causal


_CONVOLUTIONS = frozenset(
    f"{kind}{rank}D" for kind in ("Conv", "DepthwiseConv", "SeparableConv") for rank in (1, 2, 3)
) | {f"Conv{rank}DTranspose" for rank in (1, 2, 3)}


class _Sequence(NamedTuple):
    """The origin of vectors at positions, position by position.

    Attributes:
        inputs: Ids of inputs of the model.
        lost_at: Id of each call that creates an implicit mask for them -> id of the call since
            then that has lost it; "" if none is known to.
        has_mask: Whether an implicit mask may still be attached to them.
    """

    inputs: frozenset[str]
    lost_at: Mapping[str, str]
    has_mask: bool


@once_per_graph
def _sequences(graph: Graph) -> dict[str, _Sequence]:
    """Return the output of every call as a sequence."""
    sequences: dict[str, _Sequence] = {}
    flow = attentions_with_masks(graph)[1]
    for node in graph.nodes:
        sources = flow.sources[node.id] if _keeps_positions(node) else ()
        taken = [sequences[source] for source in dict.fromkeys(sources)]
        inputs, lost_at, _ = _joined(taken)
        if node.kind == "input":
            inputs = frozenset([node.id])
        # As far as Keras' own calls go, no operation passes a mask on, and a merge (`layers.Add`,
        # ...) only if all of its inputs have one.
        masks = [sequence.has_mask for sequence in taken]
        passes = node.kind != "operation" and (all if node.is_a({"Merge"}) else any)(masks)
        if is_closed(node) or (node.call_class and TRACED not in node.traits):
            lost_at = {}  # it may attach a mask when it runs
        creates = bool(node.config.get("mask_zero")) or node.is_a({"Masking"})
        lost_at = {node.id: ""} if creates else lost_at
        has_mask = creates or passes
        lost_at = {origin: at or ("" if has_mask else node.id) for origin, at in lost_at.items()}
        sequences[node.id] = _Sequence(inputs, lost_at, has_mask)
    return sequences


def _joined(sequences: Sequence[_Sequence]) -> _Sequence:
    """Return several sequences as one, with the inputs and masks of all."""
    lost_at: dict[str, str] = {}
    for sequence in reversed(sequences):
        lost_at.update(sequence.lost_at)
    inputs = frozenset[str]().union(*(sequence.inputs for sequence in sequences))
    return _Sequence(inputs, lost_at, any(sequence.has_mask for sequence in sequences))


def _keeps_positions(node: Node) -> bool:
    """Return whether each position of an output is computed from the same one of the input."""
    tensor = node.outputs[0]
    joins = node.operation in ("Concatenate", "Stack") and node.config.get("axis") != -1
    moves = node.operation in ("Flatten", "GetItem", "Slice", "Take") or node.is_a(_CONVOLUTIONS)
    has_positions = len(tensor.shape) > 2 or "float" not in tensor.dtype
    return has_positions and not (joins or moves or node.is_a(RESAMPLING))
