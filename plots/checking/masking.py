"""Whether masks find the padding that they are to hide: `Masking`, and comparisons with 0."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plots.annotations import Note
from plots.checking.results import Check, Run, shown, witness_of
from plots.checking.samples import Field
from plots.checking.trials import Trial
from plots.diagnosis.padding_value_rules import masking_too_late
from plots.diagnosis.rules import named

_MASKING = "Keras API, keras.layers.Masking; github.com/keras-team/keras/issues/6139"


_COMPARISONS = ("Greater", "NotEqual")
_TO_0 = ("Abs", "Absolute", "Any", "Max", "Norm", "Square", "Sum")


def check_masking(trial: Trial) -> Iterator[Check]:
    """Yield findings about masks that hide nothing."""
    yield from _masking_layers(trial)
    yield from _comparisons(trial)


def _comparisons(trial: Trial) -> Iterator[Check]:
    """Yield a finding for a mask of vectors that are not 0, where they never are.

    Such as embeddings to which positions were added: the ids of padding have a vector as well.
    """
    ids = [field for field in trial.samples.fields if field.kind == "ids" and len(field.shape) > 1]
    places = []
    for node in trial.graph.nodes:
        edges = trial.graph.incoming[node.id]
        is_with_0 = [constant.value for constant in node.constants] in ([0], [0.0])
        if node.operation not in _COMPARISONS or not is_with_0 or len(edges) != 1:
            continue
        source = trial.graph.node(edges[0].source)
        is_size = node.operation == "NotEqual" or source.operation in _TO_0
        is_of_vectors = len(edges[0].tensor.shape) == 3 or source.operation in _TO_0
        if is_size and is_of_vectors and "float" in edges[0].tensor.dtype:
            fields = [field for field in ids if trial.flow.depends(node.id, on=field.place)]
            places += [node.id] if fields and _is_always_true(trial, node.id, fields) else []
    if places:
        text = (
            f"A mask that hides nothing: {named(trial.graph, places)} looks for vectors of zeros, "
            "and finds none, also where the ids are 0, since the vector of an id is trained, and "
            "positions change it. Compare the ids: ops.not_equal(ids, 0)."
        )
        shows = (
            f"With these inputs, and with ids of 0, {named(trial.graph, places)} is always true."
        )
        witness = shown(trial, shows, exact=False)
        yield Check("padding", "seen", Note("finding", tuple(places), text, _MASKING), witness)


def _is_always_true(trial: Trial, node_id: str, fields: Sequence[Field]) -> bool:
    zeros = dict(trial.base)
    for field in fields:
        zeros[field.place] = zeros[field.place].copy()
        zeros[field.place][:, -max(field.shape[1] // 4, 1) :] = 0
    runs = trial.values, trial.run(zeros)
    return all(bool(values[node_id, 0].all()) for values in runs)


def _masking_layers(trial: Trial) -> Iterator[Check]:
    """Yield a finding for every `Masking` that takes no padding as it stands in the inputs.

    The last positions of all sequences of vectors get the value that it masks. What structure
    shows is left to the rule `masking_too_late`.
    """
    known = {place for note in masking_too_late(trial.graph) for place in note.about}
    for node in trial.graph.nodes:
        edges = trial.graph.incoming[node.id]
        if not node.is_a({"Masking"}) or node.id in known or not edges:
            continue
        fields = [
            field
            for field in trial.probed_fields
            if field.kind == "floats" and len(field.shape) == 3
            if trial.flow.depends(node.id, on=field.place)
        ]
        if not fields:
            continue
        value = float(node.config.get("mask_value", 0))
        run = _padded_with(trial, fields, value)
        # Zeros may become the value that is masked, as by a rescaling with an offset.
        runs = (run, _padded_with(trial, fields, 0.0)) if value else (run,)
        given = [one.values[edges[0].source, edges[0].output] for one in runs]
        has_positions = given[0].ndim == 3 and given[0].shape[1] in {f.shape[1] for f in fields}
        if not has_positions or any((one == value).all(axis=-1).any() for one in given):
            continue
        names = " and ".join(repr(field.place) for field in fields)
        text = (
            f"A mask that hides nothing: where {names} is {value:g}, "
            f"{named(trial.graph, [edges[0].source])} returns other numbers, so "
            f"{named(trial.graph, [node.id])} finds no position of {value:g} alone. Put the "
            "Masking before what changes the padding, such as a Dense with a bias, or positions."
        )
        change = f"Padding the end of {names} with {value:g}"
        witness = witness_of(trial, Run(trial.base, trial.values), run, 0, change)
        yield Check("padding", "seen", Note("finding", (node.id,), text, _MASKING), witness)


def _padded_with(trial: Trial, fields: Sequence[Field], value: float) -> Run:
    """Return the run with a value at the last positions of some inputs."""
    inputs = dict(trial.base)
    for field in fields:
        inputs[field.place] = inputs[field.place].copy()
        inputs[field.place][:, -max(field.shape[1] // 4, 1) :] = value
    return Run(inputs, trial.run(inputs))
