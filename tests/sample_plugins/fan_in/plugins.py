"""A graph plugin that measures, and one that is broken."""

from dataclasses import replace

import plots


@plots.graph_plugin("fan_in")
def fan_in(graph: plots.Graph, factor: float = 1.0) -> plots.Graph:
    """Number of tensors that every call takes.

    Args:
        graph: The graph.
        factor: What every number is multiplied with.
    """
    values = {node.id: {"": factor * len(graph.incoming[node.id])} for node in graph.nodes}
    overlay = plots.Overlay("fan_in", "tensors taken", "", values)
    return replace(graph, overlays=(*graph.overlays, overlay))


@plots.graph_plugin("fails")
def fails(graph: plots.Graph) -> plots.Graph:
    """Broken: it looks for a call that no graph has."""
    graph.node("no such call")
    return graph
