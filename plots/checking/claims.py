"""What says that a position sees no later one: claims that running confirms or refutes.

A claim is a switch such as `use_causal_mask`, a triangular mask, a declared role, causal padding, a
causal attention or a one-way recurrent layer beside the leak, or a name that says it: "causal", or
a family of models that see no later token, such as "gpt". A name only claims; what the model does
is found by running it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from plots.attentions import Attention, attentions_with_masks
from plots.checking.attention import regions
from plots.checking.lines import crossings_of, outputs_in_line
from plots.checking.samples import Field
from plots.checking.trials import Trial
from plots.checking.visibility import Visibility, visibility
from plots.diagnosis.rules import named
from plots.graph import Constant, Graph, Node
from plots.layers import RECURRENT
from plots.reading.keras_calls import arguments_of
from plots.traversal import reachability

_STATES_IT = re.compile(
    "causal|look_?ahead|autoregress|subsequent|next[-_ ]?(char|frame|step|token|word)|"
    "text[-_ ]?generat|char[-_ ]?rnn",
    re.IGNORECASE,
)
_DENIES_IT = re.compile("(non|not|un|bi)[-_ ]?(causal|autoregress)", re.IGNORECASE)
_ONE_WAY = frozenset({"autoregressive", "bloom", "causal", "decoder", "falcon", "gemma", "gpt"})
_ONE_WAY |= {"llama", "lm", "mistral", "opt", "palm", "qwen"}
_BOTH_WAYS = frozenset({"bert", "bidirectional", "encoder", "masked", "mlm", "non", "prefix"})
_WORDS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


@dataclass(frozen=True)
class Leak:
    """What an output sees of an input whose positions it shares, and what surrounds it.

    Attributes:
        trial: The model.
        field: The input.
        output: Number of the output.
        found: What its positions see.
        seen: What the self-attentions of the model see, by id.
        refuted: Claims of attentions that are not causal, by id.
    """

    trial: Trial
    field: Field
    output: int
    found: Visibility
    seen: Mapping[str, Visibility]
    refuted: Mapping[str, str]

    @cached_property
    def crossings(self) -> list[str]:
        """The calls at which later positions are first seen."""
        return crossings_of(self.trial, self.trial.values, self.trial.probed[self.field.place])

    @property
    def is_prefix(self) -> bool:
        """Whether later positions are seen within a prefix alone, as runs show or masks declare.

        Runs do not show it where attentions to a prefix have a window.
        """
        masked = attentions_with_masks(self.trial.graph)[2]
        kinds = [self.seen[i].kind if i in self.seen else "" for i in self.crossings]
        is_seen = self.found.kind == "prefix" and all(kind == "prefix" for kind in kinds)
        declared = [i in masked and masked[i].direction == "prefix" for i in self.crossings]
        is_declared = bool(declared) and all(declared) and self.found.kind not in ("all", "future")
        return is_seen or is_declared

    @cached_property
    def attentions(self) -> list[Attention]:
        """The self-attentions whose queries come from the input, on the way to the output."""
        attentions, flow, _ = attentions_with_masks(self.trial.graph)
        end = self.trial.graph.outputs[self.output][0]
        return [
            a
            for a in attentions
            if a.is_self
            and flow.depends(a.query.source, on=self.field.place)
            and (a.output == end or flow.depends(end, on=a.output))
        ]

    @cached_property
    def one_way(self) -> list[str]:
        """The recurrent layers between input and output whose steps see no later one.

        One that reads another sequence, or goes backwards, is none of them.
        """
        trial, place = self.trial, self.field.place
        calls = [n for n in trial.graph.nodes if n.is_a(RECURRENT) and self.passes(n.id)]
        found = []
        for node in calls:
            own = (node.id, 0)
            after = trial.probed[place].get(own)
            if after is not None and own in trial.values:
                seen = trial.dependence(own, trial.values[own], after).matrices
                if seen and visibility(seen[0], trial.samples.probes).kind == "causal":
                    found.append(node.id)
        return found

    @property
    def causal_attentions(self) -> list[str]:
        """Those of them that see no later position."""
        seen = self.seen
        return [a.id for a in self.attentions if a.id in seen and seen[a.id].kind == "causal"]

    def passes(self, node_id: str) -> bool:
        """Return whether a call lies between the input and the output."""
        flow, end = self.trial.flow, self.trial.graph.outputs[self.output][0]
        return flow.depends(node_id, on=self.field.place) and flow.depends(end, on=node_id)


def claim_of(leak: Leak) -> str:
    """Return what says that no later position is seen, or ""."""
    graph, seen, crossings = leak.trial.graph, leak.seen, leak.crossings
    for node_id in crossings:
        if node_id in leak.refuted:
            return leak.refuted[node_id]
    if leak.is_prefix:
        return ""
    if causal := leak.causal_attentions:
        verb = "see" if len(causal) > 1 else "sees"
        return f"the self-attention{'s' * (len(causal) > 1)} {named(graph, causal)} {verb} none"
    if masked := [a.id for a in leak.attentions if _has_triangular_mask(leak.trial, a)]:
        return f"{named(graph, masked)} {'take' if len(masked) > 1 else 'takes'} a triangular mask"
    switched = [a.id for a in leak.attentions if any(map(_is_causal_switch, a.constants))]
    predicts = predicts_own_tokens(leak.trial, leak.field, leak.output)
    if predicts and len(switched) == len(leak.attentions) > 0:
        verb = "are" if len(switched) > 1 else "is"
        return f"{named(graph, switched)} {verb} called with a causal mask"
    convolutions = [node.id for node in graph.nodes if _has_causal_padding(graph, node)]
    if padded := [node_id for node_id in convolutions if leak.passes(node_id)]:
        return f"{named(graph, padded)} {'have' if len(padded) > 1 else 'has'} causal padding"
    if one_way := _one_way_decoder(leak):
        steps = f"the steps of {named(graph, one_way)}"
        return f"{steps} see none, and it has a score for each of its tokens"
    odd = [i for i in crossings if i in seen and seen[i].kind in ("future", "first")]
    odd += [i for i in crossings if i in seen and seen[i].kind == "ahead" and seen[i].size == 1]
    if odd:
        return f"{named(graph, odd)} has a mask, by which each position sees {seen[odd[0]].text}"
    names = [graph.name] * (not _another_is_causal(leak))
    names += [graph.node(i).namespace for i in crossings]
    if leak.field.kind in ("ids", "texts") and (name := next(filter(_is_one_way, names), "")):
        return f"{name!r} is the name of a model that has a causal mask"
    if name := next(filter(_states_it, names), ""):
        return f"{name!r} is the name of a model that sees none"
    decodes = predicts_own_tokens(leak.trial, leak.field, leak.output) and _has_memory(leak)
    if decodes and not _DENIES_IT.search(graph.name):
        return (
            f"it decodes: it has a score for each token of {leak.field.place!r}, and takes another "
            "sequence besides"
        )
    return ""


def _has_causal_padding(graph: Graph, node: Node) -> bool:
    """Return whether a convolution is padded so that no step takes a later one.

    By itself, or by zeros in front, as many as it reaches back.
    """
    edges = graph.incoming[node.id]
    if node.config.get("padding") != "valid" or len(edges) != 1:
        return node.config.get("padding") == "causal"
    before = graph.node(edges[0].source)
    size, rate = node.config.get("kernel_size"), node.config.get("dilation_rate", [1])
    if not before.is_a({"ZeroPadding1D"}) or not isinstance(size, list | tuple):
        return False
    return list(before.config.get("padding", ())) == [(size[0] - 1) * rate[0], 0] and size[0] > 1


def _one_way_decoder(leak: Leak) -> list[str]:
    """Return the one-way recurrent layers of a decoder that sees the future by attention alone."""
    attentions = {attention.id for attention in attentions_with_masks(leak.trial.graph)[0]}
    by_attention = bool(leak.crossings) and attentions.issuperset(leak.crossings)
    decodes = by_attention and predicts_own_tokens(leak.trial, leak.field, leak.output)
    if (
        not decodes
        or _is_two_way(leak.trial.graph.name)
        or _DENIES_IT.search(leak.trial.graph.name)
    ):
        return []
    return leak.one_way


def _is_two_way(name: str) -> bool:
    """Return whether a name is that of a model that sees later tokens."""
    words = _words(name)
    return bool(words & _BOTH_WAYS) or any(word.endswith(("bert", "berta")) for word in words)


def _words(name: str) -> set[str]:
    return {word.lower() for word in _WORDS.findall(name)} | {*re.findall("[a-z]+", name.lower())}


def _is_one_way(name: str) -> bool:
    """Return whether a name is that of a model that sees no later token."""
    words = _words(name)
    if _is_two_way(name):
        return False
    says_so = words & _ONE_WAY or {"language", "model"} <= words or _STATES_IT.search(name)
    return bool(says_so) and not _DENIES_IT.search(name)


def _states_it(name: str) -> bool:
    """Return whether a name says that no later position is seen, whatever the positions are."""
    says_so = _STATES_IT.search(name) and not _DENIES_IT.search(name)
    return bool(says_so) and not _is_two_way(name)


def predicts_own_tokens(trial: Trial, field: Field, output: int) -> bool:
    """Return whether an output has a number for each id that an input may hold."""
    if field.kind != "ids" or not len(field.ids):
        return False
    node_id, number = trial.graph.outputs[output]
    tensor = trial.graph.node(node_id).outputs[number]
    size = max(int(field.ids[-1]), int(field.padding or 0)) + 1
    return len(tensor.shape) == 3 and tensor.shape[-1] == size


def _another_is_causal(leak: Leak) -> bool:
    """Return whether an output sees no later position of another input, as in encoder-decoders."""
    others = (field for field in leak.trial.probed_fields if field is not leak.field)
    lines = (found for field in others for _, found in outputs_in_line(leak.trial, field))
    return any(found.kind == "causal" for found in lines)


def _has_memory(leak: Leak) -> bool:
    """Return whether an output depends on another input in every position."""
    trial = leak.trial
    place = trial.graph.outputs[leak.output]
    for other in trial.probed_fields:
        if other is not leak.field and place[0] != other.place:
            lines = [number for number, _ in outputs_in_line(trial, other)]
            after = trial.probed[other.place]
            moved = trial.moved(place, trial.values[place], after[place])
            if leak.output not in lines and moved.any():
                return True
    return False


def refuted_claims(trial: Trial, seen: Mapping[str, Visibility]) -> Iterator[tuple[str, str]]:
    """Yield (id, claim) for the attentions that say that they are causal, and are not."""
    graph = trial.graph
    for attention in attentions_with_masks(graph)[0]:
        found = seen.get(attention.id)
        if found is None or found.is_causal:
            continue
        flags = [c.port for c in attention.constants if _is_causal_switch(c)]
        if flags:
            yield attention.id, f"it is called with {flags[0]}"
            continue
        if found.kind == "prefix":
            continue
        stating = [node for node in _calls_of_masks(graph, attention) if _states_causality(node)]
        if stating:
            yield attention.id, f"{named(graph, [stating[0].id])} is the name of a causal mask"
        elif _has_triangular_mask(trial, attention):
            yield attention.id, "it takes a triangular mask"


def _is_causal_switch(constant: Constant) -> bool:
    return "causal" in constant.port and constant.value is True


def _calls_of_masks(graph: Graph, attention: Attention) -> list[Node]:
    """Return the calls that compute the masks of an attention, in order."""
    starts = [edge.source for edge in attention.masks]
    ids = {*starts, *reachability(graph).ancestors(*starts)}
    return [graph.node(node_id) for node_id in sorted(ids, key=graph.index.__getitem__)]


def _has_triangular_mask(trial: Trial, attention: Attention) -> bool:
    """Return whether a matrix with two values that is triangular masks an attention."""
    inside = {node.id for node in _calls_of_masks(trial.graph, attention)}
    inside |= regions(trial.graph)[attention.id]
    if any(_is_triangle(array) for place, array in trial.values.items() if place[0] in inside):
        return True
    for call in trial.calls:
        if any(node_id in inside for node_id, _ in call.results):
            arrays = (value for port, value in arguments_of(call.record) if port not in call.edges)
            if any(_is_triangle(value) for value in arrays if hasattr(value, "shape")):
                return True
    return False


def _is_triangle(array: Any) -> bool:
    import numpy as np

    shape = np.shape(array)
    if len(shape) < 2 or min(shape[-2:]) < 3:
        return False
    matrix = np.reshape(array, (-1, *shape[-2:]))[0]
    if matrix.dtype.kind not in "fiub" or len(np.unique(matrix)) != 2:
        return False
    queries, keys = matrix.shape
    lower = matrix == matrix[-1, 0]
    return any(np.array_equal(lower, np.tri(queries, keys, k, dtype=bool)) for k in (-1, 0, 1))


def _states_causality(node: Node) -> bool:
    names = [node.class_name, *([node.label] if node.has_own_name else [])]
    stated = (bool(_STATES_IT.search(n)) and not _DENIES_IT.search(n) for n in names)
    return node.role == "causal_mask" or any(stated)
