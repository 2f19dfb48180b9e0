"""Rules on what an attention takes as queries, keys and values."""

from __future__ import annotations

import re
from collections.abc import Iterator

from plots.annotations import Note
from plots.attention_parts import Attention
from plots.attentions import attentions_with_masks
from plots.diagnosis.axis_origins import axis_origins, sources
from plots.diagnosis.projections import projection_behind
from plots.diagnosis.rules import (
    diagnosis_rule,
    doing,
    finding,
    finding_rule,
    named,
    remark,
    remark_rule,
)
from plots.graph import Edge, Graph
from plots.layers import is_additive_merge, is_identity_like, is_norm
from plots.streams import residual_streams
from plots.traversal import Reachability, data_flow

_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.2.3"
_ORDER = "Keras API, MultiHeadAttention: call(query, value, key=None)"
_CROSS = re.compile(r"(?<!criss)(?<!criss_)cross_?att|enc(oder)?_?dec(oder)?_?att", re.IGNORECASE)


@finding_rule(
    "Queries and memory are swapped: {places:take} queries from another sequence, and keys and "
    "values from the residual stream, and the output, which has the positions of the queries, is "
    "added to that stream at {others}. Queries come from the stream, keys and values from the "
    "memory: attention(x, memory).",
    _VASWANI,
)
def queries_from_the_memory(graph: Graph) -> Iterator[tuple[str, str]]:
    """A residual stream goes into the keys and values of its attention, and not the queries."""
    attentions, _, _ = attentions_with_masks(graph)
    flow = data_flow(graph)
    for stream in residual_streams(graph):
        for path in stream.paths:
            inside = set(path.bypassed)
            for attention in attentions:
                if attention.output not in inside or len(_attentions_in(inside, attentions)) > 1:
                    continue
                on = path.source
                query = flow.depends(attention.query.source, on)
                memory = all(flow.depends(source, on) for source in attention.memory)
                takes_other = flow.depends_on_input(attention.query.source)
                if memory and not query and takes_other and _is_long(attention.query):
                    yield attention.id, path.target


@finding_rule(
    "Queries and memory are swapped: {places:return} one vector for each position of the queries, "
    "and it is joined at {others}, step by step, with the sequence of the keys. Queries come from "
    "the sequence that the output is joined with: Attention()([decoder, encoder]).",
    _VASWANI,
)
def joined_with_its_memory(graph: Graph) -> Iterator[tuple[str, str]]:
    """The output of an attention is joined, step by step, with the sequence that it attends to.

    It has the positions of its queries, which are those of another sequence.
    """
    for attention in attentions_with_masks(graph)[0]:
        own = _positions_of(graph, attention.query.source, attention.query.output)
        edge = attention.keys[0]
        memory = _positions_of(graph, edge.source, edge.output)
        if attention.is_self or not own or not memory or own & memory:
            continue
        for edge in graph.outgoing[attention.output]:
            merge = graph.node(edge.target)
            others = [e for e in graph.incoming[merge.id] if e.source != attention.output]
            is_join = merge.is_a({"Concatenate"}) and merge.config.get("axis", -1) in (-1, 2)
            if (is_join or is_additive_merge(merge)) and len(others) == 1:
                joined = _positions_of(graph, others[0].source, others[0].output)
                if joined and joined <= memory:
                    yield attention.id, merge.id


@finding_rule(
    "A cross-attention by name alone: {places:take} queries, keys and values from one tensor, that "
    "of {others}, so nothing is read from another sequence. Take the memory as keys and values: "
    "attention(x, memory).",
    _VASWANI,
)
def cross_attention_by_name(graph: Graph) -> Iterator[tuple[str, str]]:
    """An attention is named a cross-attention, and attends to the tensor of its queries.

    Criss-cross attention is within one image.
    """
    for attention in attentions_with_masks(graph)[0]:
        node = graph.node(attention.id)
        around = node.namespace.rpartition(".")[2]
        if not _CROSS.search(f"{around} {node.label if node.has_own_name else ''}"):
            continue
        ends = (attention.query, *attention.keys, *attention.values)
        taken = {_taken_by(graph, attention, end) for end in ends}
        if len(taken) == 1 and graph.inputs[1:]:
            yield attention.id, taken.pop()[0]


def _taken_by(graph: Graph, attention: Attention, end: Edge) -> tuple[str, int]:
    """Return the call and output that queries, keys or values are, or are projected from."""
    projection = None if attention.is_one_call else projection_behind(graph, end)
    edge = end if projection is None else projection.source
    return edge.source, edge.output


def _positions_of(graph: Graph, node_id: str, output: int) -> frozenset[str]:
    """Return the inputs of the model whose positions a sequence of vectors has."""
    axes = axis_origins(graph)[node_id, output]
    places = sources(axes[1]) if len(axes) == 3 else frozenset()
    inputs = frozenset(place for place, _, axis in places if axis == 1)
    return inputs if all(graph.node(i).kind == "input" for i in inputs) else frozenset()


