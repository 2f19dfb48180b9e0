"""The command `functional-models`: everything one does with a model, from the shell.

Nothing heavy is imported before the command needs it, so that `--help` and `variants` are instant.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import builders
from builders.costs import PRECISIONS
from builders.counting import custom_component
from builders.spec import KINDS
from functional_models.cli_graphs import add_graph_commands
from functional_models.cli_options import add_spec_options, changes_of, import_keras, spec_of
from functional_models.descriptions import (
    cache_lines,
    flop_lines,
    layer_lines,
    memory_lines,
    parameter_lines,
    variants_json,
    variants_table,
)
from functional_models.memory import keep_freed_memory
from functional_models.samplers import SAMPLERS
from functional_models.tokenizers import TOKENIZER_KINDS

USER_ERRORS = (ValueError, TypeError, OSError, ImportError)
"""What bad input raises: reported in one line, with exit code 2."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code: 0, 1 of diff, 2 for bad input, 130 for Ctrl-C."""
    options = _parser().parse_args(arguments)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    keep_freed_memory()
    try:
        return options.run(options) or 0
    except KeyboardInterrupt:
        print("\nstopped; " + _how_to_go_on(options), file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except USER_ERRORS as error:
        if options.debug:
            raise
        print(f"functional-models: {error}", file=sys.stderr)
        return 2
    return 0


def _how_to_go_on(options: argparse.Namespace) -> str:
    if not hasattr(options, "steps"):
        return "nothing was written"
    return f"the last checkpoint in {options.to} is whole; the same command goes on from there"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="functional-models",
        description="Transformers as Keras Functional graphs: build, train, compare, draw.",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run: Any, summary: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=summary, description=summary)
        # Also after the command; not set there, it leaves what stood before the command.
        sub.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        sub.set_defaults(run=run)
        return sub

    sub = command("variants", variants, "list the architectures that can be built by name")
    sub.add_argument("--kind", choices=KINDS)
    sub.add_argument("--json", action="store_true", help="print a JSON list, with the whole specs")

    sub = command("inspect", inspect, "print the spec of a model, its parameters and its costs")
    sub.add_argument("model", help="a variant or a model folder")
    add_spec_options(sub)
    sub.add_argument(
        "--dtype",
        choices=PRECISIONS,
        default="float32",
        help=f"precision that memory and cache are counted for; {_DEFAULT}",
    )
    sub.add_argument(
        "--layers",
        action="store_true",
        help="print the parameters by layer and the number of skip paths, too",
    )

    sub = command("train", train, "train a model on text, or on sentence pairs")
    sub.add_argument("--variant", default="pre_norm_learned", help=_DEFAULT)
    sub.add_argument("--to", required=True, metavar="FOLDER", help="gets the model; resumes there")
    add_spec_options(sub)
    _add_data_options(sub)
    _add_recipe_options(sub)
    sub.add_argument("--sample", metavar="TEXT", help="continue or translate it at every report")

    sub = command("compare", compare, "train several variants under one budget, side by side")
    sub.add_argument("variants", nargs="*", help="default: the four corners")
    sub.add_argument("--to", default="out/comparison", metavar="FOLDER", help=_DEFAULT)
    add_spec_options(sub)
    _add_data_options(sub)
    _add_recipe_options(sub)

    sub = command("evaluate", evaluate, "measure a trained model on other text")
    sub.add_argument("model", metavar="FOLDER")
    sub.add_argument("--data", nargs="+", default=["embedded"], metavar="FILE", help=_DATA_HELP)

    sub = command("generate", generate, "continue a prompt with a trained language model")
    sub.add_argument("model", metavar="FOLDER")
    sub.add_argument("prompts", nargs="+", metavar="PROMPT")
    sub.add_argument(
        "--echo",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="print the prompt before what follows it; default: yes",
    )
    sub.add_argument(
        "--stream", action="store_true", help="print the text of a single prompt as it comes"
    )
    sub.add_argument(
        "--stop",
        action="append",
        default=[],
        metavar="TEXT",
        help="one more token, as text, that ends what is written; may be given again",
    )
    sub.add_argument(
        "--scores", action="store_true", help="print the log-probability before each text"
    )
    _add_sampler_options(sub, "top_p")

    sub = command("translate", translate, "translate sentences with a trained translator")
    sub.add_argument("model", metavar="FOLDER")
    sub.add_argument("sentences", nargs="*", metavar="SENTENCE", help="default: lines of stdin")
    _add_sampler_options(sub, "greedy")

    sub = command("export", export, "write a TensorFlow SavedModel that takes and gives text")
    sub.add_argument("model", metavar="FOLDER")
    sub.add_argument("--to", required=True, metavar="DIR", help="gets the SavedModel")
    _add_sampler_options(sub, "greedy")

    sub = command("import", import_model, "take over a model of keras-nlp, with its weights")
    sub.add_argument("source", help="a preset, or a folder of keras-nlp's or Hugging Face's")
    sub.add_argument("--to", required=True, metavar="FOLDER", help="gets the model")
    sub.add_argument(
        "--max-sequence-length", type=int, help="of a model without a table of positions"
    )

    add_graph_commands(command)
    return parser


