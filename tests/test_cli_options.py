"""Options of the command line that are derived from fields and signatures."""

import argparse
import dataclasses
import inspect
import os
import re
import shlex
import subprocess
import sys

import pytest

from functional_models.cli import _parser
from functional_models.cli_options import (
    HelpWithDefaults,
    add_recipe_options,
    add_sampler_options,
    recipe_changes,
    sampler_options,
)
from functional_models.recipe import Recipe, default_budget
from functional_models.samplers import make_sampler
from plots.parsing import parse_value

FIELDS = {field.name for field in dataclasses.fields(Recipe)}
ARGUMENTS = set(inspect.signature(make_sampler).parameters)


def help_of(add, *arguments):
    """Return the options that `add` adds, by name, and their help."""
    parser = argparse.ArgumentParser(add_help=False)
    add(parser, *arguments)
    return parser, {action.dest: action.help for action in parser._actions}


def test_every_recipe_field_is_an_option_with_its_documentation_and_default():
    parser, helps = help_of(add_recipe_options, Recipe(steps=7))
    assert helps.keys() == FIELDS
    assert helps["steps"] == "number of weight updates; default: 7"
    schedules = "cosine, inverse_sqrt, warmup_stable_decay or constant"
    assert helps["schedule"] == f"{schedules}; default: cosine"
    for name, text in helps.items():
        value = getattr(Recipe(steps=7), name)
        value = "none" if value == "" else value
        assert "; default: " in text if value is None else text.endswith(f"; default: {value}")
        assert len(text.partition(";")[0]) > 10
    given = ["--steps", "3", "--learning-rate", "0.5", "--schedule", "constant"]
    changes = {"steps": 3, "learning_rate": 0.5, "schedule": "constant"}
    assert recipe_changes(parser.parse_args(given)) == changes


def test_every_argument_of_make_sampler_is_an_option_with_its_documentation():
    parser, helps = help_of(add_sampler_options, "greedy", "7 or 9")
    assert helps.keys() == ARGUMENTS | {"max_new_tokens"}
    assert helps["k"].startswith(
        "number of likeliest tokens to choose from; by default 5 for top_k"
    )
    assert helps["min_p"].endswith("; default: off")
    assert helps["max_new_tokens"].endswith("; default: 7 or 9")
    assert all(helps.values())
    given = ["--k", "3", "--min-p", ".25", "--seed", "4", "--max-new-tokens", "9"]
    options = {"sampler": "top_k", "k": 3, "min_p": 0.25, "seed": 4, "max_new_tokens": 9}
    assert sampler_options(parser.parse_args([*given, "--sampler", "top_k"])) == options
    with pytest.raises(ValueError, match="--k is an option of top_k and top_p and contrastive"):
        sampler_options(parser.parse_args(given))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("6", 6),
        ("+6", 6),
        ("1_000", 1000),
        ("1e3", 1000),
        (".1", 0.1),
        ("1.", 1.0),
        ("1e-3", 0.001),
        ("-2.5", -2.5),
        ("True", True),
        ("true", True),
        ("FALSE", False),
        ("none", None),
        ("None", None),
        ("null", None),
        ("sinusoidal", "sinusoidal"),
        ("'rotary'", "rotary"),
        ('"rotary"', "rotary"),
        ("'3'", "3"),
        ("[1, 2]", [1, 2]),
        ("", ""),
        ("'", "'"),
        ("x=3", "x=3"),
    ],
)
def test_values_are_written_as_in_python_or_json(text, value):
    found = parse_value(text)
    assert found == value
    assert type(found) is type(value)


COMMANDS = _parser()._subparsers._group_actions[0].choices


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_shows_its_default_and_every_argument_its_meaning(command):
    for action in COMMANDS[command]._actions:
        assert action.help or action.dest == "help"
        if action.nargs == 0 or action.required or "may be repeated" in (action.help or ""):
            continue
        if action.option_strings and action.help is not argparse.SUPPRESS:
            shown = HelpWithDefaults("x")._expand_help(action)
            assert re.search(r"\bdefault", shown), action.dest
            assert not re.search(r"default:? *$", shown), action.dest
            if not isinstance(action.default, bool | list | None):
                assert str(action.default) in shown, action.dest


def test_every_command_shows_an_example_that_it_accepts(capsys):
    for name, sub in _parser()._subparsers._group_actions[0].choices.items():
        program, command, *arguments = shlex.split(sub.example)
        assert (program, command) == ("functional-models", name)
        _parser().parse_args([command, *arguments])
        assert sub.example in sub.format_help()


@pytest.mark.parametrize(
    ("line", "completions"),
    [
        ("insp", {"inspect "}),
        ("inspect gpt2_", {f"gpt2_{size}" for size in ("small", "medium", "large", "xl")}),
        ("train --to x --set num_l", {"num_layers="}),
    ],
)
def test_the_shell_completes_commands_variants_and_fields(tmp_path, line, completions):
    line = f"functional-models {line}"
    asked = {"COMP_LINE": line, "COMP_POINT": str(len(line))}
    names = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "found")}
    environment = {**os.environ, **asked, **names, "_ARGCOMPLETE_IFS": "\n"}
    program = [sys.executable, "-m", "functional_models"]
    subprocess.run(program, env=environment, check=True, capture_output=True)
    assert set((tmp_path / "found").read_text().split("\n")) == completions


@pytest.mark.parametrize(
    ("command", "recipe"), [("train", Recipe()), ("compare", default_budget())]
)
def test_the_help_of_a_command_shows_the_default_of_that_command(capsys, command, recipe):
    with pytest.raises(SystemExit):
        _parser().parse_args([command, "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"number of weight updates; default: {recipe.steps} " in printed
