"""A graph as DOT: sublayers in labelled boxes, the residual stream as one straight thick line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from plots.graph import Edge, Graph, Node
from plots.renderers.boxes import (
    GREY,
    INK,
    STREAM_COLOUR,
    Labels,
    box_attributes,
    coloured,
    escaped,
    line_words,
    noted_colour,
    quoted,
    shape_text,
    shown,
)
from plots.renderers.layout import SIDEWAYS, Layout, lay_out
from plots.renderers.legend import legend

if TYPE_CHECKING:
    import pydot

_FONT = "Helvetica"
_LEFT = '<br align="left"/>'
_CLUSTER_FILLS = ("#FAFAFA", "#F1F3F6", "#FFFFFF")  # by depth, so that nested boxes stand apart

_TITLE_STYLE: dict[str, Any] = {
    "shape": "plaintext",
    "style": quoted(""),
    "fontname": quoted("Helvetica Bold"),
    "fontsize": "22",
}

_POINT_STYLE: dict[str, Any] = {
    "shape": "point",
    "style": "invis",
    "width": "0.01",
    "label": quoted(""),
}
_RULE_STYLE: dict[str, Any] = {"color": quoted("#D0D0D0"), "arrowhead": "none", "weight": "100"}

# The weight of an edge is how hard Graphviz tries to keep it short and straight. The stream's must
# outweigh everything that pulls at its calls from one side.
_STREAM_WEIGHT = 1000
_BRANCH_WEIGHT = 4


def graph_to_dot(
    graph: Graph,
    labels: Labels = Labels(),  # noqa: B008 - frozen, so one instance serves all calls
    rankdir: str = "TB",
    dpi: int | None = None,
    splines: str = "spline",
) -> pydot.Dot:
    """Draw one graph as DOT. The same graph gives the same text, in every process."""
    dot = _new_dot(rankdir, dpi, splines)
    _add_graph(dot, dot, graph, labels, prefix="")
    _add_words(dot, graph)
    return dot


def _add_words(dot: pydot.Dot, graph: Graph) -> None:
    """Write what holds for the whole graph at its left: notes, totals, what letters mean.

    A picture has one label: without notes it stands below, and with notes above.
    """
    notes = [coloured(note, width=80) for note in graph.notes if not note.about]
    below = [(11, escaped(line)) for line in legend(graph)]
    # Graphviz sets a line as close as its own letters ask for, whatever the size of those above.
    space = [(6, "\N{NO-BREAK SPACE}")] if notes and below else []
    sized = [(14, note) for note in notes] + space + below
    rows = [
        f'<font point-size="{size}">{row.replace("<br/>", _LEFT)}{_LEFT}</font>'
        for size, row in sized
    ]
    if rows:
        dot.set("label", f"<{''.join(rows)}>")
        dot.set("labelloc", "t" if notes else "b")
        dot.set("labeljust", "l")
        dot.set("fontcolor", quoted(INK))


def graphs_to_dot(
    graphs: Mapping[str, Graph],
    labels: Labels = Labels(),  # noqa: B008
    rankdir: str = "TB",
    dpi: int | None = None,
    splines: str = "spline",
) -> pydot.Dot:
    """Draw several graphs next to each other as DOT, each under its title."""
    import pydot

    dot = _new_dot(rankdir, dpi, splines)
    top = pydot.Subgraph("top", rank="min")
    longest = max(_longest_chain(graph) for graph in graphs.values())
    titles = list(graphs)
    if rankdir in SIDEWAYS:  # what Graphviz reads first is the lowest
        titles.reverse()
    for number, title in enumerate(titles):
        if number:
            ends = quoted(f"{number}: rule top"), quoted(f"{number}: rule bottom")
            top.add_node(pydot.Node(ends[0], **_POINT_STYLE))
            dot.add_node(pydot.Node(ends[1], **_POINT_STYLE))
            dot.add_edge(pydot.Edge(*ends, minlen=str(longest), **_RULE_STYLE))
        name = quoted(f"{number}: title")
        top.add_node(pydot.Node(name, label=shown(title), **_TITLE_STYLE))
        _add_graph(dot, dot, graphs[title], labels, prefix=f"{number}:")
        # One invisible line keeps the title with its model. A box around the model or a line to
        # every input would make Graphviz swap the sides of the model's parts.
        first = quoted(f"{number}:{graphs[title].inputs[0]}")
        dot.add_edge(pydot.Edge(name, first, style="invis", weight="100"))
    dot.add_subgraph(top)
    return dot


def _longest_chain(graph: Graph) -> int:
    """Number of calls on the longest way through the graph: how many rows its picture has."""
    rows: dict[str, int] = {}
    for node in graph.nodes:
        above = [rows[edge.source] for edge in graph.incoming[node.id]]
        rows[node.id] = 1 + max(above, default=0)
    return max(rows.values())


def _new_dot(rankdir: str, dpi: int | None, splines: str) -> pydot.Dot:
    import pydot

    dot = pydot.Dot(
        "model",
        graph_type="digraph",
        rankdir=rankdir,
        splines=splines,
        newrank="true",
        nodesep="0.25",
        ranksep="0.3",
        fontname=quoted(_FONT),
        bgcolor=quoted("#FFFFFF"),
        pad="0.2",
    )
    if dpi is not None:
        dot.set("dpi", str(dpi))
    dot.set_node_defaults(
        shape="box",
        style=quoted("rounded,filled"),
        fontname=quoted(_FONT),
        fontsize="12",
        fontcolor=quoted(INK),
        color=quoted("#5F6B7A"),
        fillcolor=quoted("#FFFFFF"),
        height="0.3",
        margin=quoted("0.1,0.05"),
    )
    dot.set_edge_defaults(
        color=quoted("#5F6B7A"), arrowsize="0.6", fontname=quoted(_FONT), fontsize="9"
    )
    return dot


def _add_graph(
    root: pydot.Dot, parent: pydot.Graph, graph: Graph, labels: Labels, prefix: str
) -> None:
    """Add a graph's boxes to `parent` and its edges to `root`."""
    import pydot

    layout = lay_out(graph)
    clusters: dict[str, pydot.Graph] = {"": parent}
    if layout.needs_frame:
        frame = pydot.Subgraph(quoted(f"cluster_{prefix} frame"), style="invis", margin="0")
        parent.add_subgraph(frame)
        clusters[""] = frame
    for node in _in_reading_order(graph, layout, root.get("rankdir") in SIDEWAYS):
        attributes = box_attributes(
            node, graph, labels, node.id in layout.merges, layout.tags.get(node.id)
        )
        is_outside = node.kind == "input" and not layout.blocks[node.id]
        cluster = (
            parent if is_outside else _cluster(clusters, layout.blocks[node.id], graph, prefix)
        )
        cluster.add_node(pydot.Node(quoted(prefix + node.id), **attributes))
    times_joined: dict[tuple[str, str], int] = {}
    for edge in graph.edges:
        pair = (edge.source, edge.target)
        times_joined[pair] = times_joined.get(pair, 0) + 1
    for edge in graph.edges:
        if layout.is_referred(edge):
            tag, line = _reference(edge, layout, prefix)
            box = layout.blocks[edge.target]
            clusters[box].add_node(tag)
            root.add_edge(line)
            if box in layout.feeds:
                ends = quoted(prefix + layout.feeds[box]), tag.get_name()
                root.add_edge(pydot.Edge(*ends, style="invis", weight="0"))
        else:
            parallel = times_joined[edge.source, edge.target] > 1
            root.add_edge(_line(edge, graph, layout, prefix, parallel))
    for upper, lower in layout.below:
        ends = quoted(prefix + upper), quoted(prefix + lower)
        root.add_edge(pydot.Edge(*ends, style="invis", weight="0", minlen="2"))


