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
    note_colour,
    shape_text,
)
from plots.renderers.layout import lay_out

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
_DIRECTIONS = ("TB", "BT", "LR", "RL")
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
    if rankdir not in _DIRECTIONS:
        raise ValueError(f"rankdir is {rankdir!r}; allowed are {', '.join(_DIRECTIONS)}")
    chart = _chart(graph, shapes)
    head = ["---", f"title: {json.dumps(graph.name)}", *_SPACING, "---", f"flowchart {rankdir}"]
    text = "\n".join([*head, *chart.lines(), ""])
    if problem := _too_large(len(chart.links), len(text)):
        warnings.warn(f"{graph.name!r} as Mermaid is {problem}", stacklevel=2)
        text = text.replace(head[-1], f"{head[-1]}\n%% {problem}", 1)
    return text


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
    """What is in one nested box: the boxes in it by name, and declarations of calls."""

    name: str
    title: str
    entries: list[str | _Box] = field(default_factory=list)

    def lines(self, indent: str) -> Iterator[str]:
        yield f'{indent}subgraph {self.name}["{escaped(self.title)}"]'
        for entry in self.entries:
            yield from entry.lines(indent + " ") if isinstance(entry, _Box) else [indent + entry]
        yield f"{indent}end"


@dataclass
class _Chart:
    """A flowchart: boxes with calls, then links, then styles with what has them."""

    top: _Box = field(default_factory=lambda: _Box("", ""))
    links: list[str] = field(default_factory=list)
    styles: dict[Style, list[str]] = field(default_factory=dict)
    link_styles: dict[Style, list[int]] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        for entry in self.top.entries:
            yield from entry.lines(" ") if isinstance(entry, _Box) else [" " + entry]
        yield from (" " + link for link in self.links)
        for number, (style, names) in enumerate(self.styles.items()):
            yield f" classDef c{number} {','.join(style)}"
            yield f" class {','.join(names)} c{number}"
        for style, numbers in self.link_styles.items():
            yield f" linkStyle {','.join(map(str, numbers))} {','.join(style)}"

    def link(
        self, source: str, arrow: str, target: str, words: Iterable[str], style: Style
    ) -> None:
        label = _text(words)
        said = f'|"{label}"|' if label else ""
        if style:
            self.link_styles.setdefault(style, []).append(len(self.links))
        self.links.append(f"{source} {arrow}{said} {target}")


def _chart(graph: Graph, shapes: bool) -> _Chart:
    chart = _Chart()
    layout = lay_out(graph)
    boxes = {"": chart.top}
    # Numbers, because a word such as "end" or "style" cannot be an id, nor can most signs.
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    for node in graph.nodes:
        box = _box(boxes, layout.blocks[node.id], graph)
        words = _words(graph, node, shapes, layout.tags.get(node.id))
        box.entries.append(names[node.id] + _shaped(node, words))
        style = _style(graph, node, on_stream=node.id in layout.merges)
        chart.styles.setdefault(style, []).append(names[node.id])
    for number, note in enumerate(graph.notes):
        if not note.about:  # above everything, by a line that is not drawn
            chart.top.entries.append(f'w{number}["{_text(_note_words(note))}"]')
            chart.styles.setdefault(_framed("#FFFFFF", note.kind), []).append(f"w{number}")
            chart.links += [f"w{number} ~~~ {name}" for name in [*names.values()][:1]]
    pairs = Counter((edge.source, edge.target) for edge in graph.edges)
    for number, edge in enumerate(graph.edges):
        source, arrow, style = names[edge.source], "-->", _link_style(graph, edge)
        words = _link_words(graph, edge, is_parallel=pairs[edge.source, edge.target] > 1)
        if layout.is_referred(edge):
            source, arrow, style = f"t{number}", "-.->", style or _SIDE
            tag = f'{source}(["{escaped(layout.tags[edge.source])}"])'
            _box(boxes, layout.blocks[edge.target], graph).entries.append(tag)
            chart.styles.setdefault(_TAG, []).append(source)
        elif (edge.source, edge.target) in layout.stream:
            arrow, style = "==>", style or _THICK
        elif edge.implicit or edge.tensor.dtype == "bool":
            arrow, style = "-.->", style or _SIDE
        said = f'|"{_text(words)}"|' if words else ""
        chart.link(source, arrow + said, names[edge.target], style)
    if inner := [box.name for box in boxes.values() if box is not chart.top]:
        chart.styles[_BOX] = inner
    return chart


