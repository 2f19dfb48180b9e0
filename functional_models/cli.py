"""The command line, `functional-models`.

Keras is imported only by commands that need it, so that `--help` and `variants` are fast.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import builders
from builders.costs import PRECISIONS
from builders.counting import custom_component
from builders.spec import KINDS
from functional_models.cli_claims import add_claims_command
from functional_models.cli_errors import StopSignals, report
from functional_models.cli_graphs import add_graph_commands
from functional_models.cli_options import (
    DATA_HELP,
    FOLDER_HELP,
    CommandParser,
    PrintVersions,
    add_data_options,
    add_flag,
    add_model,
    add_recipe_options,
    add_sampler_options,
    add_spec_options,
    complete_and_exit,
    complete_with,
    discarded_stdout,
    import_keras,
    load_spec,
    recipe_changes,
    sampler_options,
    spec_changes,
    whole_number,
)
from functional_models.descriptions import (
    cache_lines,
    fields_table,
    flop_lines,
    layer_lines,
    memory_lines,
    parameter_lines,
    variants_json,
    variants_table,
)
from functional_models.memory import keep_freed_memory
from functional_models.recipe import Recipe, default_budget, make_recipe
from functional_models.tables import format_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code.

    Returns:
        0; 1 from `diff` and `diagnose` if they find something; 2 for bad input; after Ctrl-C 130,
        after SIGTERM 143, after SIGHUP 129.
    """
    parser = _parser()
    complete_and_exit(parser)
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        parser.print_help(sys.stderr)
        return 2
    options = parser.parse_args(given)
    options.started = time.time()
    keep_freed_memory()
    warnings.formatwarning = _warning_line
    stop = StopSignals()
    try:
        with stop, discarded_stdout() if options.quiet else nullcontext():
            return options.run(options) or 0
    except BaseException as error:
        if not (stop.received or isinstance(error, KeyboardInterrupt)):
            return report(error, options.debug)
    with suppress(OSError):  # after SIGHUP there may be no terminal
        print("\nstopped; " + _after_interrupt(options), file=sys.stderr)
    return 128 + (stop.received or signal.SIGINT)


def _warning_line(message: Warning | str, *_: object, **__: object) -> str:
    """Return a warning as one line, without the line of source code that Python adds."""
    return f"functional-models: {message}\n"


def _after_interrupt(options: argparse.Namespace) -> str:
    """Return a message about files that the command has written, and a remedy."""
    if getattr(options, "to", None) is None:
        return "nothing was written"
    from functional_models.folders import RUN

    to = Path(options.to)
    if hasattr(options, "report_every") and any(to.rglob(RUN)):  # training
        return f"the last checkpoint in {to} is complete; the same command resumes from it"
    files = [path for path in (to, *to.rglob("*")) if path.is_file()]
    started = options.started - 0.1  # times of files may lag behind the clock
    if any(path.stat().st_mtime >= started for path in files):
        again = "{to} may be incomplete; the same command writes it again"
        return getattr(options, "if_stopped", again).format(to=to)
    return f"nothing was written to {to} yet; the same command starts again"


