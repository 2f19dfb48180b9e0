"""Find the attentions of a graph, and what its calls are computed from along their queries.

An attention is a layer (`MultiHeadAttention`), a fused operation (`dot_product_attention`), or
three steps in the graph: a product of queries and keys, a softmax, a product with the values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from plots.diagnosis.masks import Masked, what_is_masked
from plots.graph import Constant, Edge, Graph, Node, Tensor
from plots.operation_kinds import (
    ATTENTION_LAYERS,
    FUSED_ATTENTION,
    PRODUCTS,
    is_attention,
    is_shape_only,
    is_softmax,
)

_MOST_STEPS = 16
"""Most calls between a softmax and the products before and after it: a mask, a bias, a dropout."""

_JOINS = frozenset({"Concatenate", "Stack"})
_ROLES = {"inputs.0": "query", "inputs.1": "value", "inputs.2": "key"}  # of keras.layers.Attention
_MASKS_OF_QUERIES = frozenset({"query_mask", "mask.0"})


@dataclass(frozen=True, slots=True)
class Attention:
    """One attention.

    Attributes:
        id: The call where queries meet keys: the layer, the operation, or the softmax.
        output: Id of the call that gives out the mixed values; most often the same.
        query: Id of the call that the queries come from.
        keys: Ids of the calls that the keys and values come from.
        is_self: Whether queries and keys are computed from the same sequence.
        masked: What is kept from the queries.
    """

    id: str
    output: str
    query: str
    keys: tuple[str, ...]
    is_self: bool
    masked: Masked


class Lineage:
    """What every call is computed from, itself included, if attentions pass on queries only.

    So the lineage of a decoder leads back to its own tokens, and not through cross-attention into
    the encoder. Kept as bit sets over the positions of `graph.nodes`, as `skip_paths` does.
    """

    def __init__(self, graph: Graph, left_out: Iterable[str]) -> None:
        self.graph = graph
        self.sources: dict[str, tuple[str, ...]] = {}
        self.bits: dict[str, int] = {}
        self._inputs = 0
        ids = frozenset(left_out)
        for position, node in enumerate(graph.nodes):
            edges = () if is_shape_only(node) else graph.incoming[node.id]
            kept = [edge.source for edge in edges if edge.id not in ids and not edge.implicit]
            self.sources[node.id] = tuple(dict.fromkeys(kept))
            self.bits[node.id] = 1 << position
            for source in self.sources[node.id]:
                self.bits[node.id] |= self.bits[source]
            if node.kind == "input":
                self._inputs |= 1 << position

    def holds(self, node_id: str, ancestor: str) -> bool:
        """Whether `ancestor` is in the lineage of a call."""
        return bool(self.bits[node_id] >> self.graph.index[ancestor] & 1)

    def depends_on_input(self, node_id: str) -> bool:
        """Whether a call depends on the values of the model's inputs, not on shapes alone."""
        return bool(self.bits[node_id] & self._inputs)

    def calls_of(self, node_id: str) -> Iterator[Node]:
        """The lineage of a call, in the graph's order."""
        bits = self.bits[node_id]
        return (node for position, node in enumerate(self.graph.nodes) if bits >> position & 1)


def is_sublayer_part(node: Node) -> bool:
    """Whether the call does the work of a Transformer's sublayer: attends or projects."""
    return is_attention(node) or node.is_a({"Dense", "EinsumDense"})


def attentions_of(graph: Graph) -> tuple[tuple[Attention, ...], Lineage]:
    """The attentions of a graph in its order, and the lineage of its calls."""
    found = [parts for node in graph.nodes if (parts := _parts_of(graph, node)) is not None]
    lineage = Lineage(graph, (edge.id for parts in found for edge in (*parts.keys, *parts.masks)))
    sequences = 0  # calls that give out vectors at positions, and depend on values
    for position, node in enumerate(graph.nodes):
        if lineage.depends_on_input(node.id) and any(_is_float(t) for t in node.outputs):
            sequences |= (max(len(t.shape) for t in node.outputs) > 2) << position
    return tuple(_attention(graph, parts, lineage, sequences) for parts in found), lineage


@dataclass(frozen=True, slots=True)
class _Parts:
    """What an attention is put together from."""

    id: str
    output: str
    query: Edge
    keys: tuple[Edge, ...]
    masks: tuple[Edge, ...]
    constants: tuple[Constant, ...]
    is_known: bool = True


