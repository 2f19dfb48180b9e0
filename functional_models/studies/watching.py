"""What the runs of a study do in other processes, for whoever waits for them.

A worker writes the state of its run to a small file; the process that waits reads these files. So
it works with every executor, and on every machine that reaches the folder of the study.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from functional_models.reading import FIRST_INTERVAL, LONGEST_INTERVAL, duration
from plots.files import write_whole

STATE = "state.json"
_WRITE_INTERVAL = 2.0
"""Seconds between two states that a worker writes."""

_MOST_SHOWN = 3
"""Number of runs that a line names."""


class WriteState(keras.callbacks.Callback):
    """Writes the step and the loss of a run, every two seconds.

    Args:
        folder: The folder of the run.
        clock: Returns seconds.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._path, self._clock = folder / STATE, clock
        self._step, self._next = 0, 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._step = int(keras.ops.convert_to_numpy(self.model.optimizer.iterations))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._step += 1
        if (now := self._clock()) >= self._next:
            state = {"step": self._step, "loss": float((logs or {}).get("cross_entropy", 0.0))}
            write_whole(self._path, json.dumps(state))
            self._next = now + _WRITE_INTERVAL

    def on_train_end(self, logs: Any = None) -> None:
        self._path.unlink(missing_ok=True)


class Watcher:
    """Shows the states of all runs that are performed elsewhere.

    On a terminal this is one line that changes, with a bar. Other outputs get a line after 10
    seconds and then at growing intervals, of at most a minute.

    Args:
        runs: The number of steps of each run, by its folder.
        shown: Whether anything is shown.
        clock: Returns seconds.
    """

    def __init__(
        self,
        runs: Mapping[Path, int],
        *,
        shown: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._steps, self._clock = dict(runs), clock
        self._done: set[Path] = set()
        self._first: dict[Path, int] = {}  # step at which each run was seen first
        self._started = clock()
        self._interval, self._next = FIRST_INTERVAL, self._started + FIRST_INTERVAL
        self._bar: Any = None
        self._shown = shown
        if shown and sys.stdout.isatty():
            from rich.progress import BarColumn, Progress, TextColumn

            columns = TextColumn("{task.description}", table_column=None), BarColumn()
            self._bar = Progress(*columns, transient=True)
            self._task = self._bar.add_task("starting", total=sum(self._steps.values()))
            self._bar.start()

    def finish(self, folder: Path) -> None:
        """Take note that a run has ended."""
        self._done.add(folder)

    def look(self) -> None:
        """Show the state of all runs, if it is time."""
        now = self._clock()
        if not self._shown or (self._bar is None and now < self._next):
            return
        line, done = self._line(now)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=line)
            return
        print(line, flush=True)
        self._interval = min(2 * self._interval, LONGEST_INTERVAL)
        self._next = now + self._interval

    def close(self) -> None:
        """Remove the bar; may be called twice."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _line(self, now: float) -> tuple[str, int]:
        """Return the state of all runs in words, and the number of steps that are done."""
        running = {}
        for folder in self._steps.keys() - self._done:
            if state := _read_state(folder / STATE):
                running[folder] = state
                self._first.setdefault(folder, int(state["step"]))
        names = sorted(running)[:_MOST_SHOWN]
        parts = [f"{len(self._done)} of {len(self._steps)} runs ended"]
        for folder in names:
            step, loss = running[folder]["step"], running[folder]["loss"]
            name = folder.name.rpartition("-")[0]
            parts.append(f"{name}: step {step:,}/{self._steps[folder]:,}, loss {loss:.4f}")
        if len(running) > len(names):
            parts.append(f"{len(running) - len(names)} more")
        done = sum(self._steps[folder] for folder in self._done)
        done += sum(int(state["step"]) for state in running.values())
        before = sum(self._first.values())  # of runs that were resumed
        if done > before and now > self._started:
            speed = (done - before) / (now - self._started)
            left = duration((sum(self._steps.values()) - done) / speed)
            parts.append(f"about {left} left")
        return " | ".join(parts), done


def _read_state(path: Path) -> Mapping[str, float] | None:
    """Return the state of a run; None if it is not running, or not readable at the moment."""
    try:
        state = json.loads(path.read_bytes())
        return state if {"step", "loss"} <= state.keys() else None
    except (OSError, ValueError, AttributeError):
        return None
