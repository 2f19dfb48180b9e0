"""What a study costs besides its training, and what workers save.

    python benchmarks/studies.py                     # all three
    python benchmarks/studies.py --only workers

overhead    what measurements and files add to the runs of the demo
report      the report of 20 runs
workers     4 variants with 3 seeds and 200 steps, one after the other and with two workers

All train on the embedded corpus. Run it on a quiet machine.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

import builders
import functional_models as fm
from functional_models.callbacks import Checkpoint
from functional_models.corpora import load_corpus
from functional_models.loading import sized_for
from functional_models.studies.compare import CORNERS
from functional_models.studies.inside.callback import MeasureInside
from functional_models.studies.planning import study_data
from functional_models.studies.report import write_report
from functional_models.studies.runs import make_runs, perform
from functional_models.studies.settings import make_settings

STEPS = 200


class Clock:
    """The time that some functions take, in all their calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, with its time added to that of the clock."""

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.perf_counter() - started

        return timed


def seconds(work: Callable[[], Any]) -> float:
    """Return the wall time of a call, whose output is not shown."""
    clock = Clock()
    with contextlib.redirect_stdout(io.StringIO()):
        clock.timed(work)()
    return clock.seconds


def overhead(rounds: int) -> None:
    """Print the share of runs of the demo that their measurements and files take.

    Both are of one run: two runs of one minute differ by more than that on a shared machine. The
    first checkpoint makes the variables of the optimizer, as training would: not counted.
    """
    data = study_data(
        "embedded", "encoder_decoder", tokenizer="byte_pair", vocabulary_size=None, progress=False
    )
    settings = {name: builders.variant(name, kind="encoder_decoder") for name in CORNERS}
    specs = {name: sized_for(spec, data.tokenizer, {}) for name, spec in settings.items()}
    recipe = fm.recipe.default_budget()
    runs = make_runs(make_settings(specs, recipe), [0], data.fingerprint(), "float32")
    hooks = ("on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end")
    for run in runs[-rounds:]:
        inside, files, variables = Clock(), Clock(), Clock()
        with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
            for hook in hooks:
                timed = inside.timed(getattr(MeasureInside, hook))
                stack.enter_context(mock.patch.object(MeasureInside, hook, timed))
            written = files.timed(Checkpoint.on_epoch_end)
            stack.enter_context(mock.patch.object(Checkpoint, "on_epoch_end", written))
            made = variables.timed(keras.optimizers.AdamW.build)
            stack.enter_context(mock.patch.object(keras.optimizers.AdamW, "build", made))
            whole = seconds(lambda: perform(run, Path(folder), data, progress=False))  # noqa: B023
        saving = files.seconds - variables.seconds
        without = whole - inside.seconds - saving
        print(
            f"{run.setting}: {whole:.1f} s, of which {inside.seconds:.2f} s of measurements and "
            f"{saving:.2f} s of checkpoints: {whole / without - 1:+.1%}",
            flush=True,
        )


def report() -> None:
    """Time the report of 20 short runs."""
    with tempfile.TemporaryDirectory() as folder:
        study = fm.compare(
            CORNERS,
            load_corpus("embedded", None),
            seeds=5,
            budget=20,
            folder=folder,
            vocabulary_size=300,
            progress=False,
            changes={"hidden_dim": 16, "num_heads": 2, "num_layers": 2},
        )
        taken = seconds(lambda: write_report(study))
        size = (Path(folder) / "report.html").stat().st_size / 1e6
        print(f"report of {len(study.outcomes)} runs: {taken:.1f} s, {size:.1f} MB")


def workers() -> None:
    """Time a study of 12 runs, one after the other and with two workers."""
    for number in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            study = partial(
                fm.compare,
                CORNERS,
                seeds=3,
                budget=STEPS,
                folder=folder,
                vocabulary_size=1000,
                workers=number,
            )
            taken = seconds(study)
        print(f"12 runs of {STEPS} steps with workers={number}: {taken:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("overhead", "report", "workers"))
    parser.add_argument("--rounds", type=int, default=len(CORNERS))
    options = parser.parse_args()
    if options.only in (None, "overhead"):
        overhead(options.rounds)
    if options.only in (None, "report"):
        report()
    if options.only in (None, "workers"):
        workers()


if __name__ == "__main__":
    main()