def _attention(graph: Graph, parts: _Parts, lineage: Lineage, sequences: int) -> Attention:
    own = lineage.bits[parts.query.source] & sequences
    keys = tuple(dict.fromkeys(edge.source for edge in parts.keys))
    masks = [edge for edge in parts.masks if edge.port not in _MASKS_OF_QUERIES]
    masked = what_is_masked(graph, lineage.depends_on_input, masks, parts.constants)
    if not parts.is_known:
        masked = Masked(masked.causal or None, masked.padding or None)
    is_self = all(own & lineage.bits[key] for key in keys)
    return Attention(parts.id, parts.output, parts.query.source, keys, is_self, masked)


def _parts_of(graph: Graph, node: Node) -> _Parts | None:
    if is_attention(node):
        return _parts_of_layer(graph, node)
    return _parts_around_softmax(graph, node) if is_softmax(node) else None


def _parts_of_layer(graph: Graph, node: Node) -> _Parts | None:
    """An attention that is one call, if its arguments have the usual names."""
    edges: dict[str, list[Edge]] = {"query": [], "key": [], "value": [], "": []}
    for edge in graph.incoming[node.id]:
        role = _ROLES.get(edge.port, edge.port)
        edges[role if role in edges else ""].append(edge)
    keys = (*edges["key"], *edges["value"])
    if not edges["query"] or not keys:
        return None
    causal = Constant("is_causal", bool(node.config.get("is_causal")))
    return _Parts(
        id=node.id,
        output=node.id,
        query=edges["query"][0],
        keys=keys,
        masks=tuple(edges[""]),
        constants=(causal, *node.constants),
        # What derives from one of them is an attention too, but may mask in a way of its own.
        is_known=node.role == "attention" or node.class_name in ATTENTION_LAYERS | FUSED_ATTENTION,
    )


def _parts_around_softmax(graph: Graph, softmax: Node) -> _Parts | None:
    """An attention in steps, if the softmax is over scores and its weights mix values."""
    back = _steps_to_scores(graph, softmax)
    on = _step_to_mixed(graph, softmax)
    if back is None or on is None:
        return None
    *steps, scores = back
    inside = {node.id for node in back}
    query, *keys = _queries_first(graph, scores)
    values = [edge for edge in graph.incoming[on.target] if edge.id != on.id]
    masks = [e for step in steps for e in graph.incoming[step.id] if e.source not in inside]
    return _Parts(
        id=softmax.id,
        output=on.target,
        query=query,
        keys=(*keys, *(edge for edge in values if _is_float(edge.tensor))),
        masks=tuple(masks),
        constants=tuple(constant for step in steps for constant in step.constants),
    )


def _steps_to_scores(graph: Graph, node: Node, most: int = _MOST_STEPS) -> list[Node] | None:
    """Calls from `node` back to the product of queries and keys, between them none with weights."""
    for edge in graph.incoming[node.id] if most else ():
        source = graph.node(edge.source)
        if edge.tensor.shape == node.outputs[0].shape and _is_float(edge.tensor):
            if _is_product(graph, source):
                return [node, source]
            steps = None if source.parameters else _steps_to_scores(graph, source, most - 1)
            if steps is not None:
                return [node, *steps]
    return None


def _step_to_mixed(graph: Graph, node: Node, most: int = _MOST_STEPS) -> Edge | None:
    """The edge on which weights that come from `node` go into the product with the values."""
    for edge in graph.outgoing[node.id] if most else ():
        target = graph.node(edge.target)
        same_shape = edge.tensor.shape == target.outputs[0].shape
        if target.class_name in PRODUCTS or not same_shape:
            if len(_factors(graph, target)) == 2:
                return edge
        elif not target.parameters:
            further = _step_to_mixed(graph, target, most - 1)
            if further is not None:
                return further
    return None


def _is_product(graph: Graph, node: Node) -> bool:
    """Whether the call may be a product of queries and keys."""
    factors, shape = _factors(graph, node), node.outputs[0].shape
    if len(factors) != 2:
        return False
    return node.class_name in PRODUCTS or all(edge.tensor.shape != shape for edge in factors)


def _factors(graph: Graph, node: Node) -> list[Edge]:
    """The tensors that a call without weights takes, if it may be a product."""
    if node.parameters or node.class_name in _JOINS:
        return []
    return [edge for edge in graph.incoming[node.id] if _is_float(edge.tensor)]


def _queries_first(graph: Graph, scores: Node) -> list[Edge]:
    """The two factors of scores (.., t, s), the one that has t first."""
    factors = _factors(graph, scores)
    ports = [edge.port for edge in factors]
    letters, _, result = str(scores.config.get("subscripts", "")).partition("->")
    if len(result) > 1 and letters.count(",") == 1:
        keys_first = result[-2] not in letters.split(",")[0]
    else:
        keys_first = ports == ["key", "query"]
    return factors[::-1] if keys_first else factors


def _is_float(tensor: Tensor) -> bool:
    return "float" in tensor.dtype
