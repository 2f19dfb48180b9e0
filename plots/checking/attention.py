"""What the queries of each self-attention see, found by running it alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from plots.attentions import Attention, attentions_with_masks
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
        if attention.is_self and trial.samples.probes:
            seen = _seen(trial, attention)
            if seen is not None and seen.kind != "nothing":
                found[attention.id] = seen
    return found


def _seen(trial: Trial, attention: Attention) -> Visibility | None:
    import keras
    from keras import ops
    from keras.src.backend.common.masking import set_keras_mask

    edges = (attention.query, *attention.keys, *attention.values)
    inside = regions(trial.graph)[attention.id]
    values: dict[Place, np.ndarray] = dict(trial.values)
    output = (attention.output, 0)
    before, after = dict(values), dict(values)
    for place in dict.fromkeys((edge.source, edge.output) for edge in edges):
        changed = _changed(trial, values[place])
        if changed is None:
            return None
        after[place] = changed

    def run(given: Mapping[Place, np.ndarray]) -> np.ndarray:
        own = [call for call in trial.calls if any(node in inside for node, _ in call.results)]
        known = {
            place: ops.convert_to_tensor(value, dtype=trial.dtypes[place])
            for place, value in given.items()
            if place[0] not in inside and place[0] in sources
        }
        for place, tensor in known.items():
            if place in trial.masks:
                set_keras_mask(tensor, ops.convert_to_tensor(trial.masks[place]))
        return as_array(run_calls(trial.graph, own, known, {})[output])

    sources = {edge.source for node_id in inside for edge in trial.graph.incoming[node_id]}
    with keras.StatelessScope(list(trial.weights), initialize_variables=False):
        matrix = trial.dependence(output, run(before), run(after)).best(trial.samples.probes)
    return None if matrix is None else visibility(matrix, trial.samples.probes)


def _changed(trial: Trial, value: np.ndarray) -> np.ndarray | None:
    """Return a value with another vector at one position of every row but the first."""
    import numpy as np

    if value.dtype.kind not in "fc" or value.ndim < 2 or value.shape[0] != trial.samples.batch:
        return None
    axes = [axis for axis in range(1, value.ndim) if value.shape[axis] == trial.samples.length]
    if not axes:
        return None
    changed = np.moveaxis(value.copy(), axes[0], 1)
    other = np.moveaxis(value, axes[0], 1)
    size = np.abs(value[np.isfinite(value)]).mean() if value.size else 1.0
    random = np.random.default_rng(2)
    for row, position in enumerate(trial.samples.probes, trial.samples.first):
        shape = other[row, position].shape
        changed[row, position] = other[row, position] + 2 * size * random.standard_normal(shape)
    return np.moveaxis(changed, 1, axes[0])


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