def _parser() -> argparse.ArgumentParser:
    parser = CommandParser(
        prog="functional-models",
        description="Transformers as Keras Functional graphs: build, train, compare, draw.",
    )
    parser.add_argument("--version", action=PrintVersions, help="print the versions and exit")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    parser.set_defaults(quiet=False)
    parser.epilog = "`functional-models COMMAND --help` shows the options of a command."
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Any, summary: str, example: str, quiet: bool = False
    ) -> argparse.ArgumentParser:
        example = f"functional-models {name} {example}".strip()
        sub = commands.add_parser(
            name, help=summary, description=summary, epilog=f"example:\n  {example}"
        )
        sub.example = example
        if quiet:
            add_flag(sub, "--quiet", "print errors only")
        # Also allowed after the command; SUPPRESS keeps the value from before the command.
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        sub.set_defaults(run=run)
        return sub

    sub = command("variants", variants, "list the named architectures", "--kind encoder_only")
    text = "list those that can be built as this kind; default: all"
    sub.add_argument("--kind", choices=KINDS, help=text)
    add_flag(sub, "--json", "print a JSON list that includes the specs")

    command("fields", fields, "list the fields of a spec, by part of the model", "")

    text = "print the spec, the parameters and the costs of a model"
    sub = command("inspect", inspect, text, "gpt2_small --set num_layers=6 --dtype bfloat16")
    add_model(sub, "a variant or a model folder")
    text = "precision of weights, gradients and cache"
    sub.add_argument("--dtype", choices=PRECISIONS, default="float32", help=text)
    add_flag(sub, "--layers", "also print the parameters by layer and the number of skip paths")
    add_spec_options(sub)

    text, example = "train a model on text or sentence pairs", "--data book.txt --to out/book"
    sub = command("train", train, text, example, quiet=True)
    text = "folder of the model; an interrupted run resumes, a finished one with more --steps too"
    sub.add_argument("--to", required=True, metavar="FOLDER", help=text)
    add_flag(sub, "--overwrite", "replace another run, or a model, in the folder")
    add_data_options(sub)
    text = "text to continue or translate at every report; default: none"
    sub.add_argument("--sample", metavar="TEXT", help=text)
    add_spec_options(sub, "pre_norm_learned")
    add_recipe_options(sub, Recipe())
    add_flag(sub, "--tensorboard", "also write the reports for TensorBoard, to FOLDER/tensorboard")

    text = "train variants with the same budget and compare them"
    example = "post_norm_learned pre_norm_learned --data book.txt --steps 500"
    sub = command("compare", compare, text, example, quiet=True)
    text = "default: pre- and post-norm, learned and sinusoidal positions"
    complete_with(sub.add_argument("variants", nargs="*", help=text), builders.list_variants)
    text = "folder of the results and the models; an interrupted comparison resumes"
    sub.add_argument("--to", default="out/comparison", metavar="FOLDER", help=text)
    add_flag(sub, "--overwrite", "replace another comparison in the folder")
    add_data_options(sub)
    add_spec_options(sub)
    add_recipe_options(sub, default_budget())

    text = "evaluate a trained model on text or sentence pairs"
    sub = command("evaluate", evaluate, text, "out/book --data other_book.txt")
    sub.add_argument("model", metavar="FOLDER", help=FOLDER_HELP)
    sub.add_argument("--data", nargs="+", default=["embedded"], metavar="FILE", help=DATA_HELP)

    text = "continue a prompt with a trained language model"
    sub = command("generate", generate, text, 'out/book "Once upon a time" --stream')
    sub.add_argument("model", metavar="FOLDER", help=FOLDER_HELP)
    sub.add_argument("prompts", nargs="+", metavar="PROMPT", help="a text to continue")
    text, yes_or_no = "print the prompt too; default: yes", argparse.BooleanOptionalAction
    sub.add_argument("--echo", action=yes_or_no, default=True, help=text)
    add_flag(sub, "--stream", "print the text of a single prompt while it is generated")
    text = "text of a token that ends the generation; may be repeated"
    sub.add_argument("--stop", action="append", default=[], metavar="TEXT", help=text)
    add_flag(sub, "--scores", "print the log-probability before each text")
    add_sampler_options(sub, "top_p", "100, or as many as max_sequence_length leaves")

    text = "translate sentences with a trained translator"
    sub = command("translate", translate, text, 'out/de-en "Ein Hund läuft im Schnee."')
    sub.add_argument("model", metavar="FOLDER", help=FOLDER_HELP)
    text = "a sentence to translate; default: the lines of stdin"
    sub.add_argument("sentences", nargs="*", metavar="SENTENCE", help=text)
    add_sampler_options(sub, "greedy", "1.5 times the source + 16, or as max_sequence_length has")

    text = "write a TensorFlow SavedModel from text to text"
    sub = command("export", export, text, "out/book --to out/saved_model", quiet=True)
    sub.add_argument("model", metavar="FOLDER", help=FOLDER_HELP)
    sub.add_argument("--to", required=True, metavar="DIR", help="folder of the SavedModel")
    add_flag(sub, "--overwrite", "replace an earlier export in the folder")
    add_sampler_options(sub, "greedy", "as of generate or translate")

    text, example = "convert a KerasHub model with its weights", "gpt2_base_en --to out/gpt2"
    sub = command("import", import_model, text, example, quiet=True)
    sub.add_argument("source", help="a preset, or a folder in KerasHub or Hugging Face format")
    sub.add_argument("--to", required=True, metavar="FOLDER", help="folder of the model")
    add_flag(sub, "--overwrite", "replace a model in the folder")
    text = "tokens, for models without position embeddings; default: that of the source"
    sub.add_argument("--max-sequence-length", type=whole_number, metavar="N", help=text)

    add_claims_command(command)
    add_graph_commands(command)
    return parser


