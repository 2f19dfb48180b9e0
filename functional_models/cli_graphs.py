"""Commands that look at graphs of models: a variant, a model folder, or a file holds them."""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import builders
import plots
from builders.errors import unknown_name
from functional_models.cli_options import (
    add_spec_options,
    changes_of,
    import_keras,
    spec_of,
    value_of,
)
from plots.reading.read import graph_of

if TYPE_CHECKING:
    import keras

MODEL_HELP = "a variant, a model folder, a .keras file, or a graph as JSON"
OPEN_LAYERS_HELP = "look into layers that are made of layers"

_WHAT_IS_READ = f"give {MODEL_HELP} (.json)"
_DEPTH_OF_DIFF = 3


def add_graph_commands(command: Callable[[str, Any, str], argparse.ArgumentParser]) -> None:
    """Add the commands of this module to the command line."""
    sub = command("plot", plot, "draw a model with its skip paths, or what other plugins find")
    sub.add_argument("model", help=MODEL_HELP)
    sub.add_argument(
        "--to",
        default="model.svg",
        metavar="FILE",
        help="the suffix gives the format: .svg, .png, .html, .txt, ...; see `plugins`",
    )
    sub.add_argument(
        "--plugin",
        action="append",
        default=[],
        metavar="NAME[:OPTION=VALUE,...]",
        help="what to show besides the skip paths, e.g. --plugin flops; see `plugins`",
    )
    sub.add_argument("--depth", type=int, help="levels of boxes drawn open, equal blocks as one")
    sub.add_argument("--open-layers", action="store_true", help=OPEN_LAYERS_HELP)
    add_spec_options(sub)
    sub.add_argument("--shapes", action="store_true", help="show the shapes")

    command("plugins", plugins, "list what can be shown of a graph, and in which formats")

    sub = command("diagnose", diagnose, "say what a model is, and what looks wrong in it")
    sub.description = (
        "Say what a model is, and what looks wrong in its graph, with the place, the reason and "
        "the reference. The exit code is 0 if nothing does, 1 if something does, and 2 if the "
        "model cannot be read."
    )
    sub.add_argument("model", help=MODEL_HELP)
    sub.add_argument("--open-layers", action="store_true", help=OPEN_LAYERS_HELP)
    add_spec_options(sub)

    sub = command("diff", diff, "tell, and draw, what is different between models")
    sub.description = (
        "Tell what is different between the graphs of two models, or of several and the first. "
        "The exit code is 0 if nothing is, 1 if something is, and 2 if a model cannot be read."
    )
    sub.add_argument("before", metavar="MODEL", help=MODEL_HELP)
    sub.add_argument("after", metavar="MODEL", nargs="+", help="what to compare it with, likewise")
    sub.add_argument("--to", metavar="FILE", help="draw both models in one picture, too")
    sub.add_argument("--depth", type=int, help=f"levels of boxes drawn open ({_DEPTH_OF_DIFF})")
    sub.add_argument(
        "--changes-only", action="store_true", help="draw what has changed and what is next to it"
    )
    sub.add_argument("--open-layers", action="store_true", help=OPEN_LAYERS_HELP)
    add_spec_options(sub)


def plot(options: argparse.Namespace) -> None:
    """Draw a model."""
    chosen = [plugin_of(text) for text in options.plugin]
    known = plots.list_plugins()
    for name, _ in chosen:
        plots.registry.find_plugin(name)
    renderer = plots.registry.renderer_of_file(options.to)  # before the work, not after
    if options.shapes and "shapes" not in renderer.options:
        raise ValueError(f"--shapes: the format {renderer.name!r} cannot be asked for shapes")
    with_weights = any(known[name].takes_model for name, _ in chosen)
    found = read_model_or_graph(options.model, changes_of(options), with_weights)
    plugins = [("skip_paths", {}), *(pair for pair in chosen if pair[0] != "skip_paths")]
    model = None if isinstance(found, plots.Graph) else found
    graph = graph_of(found, options.open_layers)
    number = len(plots.skip_paths(graph))  # of the whole, though only one block of many is drawn
    graph = plots.apply_plugins(graph, plugins, model)
    shown: dict[str, Any] = {"shapes": True} if options.shapes else {}
    plots.draw(graph, options.to, plugins=(), depth=options.depth, **shown)
    print(f"{options.to}: {number} skip paths")


