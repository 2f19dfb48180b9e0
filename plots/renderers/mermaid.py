"""A graph as a Mermaid flowchart, which code-hosting pages and many editors draw by themselves."""

from __future__ import annotations

import json
import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from plots.annotations import Note
from plots.graph import Edge, Graph, Node
from plots.operation_kinds import is_additive_merge
from plots.registry import graph_renderer
from plots.renderers.boxes import (
    INK,
    STREAM_COLOUR,
    fill_colour,
    group_text,
    line_words,
    note_colour,
    noted_colour,
    notes_at,
    numbers_at,
    shape_text,
)
from plots.renderers.layout import check_direction, lay_out

MOST_EDGES = 500
"""Mermaid draws no more, unless the page that it is on says otherwise (its option `maxEdges`)."""

MOST_CHARACTERS = 50_000
"""The longest text that Mermaid reads, unless the page says otherwise (`maxTextSize`)."""

Style = tuple[str, ...]
"""Declarations of CSS, such as ("stroke:#D55E00", "stroke-width:4px")."""

_SPACING = (  # so that lines into a box do not run through its title
    "config:",
    "  flowchart: {nodeSpacing: 30, rankSpacing: 45, subGraphTitleMargin: {top: 0, bottom: 15}}",
)
_BOX: Style = ("fill:#80808012", "stroke:#80808080")  # see-through, for light pages and dark ones
_NOTE_WIDTH = 44
_THICK: Style = (f"stroke:{STREAM_COLOUR}", "stroke-width:5px")
_SIDE: Style = ("stroke:#8A8A8A", "stroke-width:1.5px")
_TAG: Style = ("fill:#FFFFFF", "stroke:#A0A0A0", "stroke-dasharray:3", "color:#606060")


@graph_renderer("mermaid", (".mmd", ".mermaid"))
def to_mermaid(graph: Graph, shapes: bool = False, rankdir: str = "TB") -> str:
    """A flowchart that code-hosting pages draw from text: nested boxes, thick residual stream.

    It can stand in a Markdown file, between "```mermaid" and "```". Masks are dashed, and named
    where they are used.

    Args:
        graph: The graph.
        shapes: Whether boxes say what shapes come out.
        rankdir: Direction of the data flow: "TB", "BT", "LR" or "RL".

    Raises:
        ValueError: if `rankdir` is not allowed.
    """
    check_direction(rankdir)
    chart = _Chart(graph, shapes)
    head = ["---", f"title: {json.dumps(graph.name)}", *_SPACING, "---", f"flowchart {rankdir}"]
    body = [*chart.lines(), ""]
    if problem := _too_large(len(chart.links), len("\n".join([*head, *body]))):
        warnings.warn(f"{graph.name!r} as Mermaid is {problem}", stacklevel=2)
        body = [f" %% {problem}", *body]
    return "\n".join([*head, *body])


def _too_large(edges: int, characters: int) -> str | None:
    """What to say about a chart that Mermaid refuses to draw."""
    sizes = ((edges, MOST_EDGES, "edges"), (characters, MOST_CHARACTERS, "characters"))
    found = [f"{size:,} {what} of {most:,}" for size, most, what in sizes if size > most]
    if not found:
        return None
    return (
        f"too large for most pages ({', '.join(found)} that Mermaid draws by default): fold it, "
        "depth=2 draws two levels of boxes and equal blocks once"
    )


@dataclass
class _Box:
    """A box and what is in it: declarations of calls, and boxes."""

    name: str
    title: str
    entries: list[str | _Box] = field(default_factory=list)

    def lines(self, indent: str = " ") -> Iterator[str]:
        for entry in self.entries:
            if isinstance(entry, _Box):
                yield f'{indent}subgraph {entry.name}["{escaped(entry.title)}"]'
                yield from entry.lines(indent + " ")
                yield f"{indent}end"
            else:
                yield indent + entry


