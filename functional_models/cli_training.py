"""Commands that train: `train`, `compare` and `report`, and `evaluate`."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Any

import builders
from functional_models.cli_options import (
    DATA_HELP,
    FOLDER_HELP,
    add_data_options,
    add_device_options,
    add_flag,
    add_recipe_options,
    add_spec_options,
    complete_with,
    device_options,
    discarded_stdout,
    import_keras,
    load_model,
    real_number,
    recipe_changes,
    spec_changes,
    whole_number,
)
from functional_models.field_values import parse_field
from functional_models.recipe import Recipe, default_budget, make_recipe
from functional_models.tables import format_table


def add_training_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands of this module to the command line."""
    text, example = "train a model on text or pairs of texts", "--data book.txt --to out/book"
    sub = command("train", train, text, example, quiet=True)
    text = "folder of the model; an interrupted run resumes, a finished one with more --steps too"
    sub.add_argument("--to", required=True, metavar="FOLDER", help=text)
    add_flag(sub, "--overwrite", "replace another run, or a model, in the folder")
    add_data_options(sub)
    text = "text to continue or translate at every report; default: none"
    sub.add_argument("--sample", metavar="TEXT", help=text)
    add_spec_options(sub, "pre_norm_learned")
    add_recipe_options(sub, Recipe())
    add_device_options(sub)
    add_flag(sub, "--tensorboard", "also write the reports for TensorBoard, to FOLDER/tensorboard")

    text = "train variants with the same budget and compare them"
    example = "post_norm_learned pre_norm_learned --data book.txt --steps 500"
    sub = command("compare", compare, text, example, quiet=True)
    text = "default: pre- and post-norm, learned and sinusoidal positions"
    complete_with(sub.add_argument("variants", nargs="*", help=text), builders.list_variants)
    text = (
        "folder of the results and the models; the same comparison resumes, also with more settings"
    )
    sub.add_argument("--to", default="out/comparison", metavar="FOLDER", help=text)
    add_flag(sub, "--overwrite", "replace another comparison in the folder")
    add_data_options(sub)
    add_spec_options(sub)
    _add_study_options(sub)
    add_recipe_options(sub, default_budget())

    text = "write the report of a comparison again, without training"
    sub = command("report", write_report_again, text, "out/comparison")
    sub.add_argument("folder", metavar="FOLDER", help="a folder that compare wrote")

    text = "evaluate a trained model on text or pairs of texts"
    sub = command("evaluate", evaluate, text, "out/book --data other_book.txt")
    sub.add_argument("model", metavar="FOLDER", help=FOLDER_HELP)
    sub.add_argument("--data", nargs="+", default=["embedded"], metavar="FILE", help=DATA_HELP)
    text = "tokens between overlapping blocks of a language model, for more context; default: none"
    sub.add_argument("--stride", type=whole_number, metavar="N", help=text)
    add_flag(sub, "--bleu", "also translate, and print BLEU and chrF, which needs sacrebleu")


def _add_study_options(sub: argparse.ArgumentParser) -> None:
    """Add the options that determine which runs a comparison consists of."""
    group = sub.add_argument_group("comparison")
    text = "what a run may spend: 500, 2e6 tokens, 1e14 flops or 60 seconds; default: --steps"
    group.add_argument("--budget", nargs="+", metavar="N", help=text)
    text = "number of seeds, or two and more seeds; 3 show a difference; default: 1"
    group.add_argument("--seeds", nargs="+", type=whole_number, default=[1], metavar="N", help=text)
    text = "the setting to compare with; default: the first"
    group.add_argument("--baseline", metavar="SETTING", help=text)
    text = "values of a field of spec or recipe to try, e.g. num_layers=2,4; may be repeated"
    group.add_argument("--grid", action="append", default=[], metavar="FIELD=V,V", help=text)
    text = "a change to make alone, e.g. merge=none or warmup_steps=0; may be repeated"
    group.add_argument("--ablate", action="append", default=[], metavar="CHANGE", help=text)
    text = "rates to try for every setting, compared at the best by validation loss; default: one"
    group.add_argument("--learning-rates", nargs="+", type=real_number, metavar="X", help=text)
    text = "change intermediate_dim, so that settings are as large as the first; default: no change"
    group.add_argument("--match", choices=("parameters", "flops"), help=text)
    text = "number of runs at the same time"
    group.add_argument("--workers", type=whole_number, default=1, metavar="N", help=text)
    text = "also write the reports for TensorBoard, to FOLDER/tensorboard"
    group.add_argument("--tensorboard", action="store_true", help=text)


