"""Pictures of models: `plot_model`, in the place of Keras' own, and models side by side."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plots.boxes import Labels
from plots.dot import graph_to_dot, graphs_to_dot
from plots.fold import fold_blocks
from plots.read import read_graph
from plots.render import picture_format, render

if TYPE_CHECKING:
    import keras

_DIRECTIONS = ("TB", "BT", "LR", "RL")


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
    **kwargs: Any,
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
        **kwargs: `splines` (as in Graphviz: "spline", "polyline", "ortho", ...), and `blocks`: of
            every run of equal blocks draw only so many, with the number that they stand for.

    Returns:
        As from Keras: an IPython image of what was written where IPython is installed and the
        format can be shown (PNG, SVG), else None.

    Raises:
        TypeError: if `model` is no Keras model, or a subclassed one, which has no graph.
        ValueError: if the model is not built, if an argument is unknown or has a
            value that is not allowed.
        OSError: if the file cannot be written.
    """
    splines, blocks = _known(kwargs, "plot_model")
    _check(to_file, rankdir, dpi, blocks)
    graph = read_graph(model, open_nested=expand_nested)
    if blocks is not None:
        graph = fold_blocks(graph, blocks)
    labels = Labels(
        show_shapes, show_dtype, show_layer_names, show_layer_activations, show_trainable
    )
    dot = graph_to_dot(graph, labels, rankdir, _dots_per_inch(to_file, dpi), splines)
    return _shown(render(dot, _with_suffix(to_file)))


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
    **kwargs: Any,
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
        **kwargs: `splines`, see `plot_model`.

    Returns:
        As from `plot_model`.

    Raises:
        TypeError: as from `plot_model`.
        ValueError: as from `plot_model`; if `models` is empty.
        OSError: if the file cannot be written.
    """
    splines, _ = _known(kwargs, "plot_side_by_side")
    _check(to_file, rankdir, dpi, blocks)
    if not models:
        raise ValueError("no models were given: plot_side_by_side needs a mapping title -> model")
    graphs = {title: read_graph(model, expand_nested) for title, model in models.items()}
    if blocks is not None:
        graphs = {title: fold_blocks(graph, blocks) for title, graph in graphs.items()}
    labels = Labels(
        show_shapes, show_dtype, show_layer_names, show_layer_activations, show_trainable
    )
    dot = graphs_to_dot(graphs, labels, rankdir, _dots_per_inch(to_file, dpi), splines)
    return _shown(render(dot, _with_suffix(to_file)))


def _known(kwargs: dict[str, Any], function: str) -> tuple[str, int | None]:
    """The known ones of the further arguments: (splines, blocks)."""
    known = {"splines": "spline"} | ({"blocks": None} if function == "plot_model" else {})
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise ValueError(
            f"{function}() got unknown arguments {', '.join(unknown)}; "
            f"besides the named ones it takes {', '.join(known)}"
        )
    given: dict[str, Any] = known | kwargs
    return given["splines"], given.get("blocks")


def _check(to_file: Any, rankdir: str, dpi: int, blocks: int | None) -> None:
    picture_format(to_file)  # before the work, not after
    if rankdir not in _DIRECTIONS:
        raise ValueError(f"rankdir is {rankdir!r}; allowed are {', '.join(_DIRECTIONS)}")
    if not dpi > 0:
        raise ValueError(f"dpi is {dpi!r}; it must be a positive number")
    if blocks is not None and blocks < 1:
        raise ValueError(f"blocks is {blocks!r}; allowed are None (draw all) and whole numbers > 0")


def _with_suffix(to_file: str | os.PathLike[str]) -> Path:
    path = Path(to_file)
    return path if path.suffix else Path(f"{path}.png")


def _dots_per_inch(to_file: str | os.PathLike[str], dpi: int) -> int | None:
    """The dpi where the format has dots; vector formats keep their natural size."""
    return dpi if picture_format(to_file) == "png" else None


def _shown(path: Path) -> Any:
    """What a notebook shows as the value of the cell."""
    try:
        from IPython import display
    except ImportError:
        return None
    if path.suffix.lower() == ".png":
        return display.Image(filename=str(path))
    return display.SVG(filename=str(path)) if path.suffix.lower() == ".svg" else None
