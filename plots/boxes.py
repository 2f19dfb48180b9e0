"""What a box of a diagram says and looks like."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

from plots.graph import Graph, Node, Tensor
from plots.operation_kinds import is_additive_merge, is_identity_like, is_norm

STREAM_COLOUR = "#D55E00"  # vermilion of the Okabe-Ito palette: clear also to colour-blind eyes
INK = "#222222"
GREY = "#8A8A8A"


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
    attributes: dict[str, Any] = {"tooltip": quoted(f"{node.id} ({node.class_name})")}
    if is_additive_merge(node) and labels == Labels():
        attributes |= {"label": quoted("+"), "shape": "circle", "fixedsize": "true"}
        attributes |= {"width": "0.32", "height": "0.32", "fontsize": "18", "margin": "0"}
        if on_stream:
            attributes |= {"color": quoted(STREAM_COLOUR), "penwidth": "2.5"}
        return attributes
    return attributes | {
        "label": _table(node, graph, labels, tag),
        "fillcolor": quoted(_fill(node)),
    }


def _fill(node: Node) -> str:
    if node.kind == "input":
        return "#E3E3E3"
    if is_norm(node):
        return "#F9E7B0"
    if is_identity_like(node):
        return "#FFFFFF"
    if "Embedding" in node.class_name or "Position" in node.class_name:
        return "#E4D8F0"
    if "Attention" in node.class_name:
        return "#CDE8D8"
    return "#D7E6F5" if node.parameters else "#FFFFFF"


def _table(node: Node, graph: Graph, labels: Labels, tag: str | None) -> str:
    """The label of a box, as an HTML-like table, escaped."""
    if labels.full_names:
        head, sub = node.name, node.class_name
    elif node.has_own_name:
        head, sub = node.label, node.class_name
    else:
        head, sub = node.class_name, ""
    title = f"<b>{_escaped(head)}</b>"
    if sub and sub != head:
        title += f' <font point-size="9" color="{GREY}">{_escaped(sub)}</font>'
    if tag is not None and tag != head:
        title += f' <font color="{GREY}">= {_escaped(tag)}</font>'
    rows = [title]
    if labels.activations and node.activation is not None:
        rows.append(f"activation: <b>{_escaped(node.activation)}</b>")
    if labels.shapes:
        inputs = ", ".join(shape_text(edge.tensor) for edge in graph.incoming[node.id])
        outputs = ", ".join(shape_text(tensor) for tensor in node.outputs)
        rows.append(_escaped(f"{inputs} → {outputs}" if inputs else outputs))
    if labels.dtypes:
        rows.append(_escaped(", ".join(tensor.dtype for tensor in node.outputs)))
    if labels.trainable and node.parameters and node.trainable is not None:
        colour, word = ("#1B7837", "trainable") if node.trainable else ("#B2182B", "frozen")
        rows.append(f'<font color="{colour}">{word}</font>')
    if len(rows) == 1:
        return f"<{title}>"
    cells = "".join(f"<tr><td>{row}</td></tr>" for row in rows)
    return f'<<table border="0" cellborder="0" cellspacing="0" cellpadding="1">{cells}</table>>'


def shape_text(tensor: Tensor) -> str:
    """A shape as Keras writes it, such as "(None, 7, 16)"."""
    return "(" + ", ".join("None" if n is None else str(n) for n in tensor.shape) + ")"


def _escaped(text: str) -> str:
    """`text` for an HTML-like label, which is XML and so has no place for control characters."""
    printable = "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text
    )
    return html.escape(printable, quote=True).replace("\n", "<br/>")


def quoted(text: str) -> str:
    """`text` as a quoted DOT string that shows it as it is."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
