"""Options that several commands share, and how they are read."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, NoReturn

import builders
from builders.errors import unknown_name
from builders.spec import KINDS
from functional_models.recipe import Recipe
from functional_models.samplers import SAMPLERS, make_sampler

DEFAULT = "default: %(default)s"

RECIPE_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))
SAMPLER_DEFAULTS = {
    parameter.name: parameter.default
    for parameter in inspect.signature(make_sampler).parameters.values()
    if parameter.kind is parameter.KEYWORD_ONLY
}


class CommandParser(argparse.ArgumentParser):
    """A parser that takes options between arguments, and names the closest option or choice."""

    _is_intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._is_intermixed or self._subparsers:
            return super().parse_known_args(args, namespace)
        self._is_intermixed = True  # `parse_known_intermixed_args` calls this method twice
        options, unknown = self.parse_known_intermixed_args(args, namespace)
        self._is_intermixed = False
        if unknown and unknown[0].startswith("-"):
            self.error(unknown_name("option", unknown[0], self._option_string_actions))
        if unknown:
            self.error(f"unexpected argument {unknown[0]!r}")
        return options, unknown

    def error(self, message: str) -> NoReturn:
        if found := re.search(r"invalid choice: '(.*)' \(choose from (.*)\)", message):
            choices = re.findall(r"[^', ]+", found[2])
            message = message[: found.start()] + unknown_name("choice", found[1], choices)
        super().error(message)


def add_flag(sub: argparse.ArgumentParser, name: str, help: str) -> None:
    """Add an option without a value."""
    sub.add_argument(name, action="store_true", help=help)


def add_spec_options(sub: argparse.ArgumentParser) -> None:
    """Add `--kind` and `--set`."""
    sub.add_argument("--kind", choices=KINDS, help="for a variant that can be built as several")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the spec, e.g. --set num_layers=6; `fields` lists all",
    )


def add_recipe_options(sub: argparse.ArgumentParser, recipe: Recipe) -> None:
    """Add an option for every field of a recipe; the help shows the values of `recipe`."""
    group = sub.add_argument_group("recipe")
    _add_documented_options(group, Recipe, dataclasses.asdict(recipe))


def recipe_changes(options: argparse.Namespace) -> dict[str, Any]:
    """Return the recipe fields that were given."""
    return _given(options, RECIPE_FIELDS)


def add_sampler_options(sub: argparse.ArgumentParser, default: str) -> None:
    """Add `--sampler`, `--max-new-tokens` and an option for every argument of `make_sampler`."""
    sub.add_argument("--sampler", choices=SAMPLERS, default=default, help=DEFAULT)
    sub.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="maximum number of generated tokens"
    )
    _add_documented_options(sub, make_sampler, SAMPLER_DEFAULTS)


def sampler_options(options: argparse.Namespace) -> dict[str, Any]:
    """Return the sampler and those of its options that were given."""
    return {"sampler": options.sampler, **_given(options, ("max_new_tokens", *SAMPLER_DEFAULTS))}


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
        shown = "" if default is None else f"; default: {default}"
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=choices[0] if choices else types[name],
            metavar={int: "N", float: "X"}.get((choices or [types[name]])[0], "NAME"),
            help=f"{description}{shown}",
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
        if not equals:
            raise ValueError(f"--set {assignment}: must be FIELD=VALUE, e.g. num_layers=6")
        changes[name] = parse_value(text)
    if options.kind:
        changes["kind"] = options.kind
    return changes


def parse_value(text: str) -> Any:
    """Parse a value of the command line: 6, 0.5, True, None, or a word, which stays as it is."""
    try:
        return json.loads(text.lower() if text in ("True", "False", "None") else text)
    except (ValueError, RecursionError):
        return None if text == "None" else text  # a word, such as sinusoidal


def load_spec(
    model: str, changes: Mapping[str, Any], expected: str = "a variant or a model folder"
) -> builders.TransformerSpec:
    """Return the spec of a variant or of a model folder, with changed fields.

    Args:
        model: the name of a variant, or the path of a model folder.
        changes: new values of fields.
        expected: what the command takes, for errors.

    Raises:
        FileNotFoundError: there is no such folder, or it is no model folder.
        ValueError: no such variant or field, a value that is not allowed, or a damaged folder.
    """
    path = Path(model)
    if path.is_dir():
        from functional_models.model_folder import read_spec

        return read_spec(path).replace(**changes)
    if path.exists():
        raise ValueError(f"{path} is no model: give {expected}")
    if len(path.parts) > 1:
        raise FileNotFoundError(f"there is no file or folder {path}; give {expected}")
    if model not in (known := builders.list_variants()):
        message = unknown_name("variant", model, known)
        raise ValueError(f"{message}; nor is there a file or folder {model}")
    return builders.variant(model, **changes)


def import_keras() -> Any:
    """Import Keras without the messages that TensorFlow and CUDA write to stderr.

    Only output of native code is suppressed; a failing import raises as usual.
    """
    sys.stderr.flush()
    stderr, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        import keras

        keras.ops.zeros(())  # the first tensor sets up the devices
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(null)
    return keras
