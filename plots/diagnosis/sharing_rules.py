"""Rules on weights that are shared by mistake: one layer that is called twice on one tensor."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.diagnosis.projections import projection_behind, up_to_weights
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Graph, Node
from plots.layers import LINEAR_PROJECTIONS

_VAE = "Kingma and Welling 2014, Auto-Encoding Variational Bayes, appendix C.2"
_TRANSPOSED = frozenset(f"Conv{rank}DTranspose" for rank in (1, 2, 3))
_DEPTHWISE = frozenset(f"DepthwiseConv{rank}D" for rank in (1, 2))
_RECURRENT = frozenset({"GRU", "LSTM", "SimpleRNN"})
_DETERMINISTIC = LINEAR_PROJECTIONS | _TRANSPOSED | _DEPTHWISE | _RECURRENT


@diagnosis_rule("called_twice_on_the_same_tensor")
def called_twice_on_the_same_tensor(graph: Graph) -> Iterator[Note]:
    """All calls of a layer take the same tensor, and what they return is used side by side.

    Results that go different ways, and queries and keys of one attention, may be meant to be equal.
    """
    for calls in graph.ties.values():
        nodes = [graph.node(call) for call in calls]
        if not all(map(_is_deterministic, nodes)) or len({n.opened for n in nodes}) > 1:
            continue
        same = len({_arguments(graph, node) for node in nodes}) == 1
        if same and _are_used_together(graph, calls) and not _meet_in_attention(graph, calls):
            (source,) = {edge.source for edge in graph.incoming[calls[0]][:1]}
            yield finding(
                calls,
                f"One layer called {len(calls)} times on the same tensor: the outputs of "
                f"{named(graph, calls)} are equal, because each takes {named(graph, [source])} "
                "with the same weights. Outputs that should differ, such as a mean and a "
                "log-variance, need a layer each.",
                _VAE,
            )


def _is_deterministic(node: Node) -> bool:
    """Return whether two calls of a layer with the same arguments return the same, also later."""
    is_random = any(node.config.get(key) for key in ("dropout", "recurrent_dropout", "stateful"))
    is_layer = node.kind == "layer" and node.parameters > 0 and bool(node.trainable)
    return is_layer and node.is_a(_DETERMINISTIC) and not is_random


def _arguments(graph: Graph, node: Node) -> tuple[object, ...]:
    edges = [(e.port, e.source, e.output, e.implicit) for e in graph.incoming[node.id]]
    return (*edges, *((c.port, repr(c)) for c in node.constants))


def _are_used_together(graph: Graph, calls: tuple[str, ...]) -> bool:
    """Return whether results are outputs of the model, or meet before other weights."""
    outputs, ahead = {node_id for node_id, _ in graph.outputs}, up_to_weights(graph)
    reached = [set(ahead.descendants(call)) for call in calls]
    return any(
        {calls[a], calls[b]} <= outputs or reached[a] & reached[b]
        for a, b in itertools.combinations(range(len(calls)), 2)
    )


def _meet_in_attention(graph: Graph, calls: tuple[str, ...]) -> bool:
    """Return whether results are queries, keys or values of one attention, as in the Reformer."""
    for attention in attentions_with_masks(graph)[0]:
        edges = (attention.query, *attention.keys, *attention.values)
        found = [projection_behind(graph, edge) for edge in edges]
        ends = {edge.source for edge in edges} | {p.id for p in found if p is not None}
        if len(ends.intersection(calls)) > 1:
            return True
    return False