def plugin_of(text: str) -> tuple[str, dict[str, Any]]:
    """Return the plugin and the options that `NAME:OPTION=VALUE,...` asks for.

    A value NAME=NUMBER is an entry of a mapping: `flops:sizes=t=128,sizes=b=2`.

    Raises:
        ValueError: an option is not OPTION=VALUE.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for assignment in filter(None, rest.split(",")):
        option, equals, value = assignment.partition("=")
        if not equals:
            raise ValueError(
                f"--plugin {text}: {assignment!r} must be OPTION=VALUE, e.g. fold:depth=2"
            )
        key, is_entry, entry = value.partition("=")
        if is_entry:  # of a mapping: flops:sizes=t=128,sizes=b=2
            options[option] = {**options.get(option, {}), key: value_of(entry)}
        else:
            options[option] = value_of(value)
    return name, options


def plugins(options: argparse.Namespace) -> None:
    """List the plugins and renderers that there are, those of installed packages too."""
    print("plugins, for `plot --plugin NAME` and `plots.draw(plugins=[NAME])`")
    for name, plugin in plots.list_plugins().items():
        takes = f"  [{', '.join(plugin.options)}]" if plugin.options else ""
        print(f"  {name:<12} {plugin.summary}{takes}")
    print("\nformats, for `plot --to FILE`")
    for name, renderer in plots.list_renderers().items():
        print(f"  {name:<15} {', '.join(renderer.suffixes):<24} {renderer.summary}")


def diagnose(options: argparse.Namespace) -> int:
    """Say what a model is and what looks wrong; return 1 if something does, and 0 if not."""
    graph = read_graph(options.model, changes_of(options), options.open_layers)
    print(plots.diagnosis_text(graph))
    return int(bool(plots.findings(graph)))


def diff(options: argparse.Namespace) -> int:
    """Compare models; return 1 if there is a difference and 0 if there is none."""
    names = (options.before, *options.after)
    if options.to:
        if len(names) > 2:
            raise ValueError(f"--to draws two models, and {len(names)} were given")
        plots.registry.renderer_of_file(options.to)  # before the work, not after
    elif options.depth is not None or options.changes_only:
        raise ValueError("--depth and --changes-only are about the picture: give --to FILE, too")
    changes = changes_of(options)
    takes_changes = [name for name in names if not _is_file(name)] or names
    before, *others = [
        read_graph(name, changes if name in takes_changes else {}, options.open_layers)
        for name in names
    ]
    if options.to:
        depth = _DEPTH_OF_DIFF if options.depth is None else options.depth
        drawing = {"depth": depth, "changes_only": options.changes_only}
        plots.plot_diff(before, others[0], options.to, **drawing)
    differences = [plots.compare_graphs(before, graph) for graph in others]
    if len(others) > 1:
        titles = [f"{number}  {graph.name}" for number, graph in enumerate([before, *others], 1)]
        print(plots.comparison_table(dict(zip(titles, [before, *others], strict=True))), end="\n\n")
    print("\n\n".join(plots.difference_text(difference) for difference in differences))
    if options.to:
        print(f"\nthe picture is in {options.to}")
    return int(not all(difference.is_empty for difference in differences))


def read_graph(name: str, changes: Mapping[str, Any], open_layers: bool = False) -> plots.Graph:
    """Return the graph of what was named, under that name.

    Raises:
        OSError, TypeError, ValueError: as `read_model_or_graph`, or the model has no graph.
    """
    return replace(graph_of(read_model_or_graph(name, changes), open_layers), name=name)


def read_model_or_graph(
    name: str, changes: Mapping[str, Any], with_weights: bool = False
) -> keras.Model | plots.Graph:
    """Return the model or the graph that was named on the command line.

    Args:
        name: A variant, a model folder, a `.keras` file (loaded in safe mode), or a file with what
            `Graph.to_json` gave.
        changes: Fields of the spec to change, of a variant or a model folder.
        with_weights: Whether the model of a variant or a folder gets weights: those of the folder,
            or new ones.

    Raises:
        FileNotFoundError: there is no such file or folder, or the folder is no model folder.
        ValueError: there is no such variant; the file or folder holds no model, or is damaged;
            there is no such field, or the model has no spec whose fields could be changed.
    """
    path = Path(name)
    if _is_file(name):
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path}; {_WHAT_IS_READ}")
        if changes:
            raise ValueError(
                f"{path} has no spec, so {', '.join(changes)} cannot be changed: leave that out, "
                "or give a variant or a model folder"
            )
        return _read_keras_file(path) if path.suffix == ".keras" else graph_of(path)
    if path.is_file():
        raise ValueError(f"{path} is no model: {_WHAT_IS_READ}")
    if len(path.parts) > 1 and not path.exists():
        raise FileNotFoundError(f"there is no file or folder {path}; {_WHAT_IS_READ}")
    if name not in builders.list_variants() and not path.exists():
        said = unknown_name("variant", name, builders.list_variants())
        raise ValueError(f"{said}; nor is there a file or folder {name}")
    spec = spec_of(name, dict(changes))
    import_keras()
    if with_weights and path.is_dir() and not changes:
        import functional_models

        return functional_models.load(path).model
    return builders.build(spec, abstract=not with_weights)


def _is_file(name: str) -> bool:
    """Whether it names a file with a model or a graph in it, which has no spec."""
    return Path(name).suffix in (".keras", ".json") and not Path(name).is_dir()


def _read_keras_file(path: Path) -> keras.Model:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is no .keras file, or is damaged: save the model again")
    keras = import_keras()
    import builders.models  # noqa: F401 - registers the layers that a saved model names

    with suppress(Exception):  # what it was compiled with may need classes that are not here
        return keras.saving.load_model(path, compile=True, safe_mode=True)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file may fail in any way
        # Keras says the reason last, and then the whole configuration of what it cannot make.
        reason = str(error).rpartition("Exception encountered: ")[2]
        said = reason.partition("Full object config")[0].partition("\n")[0].strip()
        raise ValueError(
            f"{path} cannot be loaded: {type(error).__name__}: {said} "
            "(A model with classes of your own can be loaded in Python, where they are imported; "
            "plots.read_graph(model).to_json() keeps its graph.)"
        ) from error
