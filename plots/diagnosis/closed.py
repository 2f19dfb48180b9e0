"""Calls whose work a graph does not show."""

from __future__ import annotations

from plots.costs.flop_rules import is_known
from plots.graph import Graph, Node
from plots.layers import ATTENTION_LAYERS, TRACED


def closed_layers(graph: Graph) -> list[Node]:
    """Return the first calls of layers and models with weights whose work the graph does not show.

    Those are models, and layers of an unknown class whose calls inside are not known either.
    """
    return [node for node in graph.nodes if node.layer == node.id and is_closed(node)]


def is_closed(node: Node) -> bool:
    """Return whether a call is one of a model, or of a layer with weights whose work is unknown."""
    if node.kind != "layer":
        return node.kind == "model"
    is_attention = node.is_a(ATTENTION_LAYERS) or node.role == "attention"
    is_shown = is_attention or is_known(node) or TRACED in node.traits
    return bool(node.parameters or node.shared_parameters) and not is_shown
