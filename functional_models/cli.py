"""The command line, `functional-models`.

Keras is imported only by commands that need it, so that `--help` and `variants` are fast.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
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
    DEFAULT,
    FOLDER_HELP,
    CommandParser,
    PrintVersions,
    add_flag,
    add_model,
    add_sampler_options,
    add_spec_options,
    complete_and_exit,
    discarded_stdout,
    import_keras,
    load_model,
    load_spec,
    sampler_options,
    spec_changes,
    whole_number,
)
from functional_models.cli_training import add_training_commands
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
from functional_models.starting import raise_again


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
    raise_again()  # until here, Ctrl-C ends the process
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

    _add_spec_commands(command)
    add_training_commands(command)
    _add_text_commands(command)
    _add_conversion_commands(command)
    add_claims_command(command)
    add_graph_commands(command)
    return parser


def _add_spec_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
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


def _add_text_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
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

    text = "name the classes of texts with a trained encoder"
    sub = command("classify", classify, text, 'out/reviews "I liked every minute of it."')
    sub.add_argument("model", metavar="FOLDER", help=FOLDER_HELP)
    text = "a text to classify; default: the lines of stdin"
    sub.add_argument("texts", nargs="*", metavar="TEXT", help=text)
    add_flag(sub, "--scores", "print the probability before each class")


def _add_conversion_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    text = "write a TensorFlow SavedModel from text to text, or a folder of Hugging Face"
    sub = command("export", export, text, "out/book --to out/saved_model", quiet=True)
    sub.add_argument("model", metavar="FOLDER", help=FOLDER_HELP)
    sub.add_argument("--to", required=True, metavar="DIR", help="folder of the result")
    formats = ("saved_model", "hugging_face")
    sub.add_argument("--format", choices=formats, default=formats[0], help=DEFAULT)
    text = "license of a Hugging Face model, such as apache-2.0; default: none is named"
    sub.add_argument("--license", metavar="ID", help=text)
    add_flag(sub, "--overwrite", "replace an earlier export in the folder")
    add_sampler_options(sub, "greedy", "as of generate or translate")

    text = "convert a model of KerasHub or Hugging Face with its weights"
    sub = command("import", import_model, text, "downloads/SmolLM2-135M --to out/lm", quiet=True)
    text = "a folder of Hugging Face, a GGUF file, or a preset of KerasHub, which may be a folder"
    sub.add_argument("source", help=text)
    sub.add_argument("--to", required=True, metavar="FOLDER", help="folder of the model")
    add_flag(sub, "--overwrite", "replace a model in the folder")
    text = "type of the weights, also on disk; default: float32"
    sub.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help=text)
    text = "tokens, for KerasHub models without position embeddings; default: that of the source"
    sub.add_argument("--max-sequence-length", type=whole_number, metavar="N", help=text)


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


def generate(options: argparse.Namespace) -> None:
    """Continue prompts."""
    if options.stream and options.scores:
        raise ValueError("--stream prints text before its score is known; omit --scores")
    lm = load_model(options.model, "decoder_only")
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

    translator = load_model(options.model, "encoder_decoder")
    sentences = options.sentences or decode_lines(sys.stdin.buffer.read(), "the standard input")
    _print_texts(translator.translate(sentences, **sampler_options(options)))


def classify(options: argparse.Namespace) -> None:
    """Name the class of each text, or of each line of the standard input."""
    from functional_models.corpora.decoding import decode_lines

    encoder = load_model(options.model, "encoder_only", encoders=True)
    texts = options.texts or decode_lines(sys.stdin.buffer.read(), "the standard input")
    found = encoder.class_probabilities(texts)
    for row in found:
        score = f"{row.max():.4f}\t" if options.scores else ""
        print(f"{score}{encoder.spec.classes[row.argmax()]}")


def _print_texts(outcomes: Sequence[Any]) -> None:
    """Print each text, or the n best of each input, on one line each, after its score."""
    for outcome in outcomes:
        for found in outcome if isinstance(outcome, list) else [outcome]:
            if isinstance(found, str):
                print(found)
            else:
                print(f"{found.log_probability:.4f}\t{found.text}")


def export(options: argparse.Namespace) -> None:
    """Write a SavedModel, or a folder of Hugging Face."""
    if options.format == "hugging_face":
        from functional_models.hugging_face.export import to_hugging_face

        given = {"license": options.license, "overwrite": options.overwrite}
        folder = to_hugging_face(load_model(options.model), options.to, **given)
        print(f"the model is in {folder}; {folder}/README.md shows how to load it")
        return
    given = {"overwrite": options.overwrite, **sampler_options(options)}
    folder = load_model(options.model).export(options.to, **given)
    print(f"the SavedModel is in {folder}; {folder}/README.txt shows how to call it")


def import_model(options: argparse.Namespace) -> None:
    """Convert a model of KerasHub or Hugging Face."""
    changes = {"max_sequence_length": options.max_sequence_length}
    given = {name: value for name, value in changes.items() if value is not None}
    from functional_models.model_folder import check_model_folder

    check_model_folder(options.to, overwrite=options.overwrite)  # before the work
    import_keras()
    from functional_models.conversion import from_keras_hub
    from functional_models.loading import precision

    with precision(options.dtype):
        model = from_keras_hub(options.source, **given)
    model.save(options.to, overwrite=options.overwrite)
    spec = model.spec
    print(
        f"{options.source}: {spec.kind}, {spec.num_layers} blocks of width {spec.hidden_dim}, "
        f"{model.model.count_params():,} parameters"
    )
    uses = {"decoder_only": "generate", "encoder_decoder": "translate"}
    if spec.classes:
        uses["encoder_only"] = "classify"
    if model.tokenizers and spec.kind in uses:
        print(f"the model is in {options.to}; functional-models {uses[spec.kind]} {options.to} ...")
    else:
        print(f"the model is in {options.to}; functional_models.load({options.to!r}) in Python")
