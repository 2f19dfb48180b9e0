"""What the queries of each self-attention see, found by running it alone."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice, product
from typing import TYPE_CHECKING

from plots.attentions import Attention, attentions_with_masks
from plots.checking.modes import training_mode
from plots.checking.randomness import repeatable
from plots.checking.trials import Trial
from plots.checking.visibility import Visibility, visibility
from plots.graph import Graph
from plots.measuring.execution import Place, as_array, run_calls
from plots.traversal import once_per_graph

if TYPE_CHECKING:
    import numpy as np


def seen_by_attentions(trial: Trial) -> dict[str, Visibility]:
    """Return what each self-attention sees, by its id.

    The values that its queries, keys and values are computed from are changed at one position in
    every row, and the calls of the attention run again. An attention is left out if that cannot be
    done: if its output has no axis of positions, or it is one step of a closed layer.
    """
    found = {}
    for attention in attentions_with_masks(trial.graph)[0]:
        if attention.is_self and trial.samples.batch > trial.samples.first:
            seen = _seen(trial, attention)
            if seen is not None and seen.kind != "nothing":
                found[attention.id] = seen
    return found


def _seen(trial: Trial, attention: Attention) -> Visibility | None:
    edges = (attention.query, *attention.keys, *attention.values)
    values: dict[Place, np.ndarray] = dict(trial.values)
    trial = trial.at(trial.samples.at(_length_of(trial, attention), trial.samples.batch))
    places = [*dict.fromkeys((edge.source, edge.output) for edge in edges)]
    before = _run(trial, attention, values)
    matrices = []
    # Heads may be as wide as the sequence is long. A change along features moves all positions.
    for axes in islice(product(*(_axes_of(trial, values[place]) for place in places)), _MOST_AXES):
        changed = {
            p: _changed(trial, values[p], axis) for p, axis in zip(places, axes, strict=True)
        }
        after = _run(trial, attention, values | changed)
        matrix = trial.dependence((attention.output, 0), before, after).best()
        matrices += [] if matrix is None else [matrix]
    matrix = min(matrices, key=lambda one: int(one.sum()), default=None)
    return None if matrix is None else visibility(matrix, trial.samples.probes)


_MOST_AXES = 8
"""Combinations of axes of queries, keys and values that are tried as those of the positions."""


def _length_of(trial: Trial, attention: Attention) -> int:
    """Return the number of positions of an attention, which may differ from that of the inputs.

    Such as with a class token in front, or with the patches of an image.
    """
    if attention.axes is not None and attention.axes[0] is not None:
        return trial.values[attention.id, 0].shape[attention.axes[0]]
    shape = trial.values[attention.query.source, attention.query.output].shape
    if len(shape) == 3:  # an axis of features may be as long as a sequence, too
        return shape[1]
    fields = trial.samples.fields
    known = {field.shape[1] for field in fields if field.has_positions and len(field.shape) > 1}
    same = [size for size in shape[1:] if size in {trial.samples.length, *known}]
    return next(iter(same), 0)


def _run(trial: Trial, attention: Attention, given: Mapping[Place, np.ndarray]) -> np.ndarray:
    """Return the output of an attention for the values before it."""
    import keras
    from keras import ops
    from keras.src.backend.common.masking import set_keras_mask

    inside = regions(trial.graph)[attention.id]
    sources = {edge.source for node_id in inside for edge in trial.graph.incoming[node_id]}
    own = [call for call in trial.calls if any(node in inside for node, _ in call.results)]
    known = {
        place: ops.convert_to_tensor(value, dtype=trial.dtypes[place])
        for place, value in given.items()
        if place[0] not in inside and place[0] in sources
    }
    for place, tensor in known.items():
        if place in trial.masks:
            set_keras_mask(tensor, ops.convert_to_tensor(trial.masks[place]))
    scope = keras.StatelessScope(list(trial.weights), initialize_variables=False)
    with scope, training_mode(False), repeatable():
        return as_array(run_calls(trial.graph, own, known, {})[attention.output, 0])


def _axes_of(trial: Trial, value: np.ndarray) -> list[int]:
    """Return the axes of a value that may be that of the positions; none if it cannot change."""
    length = trial.samples.length
    if value.dtype.kind not in "fc" or not length or value.shape[:1] != (trial.samples.batch,):
        return []
    return [axis for axis in range(1, value.ndim) if value.shape[axis] == length]


def _changed(trial: Trial, value: np.ndarray, axis: int) -> np.ndarray:
    """Return a value with another vector at one position of every row but the first."""
    import numpy as np

    changed = np.moveaxis(value.copy(), axis, 1)
    other = np.moveaxis(value, axis, 1)
    size = np.abs(value[np.isfinite(value)]).mean() if value.size else 1.0
    random = np.random.default_rng(2)
    for row, position in enumerate(trial.samples.probes, trial.samples.first):
        shape = other[row, position].shape
        changed[row, position] = other[row, position] + 2 * size * random.standard_normal(shape)
    return np.moveaxis(changed, 1, axis)


@once_per_graph
def regions(graph: Graph) -> dict[str, frozenset[str]]:
    """Return the calls of each attention, from its queries, keys and values to its output."""
    found = {}
    for attention in attentions_with_masks(graph)[0]:
        ends = {e.source for e in (attention.query, *attention.keys, *attention.values)}
        # Masks do not change with the vectors: their calls stay outside.
        masks = {edge.id for edge in attention.masks}
        waiting, inside = [attention.output], {attention.output}
        while waiting:
            for edge in graph.incoming[waiting.pop()]:
                is_known = edge.source in ends | inside or edge.id in masks
                if not is_known and graph.node(edge.source).kind != "input":
                    inside.add(edge.source)
                    waiting.append(edge.source)
        found[attention.id] = frozenset(inside)
    return found
