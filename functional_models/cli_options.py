"""Options that several commands share, and how they are read."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import math
import os
import platform
import re
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

import builders
from builders.errors import unknown_name
from builders.spec import KINDS, TransformerSpec
from functional_models.field_values import parse_field
from functional_models.recipe import Recipe
from functional_models.samplers import SAMPLERS, check_options_of, make_sampler
from functional_models.tokenizer_files import TOKENIZER_KINDS

DEFAULT = "default: %(default)s"
MODEL_HELP = "a variant, a model folder, a .keras file, or a graph as JSON"
DEPTH_OF_DIFF = 3

_SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(TransformerSpec))
RECIPE_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))
SAMPLER_DEFAULTS = {
    parameter.name: parameter.default
    for parameter in inspect.signature(make_sampler).parameters.values()
    if parameter.kind is parameter.KEYWORD_ONLY
}


class HelpWithDefaults(argparse.HelpFormatter):
    """Keeps the lines of examples, and adds the default of an option where it has one."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if text.startswith("example"):
            return text
        return super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        is_plain = action.option_strings and action.nargs != 0 and "default" not in text
        if not is_plain or action.required or action.default in (None, [], argparse.SUPPRESS):
            return text
        return f"{text}; {DEFAULT}".removeprefix("; ")


class CommandParser(argparse.ArgumentParser):
    """A parser that takes options between arguments, and reports errors in one line."""

    example = ""
    _is_intermixed = False

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=HelpWithDefaults, **options)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._subparsers and args and args[0].startswith("--"):
            known = any(option.startswith(args[0]) for option in self._option_string_actions)
            if not known:
                self.error(self._unknown(args[0]))
        if self._is_intermixed or self._subparsers:
            return super().parse_known_args(args, namespace)
        self._is_intermixed = True  # `parse_known_intermixed_args` calls this method twice
        options, unknown = self.parse_known_intermixed_args(args, namespace)
        self._is_intermixed = False
        if unknown:
            self.error(self._unknown(unknown[0]))
        return options, unknown

    def _unknown(self, argument: str) -> str:
        """Return the message for an argument that no option or position takes."""
        has_fields = "--set" in self._option_string_actions
        field = argument.lstrip("-").partition("=")[0].replace("-", "_")
        if has_fields and (argument.startswith("-") or "=" in argument) and field in _SPEC_FIELDS:
            return f"{argument!r}: {field} is a field of the spec; write --set {field}=VALUE"
        if not argument.startswith("-"):
            return f"unexpected argument {argument!r}"
        message = unknown_name("option", argument, self._option_string_actions)
        return message.partition("; allowed")[0] if "did you mean" in message else message

    def error(self, message: str) -> NoReturn:
        """Print a message in one line, and exit with code 2."""
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            choices = re.findall(r"[^', ]+", found[2])
            message = message[: found.start()] + unknown_name("choice", found[1], choices)
        example = f", e.g. {self.example}" if self.example and "required" in message else ""
        self.exit(2, f"{self.prog}: {message}{example}; see {self.prog} --help\n")


def _parse(text: str) -> Any:
    from plots.parsing import parse_value  # the package takes longer to import than most commands

    return parse_value(text)


def whole_number(text: str) -> int:
    """Parse a whole number of the command line: 1000, 1_000 or 1e3."""
    value = _parse(text)
    if isinstance(value, bool) or not isinstance(value, int):
        is_whole = isinstance(value, float) and value.is_integer()
        advice = f"; write {int(value)}" if is_whole else ""
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a whole number{advice}")
    return value


def real_number(text: str) -> float:
    """Parse a number of the command line: 0.1, .1 or 1e-1."""
    value = _parse(text)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise argparse.ArgumentTypeError(f"{text!r:.60} is not a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def add_flag(sub: argparse.ArgumentParser, name: str, help: str) -> None:
    """Add an option without a value."""
    sub.add_argument(name, action="store_true", help=help)


def add_model(sub: argparse.ArgumentParser, help: str, name: str = "model") -> None:
    """Add the argument of a command for a model that may be a variant."""
    action = sub.add_argument(name, metavar="MODEL", help=help)
    complete_with(action, builders.list_variants, files=True)


def add_spec_options(sub: argparse.ArgumentParser, variant: str | None = None) -> None:
    """Add `--kind` and `--set`, and `--variant` with a default if one is given."""
    group = sub.add_argument_group("model")
    if variant is not None:
        action = group.add_argument("--variant", default=variant, help="a named architecture")
        complete_with(action, builders.list_variants)
    text = "for a variant that can be built as several; default: as the data is for, or its first"
    group.add_argument("--kind", choices=KINDS, help=text)
    set_field = group.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the spec, e.g. --set num_layers=6; whole numbers without a point; "
        "may be repeated; `fields` lists all",
    )
    complete_with(set_field, lambda: [f"{name}=" for name in _SPEC_FIELDS])


FOLDER_HELP = "a model folder, as train and import write it"
DATA_HELP = (
    "embedded; a text file; pairs, as a .tsv file or two aligned files (source and target of a "
    "translator, prompt and reply of a decoder, text and class of an encoder), optionally .gz; or "
    "tfds:NAME; default: embedded"
)


