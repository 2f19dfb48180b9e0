"""Graphs as Mermaid flowcharts, which code-hosting pages and many editors draw."""

from __future__ import annotations

import json
import re
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from plots.annotations import Note, shape_text
from plots.graph import Graph, Node
from plots.layers import merge_sign
from plots.registry import graph_renderer
from plots.renderers import (
    INK,
    STREAM_COLOUR,
    check_direction,
    edge_labels,
    fill_colour,
    group_text,
    lay_out,
    note_colour,
    noted_colour,
    notes_at,
    numbers_at,
    repeated,
    wrapped,
)
from plots.renderers.labels import class_of, details_of, frame_title, shared_of, title_of

MOST_EDGES = 500
"""Mermaid's default limit of edges; a page can raise it with the option `maxEdges`."""

MOST_CHARACTERS = 50_000
"""Mermaid's default limit of characters; a page can raise it with `maxTextSize`."""

Style = tuple[str, ...]
"""CSS declarations, such as ("stroke:#D55E00", "stroke-width:4px")."""

_SPACING = (  # so that edges into a cluster do not cross its title
    "config:",
    "  flowchart: {nodeSpacing: 30, rankSpacing: 45, subGraphTitleMargin: {top: 0, bottom: 15}}",
)
_CLUSTER: Style = ("fill:#80808012", "stroke:#80808080")  # translucent, for light and dark pages
_NOTE_WIDTH = 44
_THICK: Style = (f"stroke:{STREAM_COLOUR}", "stroke-width:5px")
_SIDE: Style = ("stroke:#8A8A8A", "stroke-width:1.5px")
_TAG: Style = ("fill:#FFFFFF", "stroke:#A0A0A0", "stroke-dasharray:3", "color:#606060")


@graph_renderer("mermaid", (".mmd", ".mermaid"))
def to_mermaid(graph: Graph, shapes: bool = False, rankdir: str = "TB") -> str:
    """A flowchart that code-hosting pages draw: nested clusters, thick residual stream.

    In a Markdown file it stands between "```mermaid" and "```". Masks are dashed, and referenced by
    name where they are used.

    Args:
        graph: The graph.
        shapes: Whether nodes show output shapes.
        rankdir: Direction of the data flow: "TB", "BT", "LR" or "RL".

    Raises:
        ValueError: if `rankdir` is not allowed.
    """
    check_direction(rankdir)
    chart = _Chart(graph, shapes)
    head = ["---", f"title: {json.dumps(graph.name)}", *_SPACING, "---", f"flowchart {rankdir}"]
    body = [*chart.lines(), ""]
    if problem := _too_large(len(chart.links), len("\n".join([*head, *body]))):
        warnings.warn(f"the Mermaid flowchart of {graph.name!r} is {problem}", stacklevel=2)
        body = [f" %% {problem}", *body]
    return "\n".join([*head, *body])


def _too_large(edges: int, characters: int) -> str | None:
    """Return a warning about a chart above the limits of Mermaid, or None."""
    sizes = ((edges, MOST_EDGES, "edges"), (characters, MOST_CHARACTERS, "characters"))
    found = [f"{size:,} {what}, limit {most:,}" for size, most, what in sizes if size > most]
    advice = "fold it; depth=2 draws two levels of clusters and equal blocks once"
    too_large = f"too large for Mermaid's default limits ({'; '.join(found)}): {advice}"
    return too_large if found else None


@dataclass
class _Cluster:
    """A cluster with its content: declarations of nodes, and clusters."""

    name: str
    title: str
    entries: list[str | _Cluster] = field(default_factory=list)

    def lines(self, indent: str = " ") -> Iterator[str]:
        for entry in self.entries:
            if isinstance(entry, _Cluster):
                yield f'{indent}subgraph {entry.name}["{escaped(entry.title)}"]'
                yield from entry.lines(indent + " ")
                yield f"{indent}end"
            else:
                yield indent + entry


