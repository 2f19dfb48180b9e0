"""Look at a Keras model: read it into a plain graph, find its skip paths, draw it.

    import plots

    graph = plots.read_graph(model)               # any Functional or Sequential Keras model
    plots.skip_paths(graph)                       # the residual paths, found by structure
    plots.plot_model(model, "model.svg")          # in the place of keras.utils.plot_model
    plots.plot_side_by_side({"pre-norm": a, "post-norm": b}, "both.png", blocks=1)
    plots.save_figure(plots.loss_curves(histories), "loss.png")

Importing this package is cheap: Keras, pydot, Graphviz and matplotlib are imported when first used.
"""

from __future__ import annotations

from plots.figures import loss_curves, save_figure
from plots.fold import fold_blocks
from plots.graph import Constant, Edge, Graph, Node, Tensor
from plots.pictures import plot_model, plot_side_by_side
from plots.read import read_graph
from plots.skips import SkipPath, skip_paths

__all__ = [
    "Constant",
    "Edge",
    "Graph",
    "Node",
    "SkipPath",
    "Tensor",
    "fold_blocks",
    "loss_curves",
    "plot_model",
    "plot_side_by_side",
    "read_graph",
    "save_figure",
    "skip_paths",
]