def _study_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `compare` that `_add_study_options` added.

    Raises:
        ValueError: a `--grid` is not FIELD=VALUE,VALUE.
    """
    grid: dict[str, Any] = {}
    for assignment in options.grid:
        field, equals, values = assignment.partition("=")
        if not (equals and field and values):
            raise ValueError(f"--grid {assignment}: must be FIELD=VALUE,VALUE, e.g. num_layers=2,4")
        if field in grid:
            raise ValueError(f"--grid {field} was given twice; write --grid {field}=VALUE,VALUE")
        grid[field] = [parse_field(field, value) for value in values.split(",")]
    seeds = options.seeds
    return {
        "budget": None if options.budget is None else " ".join(options.budget),
        "seeds": seeds[0] if len(seeds) == 1 else seeds,
        "baseline": options.baseline,
        "grid": grid or None,
        "ablate": options.ablate,
        "learning_rates": options.learning_rates or (),
        "match": options.match,
        "workers": options.workers,
    }


def _set_dtype(options: argparse.Namespace) -> None:
    if options.dtype:
        import_keras().config.set_dtype_policy(options.dtype)


def _vocabulary_size(options: argparse.Namespace) -> int | None:
    if options.vocabulary_size is None and options.tokenizer != "byte":
        return 1000
    return options.vocabulary_size


def _files(options: argparse.Namespace, name: str) -> Any:
    """Return `--data`, `--validation` or `--test` as `load_corpus` takes it, or `None`."""
    files = getattr(options, name)
    if files is not None and len(files) > 2:
        raise ValueError(f"--{name} was given {len(files)} files; give one, or two aligned ones")
    return files[0] if files is not None and len(files) == 1 else files and tuple(files)


def _has_pairs(data: Any, kind: str | None) -> bool:
    """Return whether data are pairs: as the names of the files show, else as the kind needs."""
    from functional_models.corpora import kind_of_data

    return "encoder_decoder" in (kind, kind_of_data(data))


def _corpus(options: argparse.Namespace, kind: str | None) -> Any:
    from functional_models.corpora import load_corpus

    data, validation, test = (_files(options, name) for name in ("data", "validation", "test"))
    shown = not options.quiet
    return load_corpus(data, kind, validation=validation, test=test, progress=shown)


def _check_tensorboard(options: argparse.Namespace) -> None:
    if options.tensorboard and find_spec("tensorboard") is None:
        raise ImportError("--tensorboard needs TensorBoard: pip install tensorboard")


def _spec_changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the fields of `--set`.

    Raises:
        ValueError: the size of the vocabulary is among them, which is that of the tokenizer.
    """
    changes = spec_changes(options)
    if (size := changes.get("vocabulary_size")) is not None:
        raise ValueError(
            f"--set vocabulary_size={size}: the vocabulary is that of the tokenizer, which is "
            f"trained on the data; use --vocabulary-size {size}"
        )
    return changes


