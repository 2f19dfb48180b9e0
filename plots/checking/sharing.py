"""Layers that are called several times, and which of them are so by mistake."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from plots.annotations import Note, counted
from plots.attentions import attentions_with_masks
from plots.checking.results import Check, said
from plots.diagnosis.rules import named, taken_by
from plots.graph import Graph
from plots.layers import is_attention, is_norm, is_recurrent
from plots.traversal import reachability

_SHARED = "Lan et al. 2020, ALBERT, section 3.1; Dehghani et al. 2019, Universal Transformers"
Ties = Mapping[str, tuple[str, ...]]
"""Layer -> its calls."""

_TWINS = "Bromley et al. 1993, Signature Verification using a Siamese Time Delay Neural Network"
_UNILM = "Dong et al. 2019, UniLM, section 2.2"
_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.2.3"


def check_sharing(graph: Graph) -> Iterator[Check]:
    """Yield the layers with weights that are called several times, and which are so by mistake."""
    ties = {
        layer: calls
        for layer, calls in graph.ties.items()
        if graph.node(layer).parameters and graph.node(layer).kind in ("layer", "model")
    }
    if not ties:
        return
    text = f"{counted(len(ties), 'layer')} with weights called several times"
    yield said("sharing", "shared", text)
    told: set[str] = set()
    for rule in (_self_and_cross, _shared_norms, _on_one_input, _masked, _of_outputs, _in_series):
        for note in rule(graph, {k: calls for k, calls in ties.items() if told.isdisjoint(calls)}):
            told.update(note.about)
            yield Check("sharing", "shared", note)


def _on_one_input(graph: Graph, ties: Ties) -> Iterator[Note]:
    for calls in ties.values():
        if len({taken_by(graph, graph.node(call)) for call in calls}) < len(calls):
            text = (
                f"The same layer is called {len(calls)} times with the same input, {calls[0]}: the "
                "results are equal, so that what they are made for, such as queries, keys and "
                "values, is one projection."
            )
            yield Note("remark", tuple(calls), text, _VASWANI)


def _masked(graph: Graph, ties: Ties) -> Iterator[Note]:
    """Yield a remark on each attention layer that is causal in some calls and not in others."""
    _, _, masked = attentions_with_masks(graph)
    for calls in ties.values():
        if {masked[call].causal for call in calls if call in masked} == {True, False}:
            text = (
                f"{named(graph, calls[:1])} is called with a causal mask and without, with the "
                "same weights, as by an encoder and a decoder. UniLM shares them so; encoders and "
                "decoders usually have weights of their own."
            )
            yield Note("remark", calls, text, _UNILM)


def _of_outputs(graph: Graph, ties: Ties) -> Iterator[Note]:
    """Yield a remark on each recurrent or attention layer whose calls lead to different outputs."""
    order, ends = reachability(graph), {node_id for node_id, _ in graph.outputs}
    for layer, calls in ties.items():
        reached = [ends & {call, *order.descendants(call)} for call in calls]
        is_split = all(a.isdisjoint(b) for a, b in itertools.combinations(reached, 2))
        mixes = is_recurrent(graph.node(layer)) or is_attention(graph.node(layer))
        if mixes and is_split and all(reached):
            text = (
                f"{named(graph, calls[:1])} is called {len(calls)} times with the same weights, "
                "each time for another output of the model. Twin encoders share so; layers that "
                "are trained for different targets usually have weights of their own."
            )
            yield Note("remark", calls, text, _TWINS)


def _in_series(graph: Graph, ties: Ties) -> Iterator[Note]:
    order = reachability(graph)
    in_series = [
        calls
        for calls in ties.values()
        if not graph.node(calls[0]).is_a({"Embedding"})
        and any(order.depends(b, on=a) for a, b in itertools.pairwise(calls))
    ]
    if in_series:
        names = named(graph, [calls[0] for calls in in_series], 4)
        text = (
            f"Layers are called one after the other with the same weights: {names}, "
            f"{max(map(len, in_series))} times. ALBERT and the Universal Transformer share whole "
            "blocks so; a layer that is made once outside of a loop is shared by mistake."
        )
        about = [call for calls in in_series for call in calls]
        yield Note("remark", tuple(about), text, _SHARED)


def _self_and_cross(graph: Graph, ties: Ties) -> Iterator[Note]:
    kinds = {a.id: a.is_self for a in attentions_with_masks(graph)[0] if a.is_one_call}
    for layer, calls in ties.items():
        own = {kinds[call] for call in calls if call in kinds}
        if own == {True, False}:
            text = (
                f"{named(graph, [layer])} is called as self-attention and as cross-attention, with "
                "the same weights: the two look for different things, and have weights of their "
                "own in every published design."
            )
            yield Note("finding", calls, text, _VASWANI)


def _shared_norms(graph: Graph, ties: Ties) -> Iterator[Note]:
    """Yield the norms that are called one after the other, where the layers around are not."""
    order = reachability(graph)
    for layer, calls in ties.items():
        if not is_norm(graph.node(layer)):
            continue
        pairs = [(a, b) for a, b in itertools.pairwise(calls) if order.depends(b, on=a)]
        for first, second in pairs:
            between = [
                node
                for node in graph.nodes
                if node.parameters
                and node.kind == "layer"
                and not is_norm(node)
                and order.depends(node.id, on=first)
                and order.depends(second, on=node.id)
            ]
            if between and not any(node.layer in ties for node in between):
                text = (
                    f"The norm {named(graph, [layer])} is called {len(calls)} times, one after the "
                    "other, with the same weights, although the layers between are different: "
                    "published blocks that share a norm share all of their layers."
                )
                yield Note("finding", calls, text, _SHARED)
                break
