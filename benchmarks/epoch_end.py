"""Time of an epoch compared with the sum of its steps.

    python benchmarks/epoch_end.py           # the sizes of benchmarks/training.py

TensorFlow's input pipeline can stall the end of an epoch by seconds, for example with NumPy arrays
in `model.fit`. `functional_models.fit_data.training_data` avoids this.

The time of a step is the time between `on_train_batch_begin` and `on_train_batch_end`; that of an
epoch is the time since the end of the previous epoch. Batches are fetched inside the steps, so the
longest step is reported as well, which could include a stall. The first epoch, which includes
compilation, is skipped.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from training import BATCH, LENGTH, random_tokens, small_gpt

from functional_models.batches import TokenBatches
from functional_models.fit_data import training_data
from functional_models.losses import TokenCrossEntropy

ALLOWED = 1.05


class EpochClock(keras.callbacks.Callback):
    """Measures the wall time of every epoch and of each of its steps, in seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[tuple[float, list[float]]] = []

    def on_train_begin(self, logs: Any = None) -> None:
        self._last_end = time.perf_counter()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._steps: list[float] = []

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._step_begin = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps.append(time.perf_counter() - self._step_begin)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        end = time.perf_counter()
        self.epochs.append((end - self._last_end, self._steps))
        self._last_end = end


def fit_training_data(model: keras.Model, steps: int, epochs: int, clock: EpochClock) -> None:
    batches = TokenBatches(random_tokens(steps).ravel(), block=LENGTH, batch_size=BATCH)
    model.fit(
        training_data(batches),
        steps_per_epoch=steps,
        epochs=epochs,
        shuffle=False,  # batches are ordered already
        verbose=0,
        callbacks=[clock],
    )


def fit_numpy(model: keras.Model, steps: int, epochs: int, clock: EpochClock) -> None:
    tokens = random_tokens(steps).reshape(-1, LENGTH + 1)
    inputs, labels = tokens[:, :-1], tokens[:, 1:]
    model.fit(inputs, labels, batch_size=BATCH, epochs=epochs, verbose=0, callbacks=[clock])


FITS: dict[str, Callable[[keras.Model, int, int, EpochClock], None]] = {
    "training_data": fit_training_data,
    "NumPy arrays": fit_numpy,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=12, help="steps per epoch")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--layers", type=int, default=4)
    options = parser.parse_args()
    if options.epochs < 2:
        parser.error("--epochs must be 2 or more: the first one is skipped")

    worst = {}
    for name, fit in FITS.items():
        model = small_gpt(options.layers)
        model.compile(optimizer=keras.optimizers.AdamW(1e-4), loss=TokenCrossEntropy())
        clock = EpochClock()
        fit(model, options.steps, options.epochs, clock)
        for epoch, (wall, steps) in enumerate(clock.epochs[1:], start=2):
            print(
                f"{name:>13}, epoch {epoch}: {wall:6.2f} s of wall time, {sum(steps):6.2f} s in "
                f"{options.steps} steps, ratio {wall / sum(steps):.3f}; steps of "
                f"{statistics.median(steps):.2f} s, the longest {max(steps):.2f} s",
                flush=True,
            )
        worst[name] = max(wall / sum(steps) for wall, steps in clock.epochs[1:])
    for name, ratio in worst.items():
        print(f"{name:>13}: an epoch is at most {ratio:.3f} times the sum of its steps")
    if worst["training_data"] > ALLOWED:
        raise SystemExit(f"failed: the ratio is above {ALLOWED}")


if __name__ == "__main__":
    main()