def train(options: argparse.Namespace) -> None:
    """Train a model."""
    _check_tensorboard(options)
    recipe = make_recipe(None, recipe_changes(options))
    changes = _spec_changes(options)
    from functional_models.model_folder import check_model_folder

    check_model_folder(options.to, overwrite=options.overwrite, resumes=True)
    from functional_models.corpora import kind_of_data

    data = _files(options, "data")
    of_data, kinds = kind_of_data(data), builders.variant_info(options.variant).kinds
    if of_data == "encoder_decoder" and kinds == ("decoder_only",):
        of_data = kinds[0]  # which reads pairs as prompts and replies
    kind = changes.pop("kind", None) or of_data or kinds[0]
    pairs = _has_pairs(data, kind)
    if kind == "encoder_only" and options.sample:
        raise ValueError("--sample: an encoder continues no text; omit it")
    spec = builders.variant(options.variant, kind=kind, **changes)  # raises before data is read
    is_first = _distribute(options, spec, recipe)
    if not is_first:
        options.quiet, options.tensorboard = True, False
    with nullcontext() if is_first else discarded_stdout():
        _train(options, recipe, kind, changes, pairs=pairs)


def _distribute(
    options: argparse.Namespace, spec: builders.TransformerSpec, recipe: Recipe
) -> bool:
    """Set up the devices that were asked for; return whether this process is the first."""
    given = device_options(options)
    if not given:
        return True
    import_keras()
    from functional_models import distribution, processes

    distribution.distribute(**given)
    distribution.check_split(spec)
    distribution.check_batch_size(recipe.batch_size, recipe.gradient_accumulation)
    return processes.is_first_process()


def _train(
    options: argparse.Namespace, recipe: Recipe, kind: str, changes: dict[str, Any], *, pairs: bool
) -> None:
    """Train a model with options that are checked."""
    corpus = _corpus(options, "encoder_decoder" if pairs else "decoder_only")
    if kind == "encoder_only":
        changes = {**_encoder_head(corpus), **changes}
    spec = builders.variant(options.variant, kind=kind, **changes)

    number = len(corpus.train)
    item = "labelled text" if spec.classes else "pair" if pairs else "document"
    print(f"{corpus.name}: {number:,} training {item}{'s' * (number != 1)}")
    keras = import_keras()
    from functional_models.loading import new_text_model, sized_for
    from functional_models.studies.samples import usage_command
    from functional_models.tokenizer_training import shared_tokenizer
    from functional_models.training_sizes import check_training_sizes

    _set_dtype(options)
    size, shown = _vocabulary_size(options), not options.quiet
    special = {"mask": True} if spec.masked_lm_head else {}
    texts = [0] if spec.classes else [0, 1]
    tokenizer = shared_tokenizer(
        corpus, options.tokenizer, size, sides=texts, progress=shown, **special
    )
    spec = sized_for(spec, tokenizer, changes)
    check_training_sizes(spec, tokenizer, corpus, recipe)
    keras.utils.set_random_seed(recipe.seed)
    model = new_text_model(spec, tokenizer)
    if corpus.test:
        _check_test(model, corpus.test)  # now, not after the training
    if not options.sample:
        sample: dict[str, Any] = {}
    elif kind == "encoder_decoder":
        sample = {"sample_sources": [options.sample]}
    else:
        sample = {"sample_prompt": options.sample}
    callbacks: tuple[Any, ...] = ()
    if options.tensorboard:
        log = os.path.join(options.to, "tensorboard")
        callbacks = (keras.callbacks.TensorBoard(log, write_graph=False),)
    where = {"folder": options.to, "overwrite": options.overwrite}
    model.fit(corpus, recipe=recipe, progress=shown, callbacks=callbacks, **where, **sample)
    if corpus.test:
        print("\ntest, with the best weights:\n")
        _print_results(model.evaluate(corpus.test, progress=shown))
    print(f"\nthe best model is in {options.to}; to use it:\n")
    print(f"    {usage_command(options.to, corpus, kind)}")


def _check_test(model: Any, data: Any) -> None:
    try:
        model.check_data(data)
    except ValueError as error:
        raise ValueError(f"the test data: {error}") from error


def _encoder_head(corpus: Any) -> dict[str, Any]:
    """Return the fields of the head that a corpus trains: for classes, or for masked tokens."""
    from functional_models.corpora import TextCorpus

    if isinstance(corpus, TextCorpus):
        return {"masked_lm_head": True}
    return {"classes": sorted({label for _, label in corpus.train})}


