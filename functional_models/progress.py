"""The output of a training run: a header, a living line, and a line per report."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras

from functional_models.batches import Batches
from functional_models.callbacks import Record, Row
from functional_models.distribution import describe
from functional_models.reading import FIRST_INTERVAL, LONGEST_INTERVAL, duration
from functional_models.recipe import Recipe

_UPDATE_INTERVAL = 0.2
"""Seconds between two updates of the line on a terminal."""


class Progress(keras.callbacks.Callback):
    """Shows loss, learning rate, speed and remaining time while a model trains.

    On a terminal this is one line that changes, with a bar. Other outputs, such as files and
    notebooks, get a line after the first step and then at growing intervals, of at most a minute.

    Args:
        record: the record of the run.
        steps: number of steps of the run.
        clock: returns seconds.
    """

    def __init__(
        self, record: Record, steps: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        super().__init__()
        self._record = record
        self._steps = steps
        self._clock = clock
        self._bar: Any = None
        self._first: tuple[int, float] | None = None  # step and time from which speed is measured
        self._next_update = 0.0

    def on_train_begin(self, logs: Any = None) -> None:
        if self._bar is not None or not sys.stdout.isatty():
            return
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bar

        self._bar = Bar(TextColumn("{task.description}"), BarColumn(), transient=True)
        self._task = self._bar.add_task("compiling", total=self._steps, completed=self._record.step)
        self._bar.start()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        step, now = self._record.step, self._clock()
        if self._first is None:  # compiled now
            self._first = step, now
            self._interval, self._next = FIRST_INTERVAL, now + FIRST_INTERVAL
            if self._bar is None:
                print(self._line(step, logs), flush=True)
        if self._bar is not None:
            if now >= self._next_update:  # evaluating the schedule at every step takes time
                self._bar.update(self._task, completed=step, description=self._line(step, logs))
                self._next_update = now + _UPDATE_INTERVAL
        elif now >= self._next and step < self._steps:
            print(self._line(step, logs), flush=True)
            self._interval = min(2 * self._interval, LONGEST_INTERVAL)
            self._next = now + self._interval

    def _line(self, step: int, logs: Mapping[str, float] | None) -> str:
        """Return the state of the run after a step."""
        assert self._first is not None
        parts = [f"step {step:>6,}/{self._steps:,}"]
        if logs and "cross_entropy" in logs:
            parts.append(f"loss {logs['cross_entropy']:.4f}")
        parts.append(f"rate {learning_rate(self.model):.2g}")
        first, since = self._first
        if step > first and (seconds := self._clock() - since) > 0:
            speed = (step - first) / seconds
            parts.append(f"{speed:,.1f} steps/s" if speed >= 1 else f"{1 / speed:.1f} s/step")
            parts.append(f"{duration((self._steps - step) / speed)} left")
        return " | ".join(parts)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        print(report_line(self._record.rows[-1], self._steps), flush=True)
        if self._first is not None:  # the report is a sign of life too
            self._next = self._clock() + self._interval

    def close(self) -> None:
        """Remove the bar, also after an interruption; may be called twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def header(
    model: keras.Model, batches: Batches, recipe: Recipe, validation: Batches | None = None
) -> str:
    """Return the model, the device and the recipe of a training run, in two lines.

    A third one says that the reports evaluate a sample of the validation data, if they do.
    """
    passes = recipe.steps / batches.steps_per_epoch
    warmup = recipe.warmup_steps if recipe.schedule != "constant" else 0
    warm = f" after {_counted(warmup, 'step')} of warm-up" if warmup else ""
    parts = recipe.gradient_accumulation
    in_parts = f" in {parts} parts" if parts > 1 else ""
    return (
        f"{model.count_params():,} parameters, {keras.config.dtype_policy().name}, on {device()}\n"
        f"{_counted(recipe.steps, 'step')} of {_counted(recipe.batch_size, 'sequence')}{in_parts}, "
        f"{passes:.2g} passes over the data; {recipe.optimizer}, learning rate "
        f"{recipe.learning_rate:.2g}, {recipe.schedule.replace('_', ' ')}{warm}"
        + (_sample_of(validation, recipe.validation_batches) if validation is not None else "")
    )


def _sample_of(validation: Batches, most: int) -> str:
    number = validation.num_eval_batches
    if number <= most:
        return ""
    return f"\nvalidation on {most:,} of {number:,} batches, evenly spread (validation_batches)"


def _counted(number: int, word: str) -> str:
    return f"{number:,} {word}{'s' * (number != 1)}"


def device() -> str:
    """Return the backend with its version, and the devices that it computes on."""
    name = keras.backend.backend()
    if name == "tensorflow":
        import tensorflow as tf

        title, gpus = f"TensorFlow {tf.__version__}", tf.config.list_physical_devices("GPU")
        details = map(tf.config.experimental.get_device_details, gpus)
        names = [found.get("device_name", "GPU") for found in details]
    elif name == "jax":
        import jax

        title = f"JAX {jax.__version__}"
        names = [found.device_kind for found in jax.devices() if found.platform != "cpu"]
    else:
        import torch

        title = f"PyTorch {torch.__version__}"
        names = [torch.cuda.get_device_name(gpu) for gpu in range(torch.cuda.device_count())]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    where = names[0] if names else f"CPU ({cores} cores)"
    distribution = describe()
    if len(names) > 1 and not distribution:
        where += f" (1 of {len(names)})"
    return f"{where}, {title}{distribution}"


def learning_rate(model: keras.Model) -> float:
    """Return the learning rate of the next step."""
    return float(keras.ops.convert_to_numpy(model.optimizer.learning_rate))


def report_line(row: Row, steps: int) -> str:
    """Return a row of the record as a line of text."""
    parts = [f"step {row['step']:>6,}/{steps:,}", f"loss {row['loss']:.4f}"]
    if "val_loss" in row:
        parts.append(f"validation {row['val_loss']:.4f}")
    accuracy = row.get("val_token_accuracy", row["token_accuracy"])
    parts.append(f"token accuracy {accuracy:.1%}")
    if "val_exact_match" in row:
        parts.append(f"exact match {row['val_exact_match']:.1%}")
    parts.append(f"{row['tokens_per_second']:,.0f} tokens/s")
    return " | ".join(parts)
