"""The boxes of calls in DOT: attributes of nodes, HTML-like labels, and quoting."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import re
from dataclasses import dataclass
from typing import Any

from plots.annotations import Note, shape_text
from plots.graph import Graph, Node
from plots.layers import merge_sign
from plots.renderers import (
    DARK_GREY,
    GREY,
    QUIET_NOTES,
    STREAM_COLOUR,
    fill_colour,
    group_text,
    is_heated,
    note_colour,
    noted_colour,
    notes_at,
    numbers_at,
    wrapped,
)
from plots.renderers.labels import class_of, details_of, operand_of, shared_of, title_of

_MAX_PICTURE_POINTS = 240
_POINTS_PER_PIXEL = 0.5  # so that pictures are sharp on fine displays and on paper

# SVG and HTML-like labels have no control characters.
_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"}


@dataclass(frozen=True, slots=True)
class Labels:
    """Content of nodes besides name and class: options of `plots.renderers.graphviz.svg`."""

    shapes: bool = False
    dtypes: bool = False
    full_names: bool = False
    activations: bool = False
    trainable: bool = False


NO_LABELS = Labels()


def node_attributes(
    node: Node, graph: Graph, labels: Labels, on_stream: bool, tag: str | None
) -> dict[str, Any]:
    """Return the DOT attributes of a node.

    Args:
        node: The call.
        graph: Its graph.
        labels: What to show.
        on_stream: Whether it is a merge on the residual stream.
        tag: Short name by which other places of the diagram refer to its output.
    """
    attributes: dict[str, Any] = {"tooltip": tooltip(f"{node.id} ({node.class_name})")}
    rows = _rows(node, graph, labels)
    noted = noted_colour(graph, node.id)
    if noted:
        attributes |= {"color": quoted(noted), "penwidth": "2.5"}
    sign = merge_sign(node)
    if sign and not rows and not labels.full_names:
        size = "18" if len(sign) == 1 else "7"
        attributes |= {"label": quoted(sign), "shape": "circle", "fixedsize": "true"}
        attributes |= {"width": "0.32", "height": "0.32", "fontsize": size, "margin": "0"}
        if on_stream and not noted:
            attributes |= {"color": quoted(STREAM_COLOUR), "penwidth": "2.5"}
        return attributes
    if node.kind == "group":
        attributes["peripheries"] = "2"
    if node.kind == "weights":
        attributes["style"] = quoted("rounded,dashed,filled")
    return attributes | {
        "label": _table(node, graph, labels, rows, tag),
        "fillcolor": quoted(fill_colour(node, graph)),
    }


def _grey(node: Node, graph: Graph, text: str, colour: str = GREY) -> str:
    """Return escaped text in small grey letters."""
    colour = DARK_GREY if is_heated(node, graph) else colour
    return f'<font point-size="9" color="{colour}">{escaped(text)}</font>'


def _table(node: Node, graph: Graph, labels: Labels, rows: list[str], tag: str | None) -> str:
    """Return the label of a node as an HTML-like table."""
    head = node.name if labels.full_names else title_of(node, graph)
    title = f"<b>{escaped(_broken(head))}</b>"
    if class_of(node) not in ("", head):
        rest = class_of(node).removeprefix(f"{head} ")
        title += f" {_grey(node, graph, _broken(rest))}"
    if operand := operand_of(node, graph):
        title += f" {_grey(node, graph, operand, DARK_GREY)}"
    if (times := graph.times(node)) > 1:
        title += f' <font point-size="16" color="{STREAM_COLOUR}">× {times}</font>'
    if tag is not None and tag != head:
        title += f' <font color="{GREY}">= {escaped(tag)}</font>'
    picture = graph.pictures.get(node.id)
    if not rows and picture is None:
        return f"<{title}>"
    cells = "".join(f"<tr><td>{row}</td></tr>" for row in [title, *rows])
    cells += picture_row(picture) if picture is not None else ""
    return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="0">{cells}</table>>'


def _broken(name: str) -> str:
    """Return a name in lines, broken behind a word if possible, so that its box is not a strip."""
    return "\n".join(_LINES.findall(name)) if len(name) > LONGEST_LINE else name


LONGEST_LINE = 60
_LINES = re.compile(
    rf".{{1,{LONGEST_LINE}}}$|.{{1,{LONGEST_LINE - 1}}}[\W_]|.{{1,{LONGEST_LINE}}}", re.S
)


def _rows(node: Node, graph: Graph, labels: Labels) -> list[str]:
    """Return the rows below the title of a node, escaped."""
    rows = []
    words = group_text(node) or details_of(node, graph, not labels.activations, False)
    parts = [_grey(node, graph, words, DARK_GREY)] if words else []
    if shared := shared_of(node, graph):
        text, colour = shared
        parts.append(f'<font point-size="9" color="{colour}"><b>{escaped(text)}</b></font>')
    rows += [", ".join(parts)] if parts else []
    if labels.activations and node.activation is not None:
        rows.append(f"activation: <b>{escaped(node.activation)}</b>")
    if labels.shapes:
        inputs = ", ".join(shape_text(edge.tensor.shape) for edge in graph.incoming[node.id])
        outputs = ", ".join(shape_text(tensor.shape) for tensor in node.outputs)
        rows.append(escaped(f"{inputs} → {outputs}" if inputs else outputs))
    if labels.dtypes:
        rows.append(escaped(", ".join(tensor.dtype for tensor in node.outputs)))
    if labels.trainable and node.parameters and node.trainable is not None:
        colour, word = ("#1B7837", "trainable") if node.trainable else ("#B2182B", "frozen")
        rows.append(f'<font color="{colour}">{word}</font>')
    for node_id, number in graph.outputs:  # other tensors have their letters on the edges
        if node_id == node.id and node.outputs[number].letters:
            rows.append(escaped(f"→ {' '.join(node.outputs[number].letters)}"))
    rows += map(escaped, numbers_at(node, graph))
    return rows + [note_row(note) for note in notes_at(node, graph)]


def note_row(note: Note, width: int = 44) -> str:
    """Return the text of a note, wrapped, in the colour of its kind."""
    text = escaped("\n".join(wrapped(note.text, width, break_on_hyphens=False)))
    size = ' point-size="9"' if note.kind in QUIET_NOTES else ""
    return f'<font{size} color="{note_colour(note.kind)}">{text}</font>'


def picture_row(picture: str) -> str:
    """Return the row of an HTML-like label that shows a PNG, given as base64 text."""
    from PIL import Image

    width, height = Image.open(io.BytesIO(base64.b64decode(picture))).size
    scale = min(_POINTS_PER_PIXEL, _MAX_PICTURE_POINTS / max(width, height))
    size = f'width="{max(1, round(width * scale))}" height="{max(1, round(height * scale))}"'
    return (
        f'<tr><td fixedsize="true" cellpadding="0" {size}>'
        f'<img src="{picture_file(picture)}" scale="true"/></td></tr>'
    )


def picture_file(picture: str) -> str:
    """Return the file name of a picture in DOT, the same in every process."""
    return hashlib.sha256(picture.encode()).hexdigest()[:24] + ".png"


def escaped(text: str) -> str:
    """Escape `text` for an HTML-like label, which is XML without control characters or empty parts.

    A backslash would start a sequence such as "\\N", the name of the node. A text of brackets alone
    would be a syntax error of Graphviz 2.43, whose reader of XML waits for "]]>".
    """
    if not text:
        return "&#160;"
    text = text.replace("\\", "\\\\").replace("\t", " ").translate(_CONTROL_PICTURES)
    printable = (c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    text = html.escape("".join(printable), quote=True)
    return text.replace("\n", "<br/>").replace("]", "&#93;")


def quoted(text: str) -> str:
    """Return `text` as a quoted DOT string: an id, a label, or the value of an attribute.

    "&lt;" would mean "<", in ids too, which are titles in an SVG: "&" is always an entity itself.
    Control characters become their pictures (U+2400 and on), so different ids stay different.
    """
    text = text.replace("&", "&amp;")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped.translate(_CONTROL_PICTURES)}"'


def tooltip(text: str) -> str:
    """Return `text` as a quoted DOT string for a tooltip, whose escapes Graphviz reads twice."""
    return quoted(text.replace("\\", "\\\\"))