_DEFAULT = "default: %(default)s"
_DATA_HELP = (
    "`embedded`; a text file (language model); a .tsv file or two aligned files (translation); "
    "each also .gz; or tfds:NAME"
)


def _add_data_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--data", nargs="+", default=["embedded"], metavar="FILE", help=_DATA_HELP)
    sub.add_argument("--tokenizer", choices=TOKENIZER_KINDS, default="byte_pair", help=_DEFAULT)
    sub.add_argument("--vocabulary-size", type=int, default=1000, help=_DEFAULT)
    sub.add_argument("--dtype", choices=("float32", "mixed_bfloat16", "mixed_float16"))


def _add_recipe_options(sub: argparse.ArgumentParser) -> None:
    group = sub.add_argument_group("recipe")
    group.add_argument("--steps", type=int)
    group.add_argument("--batch-size", type=int)
    group.add_argument("--learning-rate", type=float)
    group.add_argument("--schedule", help="cosine, inverse_sqrt or constant")
    group.add_argument("--warmup-steps", type=int)
    group.add_argument("--weight-decay", type=float)
    group.add_argument("--label-smoothing", type=float)
    group.add_argument("--report-every", type=int)
    group.add_argument("--seed", type=int)


def _add_sampler_options(sub: argparse.ArgumentParser, default: str) -> None:
    sub.add_argument("--sampler", choices=SAMPLERS, default=default, help=_DEFAULT)
    sub.add_argument("--max-new-tokens", type=int)
    sub.add_argument("--temperature", type=float)
    sub.add_argument("--k", type=int, help="tokens that top_k and contrastive choose among")
    sub.add_argument("--p", type=float, help="probability that top_p's tokens have together")
    sub.add_argument("--alpha", type=float, help="how much contrastive avoids likeness, 0 to 1")
    sub.add_argument("--num-beams", type=int)
    sub.add_argument("--length-penalty", type=float, help="of beam: more is for longer texts")
    sub.add_argument(
        "--num-return-sequences", type=int, help="of beam: the n best, each on a line of its own"
    )
    sub.add_argument("--repetition-penalty", type=float, help="above 1: repeat less")
    sub.add_argument(
        "--min-p", type=float, help="drop tokens less likely than this times the likeliest"
    )
    sub.add_argument("--seed", type=int)


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Return the options that were given, by name."""
    return {n: getattr(options, n) for n in names if getattr(options, n, None) is not None}


def _recipe_changes(options: argparse.Namespace) -> dict[str, Any]:
    names = ("steps", "batch_size", "learning_rate", "schedule", "warmup_steps", "weight_decay")
    return _given(options, *names, "label_smoothing", "report_every", "seed")


def _sampler_options(options: argparse.Namespace) -> dict[str, Any]:
    names = ("max_new_tokens", "temperature", "k", "p", "alpha", "num_beams", "length_penalty")
    more = ("num_return_sequences", "repetition_penalty", "min_p", "seed")
    return {"sampler": options.sampler, **_given(options, *names, *more)}


def variants(options: argparse.Namespace) -> None:
    """Print the registry."""
    names = builders.list_variants(options.kind)
    print(variants_json(names) if options.json else "\n".join(variants_table(names)))


def inspect(options: argparse.Namespace) -> None:
    """Print a spec, its parameters, and the arithmetic and memory that they ask for.

    All is counted from the spec, at any size at once. Of components of one's own only the graph
    knows what they have.
    """
    spec = spec_of(options.model, changes_of(options))
    if not Path(options.model).is_dir():
        info = builders.variant_info(options.model)
        print(f"{info.name}: {info.summary}\nsource: {info.source}")
        if info.parameters:
            print(f"parameters as published: {info.parameters}")
        print()
    print(spec.to_json())

    own = custom_component(spec)
    if own or options.layers:
        import_keras()
        import plots

        model = builders.build(spec, abstract=True)
        print("\n" + "\n".join(layer_lines(model)))
        print(f"\nskip paths: {len(plots.skip_paths(plots.read_graph(model)))}")
    if own:
        parameters = model.count_params()
        print(f"\n{own} is a custom component: the operations of its model are not known")
    else:
        parameters = builders.count_parameters(spec).total
        print("\n" + "\n".join(parameter_lines(spec)))
        print("\n" + "\n".join(flop_lines(spec)))
    print("\n" + "\n".join(memory_lines(parameters, options.dtype)))
    if lines := cache_lines(spec, options.dtype):
        print("\n" + "\n".join(lines))


def _set_dtype(options: argparse.Namespace) -> None:
    if options.dtype:
        import_keras().config.set_dtype_policy(options.dtype)


def _data(options: argparse.Namespace) -> Any:
    """Return what the `load_*_corpus` functions take."""
    if len(options.data) > 2:
        raise ValueError(
            f"--data was given {len(options.data)} files; give one, or two that are aligned"
        )
    return options.data[0] if len(options.data) == 1 else tuple(options.data)


def train(options: argparse.Namespace) -> None:
    """Train a model."""
    changes = changes_of(options)
    data = _data(options)
    from functional_models.comparison import kind_of_data
    from functional_models.corpora import load_parallel_corpus, load_text_corpus

    default = builders.variant_info(options.variant).kinds[0]
    kind = changes.pop("kind", None) or kind_of_data(data) or default
    if kind == "encoder_only":
        raise ValueError(
            f"{options.variant} is an encoder, and train writes a language model or a translator; "
            "give another --variant, or train its graph by model.fit in Python"
        )
    spec = builders.variant(options.variant, kind=kind, **changes)
    pairs = kind == "encoder_decoder"
    corpus: Any = load_parallel_corpus(data) if pairs else load_text_corpus(data)

    from functional_models.comparison import shared_tokenizer, sized_for, usage_command
    from functional_models.text_model import make_recipe, new_text_model

    print(f"{corpus.name}: {len(corpus.train):,} {'pairs' if pairs else 'documents'} to train on")
    keras = import_keras()
    recipe = make_recipe(None, _recipe_changes(options))
    _set_dtype(options)
    tokenizer = shared_tokenizer(corpus, options.tokenizer, options.vocabulary_size)
    keras.utils.set_random_seed(recipe.seed)
    model = new_text_model(sized_for(spec, tokenizer, changes), tokenizer)
    if not options.sample:
        sample: dict[str, Any] = {}
    elif pairs:
        sample = {"sample_sources": [options.sample]}
    else:
        sample = {"sample_prompt": options.sample}
    model.fit(corpus, recipe=recipe, folder=options.to, **sample)
    print(
        f"\nthe best model is in {options.to}. Try it:\n\n    {usage_command(options.to, corpus)}"
    )


def compare(options: argparse.Namespace) -> None:
    """Train several variants and lay them side by side."""
    changes = changes_of(options)
    kind = changes.pop("kind", None)
    for name in options.variants:
        builders.variant(name, **changes)  # refuse all before any is trained
    import_keras()
    from functional_models.comparison import CORNERS, default_budget
    from functional_models.comparison import compare as run

    _set_dtype(options)
    run(
        options.variants or CORNERS,
        _data(options),
        kind=kind,
        budget=default_budget(**_recipe_changes(options)),
        folder=options.to,
        tokenizer=options.tokenizer,
        vocabulary_size=options.vocabulary_size,
        changes=changes,
    )


def _load(folder: str, kind: str | None = None) -> Any:
    """Load a text model; refuse a wrong folder before Keras is imported."""
    from functional_models.model_folder import read_spec
    from functional_models.text_model import load

    found = read_spec(folder).kind
    if found == "encoder_only":
        raise ValueError(
            f"{folder} holds an encoder, which writes no text; use it in Python: "
            f"functional_models.load({folder!r}).vectors(texts)"
        )
    if kind not in (None, found):
        command = "generate" if found == "decoder_only" else "translate"
        raise ValueError(
            f"{folder} holds a model of kind {found}, not {kind}; use functional-models {command}"
        )
    import_keras()
    return load(folder)


def evaluate(options: argparse.Namespace) -> None:
    """Measure a model on the held-out part of a corpus, or on the whole of files."""
    from functional_models.corpora import load_parallel_corpus, load_text_corpus

    data = _data(options)
    model = _load(options.model)
    named = isinstance(data, str) and (data == "embedded" or data.startswith("tfds:"))
    if model.kind == "encoder_decoder":
        pairs = load_parallel_corpus(data, held_out_fraction=0.05 if named else 0.0)
        held_out: Any = pairs.test or pairs.validation or pairs.train
    else:
        text = load_text_corpus(data, validation_fraction=0.1 if named else 0.0)
        held_out = text.validation or text.train
    for name, value in model.evaluate(held_out).items():
        print(f"{name:>15}  {value:,.0f}" if name == "tokens" else f"{name:>15}  {value:.4f}")


def generate(options: argparse.Namespace) -> None:
    """Continue prompts."""
    if options.stream and options.scores:
        raise ValueError("--stream prints text before its score is known; leave out --scores")
    lm = _load(options.model, "decoder_only")
    given = {"echo": options.echo, "stop_tokens": options.stop, **_sampler_options(options)}
    if options.stream and len(options.prompts) == 1:
        for piece in lm.generate(options.prompts[0], stream=True, **given):
            print(piece, end="", flush=True)
        print()
        return
    _print_texts(lm.generate(options.prompts, scores=options.scores, **given))


def translate(options: argparse.Namespace) -> None:
    """Translate sentences."""
    translator = _load(options.model, "encoder_decoder")
    sentences = options.sentences or [line.rstrip("\n") for line in sys.stdin]
    _print_texts(translator.translate(sentences, **_sampler_options(options)))


def _print_texts(outcomes: Sequence[Any]) -> None:
    """Print each text, or the n best of each input, on a line of its own, scores first."""
    for outcome in outcomes:
        for found in outcome if isinstance(outcome, list) else [outcome]:
            if isinstance(found, str):
                print(found)
            else:
                print(f"{found.log_probability:.4f}\t{found.text}")


def export(options: argparse.Namespace) -> None:
    """Write a SavedModel."""
    folder = _load(options.model).export(options.to, **_sampler_options(options))
    print(f"the SavedModel is in {folder}; {folder}/README.txt says how to call it")


def import_model(options: argparse.Namespace) -> None:
    """Take over a model of keras-nlp."""
    changes = {"max_sequence_length": options.max_sequence_length}
    given = {name: value for name, value in changes.items() if value is not None}
    import_keras()
    from functional_models.conversion import from_keras_hub

    model = from_keras_hub(options.source, **given)
    model.save(options.to)
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
