"""Whether the outputs change with every input that they take."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plots.annotations import Note
from plots.checking.results import Check, Witness
from plots.checking.samples import Field
from plots.checking.trials import Arrays, Trial
from plots.diagnosis.rules import named
from plots.layers import is_norm, is_softmax
from plots.measuring.execution import Place

if TYPE_CHECKING:
    import numpy as np

_ROUNDED = 1e-5
"""Movement of a value, in units of its size, that may be rounding."""

_FADED = 1e-2
"""A smaller movement of an argument, in units of the result, fades rather than ends there."""

_LEVELLING = ("Divide", "Std", "Subtract", "TrueDivide", "Var")
"""Operations that take away what is the same in both of their arguments, or at all positions."""
_INSTANCE_NORM = "Ulyanov et al. 2016, Instance Normalization, equation 4"


def check_effects(trial: Trial) -> Iterator[Check]:
    """Yield a finding for every input that the outputs take, and that moves none of them.

    An input of which calls take the shape alone, or only their masks, is left out.
    """
    outputs = trial.graph.outputs
    for field in trial.samples.fields:
        is_taken = any(trial.flow.depends(end, on=field.place) for end, _ in outputs)
        if field.kind not in ("floats", "ids") or not is_taken or trial.random:
            continue
        probed = trial.probed.get(field.place)
        if probed is not None and _moves(trial, probed):
            continue
        changed = dict(trial.base)
        for seed in (1, 2):
            changed[field.place] = trial.samples.base(seed)[field.place]
            after = trial.run(changed)
            if _moves(trial, after) or (changed[field.place] == trial.base[field.place]).all():
                break
        else:
            ends = _ends(trial, after)
            if ends:
                yield _without_effect(trial, field, ends, changed)


def _moves(trial: Trial, after: Arrays) -> bool:
    return any(_movement(trial, place, after) > _ROUNDED for place in trial.graph.outputs)


def _movement(trial: Trial, place: Place, after: Arrays, beside: Place | None = None) -> float:
    """Return how far a value moves, in units of its own size, or that of another value."""
    import numpy as np

    before = trial.values[place]
    if before.dtype.kind != "f":
        return float((before != after[place]).any())
    sizes = np.abs(trial.values[beside or place])
    moved = np.abs(after[place] - before)
    return float(moved.max(initial=0.0) / max(float(sizes.mean()), 1e-30))


def _ends(trial: Trial, after: Arrays) -> list[str]:
    """Return the calls that take what moves, and return what does not, whatever else is given.

    None if the effect only fades: a branch with a gain near 0 moves little of what it is added to,
    and may grow in training. None, too, if other inputs may decide: an image has no effect on a
    text without a place for it.
    """
    moved = {place for place in after if _movement(trial, place, after) > _ROUNDED}
    ends = []
    for node in trial.graph.nodes:
        own = [place for place in after if place[0] == node.id]
        edges = [e for e in trial.graph.incoming[node.id] if (e.source, e.output) in moved]
        if edges and own and moved.isdisjoint(own):
            places = [(edge.source, edge.output) for edge in edges]
            if min(_movement(trial, place, after, own[0]) for place in places) < _FADED:
                return []
            if not (is_norm(node) or is_softmax(node) or node.operation in _LEVELLING):
                return []
            ends.append(node.id)
    return ends


def _without_effect(
    trial: Trial, field: Field, ends: list[str], changed: dict[str, np.ndarray]
) -> Check:
    """Return a finding about an input, with the calls at which its effect ends."""
    text = (
        f"An input without effect: no output changes with {field.place!r}, in two other batches of "
        f"random numbers. Its effect ends at {named(trial.graph, ends, 3)}, as where a norm over "
        "positions takes away what is the same at all of them, or a tensor is subtracted from "
        "itself."
    )
    inputs = trial.as_model_takes(trial.base), trial.as_model_takes(changed)
    shows = f"With other numbers for {field.place!r}, no output moves."
    exact = not trial.weights
    witness = Witness(*inputs, f"Changing {field.place!r}", 0, (), 0.0, exact=exact, shows=shows)
    note = Note("finding", (field.place, *ends), text, _INSTANCE_NORM)
    return Check("effects", "none", note, witness)
