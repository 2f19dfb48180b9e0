"""Batches in the form that `model.fit` and `model.evaluate` take on each backend."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from functional_models.batches import Batch, Batches
from functional_models.reading import Reading


def training_data(
    batches: Batches, first_step: int = 0, *, labelled: bool = False, parts: int = 1
) -> Any:
    """Return an infinite iterator of batches from a step on, for `model.fit`.

    Args:
        batches: the batches.
        first_step: index of the first one.
        labelled: put labels and weights among the inputs too, for a `TrainingGraph`.
        parts: parts of every n-th row that each labelled batch is split into, one after the other.
    """
    return _dataset(lambda: map(batches.batch, itertools.count(first_step)), labelled, parts)


def evaluation_data(
    batches: Batches,
    *,
    labelled: bool = False,
    most: int | None = None,
    reading: Reading | None = None,
) -> Any:
    """Return every example once, for `model.evaluate`.

    Args:
        batches: the batches.
        labelled: as in `training_data`.
        most: as in `Batches.eval_batches`.
        reading: counts the batches.
    """

    def generate() -> Iterator[Batch]:
        found = batches.eval_batches(most)
        return found if reading is None else reading.counted(found)

    return _dataset(generate, labelled)


def _with_labels(batch: Batch, parts: int) -> Iterator[Batch]:
    """Yield the parts of a batch, with labels and weights among the inputs.

    Of several parts, `total` is the weight that the losses of each are divided by, so that the mean
    over the parts is the mean over the tokens of the batch.
    """
    import keras

    inputs, labels, weights = batch
    whole = {"inputs": inputs, "labels": labels, "weights": weights}
    if parts > 1:
        whole["total"] = np.full(len(labels), weights.sum() / parts, "float32")
    for part in range(parts):
        found = keras.tree.map_structure(lambda array: array[part::parts], whole)  # noqa: B023
        yield found, found["labels"], found["weights"]


def _dataset(generate: Callable[[], Iterator[Batch]], labelled: bool, parts: int = 1) -> Any:
    """Return the batches of a generator function in the best form for the backend."""
    import keras

    from functional_models.distribution import fill_rows, own_rows

    def batches() -> Iterator[Batch]:
        for batch in map(fill_rows, generate()):
            yield from map(own_rows, _with_labels(batch, parts) if labelled else [batch])

    if keras.backend.backend() != "tensorflow":
        return batches()
    import tensorflow as tf

    example = next(iter(batches()))
    signature = keras.tree.map_structure(
        lambda array: tf.TensorSpec([None] * array.ndim, array.dtype), example
    )
    data = tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(2)
    # The autotuner of tf.data can stall the end of an epoch by seconds.
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)
