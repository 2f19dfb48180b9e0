"""What a box of a diagram says and looks like."""

from __future__ import annotations

import html
import textwrap
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from math import isfinite, log
from typing import Any

from plots.annotations import DIFFERENCES, Note, Overlay, Quantity, counted
from plots.graph import Edge, Graph, Node, Tensor
from plots.operation_kinds import is_additive_merge, is_identity_like, is_norm
from plots.renderers.inlined import picture_row

STREAM_COLOUR = "#D55E00"  # vermilion of the Okabe-Ito palette: clear also to colour-blind eyes
INK = "#222222"
GREY = "#8A8A8A"
DARK_GREY = "#5A5A5A"  # of what stands on a colour

_NOTE_COLOURS = {
    "difference": INK,
    "description": INK,
    "finding": "#C51B1B",
    "deviates": "#7B3294",
    "added": "#1B7837",
    "removed": "#B2182B",
    "changed": "#B06F00",
    "moved": "#2166AC",
    "reshaped": "#8C7B4F",
    "rewired": "#2166AC",
}
_MOST_NOTES = 4
"""How many differences a group spells out before it only counts them."""
_ROLE_FILLS = {
    "input": "#E3E3E3",
    "norm": "#F9E7B0",
    "embedding": "#E4D8F0",
    "attention": "#CDE8D8",
    "weights": "#D7E6F5",
}
_INSIDE = {"calls": "call", "skip_paths": "skip path"}


@dataclass(frozen=True, slots=True)
class Labels:
    """What a box says besides the name and the class."""

    shapes: bool = False
    dtypes: bool = False
    full_names: bool = False
    activations: bool = False
    trainable: bool = False


def box_attributes(
    node: Node, graph: Graph, labels: Labels, on_stream: bool, tag: str | None
) -> dict[str, Any]:
    """DOT attributes of the box of one call.

    Args:
        node: The call.
        graph: The graph that it is in, for the shapes that it takes.
        labels: What to say about it.
        on_stream: Whether it is a merge on the residual stream.
        tag: Name under which its output is referred to elsewhere in the picture, if it is.
    """
    attributes: dict[str, Any] = {"tooltip": shown(f"{node.id} ({node.class_name})")}
    said = _rows(node, graph, labels)
    noted = noted_colour(graph, node.id)
    if noted:
        attributes |= {"color": quoted(noted), "penwidth": "2.5"}
    if is_additive_merge(node) and not said and not labels.full_names:
        attributes |= {"label": quoted("+"), "shape": "circle", "fixedsize": "true"}
        attributes |= {"width": "0.32", "height": "0.32", "fontsize": "18", "margin": "0"}
        if on_stream and not noted:
            attributes |= {"color": quoted(STREAM_COLOUR), "penwidth": "2.5"}
        return attributes
    if node.kind == "group":
        attributes["peripheries"] = "2"
    return attributes | {
        "label": _table(node, graph, labels, said, tag),
        "fillcolor": quoted(fill_colour(node, graph)),
    }


def main_kind(kinds: list[str]) -> str:
    """The kind of several that gives its colour: a difference, then a finding, then the last."""
    differences = {kind for kind in kinds if kind in DIFFERENCES}
    if len(differences) > 1:
        return "changed"
    if differences:
        return differences.pop()
    return "finding" if "finding" in kinds else kinds[-1]


def noted_colour(graph: Graph, place: str) -> str | None:
    """The colour that its notes give a call or edge; None if there are none about it."""
    kinds = [note.kind for note in graph.notes_about.get(place, ())]
    return note_colour(main_kind(kinds)) if kinds else None


def note_colour(kind: str) -> str:
    """The colour of the frame around what a note is about."""
    return _NOTE_COLOURS.get(kind, "#7B3294")


