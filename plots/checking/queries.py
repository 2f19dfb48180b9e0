"""Attentions whose queries, or keys, are all the same vector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plots.annotations import Note
from plots.attention_parts import Attention
from plots.attentions import attentions_with_masks
from plots.checking.results import Check, shown
from plots.checking.trials import Trial
from plots.diagnosis.rules import doing, named
from plots.graph import Edge

if TYPE_CHECKING:
    import numpy as np

_ROUNDING = 1e-6
_BAHDANAU = "Bahdanau et al. 2015, Neural Machine Translation, section 3"
_CARION = "Carion et al. 2020, End-to-End Object Detection with Transformers, section 3.2"


def check_queries(trial: Trial) -> Iterator[Check]:
    """Yield a finding about queries that are one vector, so that an output repeats one vector.

    Equal queries get equal values from the same keys. Something later may still tell them apart,
    such as positions, and then no output is the same everywhere.
    """
    found = {
        attention.id: attention.query.source
        for attention in attentions_with_masks(trial.graph)[0]
        if _are_equal(trial, attention)
    }
    if found:
        text = (
            f"Queries that are all equal: {doing(trial.graph, [*found], 'take')} the same vector "
            f"as each query, from {named(trial.graph, [*dict.fromkeys(found.values())])}, and so "
            "an output of the model is the same at each of them. Queries need a vector of their "
            "own: a row of a table for each index, 0, 1, 2 and so on."
        )
        yield _of_equal(trial, "queries", [*found], text, _CARION)


def check_keys(trial: Trial) -> Iterator[Check]:
    """Yield a finding about keys that are one vector, so that nothing depends on the queries."""
    found = {
        attention.id: attention.keys[0].source
        for attention in attentions_with_masks(trial.graph)[0]
        if all(_is_one_vector(trial, edge) for edge in attention.keys)
    }
    if found:
        text = (
            f"Keys that are all equal: {doing(trial.graph, [*found], 'attend')} to the same vector "
            f"at each position, from {named(trial.graph, [*dict.fromkeys(found.values())])}, so "
            "that all weights are equal, whatever the query is. Attend to one vector for each "
            "position, such as all states of an encoder, return_sequences=True, and not to copies "
            "of the last one."
        )
        yield _of_equal(trial, "keys", [*found], text, _BAHDANAU)


def _of_equal(trial: Trial, what: str, ids: list[str], text: str, reference: str) -> Check:
    shows = f"With these inputs, all {what} of {named(trial.graph, ids)} are equal."
    witness = shown(trial, shows, exact=not trial.weights)
    return Check("order", "equal", Note("finding", tuple(ids), text, reference), witness)


def _is_one_vector(trial: Trial, edge: Edge) -> bool:
    """Return whether a sequence (b, t, d) is the same vector at all its positions."""
    array = trial.values.get((edge.source, edge.output))
    return array is not None and array.ndim == 3 and _is_constant(array, 1)


def _are_equal(trial: Trial, attention: Attention) -> bool:
    """Return whether the queries are equal, their values are, and an output is the same there."""
    queries = trial.values.get((attention.query.source, attention.query.output))
    values = trial.values.get((attention.output, 0))
    if queries is None or values is None or queries.ndim < 3:
        return False
    axes = [axis for axis in range(1, queries.ndim - 1) if _is_constant(queries, axis)]
    lengths = {queries.shape[axis] for axis in axes}
    if not lengths or not any(_repeats(values, length) for length in lengths):
        return False
    outputs = [
        place for place in trial.graph.outputs if trial.flow.depends(place[0], attention.output)
    ]
    arrays = [trial.values[place] for place in outputs]
    return any(_repeats(array, length) for array in arrays for length in lengths)


def _repeats(array: np.ndarray, length: int) -> bool:
    """Return whether an axis of this length, between the batch and the features, is constant."""
    axes = [axis for axis in range(1, array.ndim - 1) if array.shape[axis] == length]
    return array.ndim > 2 and any(_is_constant(array, axis) for axis in axes)


def _is_constant(array: np.ndarray, axis: int) -> bool:
    """Return whether an array is the same at all indices of an axis, and not everywhere."""
    import numpy as np

    if array.dtype.kind != "f" or array.shape[axis] < 2 or not np.isfinite(array).all():
        return False
    spread = float(np.ptp(array))
    return float(np.ptp(array, axis=axis).max()) <= _ROUNDING * spread < spread
