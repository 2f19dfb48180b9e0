"""The attentions of a graph: which are self-attention, what they mask, and the flow around them.

`plots.attention_parts` finds each one by its structure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Literal, NamedTuple

from plots.annotations import SkipPath
from plots.attention_parts import Attention, attention_at
from plots.graph import Edge, Graph, Node
from plots.layers import PARTS, is_identity_like, is_rearrangement
from plots.mask_values import Direction, visible_keys
from plots.skips import skip_paths
from plots.softmaxes import is_float
from plots.traversal import (
    Reachability,
    data_flow,
    once_per_graph,
    reachability,
    without_unused_weights,
)


def find_attentions(graph: Graph) -> tuple[Attention, ...]:
    """Return the attentions of a graph, in its order."""
    graph = without_unused_weights(graph)
    candidates = (attention_at(graph, node) for node in graph.nodes)
    found = [attention for attention in candidates if attention is not None]
    if not found:
        return ()
    flow = position_flow(graph, found)
    by_value = data_flow(graph)
    along_queries = query_flow(graph, found)
    sequences = {  # computed from the model's inputs, and with more axes than batch and width
        node.id
        for node in graph.nodes
        if by_value.depends_on_input(node.id)
        and any(is_float(tensor) for tensor in node.outputs)
        and max(len(tensor.shape) for tensor in node.outputs) > 2
    }

    branches = [path for path in skip_paths(graph) if not path.projected]

    def is_self(attention: Attention) -> bool:
        query, memory = attention.query.source, attention.memory
        if _has_swapped_queries(by_value, attention, branches):
            return False
        shared = [flow.common(query, source) for source in memory]
        if not any(along_queries.depends_on_input(node_id) for node_id in (query, *memory)):
            return all(shared)  # latent vectors among themselves, such as the queries of DETR
        return all(not sequences.isdisjoint(ids) for ids in shared)

    return tuple(replace(attention, is_self=is_self(attention)) for attention in found)


def _has_swapped_queries(
    flow: Reachability, attention: Attention, paths: Iterable[SkipPath]
) -> bool:
    """Return whether the stream that an attention is added to goes into its memory alone."""
    own = [path.source for path in paths if attention.output in path.bypassed]
    return any(
        all(flow.depends(source, on=start) for source in attention.memory)
        and not flow.depends(attention.query.source, on=start)
        for start in own
    )


def query_flow(graph: Graph, attentions: Iterable[Attention]) -> Reachability:
    """Return the data flow that passes attentions along their queries only.

    A decoder depends on its own tokens, not on the encoder through cross-attention.
    """
    others = (edge.id for a in attentions for edge in (*a.keys, *a.values, *a.masks))
    return data_flow(graph, without=others)


def position_flow(graph: Graph, attentions: Iterable[Attention]) -> Reachability:
    """Return the data flow along queries that passes positions on.

    It leaves out summaries of a sequence: states of a recurrent layer, pooled vectors, and means.
    """
    others = {edge.id for a in attentions for edge in (*a.keys, *a.values, *a.masks)}
    by_value = data_flow(graph, without=others)
    followed = {edge.id for edges in by_value.incoming.values() for edge in edges}

    flat = set[str]()  # calls whose outputs have the positions in the batch axis
    for node in graph.nodes:
        taken = by_value.incoming[node.id]
        keeps_width = any(
            len(edge.tensor.shape) > 2 and edge.tensor.shape[-1:] == node.outputs[0].shape[-1:]
            for edge in taken
        )
        is_flattened = node.is_a({"Reshape"}) and keeps_width
        if len(node.outputs[0].shape) == 2 and (
            is_flattened or any(edge.source in flat for edge in taken)
        ):
            flat.add(node.id)

    def passes(edge: Edge) -> bool:
        target = graph.node(edge.target)
        # A cell of one step, such as that of slot attention, has a state for each position.
        is_state = edge.port.startswith("initial_state")
        has_positions = edge.source in flat or (len(edge.tensor.shape) > 2 and not is_state)
        return edge.id in followed and has_positions and not _summarises(edge, target)

    return reachability(graph, passes)


def has_way_around(graph: Graph, flow: Reachability, node_id: str) -> bool:
    """Return whether vectors of a sequence reach what follows a call without passing it.

    Such as along a skip path, a gate as in highway networks, or mixed streams.

    Args:
        graph: The graph.
        flow: `position_flow` of its attentions.
        node_id: Id of the call, such as the output of an attention.
    """
    around = flow.stopping_at(node_id)
    sequences = [i for i in flow.ancestors(node_id) if is_float(graph.node(i).outputs[0])]
    met = {*around.descendants(*sequences)} if sequences else set()
    return not met.isdisjoint({*flow.descendants(node_id)} - {node_id})


def _summarises(edge: Edge, target: Node) -> bool:
    """Return whether a call reduces all positions to one, unlike a slice or a reshape."""
    before, after = edge.tensor.shape[1:-1], target.outputs[0].shape[1:-1]
    is_one = all(size == 1 for size in after) and len(target.outputs[0].shape) > 2
    keeps_numbers = target.is_a(PARTS | {"Reshape"})
    return is_one and not all(size == 1 for size in before) and not keeps_numbers


# Several steps ----------------------------------------------------------------------------------


# Masks ------------------------------------------------------------------------------------------

_COUNTING = frozenset({"Add", "Clip", "Maximum", "Minimum", "Subtract"})
_ORDERS = frozenset({"Greater", "GreaterEqual", "Less", "LessEqual"})

_Hint = Literal["padding", "unknown"]


class Masked(NamedTuple):
    """The keys that an attention masks; None if the graph does not show it.

    Attributes:
        causal: Whether it masks all keys later than the query.
        padding: Whether it masks padding.
        direction: The direction of its mask of positions, if that is known and triangular.
    """

    causal: bool | None
    padding: bool | None
    direction: Direction = ""


@once_per_graph
def attentions_with_masks(
    graph: Graph,
) -> tuple[tuple[Attention, ...], Reachability, dict[str, Masked]]:
    """Return the attentions, the data flow along their queries, and by id what each one masks.

    Padding masks depend on the values of the inputs, masks of positions on their shapes alone.
    """
    graph = without_unused_weights(graph)
    attentions = find_attentions(graph)
    flow = query_flow(graph, attentions)
    behind = reachability(graph, stop=_is_trained)
    only_masks = _inputs_of_masks(graph, attentions)

    def masked_by(attention: Attention) -> Masked:
        starts = {edge.source for edge in attention.masks}
        nodes = [graph.node(node_id) for node_id in {*starts, *behind.ancestors(*starts)}]
        calls = [node for node in nodes if not _is_trained(node)]
        hints = {hint for node in calls for hint in _hints_of_call(graph, node, flow, only_masks)}
        unsure = "unknown" in hints or not attention.has_known_masks
        # Tokens become a mask in many ways besides a comparison: a cast to bool, their sign, ...
        may_be = unsure or any(flow.depends_on_input(node.id) for node in calls)
        masks = attention.id, attention.axes, attention.masks, attention.constants
        causal, direction = visible_keys(graph, flow, *masks, attention.sinks)
        if any(node.role == "prefix_mask" for node in calls):  # how long it is, no shape tells
            causal, direction = None, "prefix"
        return Masked(
            causal=None if causal is False and not attention.has_known_masks else causal,
            padding=True if "padding" in hints else None if may_be else False,
            direction=direction if attention.has_known_masks else "",
        )

    masked = {attention.id: masked_by(attention) for attention in attentions}
    return attentions, flow, masked | _shown_by_running(graph, masked)


def _shown_by_running(graph: Graph, masked: Mapping[str, Masked]) -> dict[str, Masked]:
    """Return what attentions mask according to notes of the kind "sees": see `plots.checking`."""
    seen = {place: note.text for note in graph.notes if note.kind == "sees" for place in note.about}
    causal = {"causal": True, "all": False, "start": False}
    found = {i: masked[i]._replace(causal=causal.get(k)) for i, k in seen.items() if i in masked}
    prefix: Direction = "prefix"
    return {i: m._replace(direction=prefix) if seen[i] == prefix else m for i, m in found.items()}


@once_per_graph
def inputs_of_masks(graph: Graph) -> frozenset[str]:
    """Return the inputs of the model that only masks, and biases of scores, depend on."""
    return _inputs_of_masks(graph, attentions_with_masks(graph)[0])


@once_per_graph
def inputs_of_masks_and_factors(graph: Graph) -> frozenset[str]:
    """Return those inputs, also where weights are multiplied by them after the softmax."""
    attentions = attentions_with_masks(graph)[0]
    changed = [edge for attention in attentions for edge in attention.weighting[:-1]]
    own = {edge.id for edge in changed}
    factors = {e.id for edge in changed for e in graph.incoming[edge.target]} - own
    return _inputs_of_masks(graph, attentions, factors)


def _inputs_of_masks(
    graph: Graph, attentions: Iterable[Attention], more: Collection[str] = ()
) -> frozenset[str]:
    """Return the inputs that only masks of attentions, and some more edges, depend on."""
    masks = {edge.id for attention in attentions for edge in attention.masks}
    others = data_flow(graph, without=masks.union(more))
    ends = [node_id for node_id, _ in graph.outputs]
    used = {*ends, *others.ancestors(*ends)}
    return frozenset(graph.inputs) - used - prefix_lengths(graph)


def prefix_lengths(graph: Graph) -> frozenset[str]:
    """Return the inputs of the model that hold the length of the prefix of each sample."""
    masks = (node.id for node in graph.nodes if node.role == "prefix_mask")
    nodes = (graph.node(edge.source) for mask in masks for edge in graph.incoming[mask])
    return frozenset(n.id for n in nodes if n.kind == "input" and len(n.outputs[0].shape) == 1)


def lengths_of_samples(graph: Graph) -> frozenset[str]:
    """Return the inputs of the model that hold a length for each sample.

    That of a prefix, or an integer that something for each position is compared with, or that
    chooses one of the positions, maybe after 1 was subtracted.
    """
    passing = reachability(
        graph,
        stop=lambda node: (
            not (is_identity_like(node) or is_rearrangement(node) or node.operation in _COUNTING)
        ),
    )
    found = set(prefix_lengths(graph))
    for node_id in graph.inputs:
        (tensor, *_) = graph.node(node_id).outputs
        is_single = "int" in tensor.dtype and all(size == 1 for size in tensor.shape[1:])
        takers = [graph.node(i) for i in passing.descendants(node_id)] if is_single else []
        is_compared = any(
            n.operation in _ORDERS and {*n.outputs[0].shape[1:]} - {1} for n in takers
        )
        if is_compared or any(_chooses_a_position(graph, taker) for taker in takers):
            found.add(node_id)
    return frozenset(found)


def _chooses_a_position(graph: Graph, node: Node) -> bool:
    """Return whether a call takes one position of a sequence, or marks one with a 1."""
    if node.operation == "TakeAlongAxis":
        (sequence, *_) = graph.incoming[node.id]
        return len(sequence.tensor.shape) > 2 and node.config.get("axis") == 1
    if node.operation != "OneHot":
        return False
    size = node.outputs[0].shape[-1]
    following = {edge.target: edge for edge in graph.outgoing[node.id]}
    others = (
        edge.tensor.shape
        for taker in following
        for edge in graph.incoming[taker]
        if edge.source != node.id
    )
    return any(len(shape) == 3 and shape[1] == size for shape in others)


def _hints_of_call(
    graph: Graph, node: Node, flow: Reachability, only_masks: Collection[str]
) -> Iterator[_Hint]:
    is_of_keys = node.id in only_masks and len(node.outputs[0].shape) <= 2
    if node.role == "padding_mask" or is_of_keys:
        yield "padding"
    elif node.operation in _ORDERS | {"Equal", "NotEqual"}:
        # Of two operands one is the id of the padding or the length of the sequences, if only the
        # other one depends on values. Of two positions, neither or both depend on values.
        values = [flow.depends_on_input(edge.source) for edge in graph.incoming[node.id]]
        if any(values) and not all([*values, len(values) > 1]):
            yield "padding"
    elif node.kind == "input":
        if node.outputs[0].dtype == "bool":
            yield "padding" if len(node.outputs[0].shape) <= 2 else "unknown"
    elif node.role not in ("causal_mask", "prefix_mask") and (
        node.call_class or node.kind == "model"
    ):
        yield "unknown"


def _is_trained(node: Node) -> bool:
    """Return whether a call returns biases that are trained, or prefer some distances."""
    is_bias = node.role in ("alibi_positions", "relative_positions")
    return is_bias or bool(node.parameters or node.shared_parameters)
