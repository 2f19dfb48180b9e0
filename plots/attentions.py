"""Find the attentions of a graph by their structure.

An attention is one call (`MultiHeadAttention`, `keras.ops.dot_product_attention`), or several
steps: scores of queries and keys, a softmax, and a product of its weights with the values. The
scores are a product of queries and keys, or additive, such as `v · tanh(q + k)`. Between the steps
there may be masks, biases, scales, dropouts, transposes and reshapes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal, NamedTuple

from plots.annotations import SkipPath
from plots.graph import Constant, Edge, Graph, Node
from plots.layers import (
    ATTENTION_LAYERS,
    FUSED_ATTENTION,
    PARTS,
    POSITIONS_TRAIT,
    PRODUCTS,
    is_additive_merge,
    is_attention,
    is_crop,
)
from plots.mask_values import Direction, visible_keys
from plots.skips import skip_paths
from plots.softmaxes import ELEMENTWISE, float_inputs, is_float, softmax_axes
from plots.traversal import Reachability, data_flow, once_per_graph

_MOST_STEPS = 16
"""Most calls between the softmax and the scores, and between the softmax and the values."""

_JOINS = frozenset({"Concatenate", "Stack"})
_LAYOUT = frozenset(
    {"ExpandDims", "Moveaxis", "Permute", "Reshape", "Squeeze", "Swapaxes", "Transpose"}
)
_REDUCTIONS = frozenset({"Mean", "Sum"})
_ROLES = {"inputs.0": "query", "inputs.1": "value", "inputs.2": "key"}  # of keras.layers.Attention
_QUERY_MASKS = frozenset({"query_mask", "mask.0"})

Axis = tuple[str, int, int]
"""One axis of a tensor: (id of a call, which of its outputs, which axis of the output)."""


@dataclass(frozen=True, slots=True)
class Attention:
    """The calls and edges of one attention.

    Attributes:
        id: The call that computes the weights: the layer, the fused operation, or the softmax.
        output: Id of the call that returns the weighted values; the same if it is one call.
        query: The edge of the queries.
        keys: The edges of the keys.
        values: The edges of the values.
        masks: Edges of masks and biases on the scores, without masks of queries.
        constants: Masks and switches that are not tensors of the graph, such as `is_causal`.
        axes: (query axis, key axis) of the softmax; the first is None if there is one query only.
            None if the attention is one call.
        lengths: (axis of the query length, axis of the key length), if they are known.
        has_known_masks: Whether `masks` and `constants` hold all that it may mask. A class that
            derives from a known attention may mask in its own way.
        is_self: Whether queries and keys are computed from the same sequence.
        sinks: Numbers of scores that have no key, before and after those of the keys.
        scores: Id of the call that combines queries and keys; "" if the attention is one call.
        masking: Ids of the calls between the scores and the softmax, backwards from it.
        weighting: The edges from the softmax to the call that weights the values.
    """

    id: str
    output: str
    query: Edge
    keys: tuple[Edge, ...]
    values: tuple[Edge, ...]
    masks: tuple[Edge, ...] = ()
    constants: tuple[Constant, ...] = ()
    axes: tuple[int | None, int] | None = None
    lengths: tuple[Axis, Axis] | None = None
    has_known_masks: bool = True
    is_self: bool = False
    scores: str = ""
    sinks: tuple[int, int] = (0, 0)
    masking: tuple[str, ...] = ()
    weighting: tuple[Edge, ...] = ()

    @property
    def is_one_call(self) -> bool:
        """Whether scores, softmax and weighted values are one call."""
        return self.id == self.output

    @property
    def memory(self) -> tuple[str, ...]:
        """Ids of the calls that the keys and values come from."""
        return tuple(dict.fromkeys(edge.source for edge in (*self.keys, *self.values)))


def find_attentions(graph: Graph) -> tuple[Attention, ...]:
    """Return the attentions of a graph, in its order."""
    candidates = (
        _in_one_call(graph, node) if is_attention(node) else _around_softmax(graph, node)
        for node in graph.nodes
        if is_attention(node) or softmax_axes(graph, node)
    )
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
        has_positions = len(edge.tensor.shape) > 2 or edge.source in flat
        is_summary = not has_positions or edge.port.startswith("initial_state")
        return edge.id in followed and not is_summary and not _summarises(edge, target)

    return Reachability(graph, passes)


def has_way_around(graph: Graph, flow: Reachability, node_id: str) -> bool:
    """Return whether vectors of a sequence reach what follows a call without passing it.

    Such as along a skip path, a gate as in highway networks, or mixed streams.

    Args:
        graph: The graph.
        flow: `position_flow` of its attentions.
        node_id: Id of the call, such as the output of an attention.
    """
    followed = {edge.id for edges in flow.incoming.values() for edge in edges}
    around = Reachability(graph, lambda edge: edge.id in followed, lambda n: n.id == node_id)
    sequences = [i for i in flow.ancestors(node_id) if is_float(graph.node(i).outputs[0])]
    met = {*around.descendants(*sequences)} if sequences else set()
    return not met.isdisjoint({*flow.descendants(node_id)} - {node_id})


def _summarises(edge: Edge, target: Node) -> bool:
    """Return whether a call reduces all positions to one, unlike a slice."""
    before, after = edge.tensor.shape[1:-1], target.outputs[0].shape[1:-1]
    is_one = all(size == 1 for size in after) and len(target.outputs[0].shape) > 2
    return is_one and not all(size == 1 for size in before) and not target.is_a(PARTS)


def _in_one_call(graph: Graph, node: Node) -> Attention | None:
    """Return the attention that a call is, if its arguments have the usual names."""
    edges: dict[str, list[Edge]] = {"query": [], "key": [], "value": [], "": []}
    for edge in graph.incoming[node.id]:
        role = _ROLES.get(edge.port, edge.port)
        edges[role if role in edges else ""].append(edge)
    keys, values = edges["key"] or edges["value"], edges["value"]
    if not edges["query"] or not keys:
        return None
    query = edges["query"][0]
    causal = Constant("is_causal", bool(node.config.get("is_causal")))
    query_length, key_length = ((e.source, e.output, 1) for e in (query, keys[0]))
    rank = 4 if node.is_a(FUSED_ATTENTION) else 3
    are_known = all(
        len(tensor.shape) == rank
        for edge in (query, keys[0])
        for tensor in (graph.node(edge.source).outputs[edge.output], edge.tensor)
    )
    return Attention(
        id=node.id,
        output=node.id,
        query=query,
        keys=tuple(keys),
        values=tuple(values),
        masks=tuple(edge for edge in edges[""] if edge.port not in _QUERY_MASKS),
        constants=(causal, *node.constants),
        lengths=(query_length, key_length) if are_known else None,
        has_known_masks=node.role == "attention"
        or (not node.call_class and node.operation in ATTENTION_LAYERS | FUSED_ATTENTION),
    )


# Several steps ----------------------------------------------------------------------------------


def _around_softmax(graph: Graph, softmax: Node) -> Attention | None:
    """Return the attention that a softmax is part of: over scores, with weights for values."""
    steps = _steps_to_scores(graph, softmax, _MOST_STEPS, {softmax.id})
    weighted = _weighted_values(graph, softmax, _MOST_STEPS, {softmax.id})
    if steps is None or weighted is None:
        return None
    *steps, scores = steps
    if any(softmax_axes(graph, step) for step in steps[1:]):
        return None  # a softmax of the weights of another one
    key_axis = softmax_axes(graph, softmax)[-1]
    queries_first, query_axes = _roles_in_scores(graph, scores, steps, key_axis)
    query, key = _factors(graph, scores)[:: 1 if queries_first else -1]
    query_axis = query_axes[-1] if query_axes else None
    lengths = None
    if query_axis is not None:
        lengths = (softmax.id, 0, query_axis), (softmax.id, 0, key_axis)
    after_scores = {scores.id, *_value_flow(graph).descendants(scores.id)}
    masking = [step for step in steps if step.operation != "Concatenate"]
    masks = (e for step in masking for e in graph.incoming[step.id] if e.source not in after_scores)
    joins = [step for step in steps if step.operation == "Concatenate"]
    weighting, output, values = weighted
    return Attention(
        id=softmax.id,
        output=output,
        query=query,
        keys=(key,),
        values=tuple(values),
        masks=tuple(masks),
        constants=tuple(constant for step in steps for constant in step.constants),
        axes=(query_axis, key_axis),
        lengths=lengths,
        scores=scores.id,
        sinks=_sinks(graph, joins[0], after_scores) if len(joins) == 1 else (0, 0),
        masking=tuple(step.id for step in steps[1:]),
        weighting=tuple(weighting),
    )


def _sinks(graph: Graph, join: Node, after_scores: Collection[str]) -> tuple[int, int]:
    """Return how many scores a call puts before and after those of the keys."""
    sizes = [
        (edge.source in after_scores, edge.tensor.shape[join.config.get("axis", -1)])
        for edge in graph.incoming[join.id]
    ]
    place = max(range(len(sizes)), key=lambda k: (sizes[k][0], sizes[k][1] or 0))
    before, after = (
        [size or 0 for _, size in part] for part in (sizes[:place], sizes[place + 1 :])
    )
    return sum(before), sum(after)


@once_per_graph
def _value_flow(graph: Graph) -> Reachability:
    return data_flow(graph)


def _steps_to_scores(graph: Graph, node: Node, most: int, seen: set[str]) -> list[Node] | None:
    """Return the calls from `node` back to the one that combines queries and keys, both included.

    Between them no call has weights, except for the projection that makes additive scores, and
    biases of positions.
    """
    for edge in graph.incoming[node.id] if most else ():
        source = graph.node(edge.source)
        if source.id in seen or not is_float(edge.tensor) or not _keeps_values(edge, node):
            continue
        seen.add(source.id)
        if _is_product(graph, source):
            return [node, source]
        if _reduces_width(graph, source):
            steps = _steps_to_sum(graph, source)
        elif source.parameters and not any(t.endswith(POSITIONS_TRAIT) for t in source.traits):
            steps = None
        else:
            steps = _steps_to_scores(graph, source, most - 1, seen)
        if steps is not None:
            return [node, *steps]
    return None


def _steps_to_sum(graph: Graph, node: Node) -> list[Node] | None:
    """Return the calls from the projection of additive scores back to queries + keys."""
    steps = [node]
    while len(steps) <= _MOST_STEPS:
        edges = float_inputs(graph, steps[-1])
        kept = [edge for edge in edges if len(steps) == 1 or _keeps_values(edge, steps[-1])]
        if not kept:
            return None
        steps.append(graph.node(kept[0].source))
        shape = steps[-1].outputs[0].shape
        factors = _factors(graph, steps[-1])
        if is_additive_merge(steps[-1]) and any(e.tensor.shape != shape for e in factors):
            return steps if len(factors) == 2 else None
        if steps[-1].parameters:
            return None
    return None


def _weighted_values(
    graph: Graph, node: Node, most: int, seen: set[str]
) -> tuple[list[Edge], str, list[Edge]] | None:
    """Return how values are weighted with `node`.

    That is the edges from `node` to the call that weights them, the id of the call that sums them,
    and the edges of the values.
    """
    for edge in graph.outgoing[node.id] if most else ():
        target = graph.node(edge.target)
        values = [other for other in _factors(graph, target) if other.id != edge.id]
        is_larger = edge.tensor.shape != target.outputs[0].shape
        if len(values) == 1 and target.is_a({"Multiply"}) and is_larger:
            following = (graph.node(e.target) for e in graph.outgoing[target.id])
            sums = [after.id for after in following if after.operation in _REDUCTIONS]
            if sums:
                return [edge], sums[0], values
        is_product = is_larger and not target.is_a(ELEMENTWISE)
        if len(values) == 1 and (is_product or target.operation in PRODUCTS):
            return [edge], target.id, values
        if target.id not in seen and not target.parameters and _keeps_values(edge, target):
            seen.add(target.id)
            found = _weighted_values(graph, target, most - 1, seen)
            if found is not None:
                return [edge, *found[0]], *found[1:]
    return None


def _is_product(graph: Graph, node: Node) -> bool:
    """Return whether a call may be a product of queries and keys."""
    factors, shape = _factors(graph, node), node.outputs[0].shape
    if len(factors) != 2 or node.is_a(ELEMENTWISE):
        return False
    return node.operation in PRODUCTS or all(edge.tensor.shape != shape for edge in factors)


def _reduces_width(graph: Graph, node: Node) -> bool:
    """Return whether a call maps the last axis of one tensor to one number, as v · x does."""
    edges = float_inputs(graph, node)
    if len(edges) != 1 or not node.is_a(_REDUCTIONS | PRODUCTS | {"Dense", "EinsumDense"}):
        return False
    *positions, width = edges[0].tensor.shape or (1,)
    is_last = node.config.get("axis", -1) in (-1, len(positions))
    return width != 1 and is_last and node.outputs[0].shape in ((*positions,), (*positions, 1))


def _keeps_values(edge: Edge, target: Node) -> bool:
    """Return whether a call may pass a tensor on: changed number by number, or its layout only."""
    before, after = edge.tensor.shape, target.outputs[0].shape
    if target.operation == "Concatenate" or is_crop(target):  # scores of a sink, and their removal
        sizes = zip(before, after, strict=False)
        return len(before) == len(after) > 2 and sum(a != b for a, b in sizes) == 1
    return target.operation in _LAYOUT or (before == after and target.operation not in PRODUCTS)


def _factors(graph: Graph, node: Node) -> list[Edge]:
    """Return the edges of the tensors that a call without weights combines."""
    combines = not node.parameters and node.operation not in _JOINS
    return float_inputs(graph, node) if combines else []


def _roles_in_scores(
    graph: Graph, scores: Node, steps: Sequence[Node], key_axis: int
) -> tuple[bool, list[int]]:
    """Return whether the queries are the first factor of the scores, and the softmax's query axes.

    `steps` has the calls from the softmax back to the scores, without them.
    """
    others = [axis for axis in range(1, len(steps[0].outputs[0].shape)) if axis != key_axis]
    rank = len(scores.outputs[0].shape)
    origin = {axis: _axis_of_scores(axis, [*steps[1:], scores]) for axis in [key_axis, *others]}
    key_origin = origin[key_axis]
    factors = _factors(graph, scores)
    operands, _, result = str(scores.config.get("subscripts", "")).partition("->")
    labels = dict(zip(range(rank - 1, -1, -1), reversed(result), strict=False))
    if operands.count(",") == 1 and key_origin in labels:
        first, second = operands.split(",")
        queries_first = labels[key_origin] not in first or labels[key_origin] in second
        query, key = (first, second) if queries_first else (second, first)
        of_queries = set(query) - set(key)
        return queries_first, [a for a in others if labels.get(origin[a]) in of_queries] or others
    if is_additive_merge(scores):
        place = key_origin - rank  # from the last axis; those before the first have the size 1
        shapes = (edge.tensor.shape for edge in factors)
        sizes = [shape[place] if -place <= len(shape) else 1 for shape in shapes]
        return not (sizes[0] != 1 and sizes[1] == 1), others
    if scores.operation in ("Dot", "Matmul"):  # axes of the second factor are last
        return key_origin != rank - 2, others
    return [edge.port for edge in factors] != ["key", "query"], others


def _axis_of_scores(axis: int, steps: Sequence[Node]) -> int:
    """Return the axis of the last call's output that becomes `axis` of the first call's input."""
    for node, before in pairwise(steps):
        rank, rank_before = len(node.outputs[0].shape), len(before.outputs[0].shape)
        order = permutation(node, rank)
        place = node.config.get("axis")
        if order is not None:
            axis = order[axis]
        elif node.operation == "ExpandDims" and isinstance(place, int):
            axis -= axis > place % rank
        elif node.operation == "Squeeze" and isinstance(place, int):
            axis += axis >= place % rank_before
        elif node.operation in _LAYOUT:  # a reshape keeps the last axes
            axis += rank_before - rank
    return axis


def permutation(node: Node, rank: int) -> list[int] | None:
    """Return which axis of the input is at each place of the output; None if none is moved."""
    config, order = node.config, list(range(rank))
    if node.operation == "Transpose":
        return [axis % rank for axis in config.get("axes") or order[::-1]]
    if node.operation == "Permute":
        return [0, *config["dims"]]
    if node.operation == "Swapaxes":
        first, second = config["axis1"], config["axis2"]
        order[first], order[second] = order[second], order[first]
        return order
    if node.operation == "Moveaxis" and isinstance(config["source"], int):
        order.insert(config["destination"] % rank, order.pop(config["source"]))
        return order
    return None


# Masks ------------------------------------------------------------------------------------------

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
    attentions = find_attentions(graph)
    flow = query_flow(graph, attentions)
    behind = Reachability(graph, stop=_is_trained)
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
    causal = {"causal": True, "all": False}
    return {
        i: masked[i]._replace(causal=causal.get(kind)) for i, kind in seen.items() if i in masked
    }


def _inputs_of_masks(graph: Graph, attentions: Iterable[Attention]) -> frozenset[str]:
    """Return the inputs of the model, a number for each position, that only masks depend on."""
    masks = {edge.id for attention in attentions for edge in attention.masks}
    others = data_flow(graph, without=masks)
    ends = [node_id for node_id, _ in graph.outputs]
    used = {*ends, *others.ancestors(*ends)}
    nodes = (graph.node(node_id) for node_id in graph.inputs)
    return frozenset(n.id for n in nodes if len(n.outputs[0].shape) <= 2 and n.id not in used)


def _hints_of_call(
    graph: Graph, node: Node, flow: Reachability, only_masks: Collection[str]
) -> Iterator[_Hint]:
    if node.role == "padding_mask" or node.id in only_masks:
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
    elif node.role != "causal_mask" and (node.call_class or node.kind == "model"):
        yield "unknown"


def _is_trained(node: Node) -> bool:
    """Return whether a call returns biases that are trained, or prefer some distances."""
    is_bias = node.role in ("alibi_positions", "relative_positions")
    return is_bias or bool(node.parameters or node.shared_parameters)
