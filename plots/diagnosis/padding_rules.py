"""Rules on padding: attentions to keys that are none."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from plots.annotations import Note
from plots.diagnosis.attentions import Attention, Lineage, attentions_of
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Graph, Node
from plots.operation_kinds import RESAMPLING

_MASKING = "Keras guide, https://keras.io/guides/understanding_masking_and_padding/"


@diagnosis_rule("implicit_mask_lost")
def implicit_mask_lost(graph: Graph) -> Iterator[Note]:
    """The mask of an `Embedding(mask_zero=True)` or a `Masking` layer does not reach its keys."""
    attentions, lineage = attentions_of(graph)
    sequences = _sequences_of(graph, lineage)
    places: dict[tuple[str, str], list[str]] = {}
    for attention in attentions:
        if _sees_padding(attention):
            takes_masks = graph.node(attention.output).kind == "layer"
            keys = _together([sequences[key] for key in attention.keys])
            for giver, lost_at in keys.lost_at.items():
                where = lost_at if takes_masks else ""
                places.setdefault((giver, where), []).append(attention.id)
    for (giver, lost_at), ids in places.items():
        if lost_at:
            why = (
                f"The mask is lost at {named(graph, [lost_at])}: operations hand no mask on, and a "
                "merge only if all that it merges have one."
            )
        else:
            why = "Operations and many layers do not take or hand on such a mask: hand it in."
        yield finding(
            [*ids, lost_at] if lost_at else ids,
            f"Attention without the padding mask that {giver} gives out: {named(graph, ids)}. "
            + why,
            _MASKING,
        )


@diagnosis_rule("padding_seen")
def padding_seen(graph: Graph) -> Iterator[Note]:
    """Some attentions mask the padding of a sequence, and others to the same sequence do not."""
    attentions, lineage = attentions_of(graph)
    sequences = _sequences_of(graph, lineage)
    keys = {a.id: _together([sequences[key] for key in a.keys]) for a in attentions}
    masking = {keys[a.id].inputs: a.id for a in reversed(attentions) if a.masked.padding}
    places: dict[str, list[str]] = {}
    for attention in attentions:
        inputs, lost_at, _ = keys[attention.id]
        if inputs in masking and not lost_at and _sees_padding(attention):
            places.setdefault(masking[inputs], []).append(attention.id)
    for other, ids in places.items():
        yield finding(
            ids,
            f"Attention without a padding mask: {named(graph, ids)}, although "
            f"{named(graph, [other])} masks the padding of the same sequence. Tokens are mixed "
            "with padding.",
            _MASKING,
        )


def _sees_padding(attention: Attention) -> bool:
    """Whether no mask that the graph shows may be one of padding, and padding matters.

    In a causal self-attention padding at the end lies in the future of every real token.
    """
    may_be_causal = attention.is_self and attention.masked.causal is not False
    return attention.masked.padding is False and not may_be_causal


class _Sequence(NamedTuple):
    """What vectors at positions are computed from, position by position.

    Attributes:
        inputs: Ids of inputs of the model.
        lost_at: Id of each call that gives out an implicit mask for them -> id of the call since
            then that has lost it; "" if none is known to.
        has_mask: Whether an implicit mask may still be with them.
    """

    inputs: frozenset[str]
    lost_at: Mapping[str, str]
    has_mask: bool


def _sequences_of(graph: Graph, lineage: Lineage) -> dict[str, _Sequence]:
    """What every call gives out, as a sequence."""
    sequences: dict[str, _Sequence] = {}
    for node in graph.nodes:
        sources = lineage.sources[node.id] if _keeps_positions(node) else ()
        taken = [sequences[source] for source in sources]
        inputs, lost_at, _ = _together(taken)
        if node.kind == "input":
            inputs = frozenset([node.id])
        if gives_mask := bool(node.config.get("mask_zero")) or node.is_a({"Masking"}):
            lost_at = {node.id: ""}
        has_mask = gives_mask or _hands_mask_on(node, taken)
        lost_at = {giver: at or ("" if has_mask else node.id) for giver, at in lost_at.items()}
        sequences[node.id] = _Sequence(inputs, lost_at, has_mask)
    return sequences


def _hands_mask_on(node: Node, taken: Sequence[_Sequence]) -> bool:
    """Whether a call may hand on the mask of what it takes, as far as Keras' own calls go.

    No operation does, and a merge (`layers.Add`, ...) only if all that it merges have a mask.
    """
    masks = [sequence.has_mask for sequence in taken]
    return node.kind != "operation" and (all(masks) if node.is_a({"Merge"}) else any(masks))


def _together(sequences: Sequence[_Sequence]) -> _Sequence:
    """Several sequences as one, with the inputs and masks of all."""
    lost_at: dict[str, str] = {}
    for sequence in reversed(sequences):
        lost_at.update(sequence.lost_at)
    inputs = frozenset[str]().union(*(sequence.inputs for sequence in sequences))
    return _Sequence(inputs, lost_at, any(sequence.has_mask for sequence in sequences))


def _keeps_positions(node: Node) -> bool:
    """Whether what a call gives out at a position belongs to that position of what it takes."""
    tensor = node.outputs[0]
    joins = node.class_name in ("Concatenate", "Stack") and node.config.get("axis") != -1
    moves = node.class_name in ("Flatten", "GetItem", "Slice", "Take") or "Conv" in node.class_name
    has_positions = len(tensor.shape) > 2 or "float" not in tensor.dtype
    return has_positions and not (joins or moves or node.is_a(RESAMPLING))
