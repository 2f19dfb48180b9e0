"""Whether outputs depend on later positions of an input, and by which call."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from plots.annotations import Note
from plots.attentions import Attention, attentions_with_masks
from plots.checking.attention import regions
from plots.checking.results import Check, Witness, witness_of
from plots.checking.samples import Field
from plots.checking.trials import Arrays, Trial
from plots.checking.visibility import Visibility, visibility
from plots.diagnosis.rules import named
from plots.graph import Graph, Node
from plots.measuring.execution import Place
from plots.reading.keras_calls import arguments_of
from plots.traversal import Reachability

NO_FUTURE = "Vaswani et al. 2017, Attention Is All You Need, sections 3.1 and 3.2.3"
_STREAMING = "Zhang et al. 2020, Transformer Transducer, section 3 (causal encoders, for streams)"
_ONE_WAY = frozenset({"autoregressive", "bloom", "causal", "decoder", "falcon", "gemma", "gpt"})
_ONE_WAY |= {"llama", "lm", "mistral", "opt", "palm", "qwen"}
_BOTH_WAYS = frozenset({"bert", "bidirectional", "encoder", "masked", "mlm", "prefix"})
_WORDS = re.compile("[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_MASK_NAMES = re.compile("causal|look_?ahead|autoregress|subsequent", re.IGNORECASE)


def check_causality(trial: Trial, seen: Mapping[str, Visibility]) -> Iterator[Check]:
    """Yield what the outputs see of every input whose positions they share.

    Args:
        trial: The model.
        seen: What its self-attentions see, by id.
    """
    refuted = dict(_refuted(trial, seen))
    pairs = [
        (field, number, found)
        for field in trial.probed_fields
        for number, found in _outputs_in_line(trial, field)
    ]
    one_way = {number for _, number, found in pairs if found.kind == "causal"}
    pairs.sort(key=lambda pair: -len(_causal_attentions(trial, pair[0], pair[1], seen)))
    told: set[str] = set()
    for field, number, found in pairs:
        after = trial.probed[field.place]
        what = f"output {number}" if len(trial.graph.outputs) > 1 else "the output"
        yield Check(
            "causality",
            found.kind,
            Note(
                "description", (), f"each position of {what} sees {found.text}, of {field.name!r}"
            ),
        )
        if found.is_causal:
            yield from _in_training(trial, field, number, seen)
            continue
        if number in one_way:  # in line with another input, of which it sees no later position
            continue
        crossings = crossings_of(trial, trial.values, after)
        note = _note_on(trial, field, number, found, crossings, seen, refuted)
        if note is not None:
            one_way.add(number)  # what else it sees follows from this, or is said there
            told.update(note.about)
            told.update(i for i, claim in refuted.items() if claim in note.text)
            yield Check("causality", found.kind, note, _witness(trial, field, number, found))
    for node_id, claim in refuted.items():
        if node_id not in told:
            text = (
                f"{named(trial.graph, [node_id])} is no causal attention, although {claim}: each "
                f"position sees {seen[node_id].text}."
            )
            yield Check(
                "causality", seen[node_id].kind, Note("finding", (node_id,), text, NO_FUTURE)
            )
    if not told and not refuted:  # else the roles of encoder and decoder may be swapped
        yield from _causal_encoders(trial, seen)


def _witness(
    trial: Trial, field: Field, number: int, found: Visibility, training: bool = False
) -> Witness | None:
    import numpy as np

    if found.example is None:
        return None
    query, key = found.example
    row = trial.samples.probes.index(key) + trial.samples.first
    changed = trial.samples.changed(trial.base, field.place, [(row, key)])
    before = trial.values if not training else trial.run(trial.base, training)
    after = trial.run(changed, training)
    place = trial.graph.outputs[number]
    where = np.zeros(before[place].shape, bool)
    where[row, query] = True
    change = f"Changing {field.name!r} at [{row}, {key}]"
    return witness_of(
        trial, (trial.base, before), (changed, after), number, change, where, training
    )


def _outputs_in_line(
    trial: Trial, field: Field, values: Arrays | None = None, after: Arrays | None = None
) -> Iterator[tuple[int, Visibility]]:
    """Yield the outputs whose positions are those of an input, and what they see of it."""
    attentions, _, _ = attentions_with_masks(trial.graph)
    others = {e.id for a in attentions for e in (*a.keys, *a.values, *a.masks)}

    def follow(edge: object) -> bool:
        place = (edge.source, edge.output)  # type: ignore[attr-defined]
        return edge.id not in others and _has_positions(trial, place)  # type: ignore[attr-defined]

    lined = Reachability(trial.graph, follow)
    for number, place in enumerate(trial.graph.outputs):
        if place[0] != field.place and lined.depends(place[0], on=field.place):
            tensor = trial.graph.node(place[0]).outputs[place[1]]
            if len(tensor.shape) > 2 or (len(tensor.shape) == 2 and tensor.shape[1] is None):
                found = trial.dependence(
                    place,
                    (values or trial.values)[place],
                    (after or trial.probed[field.place])[place],
                )
                if found.matrices:
                    yield number, visibility(found.matrices[0], trial.samples.probes)


def _has_positions(trial: Trial, place: Place) -> bool:
    array = trial.values.get(place)
    return array is not None and (
        trial.samples.length in array.shape[1:]
        or trial.graph.node(place[0]).kind == "input"  # also a text that the model splits
        or (array.ndim > 0 and array.shape[0] != trial.samples.batch)
    )


def crossings_of(trial: Trial, before: Arrays, after: Arrays) -> list[str]:
    """Return the calls at which a change first reaches an earlier position; attentions by id."""
    probes = trial.samples.probes

    def sees_later(place: Place) -> bool | None:
        found = trial.dependence(place, before[place], after[place])
        if not found.rows:
            return None
        if not found.matrices:
            return bool(found.moved.any()) and trial.graph.node(place[0]).kind != "input"
        return not any(visibility(matrix, probes).is_causal for matrix in found.matrices)

    return by_attention(trial.graph, trial.first_crossings(sees_later))


def by_attention(graph: Graph, calls: Sequence[str]) -> list[str]:
    """Return calls with the steps of an attention replaced by its id."""
    owner = {
        node_id: attention
        for attention, inside in regions(graph).items()
        for node_id in inside
        if len(inside) > 1
    }
    return list(dict.fromkeys(owner.get(node_id, node_id) for node_id in calls))


def _note_on(
    trial: Trial,
    field: Field,
    number: int,
    found: Visibility,
    crossings: Sequence[str],
    seen: Mapping[str, Visibility],
    refuted: Mapping[str, str],
) -> Note | None:
    """Return a finding if later positions are seen where something says they are not."""
    claim = _claim(trial, field, number, found, crossings, seen, refuted)
    query, key = found.example or (0, 0)
    where = f"The change first crosses at {named(trial.graph, crossings, 3)}." * bool(crossings)
    facts = (
        f"The output at position {query} changes with {field.name!r} at position {key}, in the "
        f"future: each position sees {found.text}"
    )
    if claim:
        text = (
            f"{facts}, although {claim}. {where} A model trained to predict what comes next learns "
            "to look it up."
        )
        same = [i for i, own in refuted.items() if own == claim]
        return Note("finding", tuple(dict.fromkeys([*crossings, *same])), text, NO_FUTURE)
    if found.kind != "all" or not _predicts_own_tokens(trial, field, number):
        return None
    if _direction(trial.graph.name) == "both":
        return None
    text = (
        f"{facts}, and it has a score for each token of {field.name!r}. {where} That is a masked "
        "language model; one that predicts the next token needs a causal mask."
    )
    return Note("remark", tuple(crossings), text, NO_FUTURE)


def _claim(
    trial: Trial,
    field: Field,
    number: int,
    found: Visibility,
    crossings: Sequence[str],
    seen: Mapping[str, Visibility],
    refuted: Mapping[str, str],
) -> str:
    """Return what says that no later position is seen, or ""."""
    graph = trial.graph
    for node_id in crossings:
        if node_id in refuted:
            return refuted[node_id]
    if found.kind == "prefix" and all(i in seen and seen[i].kind == "prefix" for i in crossings):
        return ""
    causal = _causal_attentions(trial, field, number, seen)
    if causal:
        verb = "see" if len(causal) > 1 else "sees"
        return f"the self-attention{'s' * (len(causal) > 1)} {named(graph, causal)} {verb} none"
    convolutions = [
        node.id
        for node in graph.nodes
        if node.config.get("padding") == "causal" and _is_between(trial, field, number, node.id)
    ]
    if convolutions:
        return f"{named(graph, convolutions)} has causal padding"
    odd = [i for i in crossings if i in seen and seen[i].kind in ("future", "first")]
    odd += [i for i in crossings if i in seen and seen[i].kind == "ahead" and seen[i].size == 1]
    if odd:
        return f"{named(graph, odd)} has a mask, by which each position sees {seen[odd[0]].text}"
    names = [graph.name, *(graph.node(i).namespace for i in crossings)]
    name = next((name for name in names if _direction(name) == "one"), "")
    if name and field.kind in ("ids", "texts"):
        return f"{name!r} is the name of a model that has a causal mask"
    if _predicts_own_tokens(trial, field, number) and _has_memory(trial, field, number):
        return (
            f"it decodes: it has a score for each token of {field.name!r}, and takes another "
            "sequence besides"
        )
    return ""


def _causal_attentions(
    trial: Trial, field: Field, number: int, seen: Mapping[str, Visibility]
) -> list[str]:
    """Return the self-attentions between an input and an output that see no later position."""
    in_line = _attentions_in_line(trial, field, number)
    return [a.id for a in in_line if a.id in seen and seen[a.id].kind == "causal"]


def _attentions_in_line(trial: Trial, field: Field, number: int) -> list[Attention]:
    """Return the self-attentions whose queries come from an input, on the way to an output."""
    attentions, flow, _ = attentions_with_masks(trial.graph)
    end = trial.graph.outputs[number][0]
    return [
        a
        for a in attentions
        if a.is_self
        and flow.depends(a.query.source, on=field.place)
        and (a.output == end or flow.depends(end, on=a.output))
    ]


def _is_between(trial: Trial, field: Field, number: int, node_id: str) -> bool:
    end = trial.graph.outputs[number][0]
    return trial.flow.depends(node_id, on=field.place) and (
        node_id == end or trial.flow.depends(end, on=node_id)
    )


def _predicts_own_tokens(trial: Trial, field: Field, number: int) -> bool:
    """Return whether an output has a number for each id that an input may hold."""
    node_id, output = trial.graph.outputs[number]
    tensor = trial.graph.node(node_id).outputs[output]
    size = max(field.ids, default=-2) + 1
    return field.kind == "ids" and len(tensor.shape) == 3 and tensor.shape[-1] == size


def _has_memory(trial: Trial, field: Field, number: int) -> bool:
    """Return whether an output depends on another input in every position."""
    place = trial.graph.outputs[number]
    for other in trial.probed_fields:
        if other is not field and place[0] != other.place:
            lines = [n for n, _ in _outputs_in_line(trial, other)]
            after = trial.probed[other.place]
            moved = trial.moved(place, trial.values[place], after[place])
            if number not in lines and moved.any():
                return True
    return False


def _direction(name: str) -> str:
    """Return "one" for the name of a model that sees no later token, "both", or ""."""
    words = {word.lower() for word in _WORDS.findall(name)} | set(
        re.findall("[a-z]+", name.lower())
    )
    if words & _BOTH_WAYS or any(word.endswith(("bert", "berta")) for word in words):
        return "both"
    if words & _ONE_WAY or {"language", "model"} <= words:
        return "one"
    return ""


def _refuted(trial: Trial, seen: Mapping[str, Visibility]) -> Iterator[tuple[str, str]]:
    """Yield (id, claim) for the attentions that say that they are causal, and are not."""
    graph = trial.graph
    behind = Reachability(graph)
    for attention in attentions_with_masks(graph)[0]:
        found = seen.get(attention.id)
        if found is None or found.is_causal:
            continue
        flags = [c.port for c in attention.constants if "causal" in c.port and c.value]
        if flags:
            yield attention.id, f"it is called with {flags[0]}"
            continue
        starts = [edge.source for edge in attention.masks]
        calls = [graph.node(i) for i in {*starts, *behind.ancestors(*starts)}]
        calls = sorted(calls, key=lambda node: graph.index[node.id])
        if found.kind == "prefix":
            continue
        named_so = [node for node in calls if _says_causal(node)]
        if named_so:
            yield attention.id, f"{named(graph, [named_so[0].id])} is the name of a causal mask"
        elif _has_triangle(trial, {node.id for node in calls} | regions(graph)[attention.id]):
            yield attention.id, "it takes a triangular mask"


def _has_triangle(trial: Trial, inside: AbstractSet[str]) -> bool:
    """Return whether some calls return or take a matrix that is triangular and has two values."""
    import numpy as np

    length = trial.samples.length

    def is_triangle(array: Any) -> bool:
        if np.ndim(array) < 2 or np.shape(array)[-2:] != (length, length):
            return False
        square = np.reshape(array, (-1, length, length))[0]
        if square.dtype.kind not in "fiub" or len(np.unique(square)) != 2:
            return False
        lower = square == square[-1, 0]
        return any(np.array_equal(lower, np.tri(length, k=k, dtype=bool)) for k in (-1, 0, 1))

    for place, array in trial.values.items():
        if place[0] in inside and is_triangle(array):
            return True
    for call in trial.calls:
        if any(node_id in inside for node_id, _ in call.results):
            arrays = (value for port, value in arguments_of(call.record) if port not in call.edges)
            if any(is_triangle(value) for value in arrays if hasattr(value, "shape")):
                return True
    return False


def _says_causal(node: Node) -> bool:
    return node.role == "causal_mask" or bool(
        _MASK_NAMES.search(node.class_name)
        or (node.has_own_name and _MASK_NAMES.search(node.label))
    )


def _in_training(
    trial: Trial, field: Field, number: int, seen: Mapping[str, Visibility]
) -> Iterator[Check]:
    """Yield a finding if an output that sees no later position sees some in training."""
    after = trial.probed_in_training.get(field.place)
    if after is None:
        return
    before = trial.values_in_training
    for own, found in _outputs_in_line(trial, field, before, after):
        if own != number or found.is_causal:
            continue
        crossings = crossings_of(trial, before, after)
        claims = _attentions_in_line(trial, field, number) or _predicts_own_tokens(
            trial, field, number
        )
        query, key = found.example or (0, 0)
        text = (
            f"In training, the output at position {query} changes with {field.name!r} at position "
            f"{key}, in the future: {named(trial.graph, crossings, 3)} takes its statistics over "
            "all positions. In inference no later position is seen, so training and inference "
            "differ, and training leaks what is to be predicted."
        )
        note = Note("finding" if claims else "remark", tuple(crossings), text, NO_FUTURE)
        witness = _witness(trial, field, number, found, training=True)
        yield Check("causality", found.kind, note, witness)


def _causal_encoders(trial: Trial, seen: Mapping[str, Visibility]) -> Iterator[Check]:
    """Yield a remark if the self-attentions of an encoder of tokens see no later position."""
    attentions, flow, _ = attentions_with_masks(trial.graph)
    memories = [source for a in attentions if not a.is_self for source in a.memory]
    outputs = [i for i, _ in trial.graph.outputs]
    places = [
        a.id
        for a in attentions
        if a.is_self
        and a.id in seen
        and seen[a.id].kind == "causal"
        and any(flow.depends(memory, on=a.output) or memory == a.output for memory in memories)
        and not any(i == a.output or flow.depends(i, on=a.output) for i in outputs)
        and any(
            f.kind in ("ids", "texts") and flow.depends(a.id, on=f.place)
            for f in trial.samples.fields
        )
    ]
    if places:
        text = (
            f"The encoder sees no later position: {named(trial.graph, places)} is causal, although "
            "the whole source is known when it is encoded. Encoders of streams are made so."
        )
        yield Check("causality", "causal", Note("remark", tuple(places), text, _STREAMING))