def add_data_options(sub: argparse.ArgumentParser) -> None:
    """Add `--data`, and the options of how it is encoded and in which precision."""
    group = sub.add_argument_group("data")
    group.add_argument("--data", nargs="+", default=["embedded"], metavar="FILE", help=DATA_HELP)
    text = "files to select the best weights by; default: held out of --data"
    group.add_argument("--validation", nargs="+", metavar="FILE", help=text)
    text = "files to measure the final results on; default for pairs: held out of --data"
    group.add_argument("--test", nargs="+", metavar="FILE", help=text)
    text = "kind of tokenizer, which is trained on the data"
    group.add_argument("--tokenizer", choices=TOKENIZER_KINDS, default="byte_pair", help=text)
    text = "number of tokens of the vocabulary; default: 1000; a byte tokenizer has 256"
    group.add_argument("--vocabulary-size", type=whole_number, metavar="N", help=text)
    text = "precision of the training; default: that of Keras, float32 unless configured"
    choices = ("float32", "mixed_bfloat16", "mixed_float16")
    group.add_argument("--dtype", choices=choices, help=text)


def add_recipe_options(sub: argparse.ArgumentParser, recipe: Recipe) -> None:
    """Add an option for every field of a recipe; the help shows the values of `recipe`."""
    group = sub.add_argument_group("recipe")
    _add_documented_options(group, Recipe, dataclasses.asdict(recipe))


def add_device_options(sub: argparse.ArgumentParser) -> None:
    """Add the arguments of `distribute`."""
    text = "of JAX (KERAS_BACKEND=jax), without one of these options a single one"
    group = sub.add_argument_group("devices", text)
    text = "number of devices, of all processes together; default: all"
    group.add_argument("--devices", type=whole_number, metavar="N", help=text)
    text = "devices that share the weights of a model, as in Megatron-LM; default: 1"
    group.add_argument("--model-parallel", type=whole_number, metavar="N", help=text)
    text = "address HOST:PORT of process 0, or auto in a job of Slurm, Open MPI, Kubernetes or a "
    text += "TPU pod; default: there is one process"
    group.add_argument("--hosts", metavar="HOST:PORT", help=text)
    text = "number of this process, from 0; default: auto finds it"
    group.add_argument("--process", type=whole_number, metavar="N", help=text)
    text = "number of processes; default: auto finds it"
    group.add_argument("--processes", type=whole_number, metavar="N", help=text)
    text = "seconds to wait for the other processes; default: 300"
    group.add_argument("--timeout", type=whole_number, metavar="N", help=text)


def device_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the arguments of `distribute` that were given."""
    names = ("devices", "model_parallel", "hosts", "process", "processes", "timeout")
    return _given(options, names)


def recipe_changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe fields that were given."""
    return _given(options, RECIPE_FIELDS)


def add_sampler_options(sub: argparse.ArgumentParser, default: str, limit: str) -> None:
    """Add `--sampler`, `--max-new-tokens` and an option for every argument of `make_sampler`.

    Args:
        sub: the parser of the command.
        default: the sampler.
        limit: the default of `--max-new-tokens` in words.
    """
    group = sub.add_argument_group("generation")
    text = "how the next token is chosen"
    group.add_argument("--sampler", choices=SAMPLERS, default=default, help=text)
    text = f"maximum number of generated tokens; default: {limit}"
    group.add_argument("--max-new-tokens", type=whole_number, metavar="N", help=text)
    _add_documented_options(group, make_sampler, SAMPLER_DEFAULTS)


def sampler_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the sampler and those of its options that were given.

    Raises:
        ValueError: the sampler does not use an option.
    """
    given = _given(options, SAMPLER_DEFAULTS)
    shown = {name: f"--{name.replace('_', '-')}" for name in given}
    check_options_of(options.sampler, given, shown)
    return {"sampler": options.sampler, **_given(options, ("max_new_tokens",)), **given}


def _add_documented_options(
    group: Any, source: Callable[..., Any], defaults: Mapping[str, Any]
) -> None:
    """Add an option for each of `defaults`, with type and help as `source` annotates and documents.

    An option that is not given is `None`, so that the caller's own default applies.
    """
    types, descriptions = typing.get_type_hints(source), _documented(source)
    for name, default in defaults.items():
        choices = [t for t in typing.get_args(types[name]) if t is not NoneType]
        description = descriptions.get(name, "").replace("%", "%%")
        shown = f"; default: { {None: 'off', '': 'none'}.get(default, default) }"
        kind = choices[0] if choices else types[name]
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type={int: whole_number, float: real_number}.get(kind, kind),
            metavar={int: "N", float: "X"}.get(kind, "NAME"),
            help=description + shown * ("default" not in description),
        )


def _documented(source: Callable[..., Any]) -> dict[str, str]:
    """Return the descriptions in the `Args:` or `Attributes:` section of a docstring, by name."""
    sections = re.split(r"^(?=\S+:$)", inspect.getdoc(source) or "", flags=re.M)
    section = next((s for s in sections if s.startswith(("Args:", "Attributes:"))), "")
    entries = re.findall(r"^    (\w+): (.+(?:\n {8}.+)*)", section, flags=re.M)
    return {name: " ".join(text.split()).rstrip(".").replace("`", "") for name, text in entries}


def _given(options: argparse.Namespace, names: Iterable[str]) -> dict[str, Any]:
    values = {name: getattr(options, name, None) for name in names}
    return {name: value for name, value in values.items() if value is not None}


def spec_changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the spec fields that `--set` and `--kind` change.

    Raises:
        ValueError: a `--set` is not FIELD=VALUE.
    """
    changes: dict[str, Any] = {}
    for assignment in options.set:
        name, equals, text = assignment.partition("=")
        if not (equals and name):
            raise ValueError(f"--set {assignment}: must be FIELD=VALUE, e.g. num_layers=6")
        changes[name] = parse_field(name, text)
    if options.kind:
        changes["kind"] = options.kind
    return changes


