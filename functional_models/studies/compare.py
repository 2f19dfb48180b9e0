"""`compare`: train several settings with the same budget and several seeds."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from functional_models.checks import check_count
from functional_models.corpora import Corpus
from functional_models.folders import COMPARISON, check_content, folder_path, make_folder
from functional_models.loading import load
from functional_models.recipe import Recipe, default_budget, make_recipe
from functional_models.studies.budgets import Budget, mean_lengths, parse_budget
from functional_models.studies.execution import RUNS, Callbacks, no_callbacks, perform_runs
from functional_models.studies.folder import (
    BEST,
    CURVES,
    VARIANTS,
    attempt,
    check_folder,
    listing,
    remove_other_runs,
    write_curves,
    write_description,
    write_diagrams,
    write_tables,
)
from functional_models.studies.planning import (
    Plan,
    check_losses,
    chosen_baseline,
    chosen_seeds,
    sized_specs,
    specs_by_name,
    study_data,
)
from functional_models.studies.previous import check_continues
from functional_models.studies.question import blocks, question
from functional_models.studies.report import REPORT, write_report
from functional_models.studies.results import Study
from functional_models.studies.samples import usage_command, write_samples
from functional_models.studies.settings import Spec, make_settings, match_sizes
from functional_models.training_sizes import check_training_sizes

CORNERS = ("post_norm_sinusoidal", "post_norm_learned", "pre_norm_sinusoidal", "pre_norm_learned")


def compare(
    specs: Iterable[Spec] | Mapping[str, Spec] = CORNERS,
    data: str | Sequence[str] | Corpus = "embedded",
    *,
    kind: str | None = None,
    budget: int | str | Budget | None = None,
    recipe: Recipe | None = None,
    seeds: int | Sequence[int] = 1,
    baseline: str | None = None,
    grid: Mapping[str, Sequence[Any]] | None = None,
    ablate: Iterable[str] = (),
    learning_rates: Sequence[float] = (),
    match: str | None = None,
    folder: str | Path = "out/comparison",
    tokenizer: str = "byte_pair",
    vocabulary_size: int | None = None,
    changes: Mapping[str, Any] | None = None,
    workers: int = 1,
    executor: Executor | None = None,
    callbacks: Callbacks = no_callbacks,
    overwrite: bool = False,
    progress: bool = True,
) -> Study:
    """Train every setting with every seed on the same data, and compare the results.

    Finished runs of `folder` are not trained again, and interrupted ones resume. Settings and seeds
    may be added; a comparison that lacks runs of the one in `folder` is refused, since it would
    replace its results. Several processes may work on one folder. A run that diverges or fails is
    a result, and a picture that fails costs none.

    Args:
        specs: Names of variants, or specs by name.
        data: A corpus, `embedded`, or files, as for `load_parallel_corpus` and `load_text_corpus`.
        kind: `encoder_decoder` or `decoder_only`; by default the kind that the data is for, and
            `encoder_decoder` for `embedded`.
        budget: What each run may spend: a number of steps, or a text such as "2e6 tokens",
            "1e14 flops" or "60 seconds"; by default the steps of the recipe. Seconds are measured
            once for each setting, so that runs can be repeated.
        recipe: The common recipe; by default `default_budget`.
        seeds: The number of seeds, from that of the recipe on, or a list of seeds. A seed
            determines weights, dropout and order of the data. Three or more show a difference.
        baseline: The setting that others are compared with; by default the first.
        grid: Values to try by field of spec or recipe, such as `{"num_layers": [2, 4]}`.
        ablate: Changes to make one at a time, such as `["merge=none", "warmup_steps=0"]`.
        learning_rates: Rates to try for every setting; the best is chosen by validation loss.
        match: "parameters" or "flops": change `intermediate_dim`, so that settings are as large
            as the first.
        folder: A folder for the results; see `studies.folder`.
        tokenizer: Kind of the common tokenizer, which is trained on the training text.
        vocabulary_size: Vocabulary size of the tokenizer; by default 2000, or the 256 of `byte`.
        changes: Spec fields to change in every spec.
        workers: Number of runs at the same time, each in a process; a script then needs
            `if __name__ == "__main__":` around its work. With GPUs, each process uses one.
        executor: An executor of `concurrent.futures`, Dask, Ray or MPI that performs the runs. Its
            workers reach `folder` under its path.
        callbacks: Returns Keras callbacks for a run; with workers, a function that a module
            defines.
        overwrite: Replace another comparison, such as one on other data, with other settings or
            fewer seeds; also deletes runs that this one lacks.
        progress: Show progress bars and reports.

    Returns:
        The study. It is printed as a table with a verdict; `study.results` are dicts.

    Raises:
        ValueError: no specs, equal names, an unknown field, a value that a spec refuses, a spec of
            another kind than the data or with `prefix_lm`, text shorter than a block of a spec, or
            data without a held-out part; otherwise as `fit`.
        FileExistsError: the folder holds something else, such as a comparison on other data, or
            with runs that this one lacks.
        Exception: of the first run, if all fail.
    """
    import keras

    folder = folder_path(folder)
    check_content(folder, (COMPARISON,), overwrite=True)
    recipe = make_recipe(recipe or default_budget(), {})
    spent = None if budget is None else parse_budget(budget)
    check_count("workers", workers)
    numbers, given = chosen_seeds(seeds, recipe.seed), specs_by_name(specs)
    shared = study_data(
        data, kind, tokenizer=tokenizer, vocabulary_size=vocabulary_size, progress=progress
    )
    settings = make_settings(
        sized_specs(given, shared, changes or {}),
        recipe,
        grid=grid,
        ablate=ablate,
        learning_rates=learning_rates,
    )
    check_losses(settings)
    if match is not None:
        length = max(round(mean_lengths(settings[0].spec, shared).target), 1)
        settings = match_sizes(settings, match, length)
    plan = Plan(
        settings=tuple(settings),
        seeds=numbers,
        baseline=chosen_baseline(baseline, settings),
        data=shared,
        fingerprint=shared.fingerprint(),
        precision=keras.config.dtype_policy().name,
        speeds={},
    )
    saved = check_folder(folder, plan.fingerprint, overwrite=overwrite)  # before it is made
    speeds = saved.get("speeds", {})
    if saved:
        check_continues(folder, saved, plan, spent)
    for setting in plan.settings:
        sizes = setting.spec, shared.tokenizer, shared.corpus, setting.recipe
        check_training_sizes(*sizes, elsewhere=executor is not None)
    if spent is not None:
        plan = plan.with_budget(spent, speeds, progress=progress)
    make_folder(folder)
    write_description(folder, plan)
    attempt("diagrams", lambda: write_diagrams(folder, plan.settings))
    if progress:
        _introduce(folder, plan)
    if overwrite:
        remove_other_runs(folder, plan.runs)
    outcomes = perform_runs(
        plan.runs,
        folder,
        shared,
        executor=executor,
        workers=workers,
        progress=progress,
        callbacks=callbacks,
    )
    study = Study(folder, plan.settings, tuple(plan.runs), outcomes, plan.baseline, plan.costs)
    _write(study, shared.corpus, progress)
    return study


def _introduce(folder: Path, plan: Plan) -> None:
    """Print what differs between the settings."""
    print(question(plan.settings))
    attempt("the blocks", lambda: print(*blocks(plan.settings), sep="\n"))
    if (folder / VARIANTS).exists():
        print(f"{folder / VARIANTS} shows a block of each", flush=True)


def _write(study: Study, corpus: Corpus, progress: bool) -> None:
    """Write and print the results, then what may fail without a loss."""
    write_tables(study)
    if progress:
        print(f"\n{study}", flush=True)
    if (best := study.best) is None:
        return
    model = load(study.folder / RUNS / best.folder)
    attempt(BEST, lambda: model.save(study.folder / BEST, overwrite=True))
    attempt("samples.md", lambda: write_samples(study, corpus))
    attempt(CURVES, lambda: write_curves(study))
    attempt(REPORT, lambda: write_report(study))
    if progress:
        print(f"\nwritten to {study.folder}{os.sep}: {listing(study.folder)}")
        print(f"the report is {study.folder / REPORT}")
        print(
            f"the run with the lowest validation loss is {best.setting}, seed {best.seed}; to use "
            "it:\n"
        )
        print(f"    {usage_command(study.folder / BEST, corpus)}\n")
