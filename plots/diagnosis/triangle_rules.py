"""Rules on triangular masks: their direction, their diagonal, and the first key that they count."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.attention_parts import Attention
from plots.attentions import attentions_with_masks
from plots.diagnosis.recurrent_rules import step_of
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Graph, Node
from plots.traversal import data_flow

_NO_FUTURE = "Vaswani et al. 2017, Attention Is All You Need, sections 3.1 and 3.2.3"
_MEMORIES = "Dai et al. 2019, Transformer-XL, section 3.2"


@diagnosis_rule("triangle_of_the_mask")
def triangle_of_the_mask(graph: Graph) -> Iterator[Note]:
    """A triangular mask shows later keys, or hides the keys at the position of the query."""
    attentions, _, masked = attentions_with_masks(graph)
    places: dict[str, list[str]] = {}
    for attention in attentions:
        is_cut_off = _counts_from_the_first_key(graph, attention)
        direction = "cut off" if is_cut_off else masked[attention.id].direction
        places.setdefault(direction, []).append(attention.id)
    later, ahead = places.get("later", []), places.get("ahead", [])
    if later and "causal" not in places:  # two directions side by side are meant
        yield finding(
            later,
            f"A triangular mask the wrong way round: that of {named(graph, later)} shows the "
            "future only, keys from the position of the query on, and hides the earlier ones. "
            "Masks that are true or 0 at keys to attend to are lower triangular: np.tri(length), "
            "or use_causal_mask=True.",
            _NO_FUTURE,
        )
    if cut_off := places.get("cut off", []):
        yield finding(
            cut_off,
            f"A causal mask that is not moved: that of {named(graph, cut_off)} shows each query "
            "the keys up to its own index, although there are more keys than queries, so that the "
            "last keys are hidden from all queries. With keys of the past in front, a query at "
            "index i has its own key at i + past: np.tri(length, past + length, k=past).",
            _MEMORIES,
        )
    if ahead:
        yield finding(
            ahead,
            f"A causal mask off by one: that of {named(graph, ahead)} also shows the key one after "
            "the query, which is the token to predict. Take the diagonal k=0: np.tri(length).",
            _NO_FUTURE,
        )


def _counts_from_the_first_key(graph: Graph, attention: Attention) -> bool:
    """Return whether the first key of a causal attention is not that of the first query.

    `use_causal_mask` shows the query at index i the keys up to index i, also where the queries are
    the last positions of a sequence, or the keys begin with those of a memory.
    """
    is_counted = any(c.port == "use_causal_mask" and c.value is True for c in attention.constants)
    few, *more = (e.tensor.shape[1:2] for e in (attention.query, *attention.keys))
    if not (is_counted and few):
        return False
    joins = [graph.node(edge.source) for edge in attention.keys]
    if attention.is_self and all(n.is_a({"Concatenate"}) and _is_along(n, 1) for n in joins):
        return attention.query.source not in {node.id for node in joins}
    if any(shape == few for shape in more):
        return False
    flow = data_flow(graph)
    return any(
        str(step_of(graph.node(node_id))) == f"-{few[0]}:"
        and all(
            key.source == edge.source or flow.depends(key.source, on=edge.source)
            for key in attention.keys
        )
        for node_id in (attention.query.source, *flow.ancestors(attention.query.source))
        for edge in graph.incoming[node_id][:1]
    )


def _is_along(join: Node, axis: int) -> bool:
    """Return whether a call joins tensors along an axis."""
    given = join.config.get("axis", -1)
    return isinstance(given, int) and given % len(join.outputs[0].shape) == axis
