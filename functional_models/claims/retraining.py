"""A model that is trained several times from new weights, and compiled once."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

import builders
from functional_models.batches import Batches
from functional_models.claims.tasks import Run, Task
from functional_models.compiled import to_numpy
from functional_models.fit_data import training_data
from functional_models.optimizers import make_optimizer
from functional_models.recipe import Recipe
from functional_models.seeding import own_random
from functional_models.training import evaluate
from functional_models.training_graph import TrainingGraph, result_metrics


class RetrainedModel:
    """A model with its optimizer and its compiled step, which would take longer than a short run.

    Args:
        task: what it is trained on.
        spec: of the model.
        recipe: of every run but for the seed.
    """

    def __init__(self, task: Task, spec: builders.TransformerSpec, recipe: Recipe) -> None:
        self._task, self._spec, self._recipe = task, spec, recipe
        longest = task.training(0).longest
        self._model = builders.build(spec)
        self._optimizer = make_optimizer(recipe, self._model)
        self._optimizer.build(self._model.trainable_variables)
        self._at_start = [to_numpy(variable) for variable in self._optimizer.variables]
        self._graph = TrainingGraph(self._model, tokens=recipe.batch_size * longest)
        self._graph.compile(optimizer=self._optimizer, weighted_metrics=result_metrics())
        self._stream = _stream(self._model, spec)

    def train(self, seed: int) -> Run:
        """Train from new weights; the seed decides them and the order of the data."""
        self._start(seed)
        batches, held_out = self._task.training(seed), self._task.held_out()
        before = self._variance(held_out)
        reports = _Reports()
        every = self._recipe.report_every
        self._graph.fit(
            training_data(batches, labelled=True),
            steps_per_epoch=every,
            epochs=self._recipe.steps // every,
            shuffle=False,  # batches are ordered already
            verbose=0,
            callbacks=[reports],
        )
        loss = evaluate(self._model, held_out)["loss"]
        return Run(
            float(np.fmin(loss, math.log(self._spec.vocabulary_size))),  # also of NaN
            tuple(every * (number + 1) for number in range(len(reports.losses))),
            tuple(reports.losses),
            (before, self._variance(held_out)),
        )

    def _start(self, seed: int) -> None:
        with own_random(seed):
            self._model.set_weights(builders.build(self._spec).get_weights())
        for variable, value in zip(self._optimizer.variables, self._at_start, strict=True):
            variable.assign(value)

    def _variance(self, batches: Batches) -> float:
        inputs, _, _ = next(iter(batches.eval_batches()))
        values = np.asarray(to_numpy(self._stream(inputs)), "float64")
        return float(np.var(values)) if np.isfinite(values).all() else math.inf


def _stream(model: keras.Model, spec: builders.TransformerSpec) -> keras.Model:
    """Return the part of a model up to the stream after the last block, before a norm.

    Without skip paths this is the last branch.
    """
    block = f"decoder.block_{spec.num_layers - 1}.feedforward"
    last = f"{block}.{'down' if spec.merge == 'none' else 'residual'}"
    return keras.Model(model.input, model.get_layer(last).output)


class _Reports(keras.callbacks.Callback):
    """Keeps the training loss of every report, and stops where it is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        loss = float(logs["cross_entropy"])
        if math.isfinite(loss):
            self.losses.append(loss)
        else:
            self.model.stop_training = True