def _in_reading_order(graph: Graph, layout: Layout, sideways: bool) -> list[Node]:
    """The calls in the order in which Graphviz is to read them: what it reads first is at the left.

    The stream first, without the inputs that it may begin at, means in nearly every model that was
    tried: the stream at the left, all sublayers on its right, an encoder on the right of its
    decoder, so that no line between the two crosses a stream. From left to right these sides are
    below and above, but Graphviz turns the order of what lies in no box around. Of parallel
    sublayers the one that merges last comes first, or Graphviz would lead its line round the other
    side of the stream.
    """
    on_stream = {node_id for pair in layout.stream for node_id in pair} - set(graph.inputs)
    outermost = {node.id: layout.blocks[node.id].partition(".")[0] for node in graph.nodes}
    place = {box: number for number, box in enumerate(dict.fromkeys(outermost.values()))}

    def order(node: Node) -> tuple[bool, int, int]:
        side = -place[outermost[node.id]] if sideways else 0
        return node.id not in on_stream, -layout.passed.get(node.id, 0), side

    return sorted(graph.nodes, key=order)


def _cluster(
    clusters: dict[str, pydot.Graph], namespace: str, graph: Graph, prefix: str
) -> pydot.Graph:
    """The labelled box of a namespace, made with all boxes around it when first asked for."""
    import pydot

    if namespace not in clusters:
        around, _, label = namespace.rpartition(".")
        parent = _cluster(clusters, around, graph, prefix)
        repeats = graph.repeats.get(namespace, 1)
        box = pydot.Subgraph(
            quoted(f"cluster_{prefix}{namespace}"),
            label=shown(_title(label, repeats)),
            labeljust="r",
            labelloc="b",
            style=quoted("rounded,filled"),
            color=quoted("#C3CAD3"),
            fillcolor=quoted(_CLUSTER_FILLS[namespace.count(".") % len(_CLUSTER_FILLS)]),
            fontname=quoted(_FONT),
            fontsize="11" if repeats == 1 else "16",
            fontcolor=quoted(GREY if repeats == 1 else STREAM_COLOUR),
            margin="10",
        )
        parent.add_subgraph(box)
        clusters[namespace] = box
    return clusters[namespace]


