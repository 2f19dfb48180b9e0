"""Keras callbacks of a training run: record, checkpoint, samples.

An epoch of Keras is the interval between two reports.
"""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import keras
import numpy as np

from functional_models.averages import Averages
from functional_models.checks import check_is_file
from functional_models.compiled import to_numpy
from functional_models.folders import GO_ON
from functional_models.folders import RUN as CHECKPOINT
from functional_models.processes import in_first_process, is_first_process, of_all_processes
from plots.files import write_whole

Row = dict[str, float]


class DivergedError(ValueError):
    """The loss of a run, or a weight, is not finite.

    Attributes:
        step: The step of the report that found it.
    """

    def __init__(self, what: str, step: int, dtype: str = "float32") -> None:
        remedy = "" if dtype == "float32" else f"float32 in place of {dtype}, "
        super().__init__(
            f"{what} at step {step}; use {remedy}a lower learning_rate or clip_norm, more "
            "warmup_steps, or another norm_placement"
        )
        self.step = step


class Record(keras.callbacks.Callback):
    """Records a row of measurements at every report, and saves the model if its loss is the lowest.

    Args:
        validate: evaluates the model.
        save_best: called when the loss is the lowest so far.
        parts: parts that a batch is computed in.
        averages: take the place of the weights for both.
    """

    def __init__(
        self,
        validate: Callable[[], Mapping[str, float]] | None = None,
        save_best: Callable[[], None] | None = None,
        *,
        parts: int = 1,
        averages: Averages | None = None,
    ) -> None:
        super().__init__()
        self.rows: list[Row] = []
        self._parts_done, self._parts = 0, parts
        self._averages = averages.in_place if averages else nullcontext
        self._validate = validate
        self._save_best = save_best
        self._compiled = False

    @property
    def step(self) -> int:
        """The number of finished steps."""
        return self._parts_done // self._parts

    @property
    def has_begun(self) -> bool:
        """Whether a batch was computed, now or before the run was resumed."""
        return self._parts_done > 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._start, self._steps, self._untimed = time.perf_counter(), 0, 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count the step; the first one, which includes compilation, is not timed."""
        self._parts_done += 1
        self._steps += 1
        if not self._compiled:
            self._compiled = True
            self._start, self._untimed = time.perf_counter(), 1

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        logs = {} if logs is None else logs
        self._check_is_finite(logs["cross_entropy"])
        seconds = time.perf_counter() - self._start
        timed_share = (self._steps - self._untimed) / self._steps
        row = {
            "step": self.step,
            "loss": float(logs["cross_entropy"]),
            "token_accuracy": float(logs["token_accuracy"]),
            "tokens_per_second": float(logs["tokens"]) * timed_share / seconds,
            "seconds": seconds + (self.rows[-1]["seconds"] if self.rows else 0.0),
        }
        with self._averages():
            self._finish(row, logs)

    def _check_is_finite(self, loss: float) -> None:
        """Raise a `DivergedError` if a loss or a trained weight is not finite.

        The loss is that before the last update of the weights.
        """
        dtypes = {layer.compute_dtype for layer in self.model.layers}
        dtype = next((name for name in ("float16", "bfloat16") if name in dtypes), "float32")
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss}", self.step, dtype)
        for weight in self.model.trainable_variables:
            if not np.isfinite(to_numpy(weight)).all():
                what = f"the loss is {loss:.4g}, but {weight.path} is not finite"
                raise DivergedError(what, self.step, dtype)

    def _finish(self, row: Row, logs: dict[str, Any]) -> None:
        """Evaluate, and save the model if it is the best."""
        if self._validate is not None:
            row |= {f"val_{name}": float(value) for name, value in self._validate().items()}
        # The next callbacks see it too, such as EarlyStopping(monitor="val_loss") of Keras.
        logs |= {name: value for name, value in row.items() if name.startswith("val_")}
        losses = [_decisive_loss(past) for past in self.rows]
        self.rows.append(row)
        if self._save_best is not None and _decisive_loss(row) < min(losses, default=np.inf):
            self._save_best()

    def restore(self, rows: list[Row]) -> None:
        """Continue after the last of `rows`."""
        self.rows[:] = rows
        self._parts_done = self._parts * int(rows[-1]["step"]) if rows else 0


def _decisive_loss(row: Row) -> float:
    return row.get("val_loss", row["loss"])


_LONGEST_CACHE = 60
"""Seconds for which a machine may not see a new file of another one: of NFS, by default."""


class Checkpoint(keras.callbacks.Callback):
    """Saves the complete state of a run, so that it resumes as if it had not been interrupted.

    Weights, dropout seeds, optimizer state and rows are written atomically, to a single file. The
    first one is written before training, so that a folder shows which run it is for.

    Args:
        folder: folder of `checkpoint.npz`.
        run: properties of the run; a checkpoint with other properties is rejected.
        record: the record to save and to restore.
    """

    def __init__(self, folder: Path, run: Mapping[str, Any], record: Record) -> None:
        super().__init__()
        self.path = folder / CHECKPOINT
        self._run = json.loads(json.dumps(run))
        self._record = record
        self._is_first = False

    def start(self, model: keras.Model, *, overwrite: bool = False) -> None:
        """Restore model, optimizer and record from the checkpoint, or write the first one.

        A finished run goes on if it is given more steps. From there on its learning rate is that
        of the longer schedule.

        Args:
            model: the compiled model.
            overwrite: replace a checkpoint that is damaged or belongs to another run.

        Raises:
            ValueError: the checkpoint is damaged, or belongs to another run.
        """
        self.set_model(model)
        restored = False
        if self._is_seen():
            try:
                self._restore()
                restored = True
            except ValueError:
                if not overwrite:
                    raise
        if not all(of_all_processes(restored)):  # none is replaced while others read it
            self.on_epoch_end(0)
            self._is_first = True
            end = time.monotonic() + _LONGEST_CACHE
            while not (is_first_process() or self.path.exists()) and time.monotonic() < end:
                time.sleep(1)
            self._is_seen()

    def go_back(self) -> None:
        """Give the model the state of the last report, or that of the start."""
        self._restore()

    def withdraw(self) -> None:
        """Delete the first checkpoint of a run that did not begin, so that another one may."""
        if self._is_first and is_first_process():
            self.path.unlink(missing_ok=True)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        state = json.dumps({"run": self._run, "rows": self._record.rows})
        # NumPy cannot store bfloat16; float32 represents all of its values.
        arrays: dict[str, Any] = {
            f"array_{i}": to_numpy(variable) for i, variable in enumerate(_state(self.model))
        }
        in_first_process(
            lambda: write_whole(
                self.path, lambda path: np.savez(path, state=np.array(state), **arrays)
            )
        )

    def _is_seen(self) -> bool:
        """Return whether there is a checkpoint; all processes must see it, or none.

        Raises:
            ValueError: some see it.
        """
        seen = of_all_processes(self.path.exists())
        if len(set(seen)) > 1:
            raise ValueError(
                f"{self.path} is not seen by all processes; give a folder that all machines share"
            )
        return bool(seen[0])

    def _restore(self) -> None:
        variables = _state(self.model)
        try:
            saved_run, rows, arrays = _read_checkpoint(self.path)
        except Exception as error:  # a damaged file may fail in any way
            raise ValueError(f"{self.path} is damaged ({type(error).__name__}); {GO_ON}") from error
        # The default warm-up depends on the steps; it is over when a run is finished.
        free = ("steps", "warmup_steps") if _is_extended(saved_run, self._run, rows) else ()
        for name, given in self._run.items():
            if name not in free and saved_run.get(name) != given:
                is_short = not isinstance(given, list | dict)
                values = f" ({saved_run.get(name)} saved, {given} given)" * is_short
                raise ValueError(
                    f"{self.path.parent} holds a run with different {name}{values}; resume with "
                    f"the same settings, {GO_ON}"
                )
        if [tuple(v.shape) for v in variables] != [array.shape for array in arrays]:
            raise ValueError(f"{self.path} is damaged (other shapes); {GO_ON}")
        for variable, array in zip(variables, arrays, strict=True):
            variable.assign(array)
        self._record.restore(rows)


class LastReport(keras.callbacks.Callback):
    """Keeps the weights of the last report in memory, for a run without a folder.

    Args:
        model: the model, as it is before training.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__()
        self.set_model(model)
        self.on_epoch_end(0)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._arrays = [to_numpy(variable) for variable in self.model.variables]

    def go_back(self) -> None:
        """Give the model the weights of the last report, or those of the start."""
        for variable, array in zip(self.model.variables, self._arrays, strict=True):
            variable.assign(array)


