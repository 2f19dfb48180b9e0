"""Weights that are not trained, and hold the numbers they were made with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from plots.annotations import Note
from plots.checking.results import Check
from plots.checking.trials import Trial
from plots.diagnosis.rules import doing
from plots.measuring.execution import as_array
from plots.reading.keras_values import weights_of

_FROZEN = "Keras guide, keras.io/guides/transfer_learning"
_ADAPT = "Keras API, keras.layers.Normalization"
_FEWEST = 100
_NEAR = 0.05


def check_frozen(trial: Trial) -> Iterator[Check]:
    """Yield a remark about lookup tables that are frozen, and hold numbers as they are drawn."""
    graph = trial.graph
    if not graph.trainable_parameters:
        return
    places = [
        node_id
        for node_id, layer in trial.layers.items()
        if graph.node(node_id).is_a({"Embedding"}) and _is_as_drawn(layer)
    ]
    others = [
        n for n in graph.nodes if n.parameters and n.trainable is False and n.id not in places
    ]
    if places and not any(n.is_a({"Dense", "EinsumDense", "MultiHeadAttention"}) for n in others):
        text = (
            f"Frozen random vectors: {doing(graph, places, 'hold')} numbers as they are drawn when "
            "a layer is made, and trainable=False keeps them so. Load pretrained vectors into "
            "them, or train them, unless random features are meant."
        )
        yield Check("dead weights", "dead", Note("remark", tuple(places), text, _FROZEN))


def check_adapted(trial: Trial) -> Iterator[Check]:
    """Yield a remark about `Normalization` layers that have seen no data."""
    import keras

    places = [
        node_id
        for node_id, layer in trial.layers.items()
        if isinstance(layer, keras.layers.Normalization) and _is_new(layer)
    ]
    if places:
        text = (
            f"A Normalization without data: {doing(trial.graph, places, 'return')} its input "
            "unchanged, since its mean is 0 and its variance 1, as they are before `adapt`. Call "
            "adapt(data) before training; a loaded model keeps both."
        )
        yield Check("numbers", "unchanged", Note("remark", tuple(places), text, _ADAPT))


def _is_new(layer: Any) -> bool:
    """Return whether the mean is 0 and the variance 1, and neither was given."""
    if layer.input_mean is not None or not layer.built:
        return False
    mean, variance = as_array(layer.adapt_mean.value), as_array(layer.adapt_variance.value)
    return not mean.any() and bool((variance == 1).all())


def _is_as_drawn(layer: Any) -> bool:
    """Return whether all weights of a layer are frozen, and spread evenly between two bounds.

    Those are the bounds of its initializer. Trained vectors have others, or are not even.
    """
    import numpy as np

    own = weights_of(layer)
    if len(own) != 1 or own[0].trainable or layer.trainable:
        return False
    limit = getattr(layer.embeddings_initializer, "maxval", None)  # of RandomUniform
    values = as_array(own[0].value)
    if not isinstance(limit, float) or values.size < _FEWEST:
        return False
    spread = float(values.std()) / (limit * 3**-0.5)
    return bool(np.abs(values).max() <= limit) and abs(spread - 1) < _NEAR
