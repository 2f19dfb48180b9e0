"""Units of a layer that begin equal, get equal gradients, and so stay equal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

from plots.annotations import Note
from plots.checking.results import Check, Witness, shown
from plots.checking.trials import Trial
from plots.checking.weights import FIRST_SEED, gradients_of
from plots.diagnosis.rules import named
from plots.layers import LINEAR_PROJECTIONS
from plots.measuring.execution import as_array
from plots.reading.keras_values import weights_of

if TYPE_CHECKING:
    import numpy as np

_SYMMETRY = "Goodfellow et al. 2016, Deep Learning, section 8.4: break symmetry between units"
_ROUNDING = 1e-5
_SEEDS = 6


def check_units(trial: Trial) -> Iterator[Check]:
    """Yield a finding about layers whose units compute the same number, before and after training.

    Their weights are equal, and so are the gradients of random losses. Units that begin equal, and
    whose outputs are taken by different weights, get different gradients and part at once.
    """
    kernels = {node_id: _equal_units(layer) for node_id, layer in trial.layers.items()}
    kernels = {
        node_id: kernel
        for node_id, kernel in kernels.items()
        if kernel is not None and trial.graph.node(node_id).is_a(LINEAR_PROJECTIONS)
    }
    moved = set[int]()  # equal units are off together for some samples
    small = replace(trial, weights=tuple(map(_made_small, kernels.values())))
    for seed in range(_SEEDS):
        if not kernels:
            return
        variables = {id(kernel): kernel for kernel in kernels.values()}
        found = gradients_of(small, variables, seed, training=True)
        moved.update(key for key, gradient in found.items() if gradient.any())
        kernels = {k: kernel for k, kernel in kernels.items() if _is_equal(found[id(kernel)])}
        if seed and moved.issuperset(map(id, kernels.values())):
            break
    kernels = {node_id: kernel for node_id, kernel in kernels.items() if id(kernel) in moved}
    if kernels:
        yield Check("dead weights", "equal", _note(trial, kernels), _witness(trial, [*kernels]))


def _made_small(kernel: Any) -> tuple[Any, Any]:
    """Return a kernel and its values divided by its inputs, whose sums saturate no activation."""
    from keras import ops

    inputs = prod(kernel.shape[:-1])
    return kernel, ops.convert_to_tensor(as_array(kernel.value) / inputs, dtype=kernel.dtype)


def _note(trial: Trial, kernels: dict[str, Any]) -> Note:
    places = [node.id for node in trial.graph.nodes if node.id in kernels]
    units = kernels[places[0]].shape[-1]
    verb = "begin" if len(places) > 1 else "begins"
    text = (
        f"Units that stay equal: {named(trial.graph, places, 4)} {verb} with the same weights for "
        f"each unit, and all {units} units get the same gradient of a random loss, so they "
        "compute one number as long as it is trained. Begin with random weights, such as those "
        "of GlorotUniform."
    )
    return Note("finding", tuple(places), text, _SYMMETRY)


def _witness(trial: Trial, places: list[str]) -> Witness:
    shows = (
        "With these inputs, the gradient of any loss of the outputs is the same for each unit of "
        f"{named(trial.graph, places, 4)}."
    )
    return shown(trial, shows, exact=True, inputs=trial.samples.base(FIRST_SEED))


def _equal_units(layer: Any) -> Any | None:
    """Return the trainable kernel of a layer whose units all have the same weights, or None."""
    own = [v for v in weights_of(layer) if v.trainable and v.shape]
    kernel = next((v for v in own if len(v.shape) > 1), None)
    if kernel is None or kernel.shape[-1] < 2:
        return None
    if not _is_equal(as_array(kernel.value[(0,) * (len(kernel.shape) - 1)])):
        return None  # most kernels: their first weights differ
    arrays = [as_array(v.value) for v in own if v.shape[-1:] == kernel.shape[-1:]]
    return kernel if all(map(_is_equal, arrays)) else None


def _is_equal(array: np.ndarray) -> bool:
    """Return whether an array has the same numbers for each unit, its last axis."""
    import numpy as np

    return bool(np.ptp(array, axis=-1).max() <= _ROUNDING * np.abs(array).max())
