"""What a study costs besides its training, and what workers save.

    python benchmarks/studies.py                     # all three
    python benchmarks/studies.py --only workers

overhead    a run of the demo, which measures and writes, against `fit` and `evaluate` in memory
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
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

import functional_models as fm
from functional_models.corpora import load_corpus
from functional_models.loading import new_text_model
from functional_models.seeding import own_random
from functional_models.studies.compare import CORNERS
from functional_models.studies.planning import study_data
from functional_models.studies.report import write_report
from functional_models.studies.runs import make_runs, perform
from functional_models.studies.settings import make_settings

STEPS = 200
STEPS_OF_THE_DEMO = 1300


def times(work: Callable[[], Any]) -> np.ndarray:
    """Return the wall and the processor time of a call, whose output is not shown, in seconds."""
    started = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        work()
    return np.subtract((time.perf_counter(), time.process_time()), started)


def overhead(rounds: int) -> None:
    """Compare a run of the demo with the same training and evaluation in memory."""
    import builders
    from functional_models.loading import sized_for

    data = study_data("embedded", None, tokenizer="byte_pair", vocabulary_size=1000, progress=False)
    spec = sized_for(builders.variant(CORNERS[-1], kind="encoder_decoder"), data.tokenizer, {})
    recipe = fm.recipe.default_budget(steps=STEPS_OF_THE_DEMO)
    [run] = make_runs(make_settings({"run": spec}, recipe), [0], data.fingerprint(), "float32")

    def plain() -> None:
        with own_random(run.seed):
            model = new_text_model(run.spec, data.tokenizer)
            model.fit(data.corpus, recipe=run.recipe, progress=False)
            model.evaluate(data.held_out, batch_size=run.recipe.batch_size)

    def harness() -> None:
        with tempfile.TemporaryDirectory() as folder:
            perform(run, Path(folder), data, progress=False)

    times(plain)  # imports and the first compilation
    ratios = []
    for number in range(rounds):  # in turns, so that a drift of the machine cancels
        order = (plain, harness) if number % 2 == 0 else (harness, plain)
        taken = {work: times(work) for work in order}
        ratios.append(taken[harness] / taken[plain])
        for name, work in (("alone", plain), ("in a study", harness)):
            wall, processor = taken[work]
            print(f"{name}: {wall:.1f} s, {processor:.1f} s of processor time", flush=True)
    wall, processor = np.median(ratios, axis=0) - 1
    print(f"overhead: {wall:+.1%}, of processor time {processor:+.1%} (median of {rounds} rounds)")


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
        taken, _ = times(lambda: write_report(study))
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
            taken, _ = times(study)
        print(f"12 runs of {STEPS} steps with workers={number}: {taken:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=("overhead", "report", "workers"))
    parser.add_argument("--rounds", type=int, default=4)
    options = parser.parse_args()
    if options.only in (None, "overhead"):
        overhead(options.rounds)
    if options.only in (None, "report"):
        report()
    if options.only in (None, "workers"):
        workers()


if __name__ == "__main__":
    main()