def variants(options: argparse.Namespace) -> None:
    """List the registered variants."""
    names = builders.list_variants(options.kind)
    print(variants_json(names) if options.json else variants_table(names))


def fields(options: argparse.Namespace) -> None:
    """List the fields of a spec."""
    print(fields_table())


def inspect(options: argparse.Namespace) -> None:
    """Print a spec with its parameters, floating-point operations and memory.

    They are counted from the spec. With components registered by others, parameters are counted
    from the graph.
    """
    spec = load_spec(options.model, spec_changes(options))
    if not Path(options.model).is_dir():
        info = builders.variant_info(options.model)
        print(f"{info.name}: {info.summary}\nsource: {info.source}")
        if info.parameters:
            print(f"parameters as published: {info.parameters}")
        print()
    print(spec.to_json())

    custom = custom_component(spec)
    sections = []
    if custom or options.layers:
        import_keras()
        import plots

        model = builders.build(spec, abstract=True)
        number = len(plots.skip_paths(plots.read_graph(model)))
        sections += [layer_lines(model), [f"skip paths: {number}"]]
    if custom:
        parameters = model.count_params()
        note = f"{custom} is a custom component: floating-point operations are not counted"
        sections.append([note])
    else:
        parameters = builders.count_parameters(spec).total
        sections += [parameter_lines(spec), flop_lines(spec)]
    sections += [memory_lines(parameters, options.dtype), cache_lines(spec, options.dtype)]
    for lines in filter(None, sections):
        print("\n" + "\n".join(lines))


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


def _corpus(options: argparse.Namespace, kind: str | None) -> Any:
    from functional_models.corpora import load_corpus

    data, validation, test = (_files(options, name) for name in ("data", "validation", "test"))
    shown = not options.quiet
    return load_corpus(data, kind, validation=validation, test=test, progress=shown)


def train(options: argparse.Namespace) -> None:
    """Train a model."""
    if options.tensorboard and find_spec("tensorboard") is None:
        raise ImportError("--tensorboard needs TensorBoard: pip install tensorboard")
    recipe = make_recipe(None, recipe_changes(options))
    changes = spec_changes(options)
    from functional_models.model_folder import check_model_folder

    check_model_folder(options.to, overwrite=options.overwrite, resumes=True)
    from functional_models.corpora import kind_of_data

    default = builders.variant_info(options.variant).kinds[0]
    kind = changes.pop("kind", None) or kind_of_data(_files(options, "data")) or default
    if kind == "encoder_only":
        raise ValueError(_no_encoders("train"))
    spec = builders.variant(options.variant, kind=kind, **changes)
    pairs = kind == "encoder_decoder"
    corpus = _corpus(options, kind)

    number = len(corpus.train)
    item = ("pair" if pairs else "document") + "s" * (number != 1)
    print(f"{corpus.name}: {number:,} training {item}")
    keras = import_keras()
    from functional_models.comparison import usage_command
    from functional_models.loading import new_text_model, sized_for
    from functional_models.tokenizer_training import shared_tokenizer

    _set_dtype(options)
    size, shown = _vocabulary_size(options), not options.quiet
    tokenizer = shared_tokenizer(corpus, options.tokenizer, size, progress=shown)
    keras.utils.set_random_seed(recipe.seed)
    model = new_text_model(sized_for(spec, tokenizer, changes), tokenizer)
    if not options.sample:
        sample: dict[str, Any] = {}
    elif pairs:
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
    print(f"    {usage_command(options.to, corpus)}")


def compare(options: argparse.Namespace) -> None:
    """Train several variants and compare them."""
    changes = spec_changes(options)
    kind = changes.pop("kind", None)
    if kind == "encoder_only":
        raise ValueError(_no_encoders("compare"))
    for number, name in enumerate(options.variants):
        if name in options.variants[:number]:
            raise ValueError(f"{name} was given twice; give each variant once")
        builders.variant(name, **changes)  # raises before any is trained
    import_keras()
    from functional_models.comparison import CORNERS
    from functional_models.comparison import compare as run

    _set_dtype(options)
    run(
        options.variants or CORNERS,
        _corpus(options, kind),
        budget=default_budget(**recipe_changes(options)),
        folder=options.to,
        overwrite=options.overwrite,
        tokenizer=options.tokenizer,
        vocabulary_size=_vocabulary_size(options),
        changes=changes,
        progress=not options.quiet,
    )


