"""Rules on positions: the same one everywhere, rotations of one side or by heads, repeated sums."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping

from plots.annotations import Note
from plots.attentions import attentions_with_masks, position_flow
from plots.diagnosis.attention_rules import summed_by_product
from plots.diagnosis.axis_origins import Kind, axis_origins, kinds
from plots.diagnosis.projections import projection_behind
from plots.diagnosis.rules import (
    diagnosis_rule,
    doing,
    finding,
    finding_rule,
    named,
    remark,
    remark_rule,
)
from plots.graph import Constant, Edge, Graph, Node
from plots.layers import POSITIONS_TRAIT, PRODUCTS, RECURRENT, is_additive_merge
from plots.positions import Tables, is_trained, kinds_of_positions
from plots.traversal import data_flow

_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.5"
_ROPE = "Su et al. 2021, RoFormer, section 3.2"
_VIT = "Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, section 3.1"
_SWIN = "Liu et al. 2021, Swin Transformer, section 3.2, figure 4"
_ADDED = {"fixed", "learned", "sinusoidal"}
_ADDED_TRAITS = {f"{kind}{POSITIONS_TRAIT}" for kind in _ADDED}
_MIXERS = RECURRENT | {"Conv1D", "Conv2D", "DepthwiseConv1D", "DepthwiseConv2D", "SeparableConv1D"}
_EVERY_STEP = "Dehghani et al. 2019, Universal Transformers, section 2.1, does it on purpose"


@finding_rule(
    "The same vector at every position: {places:add} a fixed vector of the width of the model, "
    "which is the same at all positions, so that it tells none of them from another. Add one row "
    "of the table for each position: x + table[:length].",
    _VASWANI,
)
def one_vector_for_all_positions(graph: Graph) -> Iterator[str]:
    """A fixed vector is added at every position alike, and nothing else tells positions."""
    attentions = attentions_with_masks(graph)[0]
    if not attentions or kinds_of_positions(graph, attentions):
        return
    flow = data_flow(graph)
    for node in graph.nodes:
        if is_additive_merge(node) and any(_is_vector(c, node) for c in node.constants):
            before = (*flow.sources[node.id], *flow.ancestors(node.id))
            has_weights = any(is_trained(graph.node(i)) for i in before)
            if has_weights and any(flow.depends(a.id, on=node.id) for a in attentions):
                yield node.id


def _is_vector(constant: Constant, merge: Node) -> bool:
    """Return whether a constant is one vector of features, added to a sequence of them."""
    *others, width = constant.shape or (1,)
    shape = merge.outputs[0].shape
    is_fixed = constant.digest is not None and not constant.pattern and not merge.opened
    return is_fixed and len(shape) == 3 and width == shape[-1] != 1 and set(others) <= {1}


@finding_rule(
    "The same vector at every patch: {places:add} one trained vector to all of them, so that it "
    "tells none of them from another, and the model sees an image as a set of patches. Add a table "
    "with a row for each patch.",
    _VIT,
)
def one_vector_for_all_patches(graph: Graph) -> list[str]:
    """A trained vector is added to all patches of an image alike, and nothing tells them apart."""
    attentions = attentions_with_masks(graph)[0]
    if not attentions or kinds_of_positions(graph, attentions):
        return []
    flow = data_flow(graph)
    tables = Tables(graph, flow)
    images = [i for i in graph.inputs if len(graph.node(i).outputs[0].shape) == 4]
    return [
        node.id
        for node in graph.nodes
        if is_additive_merge(node)
        and len(node.outputs[0].shape) == 3
        and any(flow.depends(node.id, on=image) for image in images)
        and any(flow.depends(attention.id, on=node.id) for attention in attentions)
        and any(axes == {-1} and tables.is_learned(o) for o, axes in tables.fixed_operands(node))
    ]


@diagnosis_rule("rotations")
def rotations(graph: Graph) -> Iterator[Note]:
    """Queries are rotated by their positions and keys are not, or both by the index of the head."""
    tables = Tables(graph, data_flow(graph))
    alone: dict[str, list[str]] = {}
    by_heads = []
    for attention in attentions_with_masks(graph)[0]:
        ends = {"queries": attention.query, "keys": attention.keys[0]}
        axes = {name: _turned_along(graph, tables, edge) for name, edge in ends.items()}
        turned = [name for name, own in axes.items() if own["position"] > 1]
        if len(turned) == 1:
            (still,) = (edge for name, edge in ends.items() if name not in turned)
            if projection_behind(graph, still) is not None:
                alone.setdefault(turned[0], []).append(attention.id)
        elif all(own["feature"] > 1 and not own["position"] for own in axes.values()):
            by_heads.append(attention.id)
    by_heads += [node.id for node in graph.nodes if _turns_by_heads(graph, node)]
    for name, ids in alone.items():
        other = "keys" if name == "queries" else "queries"
        yield finding(
            ids,
            f"Rotary positions on the {name} alone: {doing(graph, ids, 'take')} {name} that are "
            f"rotated by their positions, and {other} that are not. Their products then depend on "
            "the position of one of the two, and not on the distance between them. Rotate both.",
            _ROPE,
        )
    if by_heads:
        yield finding(
            by_heads,
            f"Rotations by the index of the head: {doing(graph, by_heads, 'take')} queries and "
            "keys that are rotated along the axis of the heads, alike at all positions, so that "
            "products do not depend on positions. Rotate along the axis of the positions.",
            _ROPE,
        )


def _turns_by_heads(graph: Graph, node: Node) -> bool:
    """Return whether a layer of KerasHub rotates along an axis of features, such as of heads."""
    axis = node.config.get("sequence_axis")
    if not node.is_a({"RotaryEmbedding"}) or node.call_class or not isinstance(axis, int):
        return False
    origins = axis_origins(graph)[node.id, 0]
    return -len(origins) <= axis < len(origins) and kinds(origins[axis]) == {"feature"}


@remark_rule(
    "Rotary positions on the values: {places:take} values that are rotated by their positions, as "
    "queries and keys are. RoFormer rotates those two alone, so that scores depend on distances; "
    "the sum of rotated values depends on positions.",
    _ROPE,
)
def rotated_values(graph: Graph) -> Iterator[str]:
    """Values are rotated by their positions, as queries and keys are."""
    tables = Tables(graph, data_flow(graph))
    for attention in attentions_with_masks(graph)[0]:
        edges = [attention.query, *attention.keys[:1], *attention.values[:1]]
        turned = [_turned_along(graph, tables, edge)["position"] > 1 for edge in edges]
        if len(edges) == 3 and all(turned):
            yield attention.id


def _turned_along(graph: Graph, tables: Tables, end: Edge) -> Counter[Kind]:
    """Return how often queries or keys are multiplied by fixed numbers along axes of each kind."""
    found = Counter[Kind]()
    for node in tables.products_behind(end):
        shape, origins = node.outputs[0].shape, axis_origins(graph)[node.id, 0]
        for operand, axes in tables.fixed_operands(node):
            is_fixed = isinstance(operand, Edge) or operand.digest is not None
            along = {axis for axis in axes if -len(shape) < axis < -1 and shape[axis] != 1}
            if -1 in axes and len(along) == 1 and is_fixed:
                found.update(kinds(origins[along.pop()]))
    return found


@diagnosis_rule("positions_again")
def positions_again(graph: Graph) -> Iterator[Note]:
    """The same positions are added to a stream again and again.

    Twice in a row, with no weights between the sums, it is a mistake.
    """
    flow = data_flow(graph)
    tables = Tables(graph, flow)
    inside = {i for path in graph.skip_paths for i in path.bypassed}
    added: dict[object, list[str]] = {}
    for node in graph.nodes:
        if any(trait in _ADDED_TRAITS for trait in node.traits) and node.id not in inside:
            added.setdefault(node.layer, []).append(node.id)
        elif is_additive_merge(node) and len(node.outputs[0].shape) == 3 and node.id not in inside:
            operand = tables.positions_in(node)
            edges = graph.incoming[node.id]
            known = [e for e in edges if (e.source, e.output) in added]  # they are in the stream
            if isinstance(operand, Constant) and operand.digest is not None:
                added.setdefault((operand.digest, operand.shape), []).append(node.id)
            for edge in known or [operand] if isinstance(operand, Edge) else known:
                added.setdefault((edge.source, edge.output), []).append(node.id)
    for places in added.values():
        again = [place for place in places[1:] if flow.depends(place, on=places[0])]
        in_a_row = bool(again) and not any(
            graph.node(i).parameters for i in flow.between(places[0], again[:1]) if i not in places
        )
        if again:
            yield (finding if in_a_row else remark)(
                [places[0], *again],
                f"The same positions are added {len(again) + 1} times to one stream: first at "
                f"{named(graph, places[:1])}, and again at {named(graph, again)}. The skip paths "
                "keep them, so once is enough.",
                f"{_VASWANI}; {_EVERY_STEP}",
            )


def _sums_positions(graph: Graph, product: Node) -> bool:
    """Return whether a product sums over positions, as the sampling of points of an image does."""
    for edge in graph.incoming[product.id]:
        summed = summed_by_product(graph, product, edge) or ()
        origins = axis_origins(graph)[edge.source, edge.output]
        if any("position" in kinds(origins[axis]) for axes in summed for axis in axes):
            return True
    return False


@diagnosis_rule("positions_too_late")
def positions_too_late(graph: Graph) -> Iterator[Note]:
    """Positions are added to what the last attention returns, where nothing mixes positions."""
    attentions = attentions_with_masks(graph)[0]
    if not attentions:
        return
    flow = data_flow(graph)
    tables = Tables(graph, flow)
    merges = [node.id for node in graph.nodes if is_additive_merge(node) and tables.added_by(node)]
    mixers = [a.id for a in attentions] + [n.id for n in graph.nodes if n.is_a(_MIXERS)]
    mixers += [n.id for n in graph.of_operation(*PRODUCTS) if _sums_positions(graph, n)]
    late = [
        merge
        for merge in merges
        if any(flow.depends(merge, on=attention.id) for attention in attentions)
        and not any(mixer != merge and flow.depends(mixer, on=merge) for mixer in mixers)
    ]
    is_known = {*merges} != {*late} or {*kinds_of_positions(graph, attentions)} - _ADDED
    if late:
        yield (remark if is_known else finding)(
            late,
            f"Positions after all attention: {doing(graph, late, 'add')} positions to what the "
            "last attention returns, so that no attention sees them. Add them to the embeddings, "
            "before the first block.",
            _VASWANI,
        )


@diagnosis_rule("positions_of_one_sequence")
def positions_of_one_sequence(graph: Graph) -> Iterator[Note]:
    """Positions are added to one sequence of tokens that attends, and not to another one."""
    attentions = attentions_with_masks(graph)[0]
    if not attentions:
        return
    flow = position_flow(graph, attentions)
    if not {*kinds_of_positions(graph, attentions)} <= _ADDED:
        return
    tables = Tables(graph, data_flow(graph))
    merges = [node.id for node in graph.nodes if tables.added_by(node)]
    selves = [attention for attention in attentions if attention.is_self]
    lookups = [
        node.id
        for node in graph.nodes
        if node.is_a({"Embedding"}) and tables.flow.depends_on_input(node.id)
    ]
    ends = {
        i: [a for a in selves if i == a.query.source or flow.depends(a.query.source, on=i)]
        for i in lookups
    }
    ends = {i: own for i, own in ends.items() if own}
    known = {i for i in ends if any(flow.depends(merge, on=i) for merge in merges)}
    lacking = [i for i in ends if i not in known]
    if known and lacking:
        yield remark(
            lacking,
            f"Positions of one sequence alone: the vectors of {named(graph, sorted(known))} get "
            f"positions, and those of {named(graph, lacking)} do not. Attention sees each of them "
            "as a set, unless a causal mask shows its order.",
            _VASWANI,
        )


@diagnosis_rule("rolled_and_not_back")
def rolled_and_not_back(graph: Graph) -> Iterator[Note]:
    """A branch rolls positions before an attention, and is added to the stream as rolled.

    Without an attention that is known, a branch that rolls twice, one after the other, was to undo
    the first by the second.
    """
    flow = data_flow(graph)
    attended = {attention.output for attention in attentions_with_masks(graph)[0]}
    places: dict[str, str] = {}
    for path in graph.skip_paths:
        inside = [graph.node(i) for i in path.bypassed]
        rolls = [node for node in inside if node.operation == "Roll"]
        sums: Counter[int] = Counter()
        for shifts in map(_shifts_of, rolls):
            sums.update(shifts or {})
        is_known = all(_shifts_of(node) is not None for node in rolls)
        is_added = is_additive_merge(graph.node(path.target))
        is_twice = any(flow.depends(b.id, on=a.id) for a, b in itertools.permutations(rolls, 2))
        is_back = is_twice or bool(attended & {*path.bypassed})
        if rolls and is_known and any(sums.values()) and is_added and is_back:
            places[path.target] = rolls[0].id
    if places:
        rolls_ = [*dict.fromkeys(places.values())]
        yield finding(
            [*rolls_, *places],
            f"Rolled and not rolled back: {doing(graph, rolls_, 'move')} positions along, and "
            f"{doing(graph, [*places], 'add')} what is computed of them to positions that were not "
            "moved, so that each gets the result of another one. Roll back by the same shift, with "
            "the other sign, before the addition.",
            _SWIN,
        )


def _shifts_of(node: Node) -> Mapping[int, int] | None:
    """Return by how much a call rolls each axis; None if that is not known."""
    given = {constant.port: constant.value for constant in node.constants} | dict(node.config)
    shift, axis = (
        list(value) if isinstance(value, list | tuple) else [value]
        for value in (given.get("shift"), given.get("axis"))
    )
    if len(shift) != len(axis) or not all(isinstance(n, int) for n in (*shift, *axis)):
        return None
    rank = len(node.outputs[0].shape)
    return {a % rank: s for a, s in zip(axis, shift, strict=True)}


@finding_rule(
    "Sinusoids of one frequency: the table of positions at {places} has the same sine and cosine "
    "in all of its features, so that far positions are hard to tell apart. The frequency of "
    "feature 2i of d is 10000 ** (-2i / d): divide as floats.",
    _VASWANI,
)
def one_frequency(graph: Graph) -> list[str]:
    """A table of sinusoids has one frequency only."""
    return [
        node.id
        for node in graph.nodes
        if any(c.pattern == "sinusoids of one frequency" for c in node.constants)
    ]