@remark_rule(
    "A memory of embeddings: {places:attend} to vectors of {others} that no layer has read, such "
    "as those before an encoder, not after it. Attend to the output of the encoder, if there is "
    "one.",
    _VASWANI,
)
def memory_of_embeddings(graph: Graph) -> Iterator[tuple[str, str]]:
    """A causal stack attends to embeddings of tokens that no layer has read."""
    attentions, _, masked = attentions_with_masks(graph)
    flow = data_flow(graph)
    decodes = [a for a in attentions if a.is_self and masked[a.id].causal]
    for attention in attentions:
        follows = any(flow.depends(attention.query.source, on=own.output) for own in decodes)
        if attention.is_self or not follows:
            continue
        edges = [*attention.keys, *attention.values]
        behind = [_table_behind(graph, edge) for edge in edges]
        if all(behind):
            yield attention.id, behind[0]


def _table_behind(graph: Graph, edge: Edge) -> str:
    """Return the table of tokens that vectors come from, up to positions, norms and factors."""
    node, flow = graph.node(edge.source), data_flow(graph)
    while not node.is_a({"Embedding"}):
        edges = [e for e in graph.incoming[node.id] if flow.depends_on_input(e.source)]
        is_kept = is_additive_merge(node) or is_norm(node) or is_identity_like(node)
        if not is_kept or len(edges) != 1:
            return ""
        node = graph.node(edges[0].source)
    return node.id if flow.depends_on_input(node.id) else ""


def _attentions_in(inside: set[str], attentions: tuple[Attention, ...]) -> list[str]:
    return [attention.id for attention in attentions if attention.output in inside]


def _is_long(edge: Edge) -> bool:
    return len(edge.tensor.shape) > 2


@finding_rule(
    "Keys and values are swapped: {places:take} values with something added, as the queries have "
    "it, and keys without. Keras takes the value before the key: attention(query, value, key), or "
    "attention(query, key=k, value=v).",
    _ORDER,
)
def keys_and_values_swapped(graph: Graph) -> Iterator[str]:
    """Positions are added to queries and values, and not to keys, as in attention(q, k, v)."""
    for attention in attentions_with_masks(graph)[0]:
        if not (attention.is_one_call and attention.has_known_masks and attention.values):
            continue
        key, value, query = attention.keys[0], attention.values[0], attention.query
        added = _added_to(graph, value, (key.source, key.output))
        if added and added & _terms(graph, query):
            yield attention.id


def _added_to(graph: Graph, edge: Edge, plain: tuple[str, int]) -> set[tuple[str, int]]:
    """Return what a sum adds to a value; nothing if it is no such sum."""
    terms = _terms(graph, edge)
    return terms - {plain} if plain in terms else set()


def _terms(graph: Graph, edge: Edge) -> set[tuple[str, int]]:
    is_sum = is_additive_merge(graph.node(edge.source))
    return {(e.source, e.output) for e in graph.incoming[edge.source]} if is_sum else set()


@diagnosis_rule("values_of_another_sequence")
def values_of_another_sequence(graph: Graph) -> Iterator[Note]:
    """The keys of an attention have the positions of one input, and the values those of another."""
    found: dict[str, list[str]] = {}
    for attention in attentions_with_masks(graph)[0]:
        edges = [*attention.keys[:1], *attention.values[:1]]
        if not attention.is_one_call:
            behind = [projection_behind(graph, edge) for edge in edges]
            edges = [projection.source for projection in behind if projection is not None]
        places = [_positions_of(graph, edge.source, edge.output) for edge in edges]
        if len(places) == 2 and all(places) and not places[0] & places[1]:
            found[attention.id] = [edge.source for edge in edges]
    if found:
        keys, values = next(iter(found.values()))
        yield finding(
            found,
            f"Keys and values of two sequences: {doing(graph, [*found], 'take')} keys from "
            f"{named(graph, [keys])} and values from {named(graph, [values])}, so that the weight "
            "of a position of one sequence goes to the vector at the same index of another. Both "
            "come from the memory: attention(query=x, key=memory, value=memory).",
            _VASWANI,
        )


@diagnosis_rule("causal_cross_attention")
def causal_cross_attention(graph: Graph) -> Iterator[Note]:
    """A cross-attention has a causal mask, though its keys are another sequence."""
    attentions, flow, _ = attentions_with_masks(graph)
    places: dict[bool, list[str]] = {}
    for attention in attentions:
        is_switched = any(
            constant.port in ("use_causal_mask", "is_causal") and constant.value
            for constant in (*attention.constants, *graph.node(attention.id).constants)
        )
        if is_switched and not attention.is_self:
            mixes = _sees_both_ways(graph, attention, attentions, flow)
            places.setdefault(mixes, []).append(attention.id)
    for mixes, ids in places.items():
        text = (
            f"A causal mask on a cross-attention: {doing(graph, ids, 'hide')} keys by their index "
            "in another sequence"
        )
        if mixes:
            yield finding(
                ids,
                f"{text}, whose positions have seen each other in both directions, so that it "
                "hides no future and loses the end of the source. Leave use_causal_mask out.",
                _VASWANI,
            )
        else:
            yield remark(ids, f"{text}. Leave it out unless both have the same steps.", _VASWANI)


def _sees_both_ways(
    graph: Graph, attention: Attention, attentions: tuple[Attention, ...], flow: Reachability
) -> bool:
    """Return whether the memory has been through an attention without a causal mask."""
    _, _, masked = attentions_with_masks(graph)
    return any(
        other.is_self and masked[other.id].causal is False and flow.depends(source, other.output)
        for other in attentions
        for source in attention.memory
    )
