"""What counts as the branch of a skip path: calls that compute something from the stream alone."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from plots.annotations import SkipPath
from plots.asked import once_per_call
from plots.graph import Graph, Node
from plots.layers import (
    PARTS,
    PRODUCTS,
    REPETITIONS,
    SHAPE_CHANGES,
    TRANSPOSITIONS,
    is_crop,
    is_factor,
    is_identity_like,
    is_learned_scale,
    is_linear,
    is_norm,
    is_rearrangement,
    is_signed_merge,
    is_softmax,
    is_subtraction,
)
from plots.softmaxes import calls_before_softmax
from plots.traversal import Reachability, once_per_graph

Value = tuple[str, int]
"""One output of a call: (id, output)."""


def is_added_again(
    flow: Reachability,
    merge: Node,
    source: Value,
    bypassed: Collection[str],
    paths: Sequence[SkipPath],
) -> bool:
    """Return whether a value is added to a stream that it is no part of, as positions are.

    Args:
        flow: The data flow.
        merge: The call that adds it.
        source: The value.
        bypassed: The calls that a skip path from it would bypass.
        paths: The skip paths that end at these calls.
    """
    node_id, output = source
    given = flow.graph.node(node_id).outputs[output].shape
    shape = merge.outputs[0].shape
    middle = zip(given[1:-1], shape[1:-1], strict=False)
    if _is_bias_of_scores(flow, source):
        return True
    if len(given) < len(shape) > 2 or any(a == 1 and b not in (1, None) for a, b in middle):
        return len(given) == len(shape) or len(given) < 3
    if flow.depends_on_input(node_id):
        return False
    takers = {taker for taker in flow.takers(*source) if is_signed_merge(flow.graph.node(taker))}
    is_added_before = bool(paths) and not takers.isdisjoint(bypassed)
    return is_added_before or not all(flow.depends(path.source, node_id) for path in paths)


def is_injected(
    flow: Reachability,
    source: Value,
    starts: Collection[str],
    ends: Collection[str],
    paths: Iterable[tuple[SkipPath, frozenset[str]]],
) -> bool:
    """Return whether a value goes into the branches of a stream that it is no part of.

    Such as the positions of queries, which every sublayer of a detector adds to its own input. The
    values of the first attention, which those of later ones add, are part of its branch. What is
    added to the stream itself, one of `ends`, is no path of its own.

    Args:
        flow: The data flow.
        source: The value.
        starts: The calls that branches from it would begin with.
        ends: The other terms of the merge.
        paths: Skip paths that end on these branches, and the calls that each of them bypasses.
    """
    return any(
        bypassed.issuperset(starts)
        and (source[0] not in bypassed or path.target in ends)
        and not flow.depends(path.source, source[0])
        for path, bypassed in paths
    )


def _is_bias_of_scores(flow: Reachability, source: Value) -> bool:
    """Return whether a value is only added to attention scores, as the relative positions of T5.

    Scores that are added to those of a later block, as in RealFormer, go into a softmax themselves.
    """
    before = calls_before_softmax(flow.graph)
    takers, waiting = [*flow.takers(*source)], [source]
    while waiting:
        value = waiting.pop()
        for taker in flow.takers(*value):
            node = flow.graph.node(taker)
            if is_identity_like(node):
                waiting.append((taker, 0))
            elif not (is_signed_merge(node) and taker in before):
                return False
    return bool(takers)


def is_branch(
    flow: Reachability,
    merge: Node,
    bypassed: list[str],
    through: list[str],
    starts: list[str],
    projected: bool,
) -> bool:
    """Return whether the bypassed calls are the branch of a skip path that passes `through`."""
    if _calls_that_compute(flow.graph).isdisjoint(bypassed):
        return False
    branch = [flow.graph.node(node_id) for node_id in bypassed]
    line = [flow.graph.node(node_id) for node_id in through]
    if is_subtraction(merge) and not any(n.parameters or n.shared_parameters for n in branch):
        return False
    # Two linear maps added up are not a residual block (as in `dense_1(x) + dense_2(x)`).
    if projected and (
        all(map(keeps_values, line))
        or all(_only_maps(node) or _is_linear_in(flow, node, bypassed) for node in branch)
    ):
        return False
    # Noise with a mean and a scale of its own is one, either: mean(x) + scale(x) * noise.
    if projected and any(_scales_noise(flow, flow.graph.node(i)) for i in flow.sources[merge.id]):
        return False
    if not _has_same_axes(line) and not any(node.is_a(TRANSPOSITIONS) for node in branch):
        return False
    crops = [node for node in line if is_crop(node)]
    return not crops or any(
        not node.is_a(PARTS) or any(_is_same_part(node, crop) for crop in crops)
        for node in _first_calls(flow, starts, set(bypassed))
    )


def _only_maps(node: Node) -> bool:
    return is_linear(node) or is_rearrangement(node) or _only_mixes(node)


def _is_linear_in(flow: Reachability, node: Node, branch: Sequence[str]) -> bool:
    """Return whether a call multiplies one tensor of a branch by others that are not of it."""
    if not node.is_a(PRODUCTS | {"Multiply"}):
        return False
    given = [source for source in flow.sources[node.id] if source in branch]
    return len(given) == 1 and len(flow.sources[node.id]) == 2


def _scales_noise(flow: Reachability, node: Node) -> bool:
    """Return whether a call multiplies its input by numbers that depend on nothing."""
    arrays = [c for c in node.constants if any(size != 1 for size in c.shape or ())]
    fixed = [i for i in flow.sources[node.id] if not flow.depends_on_input(i)]
    is_trained = any(c.digest is None and not c.pattern for c in arrays) or any(
        flow.graph.node(i).parameters for source in fixed for i in (source, *flow.ancestors(source))
    )
    return node.is_a({"Multiply"}) and bool(arrays or fixed) and not is_trained


@once_per_graph
def _calls_that_compute(graph: Graph) -> frozenset[str]:
    """Return the ids of the calls that do more than pass on, rearrange, mix or normalise values."""
    return frozenset(
        n.id for n in graph.nodes if not (keeps_values(n) or _only_mixes(n) or is_norm(n))
    )


def subtracted_values(flow: Reachability, end: str) -> list[Value]:
    """Return the values that a branch subtracts at its end, up to factors.

    x + a * (f(x) - x) interpolates between x and f(x), as the gate of a highway network does.
    """
    values: list[Value] = []
    waiting = [end]
    while waiting:
        node = flow.graph.node(waiting.pop())
        edges = flow.incoming[node.id]
        if is_subtraction(node) and len(edges) == 2:
            values += _same_values(flow, (edges[1].source, edges[1].output))
        elif is_factor(node):
            waiting += dict.fromkeys(flow.sources[node.id])
    return values


def _same_values(flow: Reachability, value: Value, or_whole: bool = False) -> list[Value]:
    """Return a value and those before it that are the same, or that it is a part of."""
    values = [value]
    while True:
        node = flow.graph.node(values[-1][0])
        passes = is_identity_like(node) or (or_whole and is_crop(node))
        before = value_into(flow, node) if passes else None
        if before is None:
            return values
        values.append(before)


def unchanged_values(flow: Reachability, value: Value) -> list[Value]:
    """Return a value and those before it that it is, up to factors and its shape."""
    values = [value]
    while keeps_values(node := flow.graph.node(values[-1][0])):
        if (before := value_into(flow, node)) is None:
            break
        values.append(before)
    return values


def mixed_streams(flow: Reachability, node: Node) -> Value | None:
    """Return the value whose streams a call mixes by weights of each position; None: no such call.

    Streams (b, t, m, d) times weights (b, t, m, m) are m streams again, as in hyper-connections
    whose weights depend on the streams. The weights of an attention come from a softmax.
    """
    edges = flow.incoming[node.id]
    is_product = node.is_a(PRODUCTS) or bool(node.declaration and node.declaration.products)
    if not is_product or len(edges) != 2 or len(node.outputs) != 1:
        return None
    for streams, weights in (edges, edges[::-1]):
        shape, mixing = streams.tensor.shape, weights.tensor.shape
        is_square = len(mixing) > 3 and mixing[-1] == mixing[-2] is not None
        if shape == node.outputs[0].shape and is_square and mixing[:-1] == shape[:-1]:
            is_attention = is_softmax(flow.graph.node(weights.source))
            return None if is_attention else (streams.source, streams.output)
    return None


def scaled_value(flow: Reachability, merge: Node) -> Value | None:
    """Return the one value that a merge adds up with itself, as in x + w x; None: no such value."""
    edges = flow.incoming[merge.id]
    if not is_signed_merge(merge) or len(edges) < 2:
        return None
    first, *others = (unchanged_values(flow, (edge.source, edge.output)) for edge in edges)
    return next((value for value in first if all(value in other for other in others)), None)


def interpolates(flow: Reachability, merge: Node) -> bool:
    """Return whether a difference is added to its second term again, up to factors.

    y + a * (x - y) interpolates between two values, one of which may depend on the other. The term
    may be a part of what the difference is added to.
    """
    edges = flow.incoming[merge.id]
    if not is_subtraction(merge) or len(edges) != 2:
        return False
    added = {*_same_values(flow, (edges[1].source, edges[1].output), or_whole=True)}
    waiting = [merge.id]
    while waiting:
        for taker in flow.takers(waiting.pop(), 0):
            node = flow.graph.node(taker)
            if is_factor(node) or is_rearrangement(node) or node.is_a(REPETITIONS):
                waiting.append(taker)
            elif is_signed_merge(node) and any(
                not added.isdisjoint(_same_values(flow, (edge.source, edge.output)))
                for edge in flow.incoming[taker]
            ):
                return True
    return False


def _first_calls(flow: Reachability, starts: list[str], branch: set[str]) -> list[Node]:
    """Return the first calls of a branch past those that only change the shape."""
    reached, waiting = dict.fromkeys(starts), [*starts]
    first = []
    while waiting:
        node = flow.graph.node(waiting.pop())
        if is_identity_like(node) or node.is_a(SHAPE_CHANGES):
            following = [i for i in flow.takers(node.id, 0) if i in branch and i not in reached]
            reached |= dict.fromkeys(following)
            waiting += following
        else:
            first.append(node)
    return first


def _is_same_part(node: Node, other: Node) -> bool:
    return (node.class_name, node.config, node.constants) == (
        other.class_name,
        other.config,
        other.constants,
    )


def _has_same_axes(line: Iterable[Node]) -> bool:
    """Return whether the axes have the same order before and after these calls."""
    order: list[int] | None = None
    for node in line:
        if node.is_a(TRANSPOSITIONS):
            rank = len(node.outputs[0].shape)
            moved = _axes(node, rank)
            order = [*range(rank)] if order is None else order
            if moved is None or len(order) != rank:
                return False
            order = [order[axis] for axis in moved]
        elif order is not None and order != sorted(order) and node.is_a(SHAPE_CHANGES):
            return False
    return order is None or order == sorted(order)


def _axes(node: Node, rank: int) -> list[int] | None:
    """Return the axis of the input at each axis of the output of a transposition."""
    order = [*range(rank)]
    if node.operation == "Swapaxes":
        a, b = node.config["axis1"], node.config["axis2"]
        order[a], order[b] = order[b], order[a]
    elif node.operation == "Moveaxis":
        source, target = node.config["source"], node.config["destination"]
        if not (isinstance(source, int) and isinstance(target, int)):
            return None
        order.insert(target % rank, order.pop(source % rank))
    elif node.is_a({"Permute"}):
        order = [0, *node.config["dims"]]
    else:
        order = node.config.get("axes") or order[::-1]
    return order


@once_per_call
def keeps_values(node: Node) -> bool:
    """Return whether a call returns values of its input, maybe in another shape."""
    return is_identity_like(node) or is_rearrangement(node)


@once_per_call
def _only_mixes(node: Node) -> bool:
    """Whether a call scales, adds up or joins its inputs, as in x + a * (shifted(x) - x)."""
    return is_learned_scale(node) or is_signed_merge(node) or node.is_a({"Concatenate"})


def value_into(flow: Reachability, node: Node) -> Value | None:
    """Return the value that a call takes; None if it takes or returns several, or divides one."""
    if len(flow.incoming[node.id]) != 1 or len(node.outputs) != 1:
        return None
    (edge,) = flow.incoming[node.id]
    if is_crop(node):  # all parts together are the outputs of a `split`
        takers = [flow.graph.node(i) for i in flow.takers(edge.source, edge.output)]
        if all(t.is_a(PARTS) for t in takers) and not all(_is_same_part(t, node) for t in takers):
            return None
    return edge.source, edge.output