def _title(label: str, repeats: int) -> str:
    """The title of a box, and how many equal blocks it stands for.

    It stands in the lower right corner, as on the plates of graphical models, because lines come
    into a box all along its top. What leaves a box is mostly the stream, at its left: spaces see to
    it that the box is wide enough for both.
    """
    title = label if repeats == 1 else f"{label}   × {repeats}"
    return "\N{NO-BREAK SPACE}" * (2 * len(title) if repeats == 1 else 40) + title


def _line(edge: Edge, graph: Graph, layout: Layout, prefix: str, parallel: bool) -> pydot.Edge:
    """One edge as a line; parallel ones are told apart by their ports."""
    import pydot

    attributes: dict[str, Any] = {"tooltip": shown(_tip(edge))}
    if (edge.source, edge.target) in layout.stream:
        attributes |= {"color": quoted(STREAM_COLOUR), "penwidth": "5", "arrowsize": "0.45"}
        attributes |= {"weight": str(_STREAM_WEIGHT)}
    elif edge.tensor.dtype == "bool" or edge.implicit:
        attributes |= {"color": quoted("#A0A0A0"), "style": "dashed", "weight": "1"}
    else:
        attributes |= {"weight": str(_BRANCH_WEIGHT)}
        if any(edge.target == lower for _, lower in layout.below):
            attributes["minlen"] = "2"  # room to come in from above, not through its neighbours
    if said := line_words(edge, graph, parallel):
        # Graphviz puts a label right beside its line and the next label, and the stream is thick.
        on_stream = "penwidth" in attributes
        space = "\N{EN SPACE}" if on_stream else "\N{NO-BREAK SPACE}"
        text = "\n".join(f"{space}{line}{space}" for line in said)
        # What is short is put beside the stream after all lines, so that it stays straight.
        attributes["xlabel" if on_stream and len(text) < 12 else "label"] = shown(text)
    if noted := noted_colour(graph, edge.id):
        attributes["color"] = quoted(noted)
    if any(note.kind == "removed" for note in graph.notes_about.get(edge.id, ())):
        attributes["style"] = "dashed"
    return pydot.Edge(quoted(prefix + edge.source), quoted(prefix + edge.target), **attributes)


def _reference(edge: Edge, layout: Layout, prefix: str) -> tuple[pydot.Node, pydot.Edge]:
    """A tag with the source's short name next to the target, and its line into the target."""
    import pydot

    name = quoted(f"{prefix}{edge.source} to {edge.target} {edge.port}")
    tag = pydot.Node(
        name,
        label=shown(layout.tags[edge.source]),
        tooltip=shown(_tip(edge)),
        style=quoted("rounded,dashed"),
        color=quoted("#A0A0A0"),
        fontcolor=quoted("#606060"),
        fontsize="10",
        height="0.22",
    )
    line = pydot.Edge(
        name,
        quoted(prefix + edge.target),
        tooltip=shown(_tip(edge)),
        color=quoted("#A0A0A0"),
        style="dashed",
        weight="1",
    )
    return tag, line


def _tip(edge: Edge) -> str:
    """What hovering over an edge tells in an SVG."""
    tensor = f"{shape_text(edge.tensor)} {edge.tensor.dtype}"
    return f"{edge.source} → {edge.target} ({edge.port}): {tensor}"
