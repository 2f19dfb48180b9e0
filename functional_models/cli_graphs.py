"""The options of the commands on graphs of models; `graph_commands` has the commands."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from functional_models.cli_options import (
    DEPTH_OF_DIFF,
    MODEL_HELP,
    add_flag,
    add_model,
    add_spec_options,
    whole_number,
)

OPEN_LAYERS_HELP = "show the layers inside of layers"


def _command(name: str) -> Callable[[argparse.Namespace], int | None]:
    """Return a command, which imports `plots` when it runs: that takes longer than others run."""

    def run(options: argparse.Namespace) -> int | None:
        from functional_models import graph_commands

        found: Callable[[argparse.Namespace], int | None] = getattr(graph_commands, name)
        return found(options)

    return run


def add_graph_commands(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands of this module to the command line."""
    text = "draw a model with its skip paths and the results of other plugins"
    example = "gpt2_small --plugin flops --depth 2 --to gpt2.svg"
    sub = command("plot", _command("plot"), text, example, quiet=True)
    add_model(sub, MODEL_HELP)
    text = "the suffix sets the format: .svg, .png, .html, .txt, ...; see `plugins`"
    sub.add_argument("--to", default="model.svg", metavar="FILE", help=text)
    text = "plugin to apply besides skip_paths, e.g. --plugin flops; may be repeated; see `plugins`"
    shown = "NAME[:OPTION=VALUE,...]"
    sub.add_argument("--plugin", action="append", default=[], metavar=shown, help=text)
    text = "levels of open boxes, with equal blocks drawn once; default: all calls are drawn"
    sub.add_argument("--depth", type=whole_number, metavar="N", help=text)
    add_flag(sub, "--open-layers", OPEN_LAYERS_HELP)
    add_flag(sub, "--shapes", "show shapes")
    add_spec_options(sub)

    command("plugins", _command("plugins"), "list the plugins and output formats", "")

    text = "describe a model and report likely mistakes in it"
    sub = command("diagnose", _command("diagnose"), text, "model.keras")
    sub.description = (
        "Describe a model and report mistakes in it (findings), and what is often a mistake and "
        "may be meant (remarks), with place, reason and reference. A model of up to 500 million "
        "parameters is also run, with random inputs. The exit code is 0 without findings, 1 with "
        "findings, and 2 if the model cannot be read."
    )
    add_model(sub, MODEL_HELP)
    add_flag(sub, "--open-layers", OPEN_LAYERS_HELP)
    add_flag(sub, "--static", "do not run the model: structure alone")
    add_spec_options(sub)

    text = "print and draw the differences between models"
    sub = command(
        "diff", _command("diff"), text, "post_norm_learned pre_norm_learned --to diff.svg"
    )
    sub.description = (
        "Print the differences between the graphs of two models, or of several and the first. "
        "The exit code is 0 without differences, 1 with differences, and 2 if a model cannot be "
        "read."
    )
    add_model(sub, MODEL_HELP, "before")
    text = "one or more models to compare it with"
    sub.add_argument("after", metavar="MODEL", nargs="+", help=text)
    text = "also draw both models in one picture; default: none"
    sub.add_argument("--to", metavar="FILE", help=text)
    text = f"levels of open boxes in the picture; default: {DEPTH_OF_DIFF}"
    sub.add_argument("--depth", type=whole_number, metavar="N", help=text)
    add_flag(sub, "--changes-only", "draw only changes and their neighbours")
    add_flag(sub, "--open-layers", OPEN_LAYERS_HELP)
    add_spec_options(sub)
