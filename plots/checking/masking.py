"""Whether `Masking` layers find the padding that they are to mask."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.checking.results import Check, Run, witness_of
from plots.checking.trials import Trial
from plots.diagnosis.padding_value_rules import masking_too_late
from plots.diagnosis.rules import named

_MASKING = "Keras API, keras.layers.Masking; github.com/keras-team/keras/issues/6139"


def check_masking(trial: Trial) -> Iterator[Check]:
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
        inputs = dict(trial.base)
        for field in fields:
            inputs[field.place] = inputs[field.place].copy()
            inputs[field.place][:, -max(field.shape[1] // 4, 1) :] = value
        run = Run(inputs, trial.run(inputs))
        given = run.values[edges[0].source, edges[0].output]
        has_positions = given.ndim == 3 and given.shape[1] in {f.shape[1] for f in fields}
        if not has_positions or (given == value).all(axis=-1).any():
            continue
        names = " and ".join(repr(field.name) for field in fields)
        text = (
            f"A mask that hides nothing: where {names} is {value:g}, "
            f"{named(trial.graph, [edges[0].source])} returns other numbers, so "
            f"{named(trial.graph, [node.id])} finds no position of {value:g} alone. Put the "
            "Masking before what changes the padding, such as a Dense with a bias, or positions."
        )
        change = f"Padding the end of {names} with {value:g}"
        witness = witness_of(trial, Run(trial.base, trial.values), run, 0, change)
        yield Check("padding", "seen", Note("finding", (node.id,), text, _MASKING), witness)
