"""Options of the command line that are derived from fields and signatures."""

import argparse
import dataclasses
import inspect

import pytest

from functional_models.cli import _parser
from functional_models.cli_options import (
    add_recipe_options,
    add_sampler_options,
    recipe_changes,
    sampler_options,
)
from functional_models.recipe import Recipe, default_budget
from functional_models.samplers import make_sampler

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
    assert helps["schedule"] == "cosine, inverse_sqrt or constant; default: cosine"
    for name, text in helps.items():
        value = getattr(Recipe(steps=7), name)
        assert "; default: " in text if value is None else text.endswith(f"; default: {value}")
        assert len(text.partition(";")[0]) > 10
    given = ["--steps", "3", "--learning-rate", "0.5", "--schedule", "constant"]
    changes = {"steps": 3, "learning_rate": 0.5, "schedule": "constant"}
    assert recipe_changes(parser.parse_args(given)) == changes


def test_every_argument_of_make_sampler_is_an_option_with_its_documentation():
    parser, helps = help_of(add_sampler_options, "greedy")
    assert helps.keys() == ARGUMENTS | {"max_new_tokens"}
    assert helps["k"] == "number of tokens that top_k and contrastive choose from; default: 5"
    assert "default: None" not in helps["min_p"]
    assert all(helps.values())
    given = ["--k", "3", "--min-p", "0.25", "--seed", "4", "--max-new-tokens", "9"]
    options = {"sampler": "greedy", "k": 3, "min_p": 0.25, "seed": 4, "max_new_tokens": 9}
    assert sampler_options(parser.parse_args(given)) == options


@pytest.mark.parametrize(
    ("command", "recipe"), [("train", Recipe()), ("compare", default_budget())]
)
def test_the_help_of_a_command_shows_the_default_of_that_command(capsys, command, recipe):
    with pytest.raises(SystemExit):
        _parser().parse_args([command, "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert f"number of weight updates; default: {recipe.steps} " in printed
