"""Labels, colours and legend that the renderers share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from math import isfinite, log

from plots.annotations import DIFFERENCES, Note, Overlay, Quantity, counted, number_text
from plots.axes.letters import meaning
from plots.graph import Constant, Edge, Graph, Node, Tensor
from plots.operation_kinds import is_identity_like, is_norm

STREAM_COLOUR = "#D55E00"  # vermilion of the Okabe-Ito palette, distinct for colour-blind readers
INK = "#222222"
GREY = "#8A8A8A"
DARK_GREY = "#5A5A5A"  # for text on a coloured background

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
_MAX_NOTES = 4
"""Number of differences that a group lists; more are only counted."""
_ROLE_FILLS = {
    "input": "#E3E3E3",
    "norm": "#F9E7B0",
    "embedding": "#E4D8F0",
    "attention": "#CDE8D8",
    "weights": "#D7E6F5",
}
_GROUP_COUNTS = {"calls": "call", "skip_paths": "skip path"}


def main_kind(kinds: list[str]) -> str:
    """Return the kind of note that sets the colour: a difference, a finding, or the last one."""
    differences = {kind for kind in kinds if kind in DIFFERENCES}
    if len(differences) > 1:
        return "changed"
    if differences:
        return differences.pop()
    return "finding" if "finding" in kinds else kinds[-1]


def noted_colour(graph: Graph, place: str) -> str | None:
    """Return the colour of the notes about a call or edge; None if there are none."""
    kinds = [note.kind for note in graph.notes_about.get(place, ())]
    return note_colour(main_kind(kinds)) if kinds else None


def note_colour(kind: str) -> str:
    """Return the colour of the frame around the subject of a note."""
    return _NOTE_COLOURS.get(kind, "#7B3294")


def role_of(node: Node) -> str:
    """Return the role that colours a node: "norm", "weights", ..., or "" for all others."""
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
    """Return a colour from white (smallest) to blue (largest value of the overlay).

    Values that are not finite are white.
    """
    low, high = _value_range(overlay)
    number = overlay.number(overlay.values.get(place, Quantity()))
    if not isfinite(number):
        return "#FFFFFF"
    if overlay.scale == "log":
        number = log(number) if number > 0 else low
    heat = min(max((number - low) / (high - low), 0.0), 1.0) if high > low else 0.0
    # The root keeps small shares visible next to one that is far larger.
    heat = heat if overlay.scale == "log" else heat**0.5
    return "#" + "".join(
        f"{round(cold + heat * (hot - cold)):02X}"
        for cold, hot in zip((255, 255, 255), (158, 202, 225), strict=True)
    )


@lru_cache(maxsize=8)  # called for every node of a diagram
def _value_range(overlay: Overlay) -> tuple[float, float]:
    """Return the values that are white and blue."""
    numbers = [n for n in map(overlay.number, overlay.values.values()) if isfinite(n)]
    if overlay.scale == "log":
        numbers = [log(number) for number in numbers if number > 0]
    low = min(numbers, default=0.0) if overlay.scale == "log" else 0.0
    return low, max(numbers, default=0.0)


def is_heated(node: Node, graph: Graph) -> bool:
    """Whether the colour of a node shows its value in the last overlay."""
    return bool(graph.overlays) and node.id in graph.overlays[-1].values


def fill_colour(node: Node, graph: Graph) -> str:
    """Return the colour of a node: its value in the last overlay, or else its role."""
    if is_heated(node, graph):
        return heat_colour(graph.overlays[-1], node.id)
    if graph.overlays:
        return "#FFFFFF"
    return _ROLE_FILLS.get(role_of(node), "#FFFFFF")


def numbers_at(node: Node, graph: Graph) -> list[str]:
    """Return the overlay values of a call, with titles if there are several overlays."""
    return [
        f"{overlay.title}: " * (len(graph.overlays) > 1) + overlay.text(node.id)
        for overlay in graph.overlays
        if node.id in overlay.values
    ]


def notes_at(node: Node, graph: Graph) -> list[Note]:
    """Return the notes to print at a call; a note about several calls is printed at the first.

    A group lists a few differences, and only counts more of them.
    """
    notes = [n for n in graph.notes_about.get(node.id, ()) if n.about[0] == node.id]
    differences = [note for note in notes if note.kind in DIFFERENCES]
    if node.kind != "group" or len(differences) <= _MAX_NOTES:
        return notes
    counts = Counter(note.kind for note in differences)
    return [
        *(note for note in notes if note not in differences),
        *(Note(kind, (node.id,), f"{number} {kind}") for kind, number in counts.items()),
    ]


def edge_labels(edge: Edge, graph: Graph, is_parallel: bool) -> list[str]:
    """Return the labels of an edge: its argument if it has parallels, letters, overlay values."""
    words = [edge.port] if is_parallel else []
    words += [" ".join(edge.tensor.letters)] if edge.tensor.letters else []
    return words + [o.text(edge.id) for o in graph.overlays if edge.id in o.values]


def group_text(node: Node) -> str:
    """Return the content of a group: "12 calls, 2 skip paths"."""
    return ", ".join(
        counted(node.config[key], noun) for key, noun in _GROUP_COUNTS.items() if key in node.config
    )


def shape_text(tensor: Tensor) -> str:
    """Return a shape as Keras prints it: "(None, 7, 16)"."""
    return "(" + ", ".join("None" if n is None else str(n) for n in tensor.shape) + ")"


def constant_text(constant: Constant) -> str:
    """Return a constant argument: "2.0", or "float32 (5, 3), zeros" for an array."""
    if constant.shape is None or constant.value is not None:
        return repr(constant.value)
    return f"{constant.dtype} {constant.shape}" + (f", {constant.pattern}" * bool(constant.pattern))


def legend(graph: Graph) -> list[str]:
    """Return the lines of the legend: totals of the overlays, and the meanings of letters."""
    # An overlay without total and values has counted nothing, which the legend has to say.
    summed = [overlay for overlay in graph.overlays if overlay.whole or not overlay.values]
    lines = [total_text(overlay) for overlay in summed]
    if len(lines) > 1 and summed[-1] is graph.overlays[-1]:
        lines[-1] += "; coloured"
    return [*lines, *letter_meanings(graph)]


def total_text(overlay: Overlay) -> str:
    """Return "FLOPs: 36.9 kFLOP b t² + 247 MFLOP b t; shares at b = 1, t = 1024 (292 GFLOP)"."""
    text = f"{overlay.title}: {overlay.whole.text(overlay.unit)}"
    if not overlay.sizes:
        return text
    sizes = ", ".join(f"{letter} = {size}" for letter, size in overlay.sizes.items())
    return f"{text}; shares at {sizes} ({number_text(overlay.number(overlay.whole), overlay.unit)})"


def letter_meanings(graph: Graph) -> Iterator[str]:
    """Yield "d = 768: width of the residual stream" for every letter on an edge or output."""
    shown = [edge.tensor for edge in graph.edges]
    shown += [graph.node(node_id).outputs[number] for node_id, number in graph.outputs]
    signs = {sign for tensor in shown for letters in tensor.letters for sign in letters}
    for letter, size in graph.letters.items():
        if letter in signs:
            yield f"{letter}{'' if size is None else f' = {size}'}: {meaning(letter)}"
