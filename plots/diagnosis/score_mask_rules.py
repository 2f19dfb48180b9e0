"""Rules on masks of attention scores: how they are applied, and along which axis they lie."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from plots.annotations import Note
from plots.attention_parts import Attention
from plots.attentions import attentions_with_masks
from plots.diagnosis.axis_origins import Origin, axis_origins, kinds, part_size, sources
from plots.diagnosis.rules import (
    diagnosis_rule,
    doing,
    finding,
    finding_rule,
    named,
    remark_rule,
)
from plots.graph import Constant, Edge, Graph, Node
from plots.layers import SHAPE_CHANGES, TRANSPOSITIONS, is_additive_merge, is_softmax
from plots.shape_values import TRIANGLES
from plots.softmaxes import ELEMENTWISE, softmax_axes
from plots.traversal import Reachability, data_flow, once_per_graph, reachability

_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.2.3"
_KERAS = "Keras API, attention_mask of MultiHeadAttention: 1 at keys to attend to"
_BY_FLAGS = "multiplies scores by a mask of 0 and 1"
_SMALL = -50.0
"""Masked scores have to be well below all others; exp(-50) is 2e-22."""

_COMPARISONS = frozenset({"Equal", "Greater", "GreaterEqual", "Less", "LessEqual", "NotEqual"})
_KEEPS_FLAGS = SHAPE_CHANGES | TRANSPOSITIONS | {"BroadcastTo", "Cast", "GetItem", "Repeat", "Tile"}
_FLAGS = frozenset(name for name, triangle in TRIANGLES.items() if not triangle.is_added)


@diagnosis_rule("masked_scores")
def masked_scores(graph: Graph) -> Iterator[Note]:
    """Masked scores are 0 or a small number before the softmax, and not a large negative one."""
    places: dict[str, list[str]] = {}
    for attention in attentions_with_masks(graph)[0]:
        steps = [graph.node(node_id) for node_id in attention.masking]
        for node in steps:
            if node.operation == "Where":
                fill = _fill_of(node)
                if fill is not None and fill > _SMALL:
                    places.setdefault(f"sets masked scores to {fill:g}", []).append(node.id)
            elif node.is_a({"Multiply"}) and _has_mask(graph, node):
                if _only_multiplied(steps):
                    places.setdefault(_BY_FLAGS, []).append(node.id)
            elif node.operation in ("Tril", "Triu") and _only_multiplied(steps):
                places.setdefault("sets scores beside its triangle to 0", []).append(node.id)
            elif is_additive_merge(node) and _has_flags(graph, node, constants=False):
                places.setdefault("adds a mask of 0 and 1 to the scores", []).append(node.id)
    for node, _ in _products_before_other_softmaxes(graph):
        if _has_mask(graph, node):
            places.setdefault(_BY_FLAGS, []).append(node.id)
    for what, ids in places.items():
        yield finding(
            ids,
            f"A mask that hides nothing: {named(graph, ids)} {what}, which the softmax gives "
            "about as much weight as others, exp(0) = 1. Masked scores have to be a large "
            "negative number: where(mask, scores, -1e9).",
            _VASWANI,
        )


@finding_rule(
    "A mask that shows what it hides: {places:multiply} scores by a large negative number, so that "
    "scores below 0 become the largest of all. Masked scores have to be replaced by it: "
    "where(mask, scores, -1e9).",
    _VASWANI,
)
def scores_times_large(graph: Graph) -> Iterator[str]:
    """Scores are multiplied by a mask of ones and large negative numbers before a softmax."""
    attentions = attentions_with_masks(graph)[0]
    products = [graph.node(node_id) for each in attentions for node_id in each.masking]
    products += [node for node, _ in _products_before_other_softmaxes(graph)]
    for node in products:
        makers = [_maker_of_flags(graph, edge) for edge in graph.incoming[node.id]]
        by_large = any(maker.operation == "Where" and _has_large(maker) for maker in makers)
        if node.is_a({"Multiply"}) and len(makers) == 2 and by_large:
            yield node.id


@once_per_graph
def _products_before_other_softmaxes(graph: Graph) -> tuple[tuple[Node, list[Edge]], ...]:
    """Return the products of scores and a mask before softmaxes that weight no values.

    Such as those over instances, experts or actions. With each come the edges of what may be a
    mask: numbers of the model's inputs alone, which differ along the axis of the softmax. Nothing
    else masks the scores.
    """
    known = {attention.id for attention in attentions_with_masks(graph)[0]}
    softmaxes = [node for node in graph.nodes if is_softmax(node) and node.id not in known]
    trained = [node.id for node in graph.nodes if _is_trained(node)]
    if not softmaxes or not trained:
        return ()
    flow = data_flow(graph)
    learned = {*trained, *flow.descendants(*trained)}
    before = reachability(graph, stop=lambda node: _is_trained(node) or is_softmax(node))
    found = []
    for softmax in softmaxes:
        shape, axes = softmax.outputs[0].shape, softmax_axes(graph, softmax)
        places = [axis - len(shape) for axis in axes]
        calls = map(graph.node, before.ancestors(softmax.id))
        steps = [
            node for node in calls if node.outputs[0].shape == shape and node.is_a(ELEMENTWISE)
        ]
        for node in steps if _only_multiplied(steps) else ():
            edges = graph.incoming[node.id]
            masks = [
                edge
                for edge in edges
                if edge.source not in learned
                and flow.depends_on_input(edge.source)
                and any(_varies_along(edge, place) for place in places)
            ]
            if node.is_a({"Multiply"}) and masks and any(e.source in learned for e in edges):
                found.append((node, masks))
    return tuple(found)


def _is_trained(node: Node) -> bool:
    return bool(node.parameters or node.shared_parameters)


def _varies_along(edge: Edge, place: int) -> bool:
    """Return whether a tensor has several numbers along an axis, counted from the last one."""
    shape = edge.tensor.shape
    return len(shape) >= -place and shape[place] != 1


def _only_multiplied(steps: Iterable[Node]) -> bool:
    """Return whether nothing is added to scores, or put in their place, besides products."""
    return not any(
        is_additive_merge(node) or node.operation in ("Where", "Subtract") for node in steps
    )


def _fill_of(where: Node) -> float | None:
    """Return the constant number that `where` takes in one of its cases."""
    for constant in where.constants:
        value = constant.value
        is_numeric = isinstance(value, int | float) and not isinstance(value, bool)
        if constant.port in ("x1", "x2") and is_numeric:
            return float(value)
    return None


def _has_flags(graph: Graph, node: Node, constants: bool = True) -> bool:
    """Return whether one operand of a call is a mask of zeros and ones."""
    if constants and any(constant.pattern in _FLAGS for constant in node.constants):
        return True
    return any(is_mask(graph, edge) for edge in graph.incoming[node.id])


def is_mask(graph: Graph, edge: Edge) -> bool:
    """Return whether a tensor is a mask of zeros and ones: a comparison, or booleans."""
    node = _maker_of_flags(graph, edge)
    return node.operation in _COMPARISONS or node.outputs[0].dtype == "bool"


def _maker_of_flags(graph: Graph, edge: Edge) -> Node:
    """Return the call before those that move numbers, or change their type."""
    node = graph.node(edge.source)
    while node.operation in _KEEPS_FLAGS and graph.incoming[node.id]:
        node = graph.node(graph.incoming[node.id][0].source)
    return node


def _has_mask(graph: Graph, node: Node) -> bool:
    """Return whether one operand of a call is a mask of zeros and ones, or says so.

    That is an input of the model with "mask" in its name. One that is added to scores may hold
    large negative numbers; one that multiplies them has zeros where it hides something.
    """
    makers = (_maker_of_flags(graph, edge) for edge in graph.incoming[node.id])
    return _has_flags(graph, node) or any(
        maker.kind == "input" and "mask" in maker.id.lower() for maker in makers
    )


@remark_rule(
    "{others:multiply} attention scores or weights by numbers of an input, {places}. Where they "
    "are 0, the key is not hidden: a score of 0 has the weight exp(0), and weights that are set to "
    "0 leave others that sum to less than 1. If it is a mask, mask the scores before the softmax: "
    "where(mask, scores, -1e9).",
    _VASWANI,
)
def multiplied_by_an_input(graph: Graph) -> Iterator[tuple[str, str]]:
    """An input of the model that does not say that it is a mask multiplies scores or weights."""
    for product, masks in _products_before_other_softmaxes(graph):
        if not _has_mask(graph, product):
            places = [_maker_of_flags(graph, edge) for edge in masks]
            yield from ((place.id, product.id) for place in places if place.kind == "input")
    for attention in attentions_with_masks(graph)[0]:
        scored = [graph.node(node_id) for node_id in attention.masking]
        for node in [*scored * _only_multiplied(scored), *_weighting(graph, attention)]:
            makers = [_maker_of_flags(graph, edge) for edge in graph.incoming[node.id]]
            given = [maker.id for maker in makers if maker.kind == "input"]
            is_product = given and node.is_a({"Multiply"}) and not _has_mask(graph, node)
            if is_product and _varies_over_keys(graph, attention, node):
                hides = node.id not in attention.masking
                if not (hides and _is_masked_before(graph, attention, node)):
                    yield from ((place, node.id) for place in given)


@finding_rule(
    "Large negative numbers for a mask: {places:take} {others} as the mask, and show a key where "
    "it is any number but 0, so that hidden keys alone are seen. A mask is True at keys to attend "
    "to; numbers that are added to scores are a bias.",
    _KERAS,
)
def added_numbers_as_mask(graph: Graph) -> Iterator[tuple[str, str]]:
    """An attention layer takes numbers that are meant to be added to scores as its mask."""
    for attention in attentions_with_masks(graph)[0]:
        for edge in attention.masks if attention.is_one_call else ():
            maker = _maker_of_flags(graph, edge)
            makes_numbers = maker.is_a({"Multiply"}) or maker.operation == "Where"
            if edge.port.endswith("mask") and makes_numbers and _has_large(maker):
                yield attention.id, maker.id


@diagnosis_rule("masked_weights")
def masked_weights(graph: Graph) -> Iterator[Note]:
    """A mask is applied after the softmax, and the weights are not normalised again."""
    for attention in attentions_with_masks(graph)[0]:
        for node in _weighting(graph, attention):
            hides = is_additive_merge(node) and _has_flags(graph, node)
            hides = hides or (node.is_a({"Multiply"}) and _has_mask(graph, node))
            hides = hides or (node.operation == "Where" and _fill_of(node) is not None)
            hides = hides or (is_additive_merge(node) and _adds_large(graph, node))
            is_mask = hides and _varies_over_keys(graph, attention, node)
            if is_mask and not _is_masked_before(graph, attention, node):
                yield finding(
                    [node.id, attention.id],
                    f"A mask after the softmax: {named(graph, [node.id])} masks the weights of "
                    f"{named(graph, [attention.id])}, which then do not sum to 1, and which depend "
                    "on the masked keys. Mask the scores before the softmax.",
                    _VASWANI,
                )


def _weighting(graph: Graph, attention: Attention) -> list[Node]:
    """Return the calls that change the weights, up to their product with the values.

    None if the weights are normalised again.
    """
    reached = reachability(graph)
    steps = [graph.node(edge.target) for edge in attention.weighting[:-1]]
    is_divided = any(
        node.operation in ("Divide", "TrueDivide")
        and all(reached.depends(e.source, attention.id) for e in graph.incoming[node.id])
        and len(graph.incoming[node.id]) > 1
        for node in steps
    )
    return [] if is_divided else steps


def _is_masked_before(graph: Graph, attention: Attention, node: Node) -> bool:
    """Return whether the mask of a call after the softmax hides what the scores hide already.

    That is harmless, and sets the weights of a query to 0 whose keys are all masked.
    """
    flow = data_flow(graph)

    def inputs_behind(edge: Edge) -> set[str]:
        return {edge.source, *flow.ancestors(edge.source)}.intersection(graph.inputs)

    changed = {edge.source for edge in attention.weighting}
    none = set[str]()  # behind a triangle
    own = [inputs_behind(e) for e in graph.incoming[node.id] if e.source not in changed]
    before = [inputs_behind(edge) for edge in attention.masks]
    before += [none] * any(constant.pattern in TRIANGLES for constant in attention.constants)
    return all(
        any(each == other or (each and each < other) for other in before) for each in own or [none]
    )


def _adds_large(graph: Graph, node: Node) -> bool:
    """Return whether a call adds a product with a large negative number, as masks on scores are."""
    return any(_has_large(graph.node(edge.source)) for edge in graph.incoming[node.id])


def _has_large(node: Node) -> bool:
    """Return whether a call takes a large negative number."""
    values = (constant.value for constant in node.constants)
    return any(isinstance(value, int | float) and value < _SMALL for value in values)


def _varies_over_keys(graph: Graph, attention: Attention, node: Node) -> bool:
    """Return whether a mask has another value for each key; one of heads or queries has not."""
    if attention.axes is None:
        return False
    rank = len(node.outputs[0].shape)
    place = attention.axes[1] - rank
    others = [
        edge.tensor.shape
        for edge in graph.incoming[node.id]
        if edge.tensor.shape != node.outputs[0].shape or "float" not in edge.tensor.dtype
    ]
    shapes = [*others, *(constant.shape for constant in node.constants if constant.shape)]
    sizes = [shape[place] for shape in shapes if len(shape) >= -place]
    same = [e for e in graph.incoming[node.id] if e.tensor.shape == node.outputs[0].shape]
    return any(size != 1 for size in sizes) or len(same) > 1


@finding_rule(
    "A mask that hides no key: that of {places}; its values are all the same. Leave it out, or "
    "compute it.",
    _KERAS,
)
def constant_mask(graph: Graph) -> list[str]:
    """A constant mask hides no key."""
    return [
        node.id
        for attention in attentions_with_masks(graph)[0]
        for node in map(graph.node, (attention.id, *attention.masking))
        if "ones" in [_shown(node, c, attention) for c in node.constants]
    ]


def _shown(node: Node, constant: Constant, attention: Attention) -> str:
    """Return the pattern of a constant mask, where it is true for keys that are seen."""
    shape = constant.shape or ()
    if len(shape) < 2 or 1 in shape[-2:]:
        return ""
    if node.id == attention.id and attention.is_one_call:
        is_mask = constant.port in ("attention_mask", "mask")
        return constant.pattern if is_mask else ""
    shows = node.operation == "Where" and constant.port == "condition"
    hides_others = any(c.port == "x2" and c.value is not None for c in node.constants)
    return constant.pattern if shows and hides_others else ""


# Axes of masks ----------------------------------------------------------------------------------


@once_per_graph
def _up_to_comparisons(graph: Graph) -> Reachability:
    return reachability(graph, stop=lambda node: node.operation in _COMPARISONS)


def _is_trained_bias(graph: Graph, edge: Edge) -> bool:
    """Return whether what is added to scores is computed by weights, as the bias of a pair is."""
    makers = (edge.source, *_up_to_comparisons(graph).ancestors(edge.source))
    return "float" in edge.tensor.dtype and any(graph.node(i).parameters for i in makers)


@diagnosis_rule("mask_axes")
def mask_axes(graph: Graph) -> Iterator[Note]:
    """A mask is of another sequence than the keys, or lies along the queries."""
    foreign: dict[tuple[str, str], list[str]] = {}
    rows: list[str] = []
    attentions = attentions_with_masks(graph)[0]
    sequences = _masked_sequences(graph, attentions)
    for attention in attentions:
        hiding = [edge for edge in attention.masks if not _is_trained_bias(graph, edge)]
        found = [_axes_of_mask(graph, attention, edge) for edge in hiding]
        masks = [axes for axes in found if axes is not None]
        keys = _inputs(graph, sources(_key_origin(graph, attention)))
        for query_axis, key_axis in masks:
            others = _inputs(graph, sources(key_axis))
            if keys and others and kinds(key_axis) == {"position"}:
                if keys.isdisjoint(set[str]().union(*(sequences[other] for other in others))):
                    foreign.setdefault((min(others), min(keys)), []).append(attention.id)
            elif _is_constant(key_axis) and kinds(query_axis) == {"position"} and len(masks) == 1:
                rows.append(attention.id)
    for (other, own), ids in foreign.items():
        yield finding(
            ids,
            f"The padding mask of another sequence: {doing(graph, ids, 'attend')} to the sequence "
            f"{own}, and its mask is made from {other}. A mask hides keys, so it has to be made "
            "from the sequence of the keys: the source, in cross-attention.",
            _VASWANI,
        )
    if rows:
        yield finding(
            rows,
            f"A mask on queries, not on keys: that of {named(graph, rows)} has the size 1 along "
            "the keys, so it is the same for all of them, and padding is attended to. Put the axis "
            "of the mask last: mask[:, None, :], not mask[:, :, None].",
            _KERAS,
        )


def _masked_sequences(
    graph: Graph, attentions: Iterable[Attention]
) -> Mapping[str, Collection[str]]:
    """Return the inputs whose positions are those of each input, as far as attentions show it.

    An input that is never attended to, such as a mask, belongs to the keys that it masks first.
    """
    sequences: dict[str, set[str]] = {node_id: {node_id} for node_id in graph.inputs}
    keys = {a.id: _inputs(graph, sources(_key_origin(graph, a))) for a in attentions}
    by_key = data_flow(graph, without=(edge.id for a in attentions for edge in a.masks))
    attended = {
        node_id
        for a in attentions
        for node_id in keys[a.id]
        if any(key.source == node_id or by_key.depends(key.source, on=node_id) for key in a.keys)
    }
    for attention in attentions:
        for edge in attention.masks:
            axes = _axes_of_mask(graph, attention, edge)
            for mask in _inputs(graph, sources(axes[1])) - attended if axes is not None else ():
                if sequences[mask] == {mask}:
                    sequences[mask] |= keys[attention.id]
    return sequences


def _axes_of_mask(graph: Graph, attention: Attention, edge: Edge) -> tuple[Origin, Origin] | None:
    """Return the origins of a mask's axes of queries and keys."""
    axes = axis_origins(graph)[edge.source, edge.output]
    query, key = -2, -1
    if not attention.is_one_call:
        if attention.axes is None or attention.axes[0] is None or not attention.masking:
            return None
        rank = len(graph.node(attention.id).outputs[0].shape)
        query, key = (place - rank for place in (attention.axes[0], attention.axes[1]))
    elif edge.port not in ("attention_mask", "mask", "bias") or len(axes) < 3:
        return None
    if edge.tensor.shape != graph.node(edge.source).outputs[edge.output].shape:
        return None
    is_there = len(axes) >= max(-query, -key)
    return (axes[query], axes[key]) if is_there else None


def _key_origin(graph: Graph, attention: Attention) -> Origin:
    """Return the origin of the axis of keys, before the scores are masked."""
    if attention.axes is not None:
        scores = axis_origins(graph)[attention.scores, 0]
        is_kept = len(scores) == len(graph.node(attention.id).outputs[0].shape)
        return scores[attention.axes[1]] if is_kept else ()
    edge = attention.keys[0]
    axes = axis_origins(graph)[edge.source, edge.output]
    return axes[1] if len(axes) > 2 else ()


def _inputs(graph: Graph, places: frozenset[tuple[str, int, int]]) -> set[str]:
    """Return the inputs of the model that axes come from; none if one comes from another call."""
    nodes = {node_id for node_id, _, _ in places}
    return nodes if all(graph.node(node_id).kind == "input" for node_id in nodes) else set()


def _is_constant(origin: Origin) -> bool:
    return part_size(origin) == 1 or all(part.is_repeated for part in origin)
