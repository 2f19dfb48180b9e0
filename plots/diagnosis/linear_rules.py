"""Rules on linear layers in series, which compute no more than one of them."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.diagnosis.merge_rules import kind_of
from plots.diagnosis.projections import past_dropouts
from plots.diagnosis.rules import diagnosis_rule, finding, named, remark, remark_rule
from plots.graph import Graph, Node
from plots.layers import (
    CONVOLUTIONS,
    is_linear,
    is_linear_projection,
    is_norm,
    is_rearrangement,
    is_signed_merge,
)
from plots.traversal import data_flow

_GLU = "Dauphin et al. 2017, Language Modeling with Gated Convolutional Networks, section 2"
_LINEAR = "Goodfellow et al. 2016, Deep Learning, section 6.1"


@diagnosis_rule("linear_after_linear")
def linear_after_linear(graph: Graph) -> Iterator[Note]:
    """Two projections with no activation between them are one, unless the first is narrower."""
    pairs: dict[str, tuple[str, bool]] = {}  # id of the second -> first, whether it is wide
    for node in graph.of_class(CONVOLUTIONS | {"Dense"}):
        first = _linear_before(graph, node)
        if first is not None and not _is_last_of_its_kind(graph, first, node):
            width, inner, outer = _widths(graph, first, node)
            if width and inner and outer and inner >= min(width, outer):
                pairs[node.id] = first.id, inner >= max(width, outer)
    firsts = {first for first, _ in pairs.values()}
    for second, (first_id, is_wide) in pairs.items():
        width, inner, outer = _widths(graph, graph.node(first_id), graph.node(second))
        is_one_of_many = first_id in pairs or second in firsts
        yield (finding if is_wide or is_one_of_many else remark)(
            [first_id, second],
            f"No activation between {named(graph, [first_id])} and {named(graph, [second])}: "
            f"two linear maps in series, {width} to {inner} to {outer}, compute no more than "
            f"one from {width} to {outer}. Give the first one an activation.",
            _LINEAR,
        )


def _widths(graph: Graph, first: Node, second: Node) -> tuple[int | None, ...]:
    before = graph.incoming[first.id][0].tensor
    return tuple(t.shape[-1] for t in (before, first.outputs[0], second.outputs[0]))


def _is_last_of_its_kind(graph: Graph, first: Node, second: Node) -> bool:
    """Return whether equal calls elsewhere have another taker, which the last block lacks.

    In WaveNet, the output of a block goes to the next block and to the sum of all blocks.
    """
    for node in graph.nodes:
        if node.id != first.id and kind_of(node) == kind_of(first):
            takers = {graph.node(edge.target).id for edge in graph.outgoing[node.id]}
            others = [i for i in takers if kind_of(graph.node(i)) != kind_of(second)]
            if others and len(takers) > len(others):
                return True
    return False


def _linear_before(graph: Graph, node: Node) -> Node | None:
    """Return the projection before another one, if both could be one."""
    if not _is_pointwise(node) or not graph.incoming[node.id]:
        return None
    first = past_dropouts(graph, graph.incoming[node.id][0], only=True)
    if first is None or not _is_pointwise(first) or not is_linear_projection(first):
        return None
    trains = node.trainable and first.trainable
    is_tied = any(call.layer in graph.ties for call in (node, first))
    return first if trains and not is_tied and graph.incoming[first.id] else None


def _is_pointwise(node: Node) -> bool:
    """Return whether a call is a projection of the last axis to another one."""
    if node.is_a({"Dense"}):
        return not node.shared_parameters
    if not node.is_a({f"Conv{rank}D" for rank in (1, 2, 3)}):
        return False
    sizes = {*node.config.get("kernel_size", ()), *node.config.get("strides", ())}
    is_last = node.config.get("data_format") == "channels_last"
    return sizes == {1} and is_last and node.config.get("groups", 1) == 1


@remark_rule(
    "A part that is not used: {places:split} the output of {others}, and no call takes one of the "
    "parts, so that the weights for it are not trained. In a gated layer, one part is the gate, "
    "and another one what it multiplies: a * sigmoid(b).",
    _GLU,
)
def unused_part(graph: Graph) -> Iterator[tuple[str, str]]:
    """A projection is split, and no call takes one of the parts."""
    for node in graph.of_operation("Split", "Unstack"):
        if not graph.incoming[node.id]:
            continue
        taken = {edge.output for edge in graph.outgoing[node.id]}
        taken |= {number for place, number in graph.outputs if place == node.id}
        before = graph.node(graph.incoming[node.id][0].source)
        if taken and len(taken) < len(node.outputs) and is_linear_projection(before):
            yield node.id, before.id


# Convolutions -----------------------------------------------------------------------------------


@diagnosis_rule("linear_convolutions")
def linear_convolutions(graph: Graph) -> Iterator[Note]:
    """Convolutions, or dense layers with a batch norm between them, follow without an activation.

    In a model that has no other nonlinear call before them, that is a mistake.
    """
    pairs: dict[str, str] = {}
    for node in graph.of_class(CONVOLUTIONS | {"Dense"}):
        first = _linear_over_norms(graph, node)
        if first is not None:
            width, inner, outer = _widths(graph, first, node)
            if width and inner and outer and inner >= min(width, outer):
                pairs[node.id] = first.id
    if not pairs:
        return
    places = [*dict.fromkeys([*pairs.values(), *pairs])]
    last = graph.node(max(pairs, key=graph.index.__getitem__))
    before = [graph.node(i) for i in data_flow(graph).ancestors(last.id)]
    is_all_linear = len(pairs) > 1 and all(map(_is_linear_call, before))
    text = (
        f"No activation between {named(graph, places, 3)}: linear maps in series compute no more "
        "than one of them, with a larger kernel, and a batch norm does not change that. Give all "
        "but the last an activation."
    )
    if is_all_linear:
        text += " Nothing before is nonlinear either, so the model is linear up to there."
    yield (finding if is_all_linear else remark)(places, text, _LINEAR)


def _linear_over_norms(graph: Graph, node: Node) -> Node | None:
    """Return the linear projection that another one takes; None if it may be meant, or is judged
    by `linear_after_linear`."""
    if not _is_projection(node) or not graph.incoming[node.id]:
        return None
    edge, has_norm = graph.incoming[node.id][0], False
    first = past_dropouts(graph, edge, only=True)
    while first is not None and first.is_a({"BatchNormalization"}):
        has_norm = True
        first = past_dropouts(graph, graph.incoming[first.id][0], only=True)
    if first is None or not _is_projection(first) or not is_linear_projection(first):
        return None
    is_kernel = all(_is_wide(call) for call in (first, node))
    trains = bool(node.trainable and first.trainable)
    is_tied = any(call.layer in graph.ties for call in (node, first))
    is_pair = is_kernel or (has_norm and first.is_a({"Dense"}) and node.is_a({"Dense"}))
    return first if is_pair and trains and not is_tied and graph.incoming[first.id] else None


def _is_projection(node: Node) -> bool:
    is_whole = node.config.get("groups", 1) == 1 and not node.shared_parameters
    return is_whole and node.is_a(CONVOLUTIONS | {"Dense"})


def _is_wide(node: Node) -> bool:
    return node.is_a(CONVOLUTIONS) and max(node.config.get("kernel_size", (1,))) > 1


def _is_linear_call(node: Node) -> bool:
    """Return whether a call is linear in its input in inference."""
    if node.kind == "input" or node.is_a({"BatchNormalization"}) or is_rearrangement(node):
        return True
    is_nonlinear = is_norm(node) or node.operation.startswith("MaxPooling")
    return not is_nonlinear and (is_linear(node) or is_signed_merge(node))
