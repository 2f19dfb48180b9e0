"""Commands on graphs of models, which are read from variants, model folders or files.

`cli_graphs` has their options.
"""

from __future__ import annotations

import argparse
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Any

import builders
import plots
from functional_models.checks import check_is_file
from functional_models.cli_options import (
    DEPTH_OF_DIFF,
    MODEL_HELP,
    import_keras,
    load_spec,
    spec_changes,
)
from functional_models.tables import format_table
from plots.annotations import counted
from plots.diagnosis.running import diagnose_model
from plots.parsing import parse_plugin
from plots.reading import graph_of

if TYPE_CHECKING:
    import keras

_EXPECTED = f"{MODEL_HELP} (.json)"
_MOST_PARAMETERS_TO_RUN = 500_000_000


def plot(options: argparse.Namespace) -> None:
    """Draw a model."""
    chosen = [parse_plugin(text) for text in options.plugin]
    known = plots.list_plugins()
    for name, _ in chosen:
        plots.registry.find_plugin(name)
    renderer = plots.registry.renderer_of_file(options.to)  # raises before the work
    if options.shapes and "shapes" not in renderer.options:
        raise ValueError(f"--shapes: the format {renderer.name!r} cannot show shapes")
    with_weights = any(known[name].takes_model for name, _ in chosen)
    found = read_model_or_graph(options.model, spec_changes(options), with_weights)
    marking = [pair for pair in chosen if pair[0] == "skip_paths"] or [("skip_paths", {})]
    plugins = [*marking, *(pair for pair in chosen if pair[0] != "skip_paths")]
    model = None if isinstance(found, plots.Graph) else found
    graph = graph_of(found, options.open_layers)
    number = len(plots.skip_paths(graph))  # in the whole model, even if equal blocks are drawn once
    graph = plots.apply_plugins(graph, plugins, model)
    shown: dict[str, Any] = {"shapes": True} if options.shapes else {}
    plots.draw(graph, options.to, plugins=(), depth=options.depth, **shown)
    print(f"{options.to}: {counted(number, 'skip path')}")


def plugins(options: argparse.Namespace) -> None:
    """List the plugins and renderers, including those of installed packages."""
    rows = []
    for name, plugin in plots.list_plugins().items():
        takes = f"  [{', '.join(plugin.options)}]" if plugin.options else ""
        rows.append((name, plugin.summary + takes))
    print("plugins, for `plot --plugin NAME` and `plots.draw(plugins=[NAME])`")
    print(indent(format_table(rows, align="left"), "  "))
    renderers = [
        (name, ", ".join(renderer.suffixes), renderer.summary)
        for name, renderer in plots.list_renderers().items()
    ]
    print("\nformats, for `plot --to FILE`")
    print(indent(format_table(renderers, align="left"), "  "))


def diagnose(options: argparse.Namespace) -> int:
    """Describe a model and report mistakes; return 1 with findings, 0 without or with remarks."""
    found = read_model_or_graph(
        options.model, spec_changes(options), not options.static, _MOST_PARAMETERS_TO_RUN
    )
    if options.static or isinstance(found, plots.Graph):
        graph = graph_of(found, options.open_layers)
    else:
        graph = diagnose_model(found, options.open_layers)
    print(plots.diagnosis_text(graph))
    return int(bool(plots.findings(graph)))


def diff(options: argparse.Namespace) -> int:
    """Compare models; return 1 with differences and 0 without."""
    names = (options.before, *options.after)
    if options.to:
        if len(names) > 2:
            raise ValueError(f"--to draws two models, and {len(names)} were given")
        plots.registry.renderer_of_file(options.to)  # raises before the work
    elif options.depth is not None or options.changes_only:
        raise ValueError("--depth and --changes-only apply to the picture: also give --to FILE")
    changes = spec_changes(options)
    takes_changes = [name for name in names if not _is_file(name)] or names
    before, *others = [
        read_graph(name, changes if name in takes_changes else {}, options.open_layers)
        for name in names
    ]
    if options.to:
        depth = DEPTH_OF_DIFF if options.depth is None else options.depth
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
    """Return the graph of a model, named as on the command line.

    Raises:
        OSError, TypeError, ValueError: as `read_model_or_graph`, or the model has no graph.
    """
    return replace(graph_of(read_model_or_graph(name, changes), open_layers), name=name)


def read_model_or_graph(
    name: str,
    changes: Mapping[str, Any],
    with_weights: bool = False,
    most_parameters: int | None = None,
) -> keras.Model | plots.Graph:
    """Return a model or a graph that is named on the command line.

    Args:
        name: a variant, a model folder, a `.keras` file (loaded in safe mode), or a file with the
            output of `Graph.to_json`.
        changes: spec fields to change, for variants and model folders.
        with_weights: whether the model of a variant or a folder has weights: those of the folder,
            or new ones.
        most_parameters: a variant with more of them has no weights in any case.

    Raises:
        FileNotFoundError: the file or folder is missing, or is not a model folder.
        ValueError: no such variant or field; the file or folder holds no model, or is damaged; or
            changes of a model without a spec.
    """
    path = Path(name)
    if _is_file(name):
        if not path.exists():
            raise FileNotFoundError(f"there is no file {path}; give {_EXPECTED}")
        if changes:
            raise ValueError(
                f"{path} has no spec, so {', '.join(changes)} cannot be changed: omit that, or "
                "give a variant or a model folder"
            )
        check_is_file(path)
        return _read_keras_file(path) if path.suffix == ".keras" else graph_of(path)
    spec = load_spec(name, changes, _EXPECTED)
    import_keras()
    if with_weights and path.is_dir() and not changes:
        import functional_models

        return functional_models.load(path).model
    if with_weights and most_parameters is not None:
        with_weights = builders.build(spec, abstract=True).count_params() <= most_parameters
    return builders.build(spec, abstract=not with_weights)


def _is_file(name: str) -> bool:
    """Return whether the name is that of a file with a model or a graph, which has no spec."""
    return Path(name).suffix in (".keras", ".json") and not Path(name).is_dir()


def _read_keras_file(path: Path) -> keras.Model:
    if not zipfile.is_zipfile(path):
        raise ValueError(f"{path} is not a .keras file, or is damaged: save the model again")
    keras = import_keras()
    import builders.models  # noqa: F401 - registers the layers of saved models

    with suppress(Exception):  # the compile configuration may need unknown classes
        return keras.saving.load_model(path, compile=True, safe_mode=True)
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file may fail in any way
        # Keras puts the reason last, followed by the configuration of the object.
        reason = str(error).rpartition("Exception encountered: ")[2]
        message = reason.partition("Full object config")[0].partition("\n")[0].strip()
        raise ValueError(
            f"{path} cannot be loaded: {type(error).__name__}: {message} "
            "(A model with custom classes can be loaded in Python after importing them; "
            "plots.read_graph(model).to_json() saves its graph.)"
        ) from error
