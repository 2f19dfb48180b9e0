"""Diagrams of models: `draw`, `plot_model`, models side by side, differences, and notebooks.

Importing this module also defines how a `Graph` is printed and shown in notebooks.
"""

from __future__ import annotations

import html
import os
import sys
from collections.abc import Iterable, Mapping
from math import inf
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plots.arguments import check_mapping
from plots.differences import compare_graphs
from plots.differences.union import marked, older_side
from plots.files import write_picture
from plots.folding import fold_blocks
from plots.folding.groups import close_groups
from plots.graph import Graph
from plots.hierarchy import depth_of, find_namespaces
from plots.reading import read_graph
from plots.registry import (
    GraphRenderer,
    PluginLike,
    apply_plugins,
    find_renderer,
    plugin_list,
    renderer_of_file,
)
from plots.renderers.boxes import Labels
from plots.renderers.dot import graphs_to_dot
from plots.renderers.graphviz import FORMATS, check_style, render_dot, svg
from plots.renderers.html import to_html
from plots.renderers.text import to_text
from plots.skips import mark_skip_paths

if TYPE_CHECKING:
    import keras

MOST_CALLS = 150
"""Number of calls above which a diagram in a notebook has clusters collapsed to stay readable."""


def draw(
    model: keras.Model | Graph,
    to_file: str | os.PathLike[str],
    plugins: PluginLike | Iterable[PluginLike] = ("skip_paths",),
    depth: int | None = None,
    renderer: str | None = None,
    open_nested: bool = True,
    open_layers: bool = False,
    **options: Any,
) -> Any:
    """Read a model, apply plugins, and write the graph to a file.

    Args:
        model: A Functional model, a built Sequential model, or a `Graph`; or an object that holds a
            model as its attribute `model`.
        to_file: Path of the file; its suffix selects the format (see `plots.list_renderers`). A
            name without suffix gets that of `renderer`, or ".png". Missing folders are created.
            The file is written whole or not at all.
        plugins: Plugins to apply, in this order: see `plots.apply_plugins`.
        depth: Number of levels of clusters to draw expanded, with runs of equal blocks as one
            cluster; None draws everything. Applies the plugin `fold` last; an HTML page keeps the
            whole graph and starts at this depth.
        renderer: Name of a renderer; None selects it by the suffix.
        open_nested: Whether to show the calls inside models that are used as layers.
        open_layers: Whether to show the calls inside composite layers; see `read_graph`.
        **options: Options of the renderer, such as `rankdir="LR"` or `shapes=True`.

    Returns:
        In a notebook, an object that displays the file if it is a PNG or SVG; else None.

    Raises:
        TypeError: if `model` is not a Keras model, or a subclassed one, which has no graph.
        ValueError: if the model is not built; if a plugin, format or option is unknown or the value
            of an option is not allowed; if `depth` is negative.
        OSError: if the file cannot be written.
    """
    path, chosen = _checked(to_file, renderer, depth, options)
    steps = plugin_list(plugins)
    if depth is not None and "depth" in chosen.options:
        options["depth"] = depth
    elif depth is not None:
        steps.append(("fold", {"depth": depth}))
    graph, whole = _read(model, open_nested, open_layers)
    return _written(chosen, apply_plugins(graph, steps, whole), path, options)


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
    """Draw a model with its residual stream as one thick straight line past the sublayers.

    A drop-in replacement for `keras.utils.plot_model`. Nodes are calls, not layers, so a shared
    layer has one node per call. Parallel edges are kept. Dotted layer names
    (`decoder.block_0.feedforward.up`) become nested, labelled clusters. Masks and other inputs that
    many sublayers share are drawn once and referenced by name where they are used.

    Args:
        model: A Functional model or a built Sequential model.
        to_file: Path of the file; its suffix (.png, .jpg, .svg, .pdf, .dot) selects the format, PNG
            if it has none. Missing folders are created. The file is written whole or not at all.
        show_shapes: Whether to show input and output shapes.
        show_dtype: Whether to show output dtypes.
        show_layer_names: Whether to show full names. Otherwise a node shows the last part of the
            name, or the class if Keras generated the name, and a merge is a circle with a plus.
        rankdir: Direction of the data flow: "TB", "BT", "LR" or "RL".
        expand_nested: Whether to show the calls inside models that are used as layers.
        dpi: Dots per inch of a PNG; reduced for large models, so that no side is longer than 16,000
            pixels.
        show_layer_activations: Whether to show the activation of layers that have one.
        show_trainable: Whether to show if a layer with weights is trainable.
        splines: Shape of the edges, as in Graphviz: "spline", "polyline", "ortho", ...
        blocks: Number of blocks to draw of every run of equal blocks, labelled with the number that
            they stand for; None draws all.

    Returns:
        In a notebook, an object that displays the file if it is a PNG or SVG; else None.

    Raises:
        TypeError: if `model` is not a Keras model, or a subclassed one, which has no graph.
        ValueError: if the model is not built, or the value of an argument is not allowed.
        OSError: if the file cannot be written.
    """
    path, chosen = _checked(to_file, blocks=blocks)
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
    known = {name: value for name, value in options.items() if name in chosen.options}
    return _written(chosen, _folded(model, expand_nested, blocks), path, known)


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
    """Draw several models next to each other in one diagram.

    Args:
        models: Title -> model, drawn from left to right.
        to_file: See `plot_model`.
        blocks: Number of blocks to draw of every run of equal blocks (`*.block_0`, `*.block_1`,
            ...); the last one is labelled with the number that it stands for ("× 4"). None draws
            all.
        show_shapes, show_dtype, ...: See `plot_model`.

    Returns:
        See `plot_model`.

    Raises:
        TypeError, OSError: see `plot_model`.
        ValueError: see `plot_model`; if `models` is empty.
    """
    path, chosen = _checked(to_file, blocks=blocks)
    if chosen.name not in FORMATS:
        raise ValueError(
            f"cannot write {str(to_file)!r}: plot_side_by_side supports {', '.join(FORMATS)}, not "
            f"{chosen.name}"
        )
    check_style(rankdir, dpi)
    check_mapping(models, "plot_side_by_side", "models", "title -> model")
    graphs = {title: _folded(model, expand_nested, blocks) for title, model in models.items()}
    labels = Labels(
        show_shapes, show_dtype, show_layer_names, show_layer_activations, show_trainable
    )
    dot = graphs_to_dot(graphs, labels, rankdir, dpi, splines)
    return _shown(write_picture(path, render_dot(dot, chosen.name)))


