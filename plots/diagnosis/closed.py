"""Calls whose work a graph does not show."""

from __future__ import annotations

import re

from plots.costs.flop_rules import is_known
from plots.graph import Graph, Node
from plots.layers import NORM_TRAIT, TRACED, is_attention

_OF_HUB = re.compile("(Attention|Transformer|Encoder|Decoder)(Layer|Block)?$|^Transformer")
"""Classes of KerasHub that are made of layers, which stay closed if they cannot be traced."""


def closed_layers(graph: Graph) -> list[Node]:
    """Return the first calls of layers and models with weights whose work the graph does not show.

    Those are models, and layers of an unknown class whose calls inside are not known either.
    """
    failed = {node_id for note in graph.notes if note.kind == "closed" for node_id in note.about}
    calls = (node for node in graph.nodes if node.layer == node.id)
    return [n for n in calls if is_closed(n) or (n.id in failed and _is_layer_with_weights(n))]


def _is_layer_with_weights(node: Node) -> bool:
    return node.kind == "layer" and bool(node.parameters or node.shared_parameters)


def is_closed(node: Node) -> bool:
    """Return whether a call is one of a model, or of a layer with weights whose work is unknown."""
    if node.kind != "layer":
        return node.kind == "model"
    is_of_hub = not node.call_class and _OF_HUB.search(node.class_name)
    if not _is_layer_with_weights(node) or NORM_TRAIT in node.traits:
        return False
    if node.opens_with or (is_of_hub and not is_attention(node)):
        return True
    is_declared = node.declaration is not None and node.declaration.products is not None
    is_of_keras = not node.call_class and (is_attention(node) or is_known(node))
    return not (is_of_keras or is_declared or node.role or TRACED in node.traits)
