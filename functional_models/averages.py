"""Averages of the weights over the steps of a run (EMA), which the optimizers of Keras keep."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import keras

from functional_models.compiled import to_numpy


class Averages:
    """The averages of the trained weights, if the optimizer keeps them.

    They take the place of the weights where a model is evaluated, saved and sampled, and at the end
    of the training. Checkpoints have both.

    Args:
        model: the model.
        optimizer: its optimizer, which is changed: Keras would put the averages in place at the end
            of every `fit`, of which a run may have several.
    """

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        self._model, self._optimizer = model, optimizer
        self.exist = bool(optimizer.use_ema)
        optimizer.finalize_variable_values = lambda variables: None

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the weights by their averages within this scope."""
        before = [to_numpy(variable) for variable in self._trained]
        self.keep()
        try:
            yield
        finally:
            for variable, array in zip(self._trained, before, strict=True):
                variable.assign(array)

    def keep(self) -> None:
        """Replace the weights by their averages."""
        if not self.exist or not self._optimizer.built:
            return
        for variable, average in self._pairs():
            # A copy: on JAX both would be one array, which the next step of either gives away.
            variable.assign(keras.ops.copy(average.value))

    @property
    def _trained(self) -> list[keras.Variable]:
        return [variable for variable, _ in self._pairs()]

    def _pairs(self) -> list[tuple[keras.Variable, keras.Variable]]:
        if not self.exist:
            return []
        averages = self._optimizer._model_variables_moving_average
        return [*zip(self._optimizer._trainable_variables, averages, strict=True)]
