"""A graph renderer."""

import csv
import io

import plots


@plots.graph_renderer("csv", suffixes=(".csv",))
def to_csv(graph: plots.Graph, delimiter: str = ",") -> str:
    """One row per call, for spreadsheets.

    Args:
        graph: The graph.
        delimiter: What stands between two columns.
    """
    text = io.StringIO()
    table = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    table.writerow(["call", "class", "parameters", *(o.title for o in graph.overlays)])
    for node in graph.nodes:
        numbers = [o.text(node.id) if node.id in o.values else "" for o in graph.overlays]
        table.writerow([node.id, node.class_name, node.parameters, *numbers])
    return text.getvalue()
