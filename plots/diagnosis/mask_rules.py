"""Rules on masks: attention to the future in a decoder, and to padding."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

from plots.annotations import Note
from plots.attentions import Attention, Masked, attentions_with_masks
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Graph, Node
from plots.layers import RESAMPLING
from plots.skips import stream_roots
from plots.traversal import Reachability

_NO_FUTURE = "Vaswani et al. 2017, Attention Is All You Need, sections 3.1 and 3.2.3"
_MASKING = "Keras guide, https://keras.io/guides/understanding_masking_and_padding/"

_CAUSAL_NAMES = frozenset({"autoregressive", "causal", "decoder", "gpt", "lm"})
_BIDIRECTIONAL_NAMES = frozenset({"bidirectional", "masked", "mlm", "prefix"})
_WORDS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""Words of a name, in snake case or in camel case: "mini" and "GPT" of "miniGPT"."""


@diagnosis_rule("sees_the_future")
def sees_the_future(graph: Graph) -> Iterator[Note]:
    """A decoder's self-attention has no causal mask."""
    attentions, flow, masked = attentions_with_masks(graph)
    memories = [source for other in attentions if not other.is_self for source in other.memory]
    streams = stream_roots(graph)
    places: dict[str, list[str]] = {}
    for attention in attentions:
        if attention.is_self and masked[attention.id].causal is False:
            here = streams.get(attention.output, frozenset())
            stack = [a for a in attentions if here & streams.get(a.output, frozenset())]
            # Cross-attention to a stack shows that it is an encoder, or one of two stacks that
            # attend to each other, as text and image in LXMERT.
            is_memory = any(flow.depends(m, on=own.output) for m in memories for own in stack)
            reason = _why_it_decodes(graph, attention, stack, masked, is_memory)
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
    attention: Attention,
    stack: Sequence[Attention],
    masked: Mapping[str, Masked],
    is_memory: bool,
) -> str:
    """Return what shows that an attention belongs to a decoder; "" if nothing does.

    `stack` has the attentions on the branches of the same residual stream; `is_memory` says whether
    others attend to its output.
    """
    namespace = graph.node(attention.id).namespace
    may_cross = not is_memory and _direction_of(namespace) != "both directions"
    causal = (own.id for own in stack if own.is_self and masked[own.id].causal)
    crossing = (own.id for own in stack if may_cross and not own.is_self)
    for ids, verb in ((causal, "has one"), (crossing, "attends to an encoder")):
        if found := next(ids, None):
            return f"{named(graph, [found])} of the same stack {verb}"
    for name in (namespace, graph.name):
        if direction := _direction_of(name):
            return f"{name!r} is the name of a decoder" if direction == "decoder" else ""
    return ""


def _direction_of(name: str) -> Literal["decoder", "both directions", ""]:
    """Return "decoder" for a name like "miniGPT", "both directions" for one like "roberta_lm"."""
    parts = [
        {word.lower() for word in _WORDS.findall(part)} | set(re.findall("[a-z]+", part.lower()))
        for part in name.split(".")
    ]
    words = set[str]().union(*parts)
    if words & _BIDIRECTIONAL_NAMES or any(word.endswith(("bert", "berta")) for word in words):
        return "both directions"
    for own in reversed(parts):  # of "encoder_decoder.decoder.block_0" the decoder
        if ("encoder" in own) != bool(own & _CAUSAL_NAMES):
            return "both directions" if "encoder" in own else "decoder"
    return ""


def _maps_tokens_to_tokens(graph: Graph, attention: Attention, flow: Reachability) -> bool:
    """Return whether an attention is between embedded tokens and an output for each of them."""
    source = attention.query.source
    embeds = any(
        "Embedding" in graph.node(node_id).class_name
        and flow.depends_on_input(node_id)
        and any(len(edge.tensor.shape) == 2 for edge in graph.incoming[node_id])
        for node_id in (source, *flow.ancestors(source))
    )
    return embeds and any(
        len(graph.node(node_id).outputs[k].shape) > 2 and flow.depends(node_id, attention.output)
        for node_id, k in graph.outputs
    )


# Padding ----------------------------------------------------------------------------------------


@diagnosis_rule("implicit_mask_lost")
def implicit_mask_lost(graph: Graph) -> Iterator[Note]:
    """The mask of an `Embedding(mask_zero=True)` or a `Masking` layer does not reach its keys."""
    attentions, flow, masked = attentions_with_masks(graph)
    sequences = _sequences(graph, flow)
    places: dict[tuple[str, str], list[str]] = {}
    for attention in attentions:
        if _sees_padding(attention, masked[attention.id]):
            takes_masks = graph.node(attention.output).kind == "layer"
            keys = _joined([sequences[source] for source in attention.memory])
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
    attentions, flow, masked = attentions_with_masks(graph)
    sequences = _sequences(graph, flow)
    keys = {a.id: _joined([sequences[source] for source in a.memory]) for a in attentions}
    masking = {keys[a.id].inputs: a.id for a in reversed(attentions) if masked[a.id].padding}
    places: dict[str, list[str]] = {}
    for attention in attentions:
        inputs, lost_at, _ = keys[attention.id]
        if inputs in masking and not lost_at and _sees_padding(attention, masked[attention.id]):
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


def _sequences(graph: Graph, flow: Reachability) -> dict[str, _Sequence]:
    """Return the output of every call as a sequence."""
    sequences: dict[str, _Sequence] = {}
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
    joins = node.class_name in ("Concatenate", "Stack") and node.config.get("axis") != -1
    moves = node.class_name in ("Flatten", "GetItem", "Slice", "Take") or "Conv" in node.class_name
    has_positions = len(tensor.shape) > 2 or "float" not in tensor.dtype
    return has_positions and not (joins or moves or node.is_a(RESAMPLING))
