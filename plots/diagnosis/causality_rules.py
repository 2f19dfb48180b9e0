"""The rule on causality: a decoder's self-attention must not see the future."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from plots.annotations import Note
from plots.diagnosis.attentions import Attention, Lineage, attentions_of
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.diagnosis.streams import streams_past
from plots.graph import Graph

_NO_FUTURE = "Vaswani et al. 2017, Attention Is All You Need, sections 3.1 and 3.2.3"

_CAUSAL_NAMES = frozenset({"autoregressive", "causal", "decoder", "gpt", "lm"})
_BIDIRECTIONAL_NAMES = frozenset({"bidirectional", "masked", "mlm", "prefix"})
_WORDS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""Words of a name, in snake case or in camel case: "mini" and "GPT" of "miniGPT"."""


@diagnosis_rule("sees_the_future")
def sees_the_future(graph: Graph) -> Iterator[Note]:
    """A decoder's self-attention has no causal mask."""
    attentions, lineage = attentions_of(graph)
    memories = [key for other in attentions if not other.is_self for key in other.keys]
    streams = streams_past(graph)
    places: dict[str, list[str]] = {}
    for attention in attentions:
        if attention.is_self and attention.masked.causal is False:
            here = streams.get(attention.output, frozenset())
            stack = [a for a in attentions if here & streams.get(a.output, frozenset())]
            # A stack that others attend to is read by them: an encoder, or one of two that attend
            # to each other, as text and image do in LXMERT.
            is_memory = any(lineage.holds(key, own.output) for key in memories for own in stack)
            reason = _why_it_decodes(graph, attention, stack, is_memory)
            if reason and _maps_tokens_to_tokens(graph, attention, lineage):
                places.setdefault(reason, []).append(attention.id)
    for reason, ids in places.items():
        yield finding(
            ids,
            f"Self-attention without a causal mask: {named(graph, ids)}, although {reason}. Every "
            "token sees those after it, so a model trained to predict them learns to look them up.",
            _NO_FUTURE,
        )


def _why_it_decodes(
    graph: Graph, attention: Attention, stack: Sequence[Attention], is_memory: bool
) -> str:
    """What shows that an attention belongs to a decoder; "" if nothing does.

    Args:
        graph: The graph.
        attention: The attention.
        stack: The attentions that the same residual stream leads past.
        is_memory: Whether others attend to what the stack gives out.
    """
    for other in stack:
        if other.is_self and other.masked.causal:
            return f"{named(graph, [other.id])} of the same stack has one"
    namespace = graph.node(attention.id).namespace
    if not is_memory and _speaks_of(namespace) != "both directions":
        for other in stack:
            if not other.is_self:
                return f"{named(graph, [other.id])} of the same stack attends to an encoder"
    for name in (namespace, graph.name):
        if said := _speaks_of(name):
            return f"{name!r} is the name of a decoder" if said == "decoder" else ""
    return ""


def _speaks_of(name: str) -> Literal["decoder", "both directions", ""]:
    """What a dotted name says: "decoder" of "miniGPT", "both directions" of "roberta_lm"."""
    parts = [
        {word.lower() for word in _WORDS.findall(part)} | set(re.findall("[a-z]+", part.lower()))
        for part in name.split(".")
    ]
    words = set().union(*parts)
    if words & _BIDIRECTIONAL_NAMES or any(word.endswith(("bert", "berta")) for word in words):
        return "both directions"
    for own in reversed(parts):  # of "encoder_decoder.decoder.block_0" the decoder
        if ("encoder" in own) != bool(own & _CAUSAL_NAMES):
            return "both directions" if "encoder" in own else "decoder"
    return ""


def _maps_tokens_to_tokens(graph: Graph, attention: Attention, lineage: Lineage) -> bool:
    """Whether an attention is on the way from embedded tokens to an output for each of them."""
    embeds = any(
        "Embedding" in node.class_name
        and lineage.depends_on_input(node.id)
        and any(len(edge.tensor.shape) == 2 for edge in graph.incoming[node.id])
        for node in lineage.calls_of(attention.query)
    )
    return embeds and any(
        len(graph.node(node_id).outputs[k].shape) > 2 and lineage.holds(node_id, attention.output)
        for node_id, k in graph.outputs
    )