def load_spec(
    model: str, changes: Mapping[str, Any], expected: str = "a variant or a model folder"
) -> builders.TransformerSpec:
    """Return the spec of a variant or of a model folder, with changed fields.

    Args:
        model: the name of a variant, or the path of a model folder.
        changes: new values of fields.
        expected: the valid arguments of the command, for errors.

    Raises:
        FileNotFoundError: there is no such folder, or it is not a model folder.
        ValueError: no such variant or field, a value that is not allowed, or a damaged folder.
    """
    path = Path(model)
    if path.is_dir():
        from functional_models.model_folder import read_spec

        return read_spec(path).replace(**changes)
    if path.exists():
        raise ValueError(f"{path} is not a model: give {expected}")
    if len(path.parts) > 1:
        raise FileNotFoundError(f"there is no file or folder {path}; give {expected}")
    if model not in (known := builders.list_variants()):
        listed_by = "`functional-models variants`"
        message = unknown_name("variant", model, known, listed_by)
        raise ValueError(f"{message}; nor is there a file or folder {model}")
    return builders.variant(model, **changes)


_COMMANDS = {
    "decoder_only": "generate",
    "encoder_decoder": "translate",
    "encoder_only": "classify",
}


def load_model(folder: str, kind: str | None = None, *, encoders: bool = False) -> Any:
    """Load a text model; check the folder before Keras is imported.

    Args:
        folder: the folder of the model.
        kind: the kind that it must have.
        encoders: whether it may be an encoder.
    """
    from functional_models.model_folder import read_spec

    found = read_spec(folder).kind
    if found == "encoder_only" and not encoders:
        raise ValueError(
            f"{folder} holds an encoder, which generates no text; use it in Python: "
            f"functional_models.load({folder!r}).vectors(texts)"
        )
    if kind not in (None, found):
        raise ValueError(
            f"{folder} holds a model of kind {found}, not {kind}; use functional-models "
            f"{_COMMANDS[found]}"
        )
    import_keras()
    from functional_models.loading import load

    return load(folder)


def complete_with(
    action: argparse.Action, names: Callable[[], Iterable[str]], files: bool = False
) -> None:
    """Set the completions of an argument in the shell: names, and the names of files."""

    def complete(prefix: str, **_: Any) -> list[str]:
        from argcomplete.completers import FilesCompleter

        found = [name for name in names() if name.startswith(prefix)]
        return found + list(FilesCompleter()(prefix)) if files else found

    action.completer = complete  # type: ignore[attr-defined]


def complete_and_exit(parser: argparse.ArgumentParser) -> None:
    """Answer a request of the shell for completions, if this process was started for one."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


class PrintVersions(argparse.Action):
    """Prints the versions; they are looked up only then."""

    def __init__(self, **options: Any) -> None:
        super().__init__(nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        print(_versions())
        parser.exit()


def _versions() -> str:
    """Return the versions of this package, Python, Keras and its backend, a line each.

    Nothing is imported for it, so the backend is looked up where Keras looks it up.
    """
    from importlib.metadata import PackageNotFoundError, version

    from functional_models import __version__

    folder = Path(os.environ.get("KERAS_HOME") or "~/.keras").expanduser()
    configured = None
    with suppress(OSError, ValueError, AttributeError):
        configured = json.loads((folder / "keras.json").read_bytes()).get("backend")
    backend = os.environ.get("KERAS_BACKEND") or configured or "tensorflow"
    rows = [("functional-models", __version__), ("python", platform.python_version())]
    for package in ("keras", "keras-hub", backend):
        try:
            found = version(package)
        except PackageNotFoundError:
            found = "not installed"
        rows.append((package, found + ", the backend" * (package == backend)))
    return "\n".join(f"{name} {number}" for name, number in rows)


@contextmanager
def discarded_stdout() -> Iterator[None]:
    """Discard the output to stdout in a `with` block; errors go to stderr."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        yield


def import_keras() -> Any:
    """Import Keras, which takes seconds, only when a command needs it."""
    import keras

    return keras