def plot_diff(
    before: keras.Model | Graph,
    after: keras.Model | Graph,
    to_file: str | os.PathLike[str] = "diff.svg",
    plugins: PluginLike | Iterable[PluginLike] = ("skip_paths",),
    depth: int | None = None,
    changes_only: bool = False,
    renderer: str | None = None,
    open_nested: bool = True,
    open_layers: bool = False,
    **options: Any,
) -> Any:
    """Draw the differences between two models: added, removed, moved and changed calls.

    Args:
        before: The older model: Functional, built Sequential, or a `Graph`.
        after: The newer model.
        to_file: See `draw`.
        plugins: Plugins to apply to both graphs first; see `draw`.
        depth: See `draw`. Blocks that changed in the same way are one cluster.
        changes_only: Whether to omit unchanged calls that are not next to a difference.
        renderer: See `draw`.
        open_nested: See `draw`.
        open_layers: See `draw`.
        **options: Options of the renderer.

    Returns:
        See `draw`.

    Raises:
        TypeError, ValueError, OSError: see `draw`.
        ValueError: if one of the graphs is already folded.
    """
    path, chosen = _checked(to_file, renderer, depth, options)
    steps = plugin_list(plugins)
    old, new = (_read(model, open_nested, open_layers) for model in (before, after))
    graphs = [apply_plugins(graph, steps, whole) for graph, whole in (old, new)]
    difference = compare_graphs(*graphs)
    both = marked(difference, changes_only)
    if "before" in chosen.options:
        options["before"] = older_side(both, difference)
    return draw(both, path, (), depth, chosen.name, **options)


