"""Pictures of models: `draw`, `plot_model` in the place of Keras' own, and models side by side."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from plots.differences.compare import compare_graphs
from plots.differences.union import marked, older_side
from plots.files import write_whole
from plots.folding.fold import fold_blocks
from plots.graph import Graph
from plots.reading.read import read_graph
from plots.registry import (
    GraphRenderer,
    PluginLike,
    apply_plugins,
    check_options,
    find_renderer,
    renderer_of_file,
)
from plots.renderers.boxes import Labels
from plots.renderers.dot import graphs_to_dot
from plots.renderers.graphviz import FORMATS, check_style, render_dot
from plots.skips import mark_skip_paths

if TYPE_CHECKING:
    import keras


def draw(
    model: keras.Model | Graph,
    to_file: str | os.PathLike[str],
    plugins: Iterable[PluginLike] = ("skip_paths",),
    depth: int | None = None,
    renderer: str | None = None,
    open_nested: bool = True,
    open_layers: bool = False,
    **options: Any,
) -> Any:
    """Read a model, apply plugins, and write the graph to a file: the whole way in one call.

    Args:
        model: A Functional model, a Sequential one that is built, or a `Graph`.
        to_file: Where to; the suffix gives the format (see `plots.list_renderers`). A name without
            one gets that of the renderer, and without a renderer it becomes a PNG. Missing folders
            are made. The file is written whole or not at all.
        plugins: What to do with the graph, in this order: names (`plots.list_plugins`), pairs
            (name, options), or functions from graph to graph. One that fails is named in a warning
            and left out.
        depth: How many levels of boxes to draw open, with runs of equal blocks as one box; None
            draws everything. The same as the plugin `fold` at the end, but for pages that open
            boxes when they are clicked: so many are open at first.
        renderer: Name of a renderer, in the place of the one that the suffix asks for.
        open_nested: Whether models used as layers are opened.
        open_layers: Whether layers that are made of layers are looked into; see `read_graph`.
        **options: Of the renderer, such as `rankdir="LR"` or `shapes=True` for pictures.

    Returns:
        In a notebook something that shows what was written, where the format can be shown (PNG,
        SVG); else None.

    Raises:
        TypeError: if `model` is no Keras model, or a subclassed one, which has no graph.
        ValueError: if the model is not built; if a plugin, a format or an option is unknown or has
            a value that is not allowed; if `depth` is negative.
        OSError: if the file cannot be written.
    """
    path, chosen = _checked(to_file, renderer, depth, options)
    steps = list(plugins)
    if depth is not None and "depth" in chosen.options:
        options["depth"] = depth
    elif depth is not None:
        steps.append(("fold", {"depth": depth}))
    is_graph = isinstance(model, Graph)
    graph = model if isinstance(model, Graph) else read_graph(model, open_nested, open_layers)
    graph = apply_plugins(graph, steps, None if is_graph else model)
    return _written(chosen, graph, path, options)


def plot_model(
    model: keras.Model,
    to_file: str | os.PathLike[str] = "model.png",
    show_shapes: bool = False,
    show_dtype: bool = False,
    show_layer_names: bool = False,
    rankdir: str = "TB",
    expand_nested: bool = False,
    dpi: int = 200,
    show_layer_activations: bool = False,
    show_trainable: bool = False,
    splines: str = "spline",
    blocks: int | None = None,
) -> Any:
    """Draw a model, its skip paths as one thick straight line past the sublayers.

    Takes the arguments of `keras.utils.plot_model` and can be put in its place. Calls are drawn,
    not layers, so a shared layer has one box per call; parallel edges are kept; dotted layer names
    (`decoder.block_0.feedforward.up`) become nested, labelled boxes. Masks and other side inputs
    that many sublayers share are drawn once and referred to by name where they are used.

    Args:
        model: A Functional model, or a Sequential one that is built.
        to_file: Where to; the suffix (.png, .svg, .pdf, .dot) gives the format, none means PNG.
            Missing folders are made. The file is written whole or not at all.
        show_shapes: Whether to show what shapes go in and come out.
        show_dtype: Whether to show the dtype of what comes out.
        show_layer_names: Whether to show full names. Without it a box shows the last part of the
            name, or the class where nobody gave a name, and a merge is a circle with a plus.
        rankdir: Direction of the data flow: "TB", "BT", "LR" or "RL".
        expand_nested: Whether models used as layers are opened.
        dpi: Dots per inch of a PNG. Lowered for large models, so that no side of the picture is
            longer than 16,000 pixels.
        show_layer_activations: Whether to show the activation of layers that have one.
        show_trainable: Whether to show if a layer with weights is trained.
        splines: How edges run, as in Graphviz: "spline", "polyline", "ortho", ...
        blocks: Of every run of equal blocks draw only so many, with the number that they stand for;
            None draws all.

    Returns:
        As from Keras: in a notebook an image of what was written, where the format can be shown
        (PNG, SVG); else None.

    Raises:
        TypeError: if `model` is no Keras model, or a subclassed one, which has no graph.
        ValueError: if the model is not built, or an argument has a value that is not allowed.
        OSError: if the file cannot be written.
    """
    path, chosen = _checked(to_file)
    _check(blocks)
    options = {
        "shapes": show_shapes,
        "dtypes": show_dtype,
        "full_names": show_layer_names,
        "activations": show_layer_activations,
        "trainable": show_trainable,
        "rankdir": rankdir,
        "splines": splines,
        "dpi": dpi,
    }
    graph = mark_skip_paths(read_graph(model, open_nested=expand_nested))
    if blocks is not None:
        graph = fold_blocks(graph, blocks)
    known = {name: value for name, value in options.items() if name in chosen.options}
    return _written(chosen, graph, path, known)


def plot_side_by_side(
    models: Mapping[str, keras.Model],
    to_file: str | os.PathLike[str] = "models.png",
    blocks: int | None = 1,
    show_shapes: bool = False,
    show_dtype: bool = False,
    show_layer_names: bool = False,
    rankdir: str = "TB",
    expand_nested: bool = False,
    dpi: int = 120,
    show_layer_activations: bool = False,
    show_trainable: bool = False,
    splines: str = "spline",
) -> Any:
    """Draw several models next to each other in one picture, so that they can be compared.

    Args:
        models: Title -> model, drawn from left to right.
        to_file: As for `plot_model`.
        blocks: Of every run of equal blocks (dotted names `*.block_0`, `*.block_1`, ...) draw only
            so many; the last one drawn says how many it stands for ("× 4"). None draws all.
        show_shapes: As for `plot_model`, and so all arguments below.
        show_dtype: See `plot_model`.
        show_layer_names: See `plot_model`.
        rankdir: See `plot_model`.
        expand_nested: See `plot_model`.
        dpi: See `plot_model`.
        show_layer_activations: See `plot_model`.
        show_trainable: See `plot_model`.
        splines: See `plot_model`.

    Returns:
        As from `plot_model`.

    Raises:
        TypeError: as from `plot_model`.
        ValueError: as from `plot_model`; if `models` is empty.
        OSError: if the file cannot be written.
    """
    path, chosen = _checked(to_file)
    if chosen.name not in FORMATS:
        raise ValueError(
            f"cannot write {str(to_file)!r}: models next to each other are drawn as "
            f"{', '.join(FORMATS)}, and not as {chosen.name}"
        )
    check_style(rankdir, dpi)
    _check(blocks)
    if not models:
        raise ValueError("no models were given: plot_side_by_side needs a mapping title -> model")
    graphs = {}
    for title, model in models.items():
        marked = mark_skip_paths(read_graph(model, expand_nested))
        graphs[title] = marked if blocks is None else fold_blocks(marked, blocks)
    labels = Labels(
        show_shapes, show_dtype, show_layer_names, show_layer_activations, show_trainable
    )
    dot = graphs_to_dot(graphs, labels, rankdir, dpi, splines)
    return _shown(write_whole(path, render_dot(dot, chosen.name)))


def plot_diff(
    before: keras.Model | Graph,
    after: keras.Model | Graph,
    to_file: str | os.PathLike[str] = "diff.svg",
    plugins: Iterable[PluginLike] = ("skip_paths",),
    depth: int | None = None,
    changes_only: bool = False,
    renderer: str | None = None,
    open_nested: bool = True,
    open_layers: bool = False,
    **options: Any,
) -> Any:
    """Draw what has become of one model in another: added, removed, moved and changed calls.

    Args:
        before: The older model: Functional, Sequential and built, or a `Graph`.
        after: The newer one.
        to_file: As for `draw`.
        plugins: What to do with both graphs first, as for `draw`.
        depth: As for `draw`. Blocks that have changed in the same way are one box.
        changes_only: Whether calls are left out that are as they were and not next to one that is
            different.
        renderer: As for `draw`.
        open_nested: Whether models used as layers are opened.
        open_layers: Whether layers that are made of layers are looked into; see `read_graph`.
        **options: Of the renderer.

    Returns:
        As from `draw`.

    Raises:
        TypeError, ValueError, OSError: as from `draw`.
        ValueError: if one of the graphs is folded already.
    """
    path, chosen = _checked(to_file, renderer, depth, options)
    steps = list(plugins)
    old, graph = (
        apply_plugins(model, steps)
        if isinstance(model, Graph)
        else apply_plugins(read_graph(model, open_nested, open_layers), steps, model)
        for model in (before, after)
    )
    difference = compare_graphs(old, graph)
    both = marked(difference, changes_only)
    if "before" in chosen.options:
        options["before"] = older_side(both, difference)
    return draw(both, path, (), depth, chosen.name, **options)


def _check(blocks: int | None) -> None:
    if blocks is not None and blocks < 1:
        raise ValueError(f"blocks is {blocks!r}; allowed are None (draw all) and whole numbers > 0")


def _written(renderer: GraphRenderer, graph: Graph, path: Path, options: Mapping[str, Any]) -> Any:
    contents = renderer(graph, **options)
    if not isinstance(contents, str | bytes):
        raise TypeError(
            f"the graph renderer {renderer.name!r} gave a {type(contents).__name__}; it has to "
            "give text or bytes"
        )
    data = contents.encode() if isinstance(contents, str) else contents
    return _shown(write_whole(path, data))


def _checked(
    to_file: str | os.PathLike[str],
    renderer: str | None = None,
    depth: int | None = None,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> tuple[Path, GraphRenderer]:
    """Where to write, with a suffix, and the renderer: before the work, not after.

    Raises:
        ValueError: if there is no such renderer, format or option, or no such depth.
    """
    path = Path(to_file)
    if renderer is None:
        path = path if path.suffix else Path(f"{path}.png")
        chosen = renderer_of_file(path)
    else:
        chosen = find_renderer(renderer)
        path = path if path.suffix else Path(f"{path}{''.join(chosen.suffixes[:1])}")
    check_options(chosen, options)
    if depth is not None and depth < 0:
        raise ValueError(f"depth is {depth!r}; it is a number of levels, 0 or more")
    return path, chosen


def _shown(path: Path) -> Any:
    """What a notebook shows as the value of the cell; None outside of notebooks."""
    ipython = sys.modules.get("IPython")  # imported by the notebook itself, or there is none
    if ipython is None or ipython.get_ipython() is None:
        return None
    from IPython import display

    if path.suffix.lower() == ".png":
        return display.Image(filename=str(path))
    return display.SVG(filename=str(path)) if path.suffix.lower() == ".svg" else None
