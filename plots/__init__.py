"""Inspect Keras models: read them into graphs, find skip paths, measure, compare and draw them.

    import plots

    graph = plots.read_graph(model)               # any Functional or Sequential Keras model
    plots.skip_paths(graph)                       # the residual paths, found by structure
    plots.plot_model(model, "model.svg")          # instead of keras.utils.plot_model
    plots.draw(model, "model.svg", plugins=["skip_paths", "parameters"], depth=2)
    print(plots.diagnosis_text(model))            # a description of the model, and its problems
    plots.check(model)                            # properties decided by running it
    plots.draw(model, "model.html")               # a page to explore: expand, search, trace
    plots.plot_side_by_side({"pre-norm": a, "post-norm": b}, "both.png", blocks=1)
    plots.plot_diff(old_model, new_model, "diff.svg")
    print(plots.difference_text(plots.compare_graphs(old_graph, new_graph)))
    plots.save_figure(plots.loss_curves(histories), "loss.png")

`read_graph` reads a model once into a frozen `Graph`; plugins map graph to graph; renderers map
graph to file. `plots.registry` describes how to add your own.

    graph, annotations, registry               the core data types
    layers, hierarchy, traversal               kinds, namespaces and order of calls
    reading                                    Keras model -> graph
    skips, streams, folding, axes, costs,      plugins: graph -> graph, and shared parts
    attentions, differences, measuring, diagnosis
    formulas                                   graph -> its blocks as formulas
    checking                                   model -> properties, decided by running it
    renderers, pictures, files                 graph -> file, or the output of a notebook cell
    figures                                    numbers -> Matplotlib figure
    conformance                                checks for plugins and renderers of others

Importing this package does not import Keras, NumPy, Matplotlib or Graphviz.
"""

from __future__ import annotations

import difflib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

from plots.annotations import Note, Overlay, SkipPath
from plots.axes import axes_of, shapes
from plots.checking import Check, Witness, check
from plots.costs import flops, memory, parameters
from plots.diagnosis import diagnose, diagnosis_rule, diagnosis_text, findings
from plots.differences import compare_graphs
from plots.differences.difference import Difference
from plots.differences.report import comparison_table, difference_text
from plots.differences.union import diff
from plots.figures import save_figure
from plots.figures.attention import (
    attention_heads,
    attention_mask,
    common_masks,
    position_encodings,
    sinusoids,
)
from plots.figures.curves import learning_rate_curves, loss_curves
from plots.figures.depth import Band, DepthPanel, depth_profiles, signal_propagation
from plots.figures.models import parameter_bars, variants_page
from plots.folding import fold, fold_blocks
from plots.formulas import block_formulas
from plots.graph import Constant, Edge, Graph, Loss, Node, Tensor
from plots.measuring import activations, gradients
from plots.measuring.attention_maps import AttentionMap, attention_maps
from plots.measuring.depth import DepthProfile, depth_profile
from plots.measuring.execution import call_values, edge_gradients
from plots.measuring.inputs import random_inputs
from plots.pictures import draw, plot_diff, plot_model, plot_side_by_side
from plots.reading import read_graph
from plots.registry import (
    GraphPlugin,
    GraphRenderer,
    apply_plugins,
    graph_plugin,
    graph_renderer,
    list_plugins,
    list_renderers,
)
from plots.renderers.html import to_html
from plots.renderers.mermaid import to_mermaid
from plots.renderers.model_explorer import model_explorer_files, to_model_explorer
from plots.renderers.text import to_text
from plots.skips import skip_paths

__all__ = [
    "AttentionMap",
    "Band",
    "Check",
    "Constant",
    "DepthPanel",
    "DepthProfile",
    "Difference",
    "Edge",
    "Graph",
    "GraphPlugin",
    "GraphRenderer",
    "Loss",
    "Node",
    "Note",
    "Overlay",
    "SkipPath",
    "Tensor",
    "Witness",
    "activations",
    "apply_plugins",
    "attention_heads",
    "attention_maps",
    "attention_mask",
    "axes_of",
    "block_formulas",
    "call_values",
    "check",
    "common_masks",
    "compare_graphs",
    "comparison_table",
    "depth_profile",
    "depth_profiles",
    "diagnose",
    "diagnosis_rule",
    "diagnosis_text",
    "diff",
    "difference_text",
    "draw",
    "edge_gradients",
    "findings",
    "flops",
    "fold",
    "fold_blocks",
    "gradients",
    "graph_plugin",
    "graph_renderer",
    "learning_rate_curves",
    "list_plugins",
    "list_renderers",
    "loss_curves",
    "memory",
    "model_explorer_files",
    "parameter_bars",
    "parameters",
    "plot_diff",
    "plot_model",
    "plot_side_by_side",
    "position_encodings",
    "random_inputs",
    "read_graph",
    "save_figure",
    "shapes",
    "signal_propagation",
    "sinusoids",
    "skip_paths",
    "to_html",
    "to_mermaid",
    "to_model_explorer",
    "to_text",
    "variants_page",
]


def __dir__() -> list[str]:
    """Return the public names, the modules, and what Python adds."""
    own = (
        name
        for name, value in globals().items()
        if (name.startswith("__") and name.endswith("__"))
        or (isinstance(value, ModuleType) and value.__name__ == f"{__name__}.{name}")
    )
    return sorted({*own, *__all__})


if not TYPE_CHECKING:  # for which every attribute would exist

    def __getattr__(name: str) -> object:
        """Raise the error for a missing attribute, with the public name that is similar."""
        message = f"module {__name__!r} has no attribute {name!r}"
        public = {other.lower(): other for other in __all__}
        near = [] if name.startswith("_") else difflib.get_close_matches(name.lower(), public, n=1)
        if near:
            raise AttributeError(f"{message}; did you mean {public[near[0]]!r}?")
        raise AttributeError(message, name=name, obj=sys.modules[__name__])
