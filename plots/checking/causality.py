"""Whether outputs depend on later positions of an input, and by which call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.checking.claims import Leak, claim_of, predicts_own_tokens, refuted_claims
from plots.checking.lines import crossings_of, outputs_in_line
from plots.checking.results import Check, Run, Witness, said, shown, witness_of
from plots.checking.samples import Field
from plots.checking.trials import Trial
from plots.checking.visibility import Visibility, frontier
from plots.diagnosis.rules import named
from plots.layers import is_recurrent

NO_FUTURE = "Vaswani et al. 2017, Attention Is All You Need, sections 3.1 and 3.2.3"
_STREAMING = "Zhang et al. 2020, Transformer Transducer, section 3 (causal encoders, for streams)"


def check_causality(trial: Trial, seen: Mapping[str, Visibility]) -> Iterator[Check]:
    """Yield what the outputs see of every input whose positions they share.

    Args:
        trial: The model.
        seen: What its self-attentions see, by id.
    """
    refuted = dict(refuted_claims(trial, seen))
    lines = [
        Leak(trial, field, number, found, seen, refuted)
        for field in trial.probed_fields
        for number, found in outputs_in_line(trial, field)
        if found.kind != "nothing"
    ]
    one_way = {line.output for line in lines if line.found.kind == "causal"}
    lines.sort(key=lambda line: -len(line.causal_attentions))
    told: set[str] = set()
    for line in lines:
        text = f"each position of {_name(trial, line.output)} sees {line.found.text}"
        yield said("causality", line.found.kind, f"{text}, of {line.field.place!r}")
        if line.found.is_causal:
            yield from _in_training(line)
            continue
        if line.output in one_way:  # in line with another input, of which it sees nothing later
            continue
        note = _causal_in_training(line) or _note_on(line)
        if note is not None:
            one_way.add(line.output)  # what else it sees follows from this, or is said there
            told.update(note.about)
            told.update(i for i, claim in refuted.items() if claim in note.text)
            yield Check("causality", line.found.kind, note, _witness(line))
    for field in trial.probed_fields:
        yield from _outputs_of_other_lengths(trial, field)
        if len(trial.probed_fields) == 1 and not trial.mixes_samples:
            yield from _one_position(trial, field)
    for node_id, claim in refuted.items():
        if node_id not in told:
            yield _refuted(trial, node_id, claim, seen[node_id])
    if not told and not refuted:  # else the roles of encoder and decoder may be swapped
        yield from _causal_encoders(trial, seen)


def _refuted(trial: Trial, node_id: str, claim: str, found: Visibility) -> Check:
    """Return a finding about an attention that claims to be causal and is not."""
    text = (
        f"{named(trial.graph, [node_id])} is no causal attention, although {claim}: each position "
        f"sees {found.text}."
    )
    note = Note("finding", (node_id,), text, NO_FUTURE)
    return Check("causality", found.kind, note, _inside(trial, node_id, found))


def _inside(trial: Trial, node_id: str, found: Visibility) -> Witness | None:
    """Return the witness of an attention that was run alone."""
    if found.example is None:
        return None
    query, key = found.example
    shows = (
        f"Changing the vectors at position {key} that {named(trial.graph, [node_id])} takes moves "
        f"what it returns at position {query}."
    )
    return shown(trial, shows, exact=False)


def _name(trial: Trial, number: int) -> str:
    return f"output {number}" if len(trial.graph.outputs) > 1 else "the output"


def _witness(line: Leak, training: bool = False) -> Witness | None:
    trial, found = line.trial, line.found
    if found.example is None:
        return None
    query, key = found.example
    row = trial.samples.probes.index(key) + trial.samples.first
    changed = trial.samples.changed(trial.base, line.field.place, [(row, key)])
    before = trial.values_in_training if training else trial.values
    after = trial.run(changed, training)
    change = f"Changing {line.field.place!r} at [{row}, {key}]"
    runs = Run(trial.base, before), Run(changed, after)
    return witness_of(trial, *runs, line.output, change, (row, query), training)


def _note_on(line: Leak) -> Note | None:
    """Return a finding if later positions are seen where something says they are not."""
    trial, found, name = line.trial, line.found, line.field.place
    crossings = line.crossings
    claim = claim_of(line)
    query, key = found.example or (0, 0)
    where = f"The change first crosses at {named(trial.graph, crossings, 3)}." * bool(crossings)
    facts = (
        f"The output at position {query} changes with {name!r} at position {key}, in the "
        f"future: each position sees {found.text}"
    )
    if claim:
        text = (
            f"{facts}, although {claim}. {where} A model trained to predict what comes next learns "
            "to look it up; a causal mask, or causal padding, hides it."
        )
        same = [i for i, own in line.refuted.items() if own == claim]
        return Note("finding", tuple(dict.fromkeys([*crossings, *same])), text, NO_FUTURE)
    is_prefix = found.kind == "prefix" or line.is_prefix
    if is_prefix or not predicts_own_tokens(trial, line.field, line.output):
        return None
    text = (
        f"{facts}, and it has a score for each token of {name!r}. {where} That is a "
        f"{'backward' if found.kind == 'future' else 'masked'} language model; one that predicts "
        "the next token needs a causal mask."
    )
    return Note("remark", tuple(crossings), text, NO_FUTURE)


def _causal_in_training(line: Leak) -> Note | None:
    """Return a finding if an output sees no later position in training, and some in inference."""
    trial, name = line.trial, line.field.place
    after = trial.probed_in_training.get(line.field.place)
    if after is None:
        return None
    in_training = dict(outputs_in_line(trial, line.field, trial.values_in_training, after))
    if line.output not in in_training or in_training[line.output].kind != "causal":
        return None
    query, key = line.found.example or (0, 0)
    text = (
        f"The output at position {query} changes with {name!r} at position {key}, in the future, "
        f"in inference alone: {named(trial.graph, line.crossings, 3)} is causal in training and "
        f"not afterwards, where each position sees {line.found.text}. A model is used as it was "
        "trained: the mask must not depend on training=True."
    )
    return Note("finding", tuple(line.crossings), text, NO_FUTURE)


def _outputs_of_other_lengths(trial: Trial, field: Field) -> Iterator[Check]:
    """Yield the last position that outputs of another length see, where that moves along."""
    samples = trial.samples
    for number, place in enumerate(trial.graph.outputs):
        found = trial.dependence(place, trial.values[place], trial.probed[field.place][place])
        if found.own is None or found.matrices or found.own.ndim < 3:
            continue
        end = frontier(found.along(1), samples.probes, samples.length)
        if end is not None:
            text = f"position i of {_name(trial, number)} sees {field.place!r} up to position "
            yield said("causality", "aligned", text + end.text)


def _one_position(trial: Trial, field: Field) -> Iterator[Check]:
    """Yield a finding if an output without positions sees the first or last one alone.

    Such as the first position behind a causal mask, though something mixes positions before.
    """
    samples, ends = trial.samples, (0, trial.samples.length - 1)
    attentions = [a.output for a in attentions_with_masks(trial.graph)[0]]
    mixing = [*attentions, *(node.id for node in trial.graph.nodes if is_recurrent(node))]
    mixing = [i for i in mixing if trial.flow.depends(i, on=field.place)]
    for number, place in enumerate(trial.graph.outputs):
        found = trial.dependence(place, trial.values[place], trial.probed[field.place][place])
        seen = [p for p, is_seen in zip(samples.probes, found.moved, strict=True) if is_seen]
        is_mixed = any(trial.flow.depends(place[0], on=i) for i in mixing)
        is_whole = found.own is not None and found.own.ndim == 2  # (probes, features)
        if not (is_mixed and is_whole and len(samples.probes) > 2):
            continue
        if len(seen) == 1 and seen[0] in ends:
            which = "first" if seen[0] == 0 else "last"
            text = (
                f"{_name(trial, number).capitalize()} depends on the {which} position of "
                f"{field.place!r} alone: changing any other one changes nothing, although "
                f"{named(trial.graph, mixing)} {'mixes' if len(mixing) == 1 else 'mix'} positions. "
                "Behind a causal mask, only the last position has seen all."
            )
            note = Note("finding", (place[0],), text, NO_FUTURE)
            row = samples.first + len(samples.probes) // 2
            changed = samples.changed(
                trial.base, field.place, [(row, samples.probes[row - samples.first])]
            )
            inputs, others = map(trial.as_model_takes, (trial.base, changed))
            shows = f"Changing {field.place!r} at a position between changes no output."
            witness = Witness(
                inputs, others, "", number, (), 0.0, exact=not trial.weights, shows=shows
            )
            yield Check("causality", which, note, witness)


def _in_training(line: Leak) -> Iterator[Check]:
    """Yield a finding if an output that sees no later position sees some in training."""
    trial, name = line.trial, line.field.place
    after = trial.probed_in_training.get(line.field.place)
    if after is None:
        return
    before = trial.values_in_training
    for own, found in outputs_in_line(trial, line.field, before, after):
        if own != line.output or found.is_causal:
            continue
        crossings = crossings_of(trial, before, after)
        claims = line.attentions or predicts_own_tokens(trial, line.field, own)
        query, key = found.example or (0, 0)
        text = (
            f"In training, the output at position {query} changes with {name!r} at position "
            f"{key}, in the future: {named(trial.graph, crossings, 3)} takes its statistics over "
            "all positions. In inference no later position is seen, so training and inference "
            "differ, and training leaks what is to be predicted."
        )
        note = Note("finding" if claims else "remark", tuple(crossings), text, NO_FUTURE)
        witness = _witness(replace(line, found=found), training=True)
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