class _Chart:
    """A flowchart: clusters with nodes, then links, then styles."""

    def __init__(self, graph: Graph, shapes: bool) -> None:
        self.graph = graph
        self.layout = lay_out(graph)
        # Numbers, because words such as "end" and most punctuation are not allowed in ids.
        self.names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
        self.clusters = {"": _Cluster("", "")}
        self.links: list[str] = []
        self.styles: dict[Style, list[str]] = defaultdict(list)
        self.link_styles: dict[Style, list[int]] = defaultdict(list)
        for node in graph.nodes:
            words = _words(graph, node, shapes, self.layout.tags.get(node.id))
            style = _style(graph, node, on_stream=node.id in self.layout.merges)
            namespace = self.layout.namespaces[node.id]
            self._add(namespace, self.names[node.id], _shaped(node, words), style)
        for number, note in enumerate(graph.notes):
            if not note.about:  # above the graph, held there by an invisible link
                style = _framed("#FFFFFF", note_colour(note.kind))
                self._add("", f"w{number}", f'["{_text(_note_words(note))}"]', style)
                self.links += [f"w{number} ~~~ {self.names[first.id]}" for first in graph.nodes[:1]]
        self._add_edges()
        if inner := [cluster.name for cluster in self.clusters.values() if cluster.name]:
            self.styles[_CLUSTER] = inner

    def lines(self) -> Iterator[str]:
        yield from self.clusters[""].lines()
        yield from (f" {link}" for link in self.links)
        for number, (style, names) in enumerate(self.styles.items()):
            yield f" classDef c{number} {','.join(style)}"
            yield f" class {','.join(names)} c{number}"
        for style, numbers in self.link_styles.items():
            yield f" linkStyle {','.join(map(str, numbers))} {','.join(style)}"

    def _add(self, namespace: str, name: str, shaped: str, style: Style) -> None:
        self._cluster(namespace).entries.append(name + shaped)
        self.styles[style].append(name)

    def _add_edges(self) -> None:
        pairs = Counter((edge.source, edge.target) for edge in self.graph.edges)
        for number, edge in enumerate(self.graph.edges):
            source, arrow = self.names[edge.source], "-->"
            noted = noted_colour(self.graph, edge.id)
            style: Style = (f"stroke:{noted}", "stroke-width:3px") if noted else ()
            if self.layout.is_referred(edge):
                source, arrow, style = f"t{number}", "-.->", style or _SIDE
                tag = f'(["{escaped(self.layout.tags[edge.source])}"])'
                self._add(self.layout.namespaces[edge.target], source, tag, _TAG)
            elif (edge.source, edge.target) in self.layout.stream:
                arrow, style = "==>", style or _THICK
            elif edge.implicit or edge.tensor.dtype == "bool":
                arrow, style = "-.->", style or _SIDE
            words = edge_labels(edge, self.graph, pairs[edge.source, edge.target] > 1)
            label = f'|"{_text(words)}"|' if words else ""
            if style:
                self.link_styles[style].append(len(self.links))
            self.links.append(f"{source} {arrow}{label} {self.names[edge.target]}")

    def _cluster(self, namespace: str) -> _Cluster:
        """Return the cluster of a namespace; on first use, create it with all enclosing ones."""
        if namespace not in self.clusters:
            parent = self._cluster(namespace.rpartition(".")[0])
            title = repeated(
                frame_title(namespace, self.graph), self.graph.repeats.get(namespace, 1)
            )
            self.clusters[namespace] = _Cluster(f"b{len(self.clusters)}", title)
            parent.entries.append(self.clusters[namespace])
        return self.clusters[namespace]


def _words(graph: Graph, node: Node, shapes: bool, tag: str | None) -> list[str]:
    """Return the lines of a node; a merge without further lines is its sign."""
    rows = [", ".join(shape_text(tensor.shape) for tensor in node.outputs)] if shapes else []
    rows += numbers_at(node, graph)
    rows += [words for note in notes_at(node, graph) for words in _note_words(note)]
    times = graph.times(node)
    if (sign := merge_sign(node)) and not rows and times == 1:
        return [sign]
    name = title_of(node, graph)
    title = repeated(name, times)
    below = group_text(node) or class_of(node)
    return [
        title if tag in (None, name) else f"{title} = {tag}",
        *([below] if below != name else []),
        *([details] if (details := details_of(node, graph)) else []),
        *([shared[0]] if (shared := shared_of(node, graph)) else []),
        *rows,
    ]


def _note_words(note: Note) -> list[str]:
    return wrapped(note.full_text, _NOTE_WIDTH)


def _shaped(node: Node, words: list[str]) -> str:
    text = _text(words)
    if words == [merge_sign(node)]:
        return f'(("{text}"))'
    left, right = {"input": ("([", "])"), "group": ("[[", "]]")}.get(node.kind, ("[", "]"))
    return f'{left}"{text}"{right}'


def _style(graph: Graph, node: Node, on_stream: bool) -> Style:
    fill = fill_colour(node, graph)
    if noted := noted_colour(graph, node.id):
        return _framed(fill, noted)
    if on_stream:
        return _framed(fill, STREAM_COLOUR)
    dashes = ("stroke-dasharray:4 3",) if node.kind == "weights" else ()
    return f"fill:{fill}", "stroke:#5F6B7A", f"color:{INK}", *dashes


def _framed(fill: str, colour: str) -> Style:
    return f"fill:{fill}", f"stroke:{colour}", "stroke-width:3px", f"color:{INK}"


def _text(words: Iterable[str]) -> str:
    return "<br/>".join(map(escaped, words))


def escaped(text: str) -> str:
    """Escape `text` for a quoted label: most punctuation becomes character codes.

    Quotes end a label, a colon may start CSS, and older versions of Mermaid interpret Markdown and
    addresses. Controls, also those of the direction of text, are replaced. A zero-width space
    breaks up what is interpreted even as codes: a backslash before n, formulas, and icons. It also
    stands in an empty label, which would be a syntax error.
    """
    apart = _EVEN_AS_NUMBERS.sub("\\g<0>\N{ZERO WIDTH SPACE}", text)
    return _SIGNS.sub(_code, apart).replace("#10;", "<br/>") or "\N{ZERO WIDTH SPACE}"


_EVEN_AS_NUMBERS = re.compile(r"\\(?=n)|\$(?=\$)|\bfa[bklrs]?:(?=fa-)")
_SIGNS = re.compile(
    r"""[!"#$&'()*+:;<=>?@\[\\\]^`{|}~\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"""
    r"|(?<![^\W_])[-_.]|[-_.](?![^\W_])"  # kept within words: "block_0", "1.5 k"
    r"|(?<!\S) |%(?=%)"  # two of the latter start a comment
)


def _code(sign: re.Match[str]) -> str:
    number = ord(sign[0])
    is_shown = number == 10 or sign[0].isprintable()
    return f"#{number if is_shown else 0xFFFD};"
