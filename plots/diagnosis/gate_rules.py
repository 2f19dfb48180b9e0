"""Rules on gates: what they open and close, and the shares in which they mix."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.branches import Value, keeps_values, unchanged_values
from plots.diagnosis.activations import activation_of
from plots.diagnosis.axis_origins import axis_origins, sources
from plots.diagnosis.merge_rules import projected_tensor, sums_of_two, terms_of
from plots.diagnosis.projections import past_dropouts
from plots.diagnosis.rules import diagnosis_rule, doing, finding, finding_rule, named, remark_rule
from plots.graph import Edge, Graph, Node
from plots.layers import (
    is_additive_merge,
    is_crop,
    is_identity_like,
    is_rearrangement,
    is_subtraction,
)
from plots.softmaxes import softmax_axes
from plots.traversal import Reachability, data_flow, walk_back

_GLU = "Dauphin et al. 2017, Language Modeling with Gated Convolutional Networks, section 3"
_HIGHWAY = "Srivastava et al. 2015, Highway Networks, section 2"
_EXPERTS = "Shazeer et al. 2017, Outrageously Large Neural Networks, section 2"


@remark_rule(
    "A gate that is added: {places:add} the sigmoid of {others} to another projection of the same "
    "tensor, which it cannot close. A gated linear unit multiplies them.",
    _GLU,
)
def gate_that_is_added(graph: Graph) -> Iterator[tuple[str, str]]:
    """A sigmoid of one projection is added to another projection of the same tensor."""
    for node, edges in sums_of_two(graph):
        gates = [end for edge in edges if (end := past_dropouts(graph, edge, only=True))]
        of = [projected_tensor(graph, gate) for gate in gates]
        is_gate = [activation_of(gate) == "sigmoid" for gate in gates]
        if sorted(is_gate) == [False, True] and None not in of and len({*of}) == 1:
            yield node.id, gates[is_gate.index(True)].id


@finding_rule(
    "A gate that cancels: {places:add} t x and (1 - t) x of the same x, that of {others}, which is "
    "x for every t. A gate mixes two tensors: t f(x) + (1 - t) x.",
    _HIGHWAY,
)
def gate_that_cancels(graph: Graph) -> Iterator[tuple[str, str]]:
    """A tensor times a gate is added to the same tensor times the rest of the gate."""
    flow = data_flow(graph)
    for node, edges in sums_of_two(graph):
        products = [graph.node(edge.source) for edge in edges]
        factors = [_factors(flow, product) for product in products]
        if not all(factors):
            continue
        for x, gate in (factors[0], factors[0][::-1]):
            for same, rest in (factors[1], factors[1][::-1]):
                both = [value for value in unchanged_values(flow, x) if value == same]
                if both and (_is_rest(flow, rest, gate) or _is_rest(flow, gate, rest)):
                    yield node.id, x[0]


@remark_rule(
    "A product of a tensor with itself: {places:multiply} {others} by itself, which squares it. If "
    "that is meant, ops.square says so; else one of the two is another tensor, such as the item "
    "beside a user.",
    "He et al. 2017, Neural Collaborative Filtering, equation 8",
)
def multiplied_by_itself(graph: Graph) -> Iterator[tuple[str, str]]:
    """A layer that multiplies several tensors takes one of them twice."""
    for node in graph.of_operation("Multiply"):
        given = [(edge.source, edge.output) for edge in graph.incoming[node.id]]
        if node.kind == "layer" and len({*given}) < len(given):
            yield node.id, next(source for source, k in given if given.count((source, k)) > 1)


def _factors(flow: Reachability, node: Node) -> tuple[Value, ...]:
    """Return the two values that a call multiplies; () if it is no such product."""
    values = tuple((edge.source, edge.output) for edge in flow.incoming[node.id])
    return values if node.is_a({"Multiply"}) and len(values) == 2 and not node.constants else ()


def _is_rest(flow: Reachability, rest: Value, gate: Value) -> bool:
    """Return whether a value is 1 minus another."""
    node = flow.graph.node(rest[0])
    given = [(edge.source, edge.output) for edge in flow.incoming[node.id]]
    return is_subtraction(node) and given == [gate] and [c.value for c in node.constants] == [1]


@diagnosis_rule("shares_of_another_axis")
def shares_of_another_axis(graph: Graph) -> Iterator[Note]:
    """Outputs are added up by weights whose softmax is over another axis."""
    places: dict[str, list[str]] = {}
    has_products = bool(graph.of_class({"Multiply", "Einsum"}))
    for node in graph.nodes if has_products else ():
        for softmax, axis in _mixed_stacks(graph, node):
            if axis not in softmax_axes(graph, softmax):
                places.setdefault(softmax.id, []).append(node.id)
        if not is_additive_merge(node):
            continue
        terms = [graph.node(i) for i, _ in terms_of(graph, node)]
        products = [walk_back(graph, term, is_identity_like) for term in terms]  # sum() adds 0
        parts = [part for product in products for part in _parts_of_softmax(graph, product)]
        softmaxes = {(softmax.id, axis) for softmax, axis in parts}
        if len(softmaxes) != 1 or len(parts) != len(products):
            continue
        ((softmax_id, axis),) = softmaxes
        softmax = graph.node(softmax_id)
        over = softmax_axes(graph, softmax)
        if axis not in over and softmax.outputs[0].shape[axis] == len(parts):
            places.setdefault(softmax_id, []).append(node.id)
    if places:
        sums = [sum_id for ids in places.values() for sum_id in ids]
        softmax = graph.node(next(iter(places)))
        rank = len(softmax.outputs[0].shape)
        axes = ", ".join(str(axis) for axis in softmax_axes(graph, softmax))
        yield finding(
            [*places, *sums],
            f"Shares of another axis: the softmax of {named(graph, [*places])} is over axis {axes} "
            f"of {rank}, and {doing(graph, sums, 'add')} up what the parts along another axis "
            "multiply, so that the shares of a sum do not add up to 1, and those of other "
            "positions count. The softmax is over the axis of what is mixed, such as the experts.",
            _EXPERTS,
        )


def _mixed_stacks(graph: Graph, node: Node) -> Iterator[tuple[Node, int]]:
    """Yield the softmax by whose shares a call sums a stack of tensors, and its axis of the stack.

    Such as sum(stack(...) * shares[..., None], axis) or a product that sums over that axis.
    """
    for shares, stack, axis, place in _sums_of_products(graph, node):
        maker = graph.node(stack.source)
        is_stacked = maker.operation == "Stack" and len(graph.incoming[maker.id]) > 1
        given = maker.config.get("axis", 0) if is_stacked else None
        if not isinstance(given, int) or given % len(stack.tensor.shape) != place:
            continue
        softmax = walk_back(graph, graph.node(shares.source), keeps_values)
        origins = axis_origins(graph)
        mixed = sources(origins[shares.source, shares.output][axis])
        for own, origin in enumerate(origins[softmax.id, 0]):
            if softmax_axes(graph, softmax) and mixed and mixed == sources(origin):
                yield softmax, own


def _sums_of_products(graph: Graph, node: Node) -> Iterator[tuple[Edge, Edge, int, int]]:
    """Yield two factors whose product is summed by a call, and the axis of each that is summed."""
    edges = graph.incoming[node.id]
    if node.operation == "Sum" and len(edges) == 1:
        product, axis = graph.node(edges[0].source), node.config.get("axis")
        factors = graph.incoming[product.id]
        if not product.is_a({"Multiply"}) or len(factors) != 2 or not isinstance(axis, int):
            return
        place = axis % len(edges[0].tensor.shape)
        if all(len(edge.tensor.shape) == len(edges[0].tensor.shape) for edge in factors):
            yield *factors, place, place
            yield *factors[::-1], place, place
    elif node.operation == "Einsum" and len(edges) == 2:
        operands, _, result = str(node.config.get("subscripts", "")).partition("->")
        first, _, second = operands.partition(",")
        for letter in {*first} & {*second} - {*result, "."} if "." not in operands else ():
            places = first.index(letter), second.index(letter)
            yield *edges, *places
            yield *edges[::-1], *places[::-1]


def _parts_of_softmax(graph: Graph, product: Node) -> Iterator[tuple[Node, int]]:
    """Yield the softmax that a factor of a product is one part of, and the axis of the parts."""
    if not product.is_a({"Multiply"}):
        return
    for edge in graph.incoming[product.id]:
        node = graph.node(edge.source)
        while is_rearrangement(node) and not is_crop(node) and len(graph.incoming[node.id]) == 1:
            node = graph.node(graph.incoming[node.id][0].source)
        if not is_crop(node) or len(graph.incoming[node.id]) != 1:
            continue
        (whole,) = graph.incoming[node.id]
        softmax = walk_back(graph, graph.node(whole.source), is_rearrangement)
        axis = _cropped_axis(whole.tensor.shape, node.outputs[0].shape)
        if softmax.id == whole.source and softmax_axes(graph, softmax) and axis is not None:
            yield softmax, axis


def _cropped_axis(before: tuple[int | None, ...], after: tuple[int | None, ...]) -> int | None:
    """Return the one axis of which one place is left; None for other crops."""
    if len(after) == len(before):
        differing = [axis for axis, size in enumerate(before) if size != after[axis]]
        return differing[0] if len(differing) == 1 and after[differing[0]] == 1 else None
    dropped = [
        axis for axis in range(len(before)) if (*before[:axis], *before[axis + 1 :]) == after
    ]
    return dropped[0] if len(dropped) == 1 else None