def _box(boxes: dict[str, _Box], namespace: str, graph: Graph) -> _Box:
    """The box of a namespace, made with all boxes around it when first asked for."""
    if namespace not in boxes:
        around, _, label = namespace.rpartition(".")
        times = graph.repeats.get(namespace, 1)
        parent = _box(boxes, around, graph)
        box = _Box(f"b{len(boxes)}", label if times == 1 else f"{label} × {times}")
        parent.entries.append(box)
        boxes[namespace] = box
    return boxes[namespace]


def _words(graph: Graph, node: Node, shapes: bool, tag: str | None) -> list[str]:
    """What the box of a call says, line by line; a merge of which nothing is said is a plus."""
    said = [", ".join(map(shape_text, node.outputs))] if shapes else []
    for overlay in graph.overlays:
        if node.id in overlay.values:
            title = f"{overlay.title}: " if len(graph.overlays) > 1 else ""
            said.append(title + overlay.text(node.id))
    for note in graph.notes:
        if note.about[:1] == (node.id,):  # a note about many calls is written out at the first
            said += _note_words(note)
    times = graph.repeats.get(node.name if node.kind == "group" else node.id, 1)
    if is_additive_merge(node) and not said and times == 1:
        return ["+"]
    name = node.label if node.has_own_name else node.class_name
    title = name if times == 1 else f"{name} × {times}"
    below = group_text(node) if node.kind == "group" else node.class_name
    return [
        title if tag in (None, name) else f"{title} = {tag}",
        *([below] if below != name else []),
        *said,
    ]


def _note_words(note: Note) -> list[str]:
    return textwrap.wrap(note.full_text, _NOTE_WIDTH)


def _link_words(graph: Graph, edge: Edge, is_parallel: bool) -> list[str]:
    """What stands on a line: the argument if several lines join two calls, letters, numbers."""
    words = [edge.port] if is_parallel else []
    words += [" ".join(edge.tensor.letters)] if edge.tensor.letters else []
    return words + [o.text(edge.id) for o in graph.overlays if edge.id in o.values]


def _shaped(node: Node, words: list[str]) -> str:
    """The text of a call within the signs that say what shape its box has."""
    text = _text(words)
    if words == ["+"]:
        return f'(("{text}"))'
    left, right = {"input": ("([", "])"), "group": ("[[", "]]")}.get(node.kind, ("[", "]"))
    return f'{left}"{text}"{right}'


def _style(graph: Graph, node: Node, on_stream: bool) -> Style:
    kinds = [note.kind for note in graph.notes if node.id in note.about]
    fill = fill_colour(node, graph)
    if kinds:
        return _framed(fill, kinds[-1])
    stroke = f"stroke:{STREAM_COLOUR}" if on_stream else "stroke:#5F6B7A"
    return (f"fill:{fill}", stroke, *(["stroke-width:3px"] if on_stream else []), f"color:{INK}")


def _framed(fill: str, kind: str) -> Style:
    """The style of what a note of this kind is about."""
    return f"fill:{fill}", f"stroke:{note_colour(kind)}", "stroke-width:3px", f"color:{INK}"


def _link_style(graph: Graph, edge: Edge) -> Style:
    kinds = [note.kind for note in graph.notes if edge.id in note.about]
    return (f"stroke:{note_colour(kinds[-1])}", "stroke-width:3px") if kinds else ()


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
