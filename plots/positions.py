"""Find how a graph encodes positions: vectors added to a sequence, rotations, attention biases.

No name decides. Positions are a tensor that depends on no value of an input and differs from one
position to the next: added to or joined with a sequence, added to attention scores, or multiplied
with queries and keys, as rotations do. Layers of KerasHub are known by their class.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from plots.attention_parts import Attention
from plots.graph import Constant, Edge, Graph, Node, Shape
from plots.layers import (
    FUSED_ATTENTION,
    POSITIONS_TRAIT,
    is_additive_merge,
    is_identity_like,
    is_shape_only,
)
from plots.softmaxes import calls_before_softmax
from plots.traversal import Reachability, data_flow

_BY_ROLE = {
    f"{kind.lower()}_positions": kind
    for kind in ("rotary", "sinusoidal", "ALiBi", "relative", "learned")
}
_BY_CLASS = {  # of KerasHub
    "AlibiBias": "ALiBi",
    "PositionEmbedding": "learned",
    "RelativePositionEmbedding": "relative",
    "RotaryEmbedding": "rotary",
    "SinePositionEncoding": "sinusoidal",
    "TokenAndPositionEmbedding": "learned",
}
_MULTIPLIES = frozenset({"Multiply"})
_SINES = frozenset({"Cos", "Sin"})
_NOT_IN_ROTATIONS = frozenset({"Dense", "Einsum", "EinsumDense", "Matmul", "Softmax"})
_ELEMENTWISE = frozenset(
    {"Add", "Cast", "Clip", "Cos", "Divide", "Exp", "Floor", "FloorDivide", "Log", "Maximum"}
    | {"Minimum", "Mod", "Multiply", "Negative", "Power", "Sin", "Subtract", "TrueDivide", "Where"}
)


def kinds_of_positions(graph: Graph, attentions: Sequence[Attention]) -> list[str]:
    """Return the kinds of positions in a graph: "learned", "sinusoidal", "rotary", ...

    "fixed" are those of a table of numbers that is neither trained nor made of sines.
    """
    flow = data_flow(graph)
    tables = Tables(graph, flow)
    before_softmax = calls_before_softmax(graph)
    in_masks = {edge.target for a in attentions for edge in a.masks} | before_softmax
    sizes = {_length(graph, a, e) for a in attentions for e in (a.query, *a.keys[:1])}
    by_head = {node_id for a in attentions for node_id in _added_by_head(graph, tables, a)}
    found: dict[str, None] = {}
    for node in graph.nodes:
        if node.id in by_head or _turns_along_others(node, sizes):
            continue
        traits = [
            t.removesuffix(POSITIONS_TRAIT) for t in node.traits if t.endswith(POSITIONS_TRAIT)
        ]
        classes = () if node.call_class else (node.class_name, *node.bases)
        by_class = next((_BY_CLASS[name] for name in classes if name in _BY_CLASS), "")
        known = _BY_ROLE.get(node.role) or by_class
        if known or traits:
            is_bias = node.id in in_masks and traits
            found |= dict.fromkeys([known] if known else ["relative"] if is_bias else traits)
        elif _joins(node) and node.id not in in_masks:
            found |= dict.fromkeys(filter(None, [tables.added_by(node)]))
    if len(graph.inputs) == 1 and not attentions and _only_rotates(graph, tables):
        found["rotary"] = None
    for attention in attentions:
        if _is_biased(graph, tables, attention):
            found["relative"] = None
        if _is_rotated(graph, tables, attention):
            found["rotary"] = None
    return list(found)


def _turns_along_others(node: Node, sizes: Collection[int | None]) -> bool:
    """Return whether a `RotaryEmbedding` goes along another axis than one of these sizes."""
    axis, shape = node.config.get("sequence_axis"), node.outputs[0].shape
    if not node.is_a({"RotaryEmbedding"}) or not isinstance(axis, int) or not sizes:
        return False
    return -len(shape) <= axis < len(shape) and shape[axis] not in {*sizes, None}


def _added_by_head(graph: Graph, tables: Tables, attention: Attention) -> Iterator[str]:
    """Yield the sums before the scores whose vectors differ by head, not by position.

    The biases of queries in Transformer-XL are such vectors: (b, t, n, h) + (n, h).
    """
    ends = (attention.query, *attention.keys[:1])
    sizes = {_length(graph, attention, end) for end in ends}
    waiting, seen = [edge.source for edge in (*ends, *attention.masks)], set[str]()
    while waiting:
        node = graph.node(waiting.pop())
        shape = node.outputs[0].shape
        if node.id in seen or node.kind != "operation" or len(shape) < 4:
            continue
        seen.add(node.id)
        waiting += tables.flow.sources[node.id]
        axes = {axis for _, operand in tables.fixed_operands(node) for axis in operand}
        middle = {shape[axis] for axis in axes if -len(shape) < axis < -1}
        if is_additive_merge(node) and sizes.isdisjoint(middle):
            yield node.id


def _joins(node: Node) -> bool:
    """Return whether a call adds tensors, or joins their features."""
    rank = len(node.outputs[0].shape)
    is_join = node.operation == "Concatenate" and node.config.get("axis") in (-1, rank - 1)
    return rank > 2 and (is_additive_merge(node) or is_join)


def _is_biased(graph: Graph, tables: Tables, attention: Attention) -> bool:
    """Return whether numbers for pairs of positions are added to the scores: trained, or fixed.

    Fixed ones differ by distance, as those of ALiBi do.
    """
    if any(constant.pattern == "biases by distance" for constant in attention.constants):
        return True
    for source, output in _fixed_terms(graph, tables, attention):
        nodes = [graph.node(i) for i in (source, *tables.flow.ancestors(source))]
        has_pairs = {-1, -2} <= tables.axes_of(source, output)
        is_known = any(
            _BY_ROLE.get(node.role) or POSITIONS_TRAIT in str(node.traits) for node in nodes
        )
        if has_pairs and not is_known:
            return any(map(is_trained, nodes))
    return False


def _fixed_terms(graph: Graph, tables: Tables, attention: Attention) -> Iterator[tuple[str, int]]:
    """Yield the floats that depend on no input, of those that are added to the scores."""
    waiting, seen = [*attention.masks], set[str]()
    while waiting:
        edge = waiting.pop()
        if edge.id in seen or "float" not in edge.tensor.dtype:
            continue
        seen.add(edge.id)
        node = graph.node(edge.source)
        if not tables.flow.depends_on_input(edge.source):
            yield edge.source, edge.output
        elif is_additive_merge(node) or is_identity_like(node):
            waiting += graph.incoming[edge.source]


def _is_rotated(graph: Graph, tables: Tables, attention: Attention) -> bool:
    """Return whether queries and keys are multiplied by numbers that depend on their positions."""
    if not attention.keys:
        return False
    return all(_turns(graph, tables, attention, e) for e in (attention.query, attention.keys[0]))


def _only_rotates(graph: Graph, tables: Tables) -> bool:
    """Return whether a model, such as the inside of a layer, only multiplies by sines."""
    shapes = {graph.node(i).outputs[k].shape for i, k in (*graph.outputs, (graph.inputs[0], 0))}
    if len(shapes) > 1 or len(next(iter(shapes))) < 3 or any(map(is_trained, graph.nodes)):
        return False
    products = 0
    for node in graph.nodes:
        if node.is_a(_MULTIPLIES) and tables.flow.depends_on_input(node.id):
            operands = tables.fixed_operands(node)
            products += any(-1 in axes and len(axes) > 1 for _, axes in operands)
        elif tables.flow.depends_on_input(node.id) and node.is_a(_NOT_IN_ROTATIONS):
            return False
    return products > 1 and any(node.is_a(_SINES) for node in graph.nodes)


def _turns(graph: Graph, tables: Tables, attention: Attention, end: Edge) -> bool:
    """Return whether a table that varies along positions is a factor of queries or keys."""
    size = _length(graph, attention, end)
    products = 0
    for node in tables.products_behind(end):
        shape = node.outputs[0].shape
        places = {
            axis
            for operand, axes in tables.fixed_operands(node)
            for axis in axes
            if -1 in axes and axis != -1 and -len(shape) < axis
        }
        products += any(shape[axis] == size for axis in places)
    return products > 1  # by cosines and by sines


def _length(graph: Graph, attention: Attention, end: Edge) -> int | None:
    """Return the positions of queries or keys; None if they are not known."""
    if attention.axes is None:
        shape, is_fused = end.tensor.shape, graph.node(attention.id).is_a(FUSED_ATTENTION)
        if len(shape) < 2:
            return None
        return shape[1 if len(shape) == 4 or is_fused else -2]
    query, key = attention.axes
    axis = key if end is not attention.query or query is None else query
    return graph.node(attention.id).outputs[0].shape[axis]


def is_trained(node: Node) -> bool:
    """Return whether a call has weights, or takes some."""
    has_weights = bool(node.parameters or node.shared_parameters)
    return has_weights or any(_is_weight(constant) for constant in node.constants)


def _is_weight(constant: Constant) -> bool:
    is_array = any(size != 1 for size in constant.shape or ())
    return is_array and constant.digest is None and not constant.pattern


class Tables:
    """Tensors that depend on no value of an input, and the axes along which they vary."""

    def __init__(self, graph: Graph, flow: Reachability) -> None:
        self.graph = graph
        self.flow = flow
        self._known: dict[tuple[str, int], frozenset[int]] = {}

    def products_behind(self, end: Edge) -> Iterator[Node]:
        """Yield the products that a tensor is computed by without weights."""
        waiting, seen = [end.source], set[str]()
        while waiting:
            node = self.graph.node(waiting.pop())
            if node.id in seen or node.parameters or node.shared_parameters:
                continue
            seen.add(node.id)
            if node.is_a(_MULTIPLIES):
                yield node
            waiting += self.flow.sources[node.id]

    def added_by(self, node: Node) -> str:
        """Return the kind of the positions that a call adds to a sequence, or ""."""
        operand = self.positions_in(node)
        return "" if operand is None else self._kind(operand)

    def positions_in(self, node: Node) -> Edge | Constant | None:
        """Return the operand of a call that holds positions added to a sequence, or None."""
        edges = self.flow.incoming[node.id]
        shape = node.outputs[0].shape
        if not any(self.flow.depends_on_input(edge.source) for edge in edges):
            return None
        for operand, axes in self.fixed_operands(node):
            middle = {axis for axis in axes if -len(shape) < axis < -1 and shape[axis] != 1}
            dtype = operand.tensor.dtype if isinstance(operand, Edge) else str(operand.dtype)
            has_features = -1 in axes or shape[-1] == 1 or not is_additive_merge(node)
            if middle and "float" in dtype and has_features and not self._is_stream(node, operand):
                return operand
        return None

    def _is_stream(self, node: Node, operand: Edge | Constant) -> bool:
        """Return whether an operand is the residual stream of latent vectors, not positions."""
        if isinstance(operand, Constant):
            return False
        others = (edge.source for edge in self.flow.incoming[node.id] if edge is not operand)
        return any(self.flow.depends(other, on=operand.source) for other in others)

    def fixed_operands(self, node: Node) -> list[tuple[Edge | Constant, frozenset[int]]]:
        """Return the operands that depend on no value of an input, and the axes they vary along."""
        edges = [e for e in self.flow.incoming[node.id] if not self.flow.depends_on_input(e.source)]
        found: list[tuple[Edge | Constant, frozenset[int]]] = [
            (edge, self.axes_of(edge.source, edge.output)) for edge in edges
        ]
        arrays = [constant for constant in node.constants if constant.shape]
        return found + [(constant, _axes_of_constant(constant)) for constant in arrays]

    def is_learned(self, operand: Edge | Constant) -> bool:
        """Return whether an operand is made of weights."""
        return self._kind(operand) == "learned"

    def _kind(self, operand: Edge | Constant) -> str:
        nodes: Iterable[Node] = ()
        constants: list[Constant] = [operand] if isinstance(operand, Constant) else []
        if isinstance(operand, Edge):
            source = operand.source
            nodes = [self.graph.node(i) for i in (source, *self.flow.ancestors(source))]
            constants = [constant for node in nodes for constant in node.constants]
        if any(map(is_trained, nodes)) or any(map(_is_weight, constants)):
            return "learned"
        if any(node.is_a(_SINES) for node in nodes) or any(
            c.pattern.startswith("sinusoids") for c in constants
        ):
            return "sinusoidal"
        return "fixed"

    def axes_of(self, node_id: str, output: int) -> frozenset[int]:
        """Return the axes, counted from the last one, along which an output may vary."""
        key = (node_id, output)
        if key not in self._known:
            node = self.graph.node(node_id)
            shape = node.outputs[output].shape
            axes = self._axes(node, shape)
            self._known[key] = frozenset(a for a in axes if -len(shape) <= a and shape[a] != 1)
        return self._known[key]

    def _axes(self, node: Node, shape: Shape) -> frozenset[int]:
        edges = self.flow.incoming[node.id]
        operands = [self.axes_of(edge.source, edge.output) for edge in edges]
        operands += [_axes_of_constant(constant) for constant in node.constants if constant.shape]
        joined = frozenset[int]().union(*operands)
        rank, axis = len(shape), node.config.get("axis")
        everything = frozenset(range(-rank, 0)) if rank < 3 else frozenset(range(1 - rank, 0))
        if node.is_a({"OnesLike", "ZerosLike", "FullLike"}):
            return frozenset()
        if node.operation == "Cumsum":
            return (
                joined | {axis - rank if axis >= 0 else axis}
                if isinstance(axis, int)
                else everything
            )
        if node.is_a({"Embedding"}) and edges:
            return frozenset(place - 1 for place in joined) | {-1}
        if node.is_a({"Dense"}) and edges:
            return joined | {-1}
        if node.operation == "ExpandDims" and isinstance(axis, int):
            place = axis if axis < 0 else axis - rank
            return frozenset(a if a > place else a - 1 for a in joined)
        if node.is_a(_ELEMENTWISE) or is_identity_like(node):
            return joined
        if edges and not is_shape_only(node) and not joined and not is_trained(node):
            return frozenset()
        return everything


def _axes_of_constant(constant: Constant) -> frozenset[int]:
    shape = constant.shape or ()
    if constant.pattern in ("zeros", "ones"):
        return frozenset()
    same = {-2} if constant.pattern == "equal rows" else set()
    return frozenset(
        axis for axis in range(-len(shape), 0) if shape[axis] != 1 and axis not in same
    )
