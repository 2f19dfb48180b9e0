"""Graphs as DOT: namespaces as labelled clusters, the residual stream as a straight thick line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plots.annotations import shape_text
from plots.graph import Edge, Graph, Node
from plots.hierarchy import enclosing_namespaces
from plots.layers import merge_sign
from plots.renderers import (
    GREY,
    INK,
    SIDEWAYS,
    STREAM_COLOUR,
    Layout,
    edge_labels,
    lay_out,
    legend,
    noted_colour,
    repeated,
)
from plots.renderers.boxes import (
    LONGEST_LINE,
    NO_LABELS,
    Labels,
    escaped,
    node_attributes,
    note_row,
    quoted,
    tooltip,
)
from plots.renderers.labels import class_of, frame_title, title_of

if TYPE_CHECKING:
    import pydot

_FONT = "Helvetica"
_LEFT = '<br align="left"/>'
_CLUSTER_FILLS = ("#FAFAFA", "#F1F3F6", "#FFFFFF")  # by depth, to set nested clusters apart

_TITLE_STYLE: dict[str, Any] = {
    "shape": "plaintext",
    "style": '""',
    "fontname": '"Helvetica Bold"',
    "fontsize": "22",
}

_POINT_STYLE: dict[str, Any] = {"shape": "point", "style": "invis", "width": "0.01", "label": '""'}
_RULE_STYLE: dict[str, Any] = {"color": '"#D0D0D0"', "arrowhead": "none", "weight": "100"}

# Graphviz keeps edges of a large weight short and straight. That of the stream must outweigh
# everything that pulls at its calls from one side.
_STREAM_WEIGHT = 1000
_BRANCH_WEIGHT = 4

BRANCH_COLOUR = "#5F6B7A"
COPY_STYLE = {"style": '"rounded,filled,dashed"', "fillcolor": '"#FFFFFF"'}
STREAM_STYLE: dict[str, Any] = {
    "color": f'"{STREAM_COLOUR}"',
    "penwidth": "5",
    "arrowsize": "0.45",
    "weight": str(_STREAM_WEIGHT),
}


# A skip path past other merges is as long as what it passes, and must not bend the stream.
ARC_STYLE = {"penwidth": "3", "weight": "1"}


@dataclass(frozen=True, slots=True)
class Part:
    """Calls of a graph that are drawn together, below the other parts.

    Attributes:
        ids: The calls.
        start: Id of the call of an earlier part from which edges lead into this one, or "". It is
            drawn at the top, with all of `ids` below.
        end: Id of the last call, which all others are drawn above, or "".
        column: Number of the column in the picture. Clusters that several columns contain are
            drawn in each of them.
        copies: Id of a call -> namespace in which a dashed copy of it is drawn, from which its
            edges start.
    """

    ids: frozenset[str]
    start: str = ""
    end: str = ""
    column: int = 0
    copies: Mapping[str, str] = field(default_factory=dict)

    def name(self, node_id: str) -> str:
        """Return the name in DOT of a call from which edges start."""
        return copy_of(node_id) if node_id in self.copies else node_id

    def drawn(self, node_id: str) -> Iterator[bool]:
        """Yield whether to draw a copy, for every node that shows a call."""
        if node_id in self.ids or (node_id == self.start and node_id not in self.copies):
            yield False
        if node_id in self.copies:
            yield True


def copy_of(node_id: str) -> str:
    """Return the name in DOT of the copy of a call at the top of another column."""
    return f"{node_id} (continued)"


def graph_to_dot(
    graph: Graph,
    labels: Labels = NO_LABELS,
    rankdir: str = "TB",
    dpi: int | None = None,
    splines: str = "spline",
) -> pydot.Dot:
    """Return one graph as DOT; equal graphs give equal text, in every process."""
    dot = new_dot(rankdir, dpi, splines)
    add_graph(dot, graph, labels)
    add_graph_label(dot, graph)
    return dot


def add_graph_label(dot: pydot.Dot, graph: Graph) -> None:
    """Add notes on the whole graph and the legend, above the diagram if there are notes."""
    notes = [(14, note_row(note, width=80)) for note in graph.notes if not note.about]
    below = [(11, escaped(line)) for line in legend(graph)]
    # Graphviz ignores the larger font above a line when it sets the distance between lines.
    space = [(6, "\N{NO-BREAK SPACE}")] if notes and below else []
    rows = [
        f'<font point-size="{size}">{row.replace("<br/>", _LEFT)}{_LEFT}</font>'
        for size, row in (*notes, *space, *below)
    ]
    if rows:
        dot.set("label", f"<{''.join(rows)}>")
        dot.set("labelloc", "t" if notes else "b")
        dot.set("labeljust", "l")
        dot.set("fontcolor", quoted(INK))


def graphs_to_dot(
    graphs: Mapping[str, Graph],
    labels: Labels = NO_LABELS,
    rankdir: str = "TB",
    dpi: int | None = None,
    splines: str = "spline",
) -> pydot.Dot:
    """Return several graphs next to each other as DOT, each under its title."""
    import networkx as nx
    import pydot

    dot = new_dot(rankdir, dpi, splines)
    top = pydot.Subgraph("top", rank="min")
    pairs = [[(edge.source, edge.target) for edge in graph.edges] for graph in graphs.values()]
    longest = max(1 + nx.dag_longest_path_length(nx.DiGraph(ends)) for ends in pairs)
    titles = list(graphs)
    if rankdir in SIDEWAYS:  # Graphviz puts what it reads first at the bottom
        titles.reverse()
    for number, title in enumerate(titles):
        if number:
            ends = quoted(f"{number}: rule top"), quoted(f"{number}: rule bottom")
            top.add_node(pydot.Node(ends[0], **_POINT_STYLE))
            dot.add_node(pydot.Node(ends[1], **_POINT_STYLE))
            dot.add_edge(pydot.Edge(*ends, minlen=str(longest), **_RULE_STYLE))
        name = quoted(f"{number}: title")
        top.add_node(pydot.Node(name, label=quoted(title), **_TITLE_STYLE))
        add_graph(dot, graphs[title], labels, prefix=f"{number}:")
        # One invisible edge keeps the title with its model. A cluster around the model or an edge
        # to every input would make Graphviz swap the sides of the parts of the model.
        first = quoted(f"{number}:{graphs[title].inputs[0]}")
        dot.add_edge(pydot.Edge(name, first, style="invis", weight="100"))
    dot.add_subgraph(top)
    return dot


def new_dot(rankdir: str, dpi: int | None, splines: str) -> pydot.Dot:
    """Return DOT without nodes, with the attributes that all nodes and edges share."""
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
        color=quoted(BRANCH_COLOUR),
        fillcolor=quoted("#FFFFFF"),
        height="0.3",
        margin=quoted("0.1,0.05"),
    )
    dot.set_edge_defaults(
        color=quoted(BRANCH_COLOUR), arrowsize="0.6", fontname=quoted(_FONT), fontsize="9"
    )
    return dot


def add_graph(
    root: pydot.Dot,
    graph: Graph,
    labels: Labels,
    prefix: str = "",
    layout: Layout | None = None,
    part: Part | None = None,
    is_placed: bool = False,
) -> None:
    """Add the nodes, clusters and edges of a graph, or of one part of it, to DOT.

    Unless the positions are known already (`is_placed`), there are invisible edges that keep some
    nodes above others.
    """
    import pydot

    layout = layout or lay_out(graph)
    part = part or Part(frozenset(graph.index))
    around = prefix + (f"{part.column}:" if part.column else "")
    shown_ids = part.ids | {part.start}
    members = [graph.node(i) for i in sorted(shown_ids - {""}, key=graph.index.__getitem__)]
    beside = None if is_placed else _beside_titles(graph, members, layout)
    frames = _Frames({"": root}, graph, f"cluster_{around}", beside)
    if layout.needs_frame:
        frame = pydot.Subgraph(quoted(f"cluster_{around} frame"), style="invis", margin="0")
        root.add_subgraph(frame)
        frames.clusters[""] = frame
    for node in _in_reading_order(graph, members, layout, root.get("rankdir") in SIDEWAYS):
        for is_copy in part.drawn(node.id):
            tag = None if is_copy else layout.tags.get(node.id)
            attributes = node_attributes(node, graph, labels, node.id in layout.merges, tag)
            if is_copy:
                attributes |= COPY_STYLE
            name = copy_of(node.id) if is_copy else node.id
            namespace = part.copies[node.id] if is_copy else layout.namespaces[node.id]
            is_outside = node.kind == "input" and not namespace
            cluster = root if is_outside else frames[namespace]
            cluster.add_node(pydot.Node(quoted(prefix + name), **attributes))
    for node in members:
        edges = graph.incoming[node.id] if node.id in part.ids else ()
        times_joined = Counter(edge.source for edge in edges)
        joined: set[str] = set()
        for edge in edges:
            if not layout.is_referred(edge):
                parallel = times_joined[edge.source] > 1
                is_repeated = edge.source in joined
                joined.add(edge.source)
                root.add_edge(_line(edge, graph, layout, prefix, parallel, part, is_repeated))
                continue
            short, line = _reference(edge, layout, prefix)
            namespace = layout.namespaces[edge.target]
            frames[namespace].add_node(short)
            root.add_edge(line)
            above = layout.feeds.get(namespace, "")
            if above in shown_ids and above and not is_placed:
                root.add_edge(_order(prefix + part.name(above), short.get_name()))
    if is_placed:
        return
    for upper, lower in layout.below:
        if upper in shown_ids and lower in part.ids:
            root.add_edge(_order(prefix + part.name(upper), quoted(prefix + lower), minlen="2"))
    for upper, lower in _outermost(graph, layout, part):
        root.add_edge(_order(prefix + part.name(upper), quoted(prefix + lower)))


def _order(upper: str, lower: str, **attributes: Any) -> pydot.Edge:
    """Return an invisible edge that keeps one node above another."""
    import pydot

    return pydot.Edge(quoted(upper), lower, style="invis", weight="0", **attributes)


def _outermost(graph: Graph, layout: Layout, part: Part) -> Iterator[tuple[str, str]]:
    """Yield (upper, lower) pairs that keep the start of a part at its top and its end below.

    Only for calls that Graphviz would otherwise draw above the start or below the end: further
    edges would push the branches of the stream to its other side.
    """
    ids = sorted(part.ids, key=graph.index.__getitem__)
    lines = [
        (edge.source, edge.target)
        for node_id in ids
        for edge in graph.incoming[node_id]
        if not layout.is_referred(edge) and (edge.source in part.ids or edge.source == part.start)
    ]
    depth = dict.fromkeys((part.start, *ids), 0)
    for source, target in lines:
        depth[target] = max(depth[target], depth[source] + 1)
    entered, left = {target for _, target in lines}, {source for source, _ in lines}
    room = dict.fromkeys(ids, len(ids))  # ranks between a call and the start
    below_start = {part.start}
    for source, target in lines:
        if source in below_start:
            below_start.add(target)
    for source, target in reversed(lines):
        if source not in below_start:
            lower = depth[target] if target in below_start else room[target]
            room[source] = min(room[source], lower - 1)
    is_used = part.start in left
    for node_id in ids:
        if part.start and node_id not in entered and (room[node_id] < 1 or not is_used):
            yield part.start, node_id
        is_low = part.end and depth[node_id] >= depth[part.end]
        if is_low and node_id not in left and node_id != part.end:
            yield node_id, part.end


def _in_reading_order(
    graph: Graph, nodes: Sequence[Node], layout: Layout, sideways: bool
) -> list[Node]:
    """Return the calls in the order for Graphviz, which places the first ones at the left.

    The stream comes first, without its inputs. In nearly every model this puts the stream at the
    left, all sublayers on its right, and an encoder on the right of its decoder, so that no edge
    between the two crosses a stream. For `rankdir="LR"` these sides are bottom and top, but
    Graphviz reverses the order of nodes outside of clusters. Of parallel sublayers the one that
    merges last comes first; otherwise its edge would run round the other side of the stream.
    """
    on_stream = layout.on_stream.difference(graph.inputs)
    outermost = {node.id: layout.namespaces[node.id].partition(".")[0] for node in nodes}
    place = {name: number for number, name in enumerate(dict.fromkeys(outermost.values()))}

    def order(node: Node) -> tuple[bool, int, int]:
        side = -place[outermost[node.id]] if sideways else 0
        return node.id not in on_stream, -layout.passed.get(node.id, 0), side

    return sorted(nodes, key=order)


@dataclass(slots=True)
class _Frames:
    """The clusters of a graph, or of one part of it, created on first use.

    Attributes:
        clusters: Namespace -> cluster; "" -> the parent of all of them.
        graph: The graph.
        prefix: Start of their names in DOT, before the namespace.
        beside: Namespace -> points beside its title that the stream needs; None if the positions of
            titles are known.
    """

    clusters: dict[str, pydot.Graph]
    graph: Graph
    prefix: str
    beside: Mapping[str, float] | None

    def __getitem__(self, namespace: str) -> pydot.Graph:
        import pydot

        if namespace not in self.clusters:
            parent = self[namespace.rpartition(".")[0]]
            repeats = self.graph.repeats.get(namespace, 1)
            size = 11 if repeats == 1 else 16
            cluster = pydot.Subgraph(
                quoted(self.prefix + namespace),
                label=quoted(self._spaces(namespace, size) + self._title(namespace)),
                labeljust="r",
                labelloc="b",
                style=quoted("rounded,filled"),
                color=quoted("#C3CAD3"),
                fillcolor=quoted(_CLUSTER_FILLS[namespace.count(".") % len(_CLUSTER_FILLS)]),
                fontname=quoted(_FONT),
                fontsize=str(size),
                fontcolor=quoted(GREY if repeats == 1 else STREAM_COLOUR),
                margin="10",
            )
            parent.add_subgraph(cluster)
            self.clusters[namespace] = cluster
        return self.clusters[namespace]

    def _title(self, namespace: str) -> str:
        repeats = self.graph.repeats.get(namespace, 1)
        return repeated(frame_title(namespace, self.graph), repeats)

    def _spaces(self, namespace: str, size: int) -> str:
        """Return spaces that make a cluster wide enough for its title and the space beside it.

        The title is at the lower right, as on the plates of graphical models, because edges enter a
        cluster along its top. The stream leaves it at the left, other edges leave it in the middle.
        """
        if self.beside is None:
            return ""
        width = 0.6 * size * len(self._title(namespace))
        return "\N{NO-BREAK SPACE}" * round(self.beside.get(namespace, width) / (0.28 * size))


def _beside_titles(graph: Graph, nodes: Iterable[Node], layout: Layout) -> dict[str, float]:
    """Return the points from the left of a cluster to the right of the stream: by namespace."""
    beside: dict[str, float] = {}
    for node in nodes:
        if node.id not in layout.on_stream:
            continue
        words = 7 * min(len(title_of(node, graph)), LONGEST_LINE) + 5 * len(class_of(node))
        width = 24 if merge_sign(node) else words + 16
        for namespace in enclosing_namespaces(layout.namespaces[node.id]):
            beside[namespace] = max(beside.get(namespace, 0), 24 + width / 2)
    return beside


def _line(
    edge: Edge,
    graph: Graph,
    layout: Layout,
    prefix: str,
    parallel: bool,
    part: Part,
    is_repeated: bool,
) -> pydot.Edge:
    """Return one edge as a line; parallel edges are labelled with their ports.

    Of parallel ones on a stream, those after the first (`is_repeated`) are drawn as arcs are.
    """
    import pydot

    attributes: dict[str, Any] = {"tooltip": tooltip(_tip(edge))}
    on_stream = (edge.source, edge.target) in layout.stream
    if on_stream:
        attributes |= STREAM_STYLE
        if is_repeated or (edge.source, edge.target) in layout.arcs:
            attributes |= ARC_STYLE
    elif edge.tensor.dtype == "bool" or edge.implicit:
        attributes |= {"color": quoted("#A0A0A0"), "style": "dashed", "weight": "1"}
    else:
        attributes["weight"] = str(_BRANCH_WEIGHT)
        if any(edge.target == lower for _, lower in layout.below):
            attributes["minlen"] = "2"  # room to enter from above, not through its neighbours
    if rows := edge_labels(edge, graph, parallel):
        # Graphviz leaves no space between a label and its edge, and the stream is thick.
        space = "\N{EN SPACE}" if on_stream else "\N{NO-BREAK SPACE}"
        text = "\n".join(f"{space}{line}{space}" for line in rows)
        # Graphviz places an xlabel after all edges are routed, so the stream stays straight.
        is_short = max(map(len, rows)) < 10
        attributes["xlabel" if on_stream and is_short else "label"] = quoted(text)
    if noted := noted_colour(graph, edge.id):
        attributes["color"] = quoted(noted)
    if any(note.kind == "removed" for note in graph.notes_about.get(edge.id, ())):
        attributes["style"] = "dashed"
    source = part.name(edge.source)
    return pydot.Edge(quoted(prefix + source), quoted(prefix + edge.target), **attributes)


def _reference(edge: Edge, layout: Layout, prefix: str) -> tuple[pydot.Node, pydot.Edge]:
    """Return a tag with the short name of the source, and its edge into the target."""
    import pydot

    name, tip = quoted(f"{prefix}{edge.source} to {edge.target} {edge.port}"), tooltip(_tip(edge))
    tag = pydot.Node(
        name,
        label=quoted(layout.tags[edge.source]),
        tooltip=tip,
        style=quoted("rounded,dashed"),
        color=quoted("#A0A0A0"),
        fontcolor=quoted("#606060"),
        fontsize="10",
        height="0.22",
    )
    style: dict[str, Any] = {"color": quoted("#A0A0A0"), "style": "dashed", "weight": "1"}
    return tag, pydot.Edge(name, quoted(prefix + edge.target), tooltip=tip, **style)


def _tip(edge: Edge) -> str:
    """Return the tooltip of an edge in an SVG."""
    tensor = f"{shape_text(edge.tensor.shape)} {edge.tensor.dtype}"
    return f"{edge.source} → {edge.target} ({edge.port}): {tensor}"
