"""`compare`: train several settings with the same budget and several seeds."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path
from typing import Any

import builders
from builders.errors import unknown_name
from functional_models.checks import check_count
from functional_models.corpora import Corpus, ParallelCorpus, load_corpus
from functional_models.folders import COMPARISON, check_content, folder_path, make_folder
from functional_models.loading import load, sized_for
from functional_models.recipe import LARGEST_SEED, Recipe, default_budget, make_recipe
from functional_models.studies.budgets import (
    Budget,
    flops_per_step,
    mean_lengths,
    measure_speed,
    parse_budget,
    with_budget,
)
from functional_models.studies.execution import RUNS, perform_runs
from functional_models.studies.folder import (
    BEST,
    attempt,
    check_folder,
    listing,
    remove_other_runs,
    write_description,
    write_pictures,
    write_tables,
)
from functional_models.studies.question import question
from functional_models.studies.report import REPORT, write_report
from functional_models.studies.results import Cost, Study
from functional_models.studies.runs import Run, StudyData, make_runs
from functional_models.studies.samples import usage_command, write_samples
from functional_models.studies.settings import Setting, Spec, make_settings, match_sizes
from functional_models.tokenizer_training import shared_tokenizer

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
    callbacks: Callable[[Run], tuple[Any, ...]] = lambda run: (),
    overwrite: bool = False,
    progress: bool = True,
) -> Study:
    """Train every setting with every seed on the same data, and compare the results.

    Finished runs of `folder` are not trained again, and interrupted ones resume. Settings and seeds
    may be added, and several processes may work on one folder. A run that diverges or fails is a
    result, and a picture that fails costs none.

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
        ablate: Changes to make one at a time, such as `["residual", "warmup_steps=0"]`.
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
        callbacks: Returns Keras callbacks for a run; not for workers and executors.
        overwrite: Replace a comparison on other data; also deletes runs that this one lacks.
        progress: Show progress bars and reports.

    Returns:
        The study. It is printed as a table with a verdict; `study.results` are dicts.

    Raises:
        ValueError: no specs, equal names, an unknown field, a value that a spec refuses, a spec of
            another kind than the data, or data without a held-out part; otherwise as `fit`.
        FileExistsError: the folder holds something else, such as a comparison on other data.
        Exception: of the first run, if all fail.
    """
    import keras

    folder = folder_path(folder)
    check_content(folder, (COMPARISON,), overwrite=True)
    recipe = make_recipe(recipe or default_budget(), {})
    spent = None if budget is None else parse_budget(budget)
    chosen_seeds = _seeds(seeds, recipe)
    check_count("workers", workers)
    given = _by_name(specs)
    if kind not in (None, "encoder_decoder", "decoder_only"):
        raise ValueError(
            f"kind={kind!r}: must be 'encoder_decoder' or 'decoder_only'; compare trains "
            "translators and language models"
        )
    corpus = data if isinstance(data, Corpus) else load_corpus(data, kind, progress=progress)
    if not (corpus.test or corpus.validation):
        raise ValueError(f"{corpus.name} has no held-out text to evaluate on; give more text")
    if vocabulary_size is None and tokenizer != "byte":
        vocabulary_size = 2000
    shared = StudyData(
        corpus, shared_tokenizer(corpus, tokenizer, vocabulary_size, progress=progress)
    )
    settings = make_settings(
        _sized(given, shared, changes or {}),
        recipe,
        grid=grid,
        ablate=ablate,
        learning_rates=learning_rates,
    )
    names = [name for s in settings for name in dict.fromkeys((s.name, s.group))]
    if baseline is not None and baseline not in names:
        raise ValueError(unknown_name("baseline", str(baseline), names))
    lengths = mean_lengths(settings[0].spec, shared)
    if match is not None:
        settings = match_sizes(settings, match, max(round(lengths.target), 1))
    fingerprint = shared.fingerprint()
    saved = check_folder(folder, fingerprint, overwrite=overwrite)  # before it is made
    speeds = dict(saved.get("speeds", {}))
    if spent is not None:
        settings = _with_budgets(settings, spent, shared, speeds, progress)
    precision = keras.config.dtype_policy().name
    runs = make_runs(settings, chosen_seeds, fingerprint, precision)
    first = settings[0].group if baseline is None else baseline
    make_folder(folder)
    costs = _costs(settings, shared)
    write_description(
        folder,
        settings,
        chosen_seeds,
        first,
        fingerprint,
        precision,
        speeds,
        costs,
        corpus.name,
    )
    if progress:
        print(question(settings), flush=True)
    if overwrite:
        remove_other_runs(folder, runs)
    outcomes = perform_runs(
        runs,
        folder,
        shared,
        executor=executor,
        workers=workers,
        progress=progress,
        callbacks=callbacks,
    )
    study = Study(folder, tuple(settings), tuple(runs), outcomes, first, costs)
    _write(study, corpus, progress)
    return study


def _seeds(seeds: int | Sequence[int], recipe: Recipe) -> list[int]:
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        check_count("seeds", seeds)
        return [recipe.seed + number for number in range(seeds)]
    if isinstance(seeds, str | bool) or not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be a number or a list of seeds, given {seeds!r:.60}")
    listed = list(seeds)
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"seeds={listed!r:.60}: must be one seed or more, each once")
    for seed in listed:
        check_count("seed", seed, least=0, most=LARGEST_SEED)
    return listed


def _by_name(specs: Iterable[Spec] | Mapping[str, Spec]) -> dict[str, Spec]:
    """Return specs by name."""
    if isinstance(specs, Mapping):
        given: dict[str, Spec] = {str(name): spec for name, spec in specs.items()}
    else:
        given = {}
        several = isinstance(specs, Iterable) and not isinstance(specs, str | bytes)
        listed: Any = specs if several else [specs]
        for spec in listed:
            if _name(spec) in given:
                raise ValueError(f"two specs have the name {_name(spec)}; name them with a dict")
            given[_name(spec)] = spec
    if not given:
        raise ValueError("there is nothing to compare; give at least one variant")
    for spec in given.values():
        _name(spec)  # raises for other types
    return given


def _name(spec: Spec) -> str:
    if isinstance(spec, str):
        return spec
    if not isinstance(spec, builders.TransformerSpec):
        raise TypeError(f"compare takes variants and specs, given {type(spec).__name__}")
    return f"{spec.norm_placement}_norm_{spec.positions}" + ("" if spec.residual else "_no_skips")


def _sized(
    given: Mapping[str, Spec], data: StudyData, changes: Mapping[str, Any]
) -> dict[str, builders.TransformerSpec]:
    """Return specs for the data and its vocabulary."""
    kind = "encoder_decoder" if isinstance(data.corpus, ParallelCorpus) else "decoder_only"
    chosen = {}
    for name, spec in given.items():
        plain = builders.variant(spec, kind=kind) if isinstance(spec, str) else spec
        if plain.kind != kind:
            raise ValueError(f"{name} is of kind={plain.kind!r}, the data is for {kind!r}")
        chosen[name] = sized_for(plain, data.tokenizer, changes)
    return chosen


def _with_budgets(
    settings: Sequence[Setting],
    budget: Budget,
    data: StudyData,
    speeds: dict[str, float],
    progress: bool,
) -> list[Setting]:
    """Return settings with the steps of a budget; `speeds` keeps what is measured for it."""
    changed = []
    for setting in settings:
        speed = None
        if budget.unit == "seconds":
            if setting.name not in speeds:
                if progress:
                    print(f"measuring the speed of {setting.name}", flush=True)
                speeds[setting.name] = measure_speed(setting, data)
            speed = speeds[setting.name]
        lengths = mean_lengths(setting.spec, data)
        changed.append(with_budget(setting, budget, lengths, speed))
    return changed


def _costs(settings: Sequence[Setting], data: StudyData) -> dict[str, Cost]:
    """Return what a step of each setting costs, if its operations are known."""
    costs = {}
    for setting in settings:
        lengths = mean_lengths(setting.spec, data)
        with suppress(ValueError):  # a custom component
            flops = flops_per_step(setting, lengths)
            costs[setting.name] = Cost(lengths.target * setting.recipe.batch_size, flops)
    return costs


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
    attempt("pictures", lambda: write_pictures(study))
    attempt(REPORT, lambda: write_report(study))
    if progress:
        print(f"\nwritten to {study.folder}{os.sep}: {listing(study.folder)}")
        print(f"the report is {study.folder / REPORT}")
        print(
            f"the run with the lowest validation loss is {best.setting}, seed {best.seed}; to use "
            "it:\n"
        )
        print(f"    {usage_command(study.folder / BEST, corpus)}\n")
