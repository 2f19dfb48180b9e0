"""The rule on causality: a decoder's self-attention must not see the future."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from plots.annotations import Note
from plots.diagnosis.attentions import Attention, Lineage, attentions_of
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Graph

_NO_FUTURE = "Vaswani et al. 2017, Attention Is All You Need, sections 3.1 and 3.2.3"

_CAUSAL_NAMES = frozenset({"autoregressive", "causal", "decoder", "gpt", "lm"})
_BIDIRECTIONAL_NAMES = frozenset({"bert", "bidirectional", "encoder", "masked", "mlm", "prefix"})


@diagnosis_rule("sees_the_future")
def sees_the_future(graph: Graph) -> Iterator[Note]:
    """A decoder's self-attention has no causal mask."""
    attentions, lineage = attentions_of(graph)
    places: dict[str, list[str]] = {}
    for attention in attentions:
        if attention.is_self and attention.masked.causal is False:
            reason = _why_it_decodes(graph, attention, attentions, lineage)
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
    graph: Graph, attention: Attention, attentions: Sequence[Attention], lineage: Lineage
) -> str:
    """What shows that an attention belongs to a decoder; "" if nothing does."""
    memories = [key for other in attentions if not other.is_self for key in other.keys]
    is_memory = any(lineage.holds(key, attention.output) for key in memories)
    for other in attentions:
        if lineage.in_one_stack(attention, other):
            if other.is_self and other.masked.causal:
                return f"{named(graph, [other.id])} of the same stack has one"
            if not other.is_self and not is_memory:
                return f"{named(graph, [other.id])} of the same stack attends to an encoder"
    for name in (graph.node(attention.id).namespace, graph.name):
        words = set(re.findall("[a-z]+", name.lower()))
        if words & _BIDIRECTIONAL_NAMES:
            break
        if words & _CAUSAL_NAMES:
            return f"{name!r} is the name of a decoder"
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
