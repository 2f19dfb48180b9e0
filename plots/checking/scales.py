"""Calls that divide by a statistic of what they take, and return the less the more they take."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import log
from typing import TYPE_CHECKING

from plots.annotations import Note
from plots.checking.modes import training_mode
from plots.checking.randomness import repeatable
from plots.checking.results import Check, shown
from plots.checking.trials import Trial
from plots.diagnosis.rules import doing
from plots.graph import Node
from plots.layers import TRACED
from plots.measuring.execution import Place, as_array, run_calls
from plots.norms import division_at
from plots.softmaxes import float_inputs

if TYPE_CHECKING:
    import numpy as np

_BA = "Ba et al. 2016, Layer Normalization, section 3"
_FACTOR = 8.0
_MOST = 8.0**-0.9
_LEAST_GROWN = 8.0**1.5
_ALIKE = 0.99
_POWER_ROUNDING = 0.1


def check_scales(trial: Trial) -> Iterator[Check]:
    """Yield findings about norms whose output shrinks as their input grows, or grows with it.

    A norm returns the same for 8 times its input. One that divides by a variance or its square, in
    the place of the root, returns 8 or 512 times less, and x / rsqrt(...) 64 times more.
    """
    ratios: dict[str, float] = {}
    settled = set[str]()  # steps on the way to a result in proportion, such as s |s|^2 of a squash
    for node in trial.graph.nodes:
        for region, place in _norms_by_hand(trial, node):
            ratio = _ratio(trial, node, region, place)
            if ratio is not None:
                ratios[node.id] = ratio
                settled |= region - {node.id} if _MOST <= ratio <= _LEAST_GROWN else set()
    wrong = {node_id: ratio for node_id, ratio in ratios.items() if node_id not in settled}
    grown = {node_id: ratio for node_id, ratio in wrong.items() if _is_power(ratio)}
    shrunk = {node_id: ratio for node_id, ratio in wrong.items() if ratio < _MOST}
    if grown:
        change = f"{max(grown.values()):.3g} times larger"
        text = (
            f"A norm that multiplies by the spread: {doing(trial.graph, [*grown], 'return')} "
            f"numbers {change} for inputs {_FACTOR:g} times larger, as after a division by the "
            "reciprocal root, x / rsqrt(...). Divide by the root, x / sqrt(...), or multiply by "
            "rsqrt."
        )
        yield _finding(trial, "growing", [*grown], text, change)
    if shrunk:
        change = f"{1 / min(shrunk.values()):.3g} times smaller"
        text = (
            f"A norm that does not normalise: {doing(trial.graph, [*shrunk], 'return')} numbers "
            f"{change} for inputs {_FACTOR:g} times larger, as after a division by a power of the "
            "spread that is not 1. Divide by the root of the variance: (x - mean) / sqrt(variance "
            "+ epsilon)."
        )
        yield _finding(trial, "shrinking", [*shrunk], text, change)


def _is_power(ratio: float) -> bool:
    """Return whether a ratio is a power of the factor above 1, unlike that of a squash."""
    power = log(ratio, _FACTOR)
    return ratio > _LEAST_GROWN and abs(power - round(power)) < _POWER_ROUNDING


def _finding(trial: Trial, verdict: str, ids: Sequence[str], text: str, change: str) -> Check:
    shows = f"{_FACTOR:g} times the input of a call makes its output {change}."
    witness = shown(trial, shows, exact=False)
    return Check("numbers", verdict, Note("finding", tuple(ids), text, _BA), witness)


def _norms_by_hand(trial: Trial, node: Node) -> Iterator[tuple[frozenset[str], Place]]:
    """Yield the calls of a norm that ends with a call, and the value it takes, if it may be one.

    Such as a layer of one's own, or a division of a value by a statistic of it.
    """
    graph = trial.graph
    edges = float_inputs(graph, node)
    if node.call_class:
        own = edges[0].tensor.shape[-1:] if len(edges) == 1 else ()
        is_small = bool(own) and node.parameters <= 4 * (own[0] or 0)
        if TRACED in node.traits and is_small and edges[0].tensor.shape == node.outputs[0].shape:
            yield frozenset({node.id}), (edges[0].source, edges[0].output)
        return
    division = division_at(graph, node)
    if division is not None:
        yield division


def _ratio(trial: Trial, node: Node, region: frozenset[str], place: Place) -> float | None:
    """Return how the output changes with inputs 8 times larger; None if not in proportion."""
    import numpy as np

    value = trial.values.get(place)
    if value is None or value.ndim < 2 or value.shape[-1] < 3 or value.dtype.kind != "f":
        return None
    try:
        first, second = (_output(trial, node, region, place, value * f) for f in (1.0, _FACTOR))
    except Exception:  # a layer may take more than its input
        return None
    if first.shape != value.shape or not first.any() or not np.isfinite(second).all():
        return None
    is_norm = _correlation([first, value]) > _ALIKE and _correlation([first, second]) > _ALIKE
    return float(np.abs(second).mean() / np.abs(first).mean()) if is_norm else None


def _output(
    trial: Trial, node: Node, region: frozenset[str], place: Place, value: np.ndarray
) -> np.ndarray:
    """Return the output of a call, with another value before the region that ends with it."""
    import keras
    from keras import ops

    sources = {e.source for i in region for e in trial.graph.incoming[i]} - region
    given = {p: v for p, v in trial.values.items() if p[0] in sources} | {place: value}
    known = {p: ops.convert_to_tensor(v, dtype=trial.dtypes[p]) for p, v in given.items()}
    own = [call for call in trial.calls if any(i in region for i, _ in call.results)]
    scope = keras.StatelessScope(list(trial.own_weights.weights), initialize_variables=False)
    with scope, training_mode(False), repeatable():
        return as_array(run_calls(trial.graph, own, known, {})[node.id, 0])


def _correlation(arrays: Sequence[np.ndarray]) -> float:
    """Return the least correlation of the vectors of two arrays, along the last axis."""
    import numpy as np

    centred = [a.astype("float64") - a.mean(axis=-1, keepdims=True) for a in arrays]
    norms = [np.sqrt(np.square(a).sum(axis=-1)) + 1e-30 for a in centred]
    return float(((centred[0] * centred[1]).sum(axis=-1) / (norms[0] * norms[1])).min())