def _no_encoders(command: str) -> str:
    return (
        f"{command} trains language models (--kind decoder_only) and translators (--kind "
        "encoder_decoder), not encoders; give one of these kinds and a variant that has it "
        "(`functional-models variants` shows them), or train an encoder with model.fit in Python"
    )


def _load(folder: str, kind: str | None = None) -> Any:
    """Load a text model; check the folder before Keras is imported."""
    from functional_models.model_folder import read_spec

    found = read_spec(folder).kind
    if found == "encoder_only":
        raise ValueError(
            f"{folder} holds an encoder, which generates no text; use it in Python: "
            f"functional_models.load({folder!r}).vectors(texts)"
        )
    if kind not in (None, found):
        command = "generate" if found == "decoder_only" else "translate"
        raise ValueError(
            f"{folder} holds a model of kind {found}, not {kind}; use functional-models {command}"
        )
    import_keras()
    from functional_models.loading import load

    return load(folder)


def evaluate(options: argparse.Namespace) -> None:
    """Evaluate a model on the held-out part of a named corpus, or on whole files."""
    from functional_models.corpora import is_named, load_parallel_corpus, load_text_corpus

    data = _files(options, "data")
    model = _load(options.model)
    named = is_named(data)
    if model.kind == "encoder_decoder":
        pairs = load_parallel_corpus(data, held_out_fraction=0.05 if named else 0.0)
        held_out: Any = pairs.test or pairs.validation or pairs.train
    else:
        text = load_text_corpus(data, validation_fraction=0.1 if named else 0.0)
        held_out = text.validation or text.train
    _print_results(model.evaluate(held_out))


def _print_results(results: Mapping[str, float]) -> None:
    rows = [
        (name, f"{value:,.0f}" if name == "tokens" else f"{value:.4f}")
        for name, value in results.items()
    ]
    print(format_table(rows))


def generate(options: argparse.Namespace) -> None:
    """Continue prompts."""
    if options.stream and options.scores:
        raise ValueError("--stream prints text before its score is known; omit --scores")
    lm = _load(options.model, "decoder_only")
    given = {"echo": options.echo, "stop_tokens": options.stop, **sampler_options(options)}
    if options.stream and len(options.prompts) == 1:
        for piece in lm.generate(options.prompts[0], stream=True, **given):
            print(piece, end="", flush=True)
        print()
        return
    _print_texts(lm.generate(options.prompts, scores=options.scores, **given))


def translate(options: argparse.Namespace) -> None:
    """Translate sentences, or the lines of the standard input; a blank line for a blank one."""
    from functional_models.corpora.decoding import decode_lines

    translator = _load(options.model, "encoder_decoder")
    sentences = options.sentences or decode_lines(sys.stdin.buffer.read(), "the standard input")
    _print_texts(translator.translate(sentences, **sampler_options(options)))


def _print_texts(outcomes: Sequence[Any]) -> None:
    """Print each text, or the n best of each input, on one line each, after its score."""
    for outcome in outcomes:
        for found in outcome if isinstance(outcome, list) else [outcome]:
            if isinstance(found, str):
                print(found)
            else:
                print(f"{found.log_probability:.4f}\t{found.text}")


def export(options: argparse.Namespace) -> None:
    """Write a SavedModel."""
    given = {"overwrite": options.overwrite, **sampler_options(options)}
    folder = _load(options.model).export(options.to, **given)
    print(f"the SavedModel is in {folder}; {folder}/README.txt shows how to call it")


def import_model(options: argparse.Namespace) -> None:
    """Convert a KerasHub model."""
    changes = {"max_sequence_length": options.max_sequence_length}
    given = {name: value for name, value in changes.items() if value is not None}
    from functional_models.model_folder import check_model_folder

    check_model_folder(options.to, overwrite=options.overwrite)  # before the work
    import_keras()
    from functional_models.conversion import from_keras_hub

    model = from_keras_hub(options.source, **given)
    model.save(options.to, overwrite=options.overwrite)
    spec = model.spec
    print(
        f"{options.source}: {spec.kind}, {spec.num_layers} blocks of width {spec.hidden_dim}, "
        f"{model.model.count_params():,} parameters"
    )
    uses = {"decoder_only": "generate", "encoder_decoder": "translate"}
    if model.tokenizers and spec.kind in uses:
        print(f"the model is in {options.to}; functional-models {uses[spec.kind]} {options.to} ...")
    else:
        print(f"the model is in {options.to}; functional_models.load({options.to!r}) in Python")