class _Chart:
    """A flowchart: boxes with calls, then links, then styles with what has them."""

    def __init__(self, graph: Graph, shapes: bool) -> None:
        self.graph = graph
        self.layout = lay_out(graph)
        # Numbers, because a word such as "end" or "style" cannot be an id, nor can most signs.
        self.names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
        self.boxes = {"": _Box("", "")}
        self.links: list[str] = []
        self.styles: dict[Style, list[str]] = {}
        self.link_styles: dict[Style, list[int]] = {}
        for node in graph.nodes:
            words = _words(graph, node, shapes, self.layout.tags.get(node.id))
            style = _style(graph, node, on_stream=node.id in self.layout.merges)
            self._add(self.layout.blocks[node.id], self.names[node.id], _shaped(node, words), style)
        for number, note in enumerate(graph.notes):
            if not note.about:
                self._add_note(f"w{number}", note)
        self._add_edges()
        if inner := [box.name for box in self.boxes.values() if box.name]:
            self.styles[_BOX] = inner

    def lines(self) -> Iterator[str]:
        yield from self.boxes[""].lines()
        yield from (f" {link}" for link in self.links)
        for number, (style, names) in enumerate(self.styles.items()):
            yield f" classDef c{number} {','.join(style)}"
            yield f" class {','.join(names)} c{number}"
        for style, numbers in self.link_styles.items():
            yield f" linkStyle {','.join(map(str, numbers))} {','.join(style)}"

    def _add(self, namespace: str, name: str, shaped: str, style: Style) -> None:
        self._box(namespace).entries.append(name + shaped)
        self.styles.setdefault(style, []).append(name)

    def _add_note(self, name: str, note: Note) -> None:
        """A note about the whole graph stands above it, held there by a line that is not drawn."""
        self._add(
            "", name, f'["{_text(_note_words(note))}"]', _framed("#FFFFFF", note_colour(note.kind))
        )
        if self.graph.nodes:
            self.links.append(f"{name} ~~~ {self.names[self.graph.nodes[0].id]}")

    def _add_edges(self) -> None:
        pairs = Counter((edge.source, edge.target) for edge in self.graph.edges)
        for number, edge in enumerate(self.graph.edges):
            source, arrow, style = self.names[edge.source], "-->", _link_style(self.graph, edge)
            if self.layout.is_referred(edge):
                source, arrow, style = f"t{number}", "-.->", style or _SIDE
                tag = f'(["{escaped(self.layout.tags[edge.source])}"])'
                self._add(self.layout.blocks[edge.target], source, tag, _TAG)
            elif (edge.source, edge.target) in self.layout.stream:
                arrow, style = "==>", style or _THICK
            elif edge.implicit or edge.tensor.dtype == "bool":
                arrow, style = "-.->", style or _SIDE
            words = line_words(edge, self.graph, pairs[edge.source, edge.target] > 1)
            said = f'|"{_text(words)}"|' if words else ""
            if style:
                self.link_styles.setdefault(style, []).append(len(self.links))
            self.links.append(f"{source} {arrow}{said} {self.names[edge.target]}")

    def _box(self, namespace: str) -> _Box:
        """The box of a namespace, made with all boxes around it when first asked for."""
        if namespace not in self.boxes:
            around, _, label = namespace.rpartition(".")
            parent = self._box(around)
            times = self.graph.repeats.get(namespace, 1)
            title = label if times == 1 else f"{label} × {times}"
            self.boxes[namespace] = _Box(f"b{len(self.boxes)}", title)
            parent.entries.append(self.boxes[namespace])
        return self.boxes[namespace]


def _words(graph: Graph, node: Node, shapes: bool, tag: str | None) -> list[str]:
    """What the box of a call says, line by line; a merge of which nothing is said is a plus."""
    said = [", ".join(map(shape_text, node.outputs))] if shapes else []
    said += numbers_at(node, graph)
    said += [words for note in notes_at(node, graph) for words in _note_words(note)]
    times = graph.times(node)
    if is_additive_merge(node) and not said and times == 1:
        return ["+"]
    name = node.shown_name
    title = name if times == 1 else f"{name} × {times}"
    below = group_text(node) if node.kind == "group" else node.class_name
    return [
        title if tag in (None, name) else f"{title} = {tag}",
        *([below] if below != name else []),
        *said,
    ]


def _note_words(note: Note) -> list[str]:
    return [
        part for line in note.full_text.splitlines() for part in textwrap.wrap(line, _NOTE_WIDTH)
    ]


def _shaped(node: Node, words: list[str]) -> str:
    """The text of a call within the signs that say what shape its box has."""
    text = _text(words)
    if words == ["+"]:
        return f'(("{text}"))'
    left, right = {"input": ("([", "])"), "group": ("[[", "]]")}.get(node.kind, ("[", "]"))
    return f'{left}"{text}"{right}'


def _style(graph: Graph, node: Node, on_stream: bool) -> Style:
    fill = fill_colour(node, graph)
    if noted := noted_colour(graph, node.id):
        return _framed(fill, noted)
    stroke = f"stroke:{STREAM_COLOUR}" if on_stream else "stroke:#5F6B7A"
    return (f"fill:{fill}", stroke, *(["stroke-width:3px"] if on_stream else []), f"color:{INK}")


def _framed(fill: str, colour: str) -> Style:
    """The style of what notes are about."""
    return f"fill:{fill}", f"stroke:{colour}", "stroke-width:3px", f"color:{INK}"


def _link_style(graph: Graph, edge: Edge) -> Style:
    noted = noted_colour(graph, edge.id)
    return (f"stroke:{noted}", "stroke-width:3px") if noted else ()


def _text(words: Iterable[str]) -> str:
    return "<br/>".join(map(escaped, words))


def escaped(text: str) -> str:
    """`text` for a quoted label, with signs that may mean something to Mermaid as their numbers.

    That is nearly all of them: quotes end a label, a colon may make it CSS, and older versions read
    Markdown and addresses in it. What means something even then is broken up by a space of no
    width: a line break written as backslash and n, formulas, and icons.
    """
    apart = _EVEN_AS_NUMBERS.sub("\\g<0>\N{ZERO WIDTH SPACE}", text)
    return _SIGNS.sub(_code, apart).replace("#10;", "<br/>")


_EVEN_AS_NUMBERS = re.compile(r"\\(?=n)|\$(?=\$)|\bfa[bklrs]?:(?=fa-)")
_SIGNS = re.compile(
    r"""[!"#$&'()*+:;<=>?@\[\\\]^`{|}~\x00-\x1f]"""
    r"|(?<![^\W_])[-_.]|[-_.](?![^\W_])"  # these stay within words: "block_0", "1.5 k"
    r"|(?<!\S) |%(?=%)"  # two of the latter begin a comment
)


def _code(sign: re.Match[str]) -> str:
    number = ord(sign.group())
    return f"#{number if number > 31 or number == 10 else 0xFFFD};"
