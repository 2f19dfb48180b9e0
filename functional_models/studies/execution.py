"""Perform the runs of a study: one after another, in processes, or on a cluster.

Several processes may work on one folder: each run has a lock, and a process that finds it held
goes on with other runs first. Failed runs are results; only a full disk ends a study.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from functional_models.folders import make_folder, only_writer
from functional_models.reading import duration
from functional_models.studies.data import read_data, write_data
from functional_models.studies.runs import Outcome, Run, StudyData, perform, read_outcome

RUNS = "runs"
_LOCK = ".run.lock"  # besides that of the model folder
_POLL = 1.0
"""Seconds between two looks at a run that another process performs."""

_MOST_RESTARTS = 3
"""Number of times that a pool is started again without a run being finished in between."""

Outcomes = dict[str, Outcome]
Callbacks = Callable[[Run], tuple[Any, ...]]


def no_callbacks(run: Run) -> tuple[Any, ...]:
    """Return no callbacks for a run."""
    return ()


@dataclass(frozen=True)
class TensorBoardLogs:
    """Callbacks that log the reports of each run for TensorBoard.

    Attributes:
        folder: The folder of all logs; each run has a folder in it.
    """

    folder: str

    def __call__(self, run: Run) -> tuple[Any, ...]:
        import keras

        return (keras.callbacks.TensorBoard(Path(self.folder) / run.folder, write_graph=False),)


@dataclass(frozen=True)
class Task:
    """A run for a worker, which shares nothing but the folder.

    Attributes:
        run: The run.
        folder: The folder of the study.
        data: The name of the folder of the data in it.
        precision: The name of Keras' dtype policy.
        backend: The name of Keras' backend.
        callbacks: Returns further Keras callbacks for the run.
    """

    run: Run
    folder: str
    data: str
    precision: str
    backend: str
    callbacks: Callbacks = no_callbacks

    @property
    def place(self) -> Path:
        """The folder of the run."""
        return Path(self.folder) / RUNS / self.run.folder


def perform_runs(
    runs: Sequence[Run],
    folder: Path,
    data: StudyData,
    *,
    executor: Executor | None = None,
    workers: int = 1,
    progress: bool = True,
    callbacks: Callbacks = no_callbacks,
) -> Outcomes:
    """Perform all runs, and return their outcomes by key.

    Args:
        runs: The runs; equal ones are performed once.
        folder: The folder of the study.
        data: The data.
        executor: Performs runs elsewhere; its workers must reach the folder under its path.
        workers: Number of processes on this machine, if there is no executor; with several GPUs,
            each process uses one.
        progress: Print what is done.
        callbacks: Returns Keras callbacks for a run; with workers, a function of a module.

    Raises:
        ValueError: there are workers, which `callbacks` cannot be sent to.
        Exception: of the first run, if all of them failed.
        OSError: the disk is full.
    """
    different = {run.key: run for run in runs}
    outcomes: Outcomes = {}
    for key, run in different.items():
        if found := read_outcome(folder / RUNS / run.folder, run):
            outcomes[key] = found
    ledger = _Ledger(outcomes, len(different), progress)
    todo = [run for key, run in different.items() if key not in outcomes]
    if outcomes and progress:
        print(f"{len(outcomes)} of {len(different)} runs are finished already", flush=True)
    if not todo:
        return outcomes
    if executor is None and workers == 1:
        _perform_here(todo, folder, data, ledger, callbacks)
    else:
        import keras

        policy, backend = keras.config.dtype_policy().name, keras.backend.backend()
        name = write_data(folder, data)
        where = str(folder.resolve())
        tasks = [Task(run, where, name, policy, backend, callbacks) for run in todo]
        if executor is not None:
            _perform_by(executor, tasks, ledger)
        else:
            _check_can_be_sent(callbacks)
            _perform_in_processes(tasks, workers, ledger)
    if ledger.first_error is not None and all(o.status == "failed" for o in outcomes.values()):
        raise ledger.first_error
    return outcomes


def _check_can_be_sent(callbacks: Callbacks) -> None:
    try:
        pickle.dumps(callbacks)
    except Exception as error:
        raise ValueError(
            f"callbacks={callbacks!r:.60} cannot be sent to workers ({error!s:.80}); give a "
            "function that a module defines, or workers=1"
        ) from None


class _Ledger:
    """Collects outcomes and prints them."""

    def __init__(self, outcomes: Outcomes, total: int, progress: bool) -> None:
        self.outcomes = outcomes
        self.first_error: Exception | None = None
        self._total = total
        self._before = len(outcomes)
        self.progress = progress
        self._start = time.perf_counter()

    def add(self, run: Run, outcome: Outcome) -> None:
        """Record the outcome of a run."""
        self.outcomes[run.key] = outcome
        if outcome.status != "finished":
            what = f"{run.setting}, seed {run.seed}: {outcome.status}"
            print(f"{what}: {outcome.reason}", file=sys.stderr, flush=True)
        if self.progress:
            print(self._line(run, outcome), flush=True)

    def add_error(self, run: Run, error: Exception) -> None:
        """Record that a run failed, or raise the error if no other run could be written."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise error
        self.first_error = self.first_error or error
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        self.add(run, Outcome("failed", reason=reason))

    def _line(self, run: Run, outcome: Outcome) -> str:
        done = len(self.outcomes)
        parts = [f"[{done}/{self._total}] {run.setting}, seed {run.seed}", outcome.status]
        if "loss" in outcome.result:
            parts[-1] = f"loss {outcome.result['loss']:.4f}"
        if outcome.status == "diverged":
            parts[-1] += f" at step {outcome.step:,}"
        if left := self._total - done:
            each = (time.perf_counter() - self._start) / (done - self._before)
            parts.append(f"about {duration(each * left)} left")
        return " | ".join(parts)