def _read(
    model: keras.Model | Graph, open_nested: bool, open_layers: bool
) -> tuple[Graph, keras.Model | None]:
    if isinstance(model, Graph):
        return model, None
    return read_graph(model, open_nested, open_layers), model


def _folded(model: keras.Model, open_nested: bool, blocks: int | None) -> Graph:
    graph = mark_skip_paths(read_graph(model, open_nested))
    return graph if blocks is None else fold_blocks(graph, blocks)


def _written(renderer: GraphRenderer, graph: Graph, path: Path, options: Mapping[str, Any]) -> Any:
    contents = renderer(graph, **options)
    if not isinstance(contents, str | bytes):
        raise TypeError(
            f"the graph renderer {renderer.name!r} returned a {type(contents).__name__}; it must "
            "return text or bytes"
        )
    return _shown(write_picture(path, contents))


def _checked(
    to_file: str | os.PathLike[str],
    renderer: str | None = None,
    depth: int | None = None,
    options: Iterable[str] = (),
    blocks: int | None = None,
) -> tuple[Path, GraphRenderer]:
    """Return the path with a suffix and the renderer, after checking the arguments."""
    if not isinstance(to_file, str | os.PathLike):
        raise TypeError(
            f"the file to write must be given as a path, not as {type(to_file).__name__}; the "
            "model comes first: plot_model(model, 'model.png')"
        )
    path = Path(to_file)
    if renderer is None:
        path = path if path.suffix else Path(f"{path}.png")
        chosen = renderer_of_file(path)
    else:
        chosen = find_renderer(renderer)
        path = path if path.suffix else Path(f"{path}{''.join(chosen.suffixes[:1])}")
    chosen.check_options(options)
    if depth is not None and not (isinstance(depth, Integral) and depth >= 0):
        raise ValueError(f"depth is {depth!r}; it must be a number of levels, 0 or more")
    if blocks is not None and not (isinstance(blocks, Integral) and blocks >= 1):
        raise ValueError(f"blocks is {blocks!r}; it must be None (draw all) or an int, 1 or more")
    return path, chosen


def _shown(path: Path) -> Any:
    """Return an object that displays the file in a notebook; None outside of notebooks."""
    ipython = sys.modules.get("IPython")  # a notebook has imported it
    if ipython is None or ipython.get_ipython() is None:
        return None
    from IPython import display

    if path.suffix.lower() in (".png", ".jpg", ".jpeg"):
        return display.Image(filename=str(path))
    return display.SVG(filename=str(path)) if path.suffix.lower() == ".svg" else None


def _presentable(graph: Graph, most_calls: float = inf) -> Graph:
    """Return the graph with skip paths marked and every run of equal blocks as one.

    Above `most_calls` calls, groups are collapsed, the innermost first.
    """
    graph = small = fold_blocks(_marked(graph))
    deepest = max(map(depth_of, find_namespaces(graph).values()), default=0)
    depths = iter(range(deepest - 1, -1, -1))
    while len(small.nodes) > most_calls and (depth := next(depths, -1)) >= 0:
        small = close_groups(graph, depth)
    return small


def _marked(graph: Graph) -> Graph:
    return graph if graph.skip_paths else mark_skip_paths(graph)


def _printed(graph: Graph) -> str:
    """Indented text, with the residual stream marked and equal blocks as one."""
    return to_text(_presentable(graph))


def _notebook_svg(graph: Graph) -> str | None:
    """Return a diagram with large graphs folded; None if it would be unreadable."""
    small = _presentable(graph, MOST_CALLS)
    if len(small.nodes) > 4 * MOST_CALLS:
        return None
    picture = svg(small).decode()
    return picture[picture.index("<svg") :]  # without the XML declaration, to stand in a page


def _notebook_page(graph: Graph) -> str:
    """Return the HTML explorer in a frame."""
    style = "width: 100%; height: 640px; border: 1px solid #ccc"
    return f'<iframe srcdoc="{html.escape(to_html(_marked(graph)))}" style="{style}"></iframe>'


Graph.__str__ = _printed  # type: ignore[assignment, method-assign]
Graph._repr_svg_ = _notebook_svg  # type: ignore[attr-defined]
Graph._repr_html_ = _notebook_page  # type: ignore[attr-defined]
