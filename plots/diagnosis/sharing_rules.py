"""Rules on weights that are shared by mistake: one layer that is called twice on one tensor."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.diagnosis.merge_rules import kind_of
from plots.diagnosis.projections import projection_behind, up_to_weights
from plots.diagnosis.rules import diagnosis_rule, finding, named, remark
from plots.graph import Graph, Node
from plots.layers import LINEAR_PROJECTIONS, RECURRENT, is_norm
from plots.traversal import data_flow

_SIAMESE = "Bromley et al. 1993, Signature Verification using a Siamese Time Delay Neural Network"
_VAE = "Kingma and Welling 2014, Auto-Encoding Variational Bayes, appendix C.2"
_TRANSPOSED = frozenset(f"Conv{rank}DTranspose" for rank in (1, 2, 3))
_DEPTHWISE = frozenset(f"DepthwiseConv{rank}D" for rank in (1, 2))
_RECURRENT = RECURRENT - {"RNN"}  # whose cell may draw numbers
_DETERMINISTIC = LINEAR_PROJECTIONS | _TRANSPOSED | _DEPTHWISE | _RECURRENT


@diagnosis_rule("called_twice_on_the_same_tensor")
def called_twice_on_the_same_tensor(graph: Graph) -> Iterator[Note]:
    """All calls of a layer take the same tensor, and what they return is used side by side.

    Results that go different ways, and queries and keys of one attention, may be meant to be equal.
    Equal results of one layer are the same tensor for the next one.
    """
    first = _first_with_the_same_result(graph)
    for calls in graph.ties.values():
        nodes = [graph.node(call) for call in calls]
        if not all(map(_is_deterministic, nodes)):
            continue
        same = len({first.get(call, call) for call in calls}) == 1
        if same and _are_used_together(graph, calls) and not _meet_in_attention(graph, calls):
            (source,) = {edge.source for edge in graph.incoming[calls[0]][:1]}
            yield finding(
                calls,
                f"One layer called {len(calls)} times on the same tensor: the outputs of "
                f"{named(graph, calls)} are equal, because each takes {named(graph, [source])} "
                "with the same weights. Outputs that should differ, such as a mean and a "
                "log-variance, or those of several experts, need a layer each.",
                _VAE,
            )


def _first_with_the_same_result(graph: Graph) -> dict[str, str]:
    """Return the first call that returns the same as a call: of one layer, on equal tensors."""
    first: dict[str, str] = {}
    known: dict[tuple[object, ...], str] = {}
    for node in graph.nodes:
        if _is_deterministic(node):
            edges = [
                (e.port, first.get(e.source, e.source), e.output, e.implicit)
                for e in graph.incoming[node.id]
            ]
            constants = [(c.port, repr(c)) for c in node.constants]
            first[node.id] = known.setdefault((node.layer, *edges, *constants), node.id)
    return first


@diagnosis_rule("twins_that_share_nothing")
def twins_that_share_nothing(graph: Graph) -> Iterator[Note]:
    """Two equal towers are compared, and each has weights of its own."""
    flow = data_flow(graph)
    for node in graph.of_class({"Dot", "Lambda", "Subtract"}):
        edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
        if len(edges) != 2:
            continue
        towers = [{edge.source, *flow.ancestors(edge.source)} for edge in edges]
        sides = [_tower(graph, tower) for tower in towers]
        is_twin = sides[0] == sides[1] and len(sides[0]) > 2
        owners = [{graph.node(i).layer for i in tower} for tower in towers]
        if is_twin and owners[0].isdisjoint(owners[1]) and edges[0].tensor.shape[0] is None:
            first = [next(n.id for n in graph.nodes if n.id in t and n.parameters) for t in towers]
            yield remark(
                [node.id, *first],
                f"Twins that share nothing: {named(graph, [node.id])} compares the outputs of two "
                f"towers of equal layers, from {named(graph, first)} on, with weights of their "
                "own. Twins of a Siamese network are the same layers, called twice; towers for "
                "two kinds of things, such as users and items, have their own.",
                _SIAMESE,
            )
        elif is_twin and (apart := _apart_between_shared(graph, towers)):
            yield finding(
                [*apart, node.id],
                f"Twins that share all layers but some: {named(graph, [node.id])} compares the "
                f"outputs of two towers of the same layers, called twice, but for "
                f"{named(graph, apart)}, which are in the same place, with weights of their own. "
                "Call one of them in both towers.",
                _SIAMESE,
            )


def _apart_between_shared(graph: Graph, towers: Sequence[Collection[str]]) -> list[str]:
    """Return the calls with weights of their own, if shared layers are before and after them all.

    Norms may be apart on purpose, each with the statistics of one kind of input.
    """
    trained = [[n for n in graph.nodes if n.id in tower and n.parameters] for tower in towers]
    pairs = list(zip(*trained, strict=True))
    apart = [k for k, (one, other) in enumerate(pairs) if one.layer != other.layer]
    if not apart or apart[0] == 0 or apart[-1] == len(pairs) - 1 or 2 * len(apart) > len(pairs):
        return []
    calls = [node for k in apart for node in pairs[k]]
    return [] if all(map(is_norm, calls)) else [node.id for node in calls]


def _tower(graph: Graph, inside: Collection[str]) -> list[object]:
    """Return the shapes of the inputs of some calls, and the kinds of those with weights."""
    nodes = [node for node in graph.nodes if node.id in inside]
    inputs = [node.outputs[0].shape for node in nodes if node.kind == "input"]
    layers = [(kind_of(node), node.config.get("input_dim")) for node in nodes if node.parameters]
    return [inputs, *layers]


def _is_deterministic(node: Node) -> bool:
    """Return whether two calls of a layer with the same arguments return the same, also later."""
    is_random = any(node.config.get(key) for key in ("dropout", "recurrent_dropout", "stateful"))
    is_layer = node.kind == "layer" and node.parameters > 0 and bool(node.trainable)
    return is_layer and node.is_a(_DETERMINISTIC) and not is_random


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