def role_of(node: Node) -> str:
    """What a call is for, as its colour says it: "norm", "weights", ..., or "" for all others."""
    if node.kind == "input":
        return "input"
    if is_norm(node):
        return "norm"
    if node.kind == "group" or is_identity_like(node):
        return ""
    if "Embedding" in node.class_name or "Position" in node.class_name + node.role.title():
        return "embedding"
    if "Attention" in node.class_name or node.role in ("attention", "attention_scores"):
        return "attention"
    return "weights" if node.parameters else ""


def heat_colour(overlay: Overlay, place: str) -> str:
    """From white to blue, as far as the value of a call or edge is the largest of its overlay.

    White where the value is no finite number, which is no larger or smaller than others.
    """
    low, high = _range(overlay)
    number = overlay.number(overlay.values.get(place, Quantity()))
    if not isfinite(number):
        return "#FFFFFF"
    if overlay.scale == "log":
        number = log(number) if number > 0 else low
    heat = min(max((number - low) / (high - low), 0.0), 1.0) if high > low else 0.0
    # The root, or all but the largest would look white where one share is far above the others.
    heat = heat if overlay.scale == "log" else heat**0.5
    return "#" + "".join(
        f"{round(cold + heat * (hot - cold)):02X}"
        for cold, hot in zip((255, 255, 255), (158, 202, 225), strict=True)
    )


@lru_cache(maxsize=8)  # every box of a picture asks
def _range(overlay: Overlay) -> tuple[float, float]:
    """The numbers that are white and blue."""
    numbers = [n for n in map(overlay.number, overlay.values.values()) if isfinite(n)]
    if overlay.scale == "log":
        numbers = [log(number) for number in numbers if number > 0]
    low = min(numbers, default=0.0) if overlay.scale == "log" else 0.0
    return low, max(numbers, default=0.0)


def _is_heated(node: Node, graph: Graph) -> bool:
    """Whether its colour says how large its number is: that of the last overlay."""
    return bool(graph.overlays) and node.id in graph.overlays[-1].values


def _grey(node: Node, graph: Graph) -> str:
    return DARK_GREY if _is_heated(node, graph) else GREY


def fill_colour(node: Node, graph: Graph) -> str:
    """The colour of the box of a call: how large its number is, or else what sort of call it is."""
    if _is_heated(node, graph):
        return heat_colour(graph.overlays[-1], node.id)
    if graph.overlays:
        return "#FFFFFF"
    return _ROLE_FILLS.get(role_of(node), "#FFFFFF")


def _table(node: Node, graph: Graph, labels: Labels, said: list[str], tag: str | None) -> str:
    """The label of a box, as an HTML-like table, escaped."""
    head = node.name if labels.full_names else node.shown_name
    sub = "" if node.kind == "group" else node.class_name
    title = f"<b>{escaped(head)}</b>"
    if sub and sub != head:
        title += f' <font point-size="9" color="{_grey(node, graph)}">{escaped(sub)}</font>'
    times = graph.times(node)
    if times > 1:
        title += f' <font point-size="16" color="{STREAM_COLOUR}">× {times}</font>'
    if tag is not None and tag != head:
        title += f' <font color="{GREY}">= {escaped(tag)}</font>'
    picture = graph.pictures.get(node.id)
    if not said and picture is None:
        return f"<{title}>"
    cells = "".join(f"<tr><td>{row}</td></tr>" for row in [title, *said])
    cells += picture_row(picture) if picture is not None else ""
    return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{cells}</table>>'