def _perform_here(
    runs: Sequence[Run],
    folder: Path,
    data: StudyData,
    ledger: _Ledger,
    callbacks: Callbacks,
) -> None:
    waiting, is_said = list(runs), False
    while waiting:
        busy = []
        for run in waiting:
            place = make_folder(folder / RUNS / run.folder)
            if ledger.progress:
                print(f"\n{run.setting}, seed {run.seed}", flush=True)
            try:
                with only_writer(place, _LOCK):
                    made = callbacks(run)
                    outcome = perform(run, place, data, progress=ledger.progress, callbacks=made)
            except BlockingIOError:
                busy.append(run)
            except Exception as error:
                ledger.add_error(run, error)
            else:
                ledger.add(run, outcome)
        if len(busy) == len(waiting):
            if not is_said:
                names = f"{len(busy)} run{'s' * (len(busy) != 1)}"
                print(f"waiting for {names} of another process", file=sys.stderr, flush=True)
                is_said = True
            time.sleep(_POLL)
        waiting = busy


def _perform_in_processes(tasks: Sequence[Task], workers: int, ledger: _Ledger) -> None:
    """Perform tasks in a pool; one whose worker was killed is taken up by a new pool."""
    restarts = 0
    todo = list(tasks)
    while todo:
        before = len(ledger.outcomes)
        context = multiprocessing.get_context("spawn")  # TensorFlow does not survive a fork
        numbers = context.Queue()
        for number in range(workers):
            numbers.put(number)
        pool = ProcessPoolExecutor(
            workers, mp_context=context, initializer=_start_worker, initargs=(numbers, workers)
        )
        try:
            _perform_by(pool, todo, ledger, may_break=restarts < _MOST_RESTARTS)
        except BrokenExecutor:
            restarts = 0 if len(ledger.outcomes) > before else restarts + 1
            print("a worker died; its run is resumed", file=sys.stderr, flush=True)
        except BaseException:
            for process in list(pool._processes.values()):
                process.terminate()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        todo = [task for task in todo if task.run.key not in ledger.outcomes]


def _perform_by(
    executor: Executor, tasks: Sequence[Task], ledger: _Ledger, *, may_break: bool = False
) -> None:
    """Perform tasks by an executor.

    Args:
        executor: The executor.
        tasks: The tasks.
        ledger: Takes the outcomes.
        may_break: Whether to raise if the executor breaks, once the outcomes are recorded; else
            the tasks that it loses have failed.
    """
    from functional_models.studies.watching import Watcher

    futures: dict[Future[Outcome], Task] = {}
    broken: BrokenExecutor | None = None
    steps = {task.place: task.run.recipe.steps for task in tasks}
    watcher = Watcher(steps, shown=ledger.progress)
    try:
        for task in tasks:
            futures[executor.submit(perform_task, task)] = task
        waiting = set(futures)
        while waiting:
            ended, waiting = wait(waiting, timeout=_POLL, return_when=FIRST_COMPLETED)
            for future in ended:
                task = futures[future]
                watcher.finish(task.place)
                try:
                    outcome = future.result()
                except BrokenExecutor as error:
                    broken = error
                    if not may_break:
                        ledger.add_error(task.run, error)
                except Exception as error:
                    ledger.add_error(task.run, error)
                else:
                    ledger.add(task.run, outcome)
            watcher.look()
    except BaseException:
        for future in futures:
            future.cancel()
        raise
    finally:
        watcher.close()
    if broken is not None and may_break:
        raise broken


def perform_task(task: Task) -> Outcome:
    """Perform a run in a worker, once no other process does.

    Raises:
        RuntimeError: the worker has another Keras backend.
    """
    import keras

    if keras.backend.backend() != task.backend:
        raise RuntimeError(
            f"the worker computes with {keras.backend.backend()}, and the study with "
            f"{task.backend}; set KERAS_BACKEND={task.backend} for the workers"
        )
    from functional_models.studies.watching import WriteState

    keras.config.set_dtype_policy(task.precision)
    place = make_folder(task.place)
    data = read_data(Path(task.folder) / task.data)
    while True:
        try:
            with only_writer(place, _LOCK):
                made = (*task.callbacks(task.run), WriteState(place))
                return perform(task.run, place, data, progress=False, callbacks=made)
        except BlockingIOError:
            time.sleep(_POLL)


def _start_worker(numbers: Any, workers: int) -> None:
    """Give a process its share of the machine, before Keras is imported."""
    number = numbers.get()
    gpus = _gpus()
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus[number % len(gpus)]
    threads = str(max((os.cpu_count() or 1) // workers, 1))
    for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
        os.environ.setdefault(name, threads)


def _gpus() -> list[str]:
    """Return the names of the NVIDIA GPUs that this process may use."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name for name in given.split(",") if name]
    devices = Path("/dev").glob("nvidia[0-9]*")
    return sorted(path.name.removeprefix("nvidia") for path in devices)
