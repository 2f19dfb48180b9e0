"""The parts of an attention: its queries, keys, values, masks and weights.

An attention is one call (`MultiHeadAttention`, `keras.ops.dot_product_attention`), or several
steps: scores of queries and keys, a softmax, and a product of its weights with the values. The
scores are a product of queries and keys, or additive, such as `v · tanh(q + k)`. Between the steps
there may be masks, biases, scales, dropouts, transposes and reshapes.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from plots.graph import Constant, Edge, Graph, Node
from plots.layers import (
    ATTENTION_LAYERS,
    FUSED_ATTENTION,
    POSITIONS_TRAIT,
    PRODUCTS,
    is_additive_merge,
    is_attention,
    is_crop,
)
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


def _around_softmax(graph: Graph, softmax: Node) -> Attention | None:
    """Return the attention that a softmax is part of: over scores, with weights for values."""
    steps = _steps_to_scores(graph, softmax, _MOST_STEPS, {softmax.id})
    weighted = _weighted_values(graph, softmax, _MOST_STEPS, {softmax.id})
    if steps is None or weighted is None:
        return None
    *steps, scores = steps
    if any(softmax_axes(graph, step) for step in steps[1:]):
        return None  # a softmax of the weights of another one
    weighting, output, values = weighted
    key_axis = softmax_axes(graph, softmax)[-1]
    totals = totals_of_weights(graph, softmax.id, weighting)
    if totals and isinstance(axis := totals[0].config.get("axis"), int):
        taken = [edge.tensor.shape for edge in graph.incoming[totals[0].id]]
        if taken == [softmax.outputs[0].shape]:  # slot attention: queries compete first
            key_axis = axis % len(softmax.outputs[0].shape)
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


def totals_of_weights(graph: Graph, softmax: str, weighting: Iterable[Edge]) -> list[Node]:
    """Return what weights are divided by on their way from the softmax, of what depends on them.

    In slot attention, that is their sum over the axis of the keys.
    """
    flow = _value_flow(graph)
    return [
        graph.node(edge.source)
        for before in [*weighting][:-1]
        for edge in graph.incoming[before.target]
        if edge.source != before.source and flow.depends(edge.source, on=softmax)
    ]


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
        if _is_product(graph, source) or _is_outer_sum(graph, source):
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


def _is_outer_sum(graph: Graph, node: Node) -> bool:
    """Return whether a call adds a number of each query and one of each key, as GAT does.

    Veličković et al. 2018, Graph Attention Networks, equation 1: a · [q, k] is a sum of two.
    """
    factors, shape = _factors(graph, node), node.outputs[0].shape
    is_outer = all(edge.tensor.shape != shape for edge in factors)
    return is_additive_merge(node) and len(factors) == 2 and is_outer


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


def attention_at(graph: Graph, node: Node) -> Attention | None:
    """Return the attention whose weights a call computes, or None."""
    if is_attention(node):
        return _in_one_call(graph, node)
    return _around_softmax(graph, node) if softmax_axes(graph, node) else None