def _is_extended(saved: Mapping[str, Any], given: Mapping[str, Any], rows: list[Row]) -> bool:
    """Return whether a run is finished and would now get more steps."""
    steps = saved.get("steps")
    is_finished = isinstance(steps, int) and bool(rows) and rows[-1]["step"] == steps
    return is_finished and steps < given["steps"]


def _read_checkpoint(path: Path) -> tuple[dict[str, Any], list[Row], list[np.ndarray]]:
    """Return the properties of the run, the rows, and the arrays of a checkpoint.

    Raises:
        Exception: of any class, for a damaged file.
    """
    check_is_file(path)
    with zipfile.ZipFile(path) as archive:
        # `numpy.savez` does not compress, so that no member is larger than the file.
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ValueError("compressed")
    # NumPy does not close a file that it opened and cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
        state = json.loads(str(saved["state"]))
        arrays = [saved[f"array_{i}"] for i in range(len(saved.files) - 1)]
    run, rows = state["run"], state["rows"]
    if not isinstance(run, dict) or not isinstance(rows, list):
        raise TypeError("run and rows")
    if any(not {name for name in row if math.isfinite(row[name])} >= _COLUMNS for row in rows):
        raise ValueError("columns are missing")
    if any(later["step"] <= row["step"] for row, later in itertools.pairwise(rows)):
        raise ValueError("steps do not grow")
    if not all(array.dtype.kind in "biuf" for array in arrays):
        raise TypeError("arrays without numbers")
    return run, rows, arrays


_COLUMNS = {"step", "loss", "token_accuracy", "tokens_per_second", "seconds"}


def _state(model: keras.Model) -> list[keras.Variable]:
    """Return all variables that the next step depends on, including the seeds of dropout."""
    model.optimizer.build(model.trainable_variables)
    return [*model.variables, *model.optimizer.variables]


class SampleText(keras.callbacks.Callback):
    """Prints a sample of the model's output at every report; one that fails costs no training."""

    def __init__(self, sample: Callable[[], str], averages: Averages | None = None) -> None:
        super().__init__()
        self._sample = sample
        self._averages = averages.in_place if averages else nullcontext

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        try:
            with self._averages():
                text = self._sample()
            if is_first_process():
                print(text, flush=True)
        except OSError:  # the output is closed
            raise
        except Exception as error:
            print(f"no sample: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
