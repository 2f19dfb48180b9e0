"""Calls whose work a graph does not show."""

from __future__ import annotations

import re

from plots.costs.flop_rules import is_known
from plots.graph import Graph, Node
from plots.layers import TRACED, is_attention

_OF_HUB = re.compile("(Attention|Transformer|Encoder|Decoder)(Layer|Block)?$|^Transformer")
"""Classes of KerasHub that are made of layers, which stay closed if they cannot be traced."""


def closed_layers(graph: Graph) -> list[Node]:
    """Return the first calls of layers and models with weights whose work the graph does not show.

    Those are models, and layers of an unknown class whose calls inside are not known either.
    """
    return [node for node in graph.nodes if node.layer == node.id and is_closed(node)]


def is_closed(node: Node) -> bool:
    """Return whether a call is one of a model, or of a layer with weights whose work is unknown."""
    if node.kind != "layer":
        return node.kind == "model"
    is_of_hub = not node.call_class and _OF_HUB.search(node.class_name)
    if node.opens_with or (is_of_hub and not is_attention(node)):
        return bool(node.parameters or node.shared_parameters)
    is_declared = node.declaration is not None and node.declaration.products is not None
    is_of_keras = is_attention(node) or (is_known(node) and not node.call_class)
    is_shown = is_of_keras or is_declared or node.role or TRACED in node.traits
    return bool(node.parameters or node.shared_parameters) and not is_shown