def _rows(node: Node, graph: Graph, labels: Labels) -> list[str]:
    """What a box says below its title, escaped."""
    rows = []
    if node.kind == "group":
        text = escaped(group_text(node))
        rows.append(f'<font point-size="9" color="{_grey(node, graph)}">{text}</font>')
    if labels.activations and node.activation is not None:
        rows.append(f"activation: <b>{escaped(node.activation)}</b>")
    if labels.shapes:
        inputs = ", ".join(shape_text(edge.tensor) for edge in graph.incoming[node.id])
        outputs = ", ".join(shape_text(tensor) for tensor in node.outputs)
        rows.append(escaped(f"{inputs} → {outputs}" if inputs else outputs))
    if labels.dtypes:
        rows.append(escaped(", ".join(tensor.dtype for tensor in node.outputs)))
    if labels.trainable and node.parameters and node.trainable is not None:
        colour, word = ("#1B7837", "trainable") if node.trainable else ("#B2182B", "frozen")
        rows.append(f'<font color="{colour}">{word}</font>')
    for output in (number for node_id, number in graph.outputs if node_id == node.id):
        if node.outputs[output].letters:  # those of other tensors stand on the edges
            rows.append(escaped(f"→ {' '.join(node.outputs[output].letters)}"))
    rows += map(escaped, numbers_at(node, graph))
    return rows + [coloured(note) for note in notes_at(node, graph)]


def numbers_at(node: Node, graph: Graph) -> list[str]:
    """What the overlays say of a call, each with its title where there are several."""
    return [
        f"{overlay.title}: " * (len(graph.overlays) > 1) + overlay.text(node.id)
        for overlay in graph.overlays
        if node.id in overlay.values
    ]


def notes_at(node: Node, graph: Graph) -> list[Note]:
    """The notes that are written out at a call: one about many calls at the first of them.

    A group spells out a few differences, and only counts more of them.
    """
    notes = [n for n in graph.notes_about.get(node.id, ()) if n.about[0] == node.id]
    differences = [note for note in notes if note.kind in DIFFERENCES]
    if node.kind != "group" or len(differences) <= _MOST_NOTES:
        return notes
    counts = Counter(note.kind for note in differences)
    return [
        *(note for note in notes if note not in differences),
        *(Note(kind, (node.id,), f"{number} {kind}") for kind, number in counts.items()),
    ]


def line_words(edge: Edge, graph: Graph, is_parallel: bool) -> list[str]:
    """What stands on a line: the argument if several lines join two calls, letters, numbers."""
    words = [edge.port] if is_parallel else []
    words += [" ".join(edge.tensor.letters)] if edge.tensor.letters else []
    return words + [o.text(edge.id) for o in graph.overlays if edge.id in o.values]


def coloured(note: Note, width: int = 44) -> str:
    """A note's words, wrapped, in the colour of its kind, for an HTML-like label."""
    lines = [
        part
        for line in note.text.splitlines()
        for part in textwrap.wrap(line, width, break_on_hyphens=False)
    ]
    text = "\n".join(lines)
    return f'<font color="{note_colour(note.kind)}">{escaped(text)}</font>'


def group_text(node: Node) -> str:
    """What is inside a group: "12 calls, 2 skip paths"."""
    return ", ".join(
        counted(node.config[key], noun) for key, noun in _INSIDE.items() if key in node.config
    )


def shape_text(tensor: Tensor) -> str:
    """A shape as Keras writes it, such as "(None, 7, 16)"."""
    return "(" + ", ".join("None" if n is None else str(n) for n in tensor.shape) + ")"


def escaped(text: str) -> str:
    """`text` for an HTML-like label, which is XML and so has no place for control characters."""
    printable = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}"
        for c in text.translate(_CONTROL_PICTURES)
    )
    return html.escape(printable, quote=True).replace("\n", "<br/>")


def quoted(text: str) -> str:
    """`text` as a quoted DOT string: an id, or the value of an attribute.

    Control characters, which an SVG cannot hold, become signs that stand for them, each another
    one, so that what was different stays so.
    """
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped.translate(_CONTROL_PICTURES)}"'


def shown(text: str) -> str:
    """`text` as a quoted DOT string for a label or tooltip, where "&lt;" alone would mean "<"."""
    return quoted(text.replace("&", "&amp;"))


_CONTROL_PICTURES = {code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n\r"}
