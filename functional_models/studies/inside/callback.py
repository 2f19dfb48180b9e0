"""A Keras callback that measures what happens inside a model of a study."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np

from functional_models.recipe import Recipe
from functional_models.studies.inside.measuring import Meter, kernels, update_sizes
from functional_models.studies.inside.sample import Sample
from functional_models.studies.inside.stored import Inside, Measured, read_inside, write_inside

SHARES = (0.1, 1.0)
"""Shares of the steps after which a run is measured, at the next report.

Ten reports of a small model would cost 7% of its training, these cost less than 3%."""


class MeasureInside(keras.callbacks.Callback):
    """Measures a model before its first step and at some reports, and writes `inside.json`.

    Weights, seeds and states of the model stay as they are, so that the run gives the same results
    as without it. What cannot be measured costs no training.

    Args:
        folder: The folder of the run.
        key: The key of the run.
        recipe: The recipe of the run.
        sample: Returns what the model is measured on.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        recipe: Recipe,
        sample: Callable[[], Sample],
    ) -> None:
        super().__init__()
        self._folder, self._key, self._recipe = folder, key, recipe
        self._sample = sample
        self._steps = measured_steps(recipe)
        self._reports: dict[int, list[Measured]] = {}
        self._kernels: dict[str, np.ndarray] = {}
        self._meter: Meter | None = None
        self._last = 0
        self._has_failed = False

    def on_train_begin(self, logs: Any = None) -> None:
        if self._meter is None:
            self._attempt(self._prepare)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._step(epoch) in self._steps:
            self._attempt(lambda: self._kernels.update(kernels(self.model)))

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._last = self._step(epoch)
        if self._last in self._steps:
            self._attempt(lambda: self._measure(self._last))

    def on_train_end(self, logs: Any = None) -> None:
        if self._last and self._last not in self._reports:  # stopped by another callback
            self._attempt(lambda: self._measure(self._last))

    def _step(self, epoch: int) -> int:
        """Return the step of a report."""
        return min((epoch + 1) * self._recipe.report_every, self._recipe.steps)

    def _prepare(self) -> None:
        """Read the measurements of a run that resumes, or make those at initialisation."""
        self._meter = Meter(self.model, self._sample())
        with suppress(ValueError):  # a damaged file is replaced
            saved = read_inside(self._folder, self._key)
            self._reports = dict(saved.reports) if saved else {}
        if not int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)):
            self._measure(0)

    def _measure(self, step: int) -> None:
        assert self._meter is not None
        found = self._meter.measure()
        if self._kernels:
            found += update_sizes(self._kernels, kernels(self.model), self._meter.places)
            self._kernels.clear()
        self._reports[step] = found
        write_inside(self._folder, self._key, Inside(self._reports))

    def _attempt(self, work: Callable[[], None]) -> None:
        """Do some work unless an earlier one failed; a failure is printed once."""
        if self._has_failed:
            return
        try:
            work()
        except OSError:  # such as of a full disk, which ends a study
            raise
        except Exception as error:
            self._has_failed = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            print(f"what happens inside is not measured: {reason}", file=sys.stderr, flush=True)


def measured_steps(recipe: Recipe) -> set[int]:
    """Return the steps of the reports at which a run is measured."""
    every, steps = recipe.report_every, recipe.steps
    reports = [*range(every, steps, every), steps]
    return {next(step for step in reports if step >= share * steps) for share in SHARES}