def compare(options: argparse.Namespace) -> None:
    """Train several variants and compare them."""
    _check_tensorboard(options)
    changes = _spec_changes(options)
    kind = changes.pop("kind", None)
    if kind == "encoder_only":
        raise ValueError(
            "compare trains language models (--kind decoder_only) and translators (--kind "
            "encoder_decoder), not encoders; give one of these kinds and a variant that has it "
            "(`functional-models variants` shows them), or train an encoder with train"
        )
    if kind == "decoder_only" and _has_pairs(_files(options, "data"), kind):
        raise ValueError(
            f"compare trains language models on text, and {' '.join(options.data)} are pairs by "
            "name; give one text file, omit --kind to compare translators, or train a decoder on "
            "prompts and replies with train"
        )
    for number, name in enumerate(options.variants):
        if name in options.variants[:number]:
            raise ValueError(f"{name} was given twice; give each variant once")
        builders.variant(name, **changes)  # raises before any is trained
    chosen = _study_options(options)
    import_keras()
    from functional_models.studies.compare import CORNERS
    from functional_models.studies.compare import compare as run
    from functional_models.studies.execution import TensorBoardLogs

    if options.tensorboard:
        chosen["callbacks"] = TensorBoardLogs(os.path.join(options.to, "tensorboard"))
    _set_dtype(options)
    study = run(
        options.variants or CORNERS,
        _corpus(options, kind),
        recipe=default_budget(**recipe_changes(options)),
        **chosen,
        folder=options.to,
        overwrite=options.overwrite,
        tokenizer=options.tokenizer,
        vocabulary_size=_vocabulary_size(options),
        changes=changes,
        progress=not options.quiet,
    )
    if failed := sum(outcome.status == "failed" for outcome in study.outcomes.values()):
        raise ValueError(
            f"{failed} of {len(study.outcomes)} runs failed; the same command tries them again"
        )


def write_report_again(options: argparse.Namespace) -> None:
    """Write the tables, pictures and report of a comparison again, and print the results."""
    from functional_models.studies.folder import (
        CURVES,
        attempt,
        load_study,
        write_curves,
        write_diagrams,
        write_tables,
    )
    from functional_models.studies.report import write_report

    study = load_study(options.folder)
    write_tables(study)
    write_diagrams(study.folder, study.compared)
    attempt(CURVES, lambda: write_curves(study))
    print(study)
    if missing := len({run.key for run in study.runs}) - len(study.outcomes):
        unfinished = "1 run is" if missing == 1 else f"{missing} runs are"
        print(f"{unfinished} not finished; the command that began the study goes on")
    print(f"\nthe report is {write_report(study)}")


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate a model on the held-out part of a named corpus, or on whole files."""
    from functional_models.corpora import is_named, load_parallel_corpus, load_text_corpus

    data = _files(options, "data")
    model = load_model(options.model, encoders=True)
    given: dict[str, Any] = {}
    if options.stride is not None:
        if model.kind != "decoder_only":
            raise ValueError(f"--stride: only a language model has it, and this is a {model.kind}")
        given["stride"] = options.stride
    if options.bleu:
        if model.kind != "encoder_decoder":
            raise ValueError(f"--bleu: only a translator has it, and this is a {model.kind}")
        given["bleu"] = True
    named = is_named(data)
    if model.spec.classes or _has_pairs(data, model.kind):
        pairs = load_parallel_corpus(data, held_out_fraction=0.05 if named else 0.0)
        held_out: Any = pairs.test or pairs.validation or pairs.train
    else:
        text = load_text_corpus(data, validation_fraction=0.1 if named else 0.0)
        held_out = text.validation or text.train
    _print_results(model.evaluate(held_out, **given))


def _print_results(results: Mapping[str, float]) -> None:
    rows = [
        (name, f"{value:,.0f}" if name in ("tokens", "texts") else f"{value:.4f}")
        for name, value in results.items()
    ]
    print(format_table(rows))
