"""A graph as indented text for terminals: the boxes as a tree, the residual stream at its left."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from plots.annotations import Note, counted, number_text
from plots.graph import Graph, Node, Tensor
from plots.ordering import block_by_block
from plots.registry import graph_renderer
from plots.renderers.boxes import group_text, shape_text
from plots.renderers.gutter import between, gutter
from plots.renderers.references import References

_WIDEST_NAME = 48  # a longer name pushes what follows to the right, in its own row only
_NARROWEST = 24  # what is always left for what is broken into lines


@graph_renderer("text", (".txt",))
def to_text(graph: Graph, width: int = 120, shapes: bool = True) -> str:
    """Indented text for terminals, with the residual stream as a line at its left.

    One row per call: its name within its box, its class, what comes out, its numbers in the
    overlays, and after an arrow what goes in, with names as seen from its box. Notes stand below
    the call that they are about.

    Args:
        graph: The graph.
        width: Length at which lines are broken, in characters. Names are not broken.
        shapes: Whether to say what shapes come out.

    Raises:
        ValueError: if `width` is not positive.
    """
    if width < 1:
        raise ValueError(f"width is {width!r}; it is a number of characters, 1 or more")
    references = References(graph)
    rows = list(_rows(graph, references))
    margins = gutter(graph, [(row.depth, row.node.id if row.node else None) for row in rows])
    table = [
        [_indented(margin, row.depth) + row.name, *_cells(graph, row.node, shapes)]
        for margin, row in zip(margins, rows, strict=True)
    ]
    titles = [["", "", *[""] * shapes, *(overlay.title for overlay in graph.overlays)]]
    titles = titles if graph.overlays else []
    lines = _aligned([*titles, *table])
    said = [*_head(graph, width), "", *lines[: len(titles)]]
    for line, below, row in zip(lines[len(titles) :], between(margins), rows, strict=True):
        takes = _printable(", ".join(references.takes(row.node))) if row.node else ""
        said += _broken(f"{line}  ← " if takes else line, takes, width, below)
        for note in _notes_at(graph, row.node):
            said += _broken(_indented(below, row.depth + 1) + "! ", note.full_text, width, below)
    outputs = dict.fromkeys(references.output(node_id, k) for node_id, k in graph.outputs)
    said += ["", *_broken("outputs: ", _printable(", ".join(outputs)), width)]
    return "".join(f"{line.rstrip()}\n" for line in said)


@dataclass(frozen=True, slots=True)
class _Row:
    """A call, or the title of a box, and how many boxes lie around it."""

    name: str
    depth: int
    node: Node | None


def _rows(graph: Graph, references: References) -> Iterator[_Row]:
    """Calls box by box, each box under its title."""
    around: list[str] = []
    for node in block_by_block(graph, references.boxes):
        box = references.boxes[node.id]
        parts = box.split(".") if box else []
        depth = 0
        while parts[: depth + 1] == around[: depth + 1] and depth < len(parts):
            depth += 1
        for inner in range(depth, len(parts)):
            times = graph.repeats.get(".".join(parts[: inner + 1]), 1)
            yield _Row(_repeated(parts[inner], times), inner, None)
        around = parts
        name = references.in_its_box(node)
        yield _Row(_repeated(name, graph.times(node)), len(parts), node)


def _repeated(name: str, times: int) -> str:
    return _printable(name) if times == 1 else f"{_printable(name)} × {times}"


def _cells(graph: Graph, node: Node | None, shapes: bool) -> list[str]:
    """The columns between the name of a call and what it takes; none for a title."""
    if node is None:
        return []
    kind = group_text(node) if node.kind == "group" else node.class_name
    if node.activation not in (None, "linear"):
        kind += f" ({node.activation})"
    cells = [kind, *[", ".join(map(_tensor_text, node.outputs))] * shapes]
    for overlay in graph.overlays:
        cells.append(overlay.text(node.id) if node.id in overlay.values else "")
    return [_printable(cell) for cell in cells]


def _tensor_text(tensor: Tensor) -> str:
    """A shape, with letters where they are known, and the dtype if it is not the usual one."""
    shape = f"({', '.join(tensor.letters)})" if tensor.letters else shape_text(tensor)
    return shape if tensor.dtype == "float32" else f"{shape} {tensor.dtype}"


def _head(graph: Graph, width: int) -> list[str]:
    """The graph as a whole: its size, skip paths and letters, and what is said about all of it."""
    said = [counted(len(graph.nodes), "call"), counted(len(graph.edges), "edge")]
    said.append(f"{number_text(graph.parameters)} parameters")
    if frozen := graph.parameters - graph.trainable_parameters:
        said.append(f"{number_text(frozen)} of them not trained")
    if graph.skip_paths:
        placements = " and ".join(sorted({_PLACEMENTS[p.placement] for p in graph.skip_paths}))
        said.append(f"{counted(len(graph.skip_paths), 'skip path')} ({placements})")
    lines = _broken(f"{_printable(graph.name)}: ", ", ".join(said), width)
    if graph.letters:
        sizes = [f"{a}" if n is None else f"{a} = {n}" for a, n in graph.letters.items()]
        lines += _broken("letters: ", ", ".join(sizes), width)
    for loss in graph.losses:
        switch = "" if loss.from_logits is None else f" (from_logits={loss.from_logits})"
        lines += _broken("loss: ", loss.class_name + switch, width)
    for overlay in graph.overlays:
        if overlay.whole:
            whole = overlay.whole.text(overlay.unit)
            lines += _broken(f"{_printable(overlay.title)}: ", f"{whole} in all", width)
    for note in graph.notes:
        if not note.about:
            lines += _broken("! ", note.full_text, width)
    return lines


_PLACEMENTS = {
    "pre": "pre-norm",
    "post": "post-norm",
    "sandwich": "norms at both ends of the branch",
    "branch_end": "norm at the end of the branch",
    "none": "no norm",
}


def _notes_at(graph: Graph, node: Node | None) -> list[Note]:
    """Notes that are written out at a call: those that name it, or an edge into it, first."""
    if node is None:
        return []
    places = [node.id, *(edge.id for edge in graph.incoming[node.id])]
    return [n for place in places for n in graph.notes_about.get(place, ()) if n.about[0] == place]


def _indented(margin: str, depth: int) -> str:
    return f"{margin} {'  ' * depth}" if margin else "  " * depth


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The rows of a table as lines, columns one below the other."""
    widths: list[int] = []
    for row in table:
        widths += [0] * (len(row) - len(widths))
        for column, cell in enumerate(row):
            widths[column] = max(widths[column], _length(cell))
    widths[:1] = [min(width, _WIDEST_NAME) for width in widths[:1]]
    return [
        "  ".join(
            cell + " " * (width - _length(cell)) for cell, width in zip(row, widths, strict=False)
        )
        for row in table
    ]


def _broken(start: str, words: str, width: int, margin: str = "") -> list[str]:
    """`start` and `words` in lines of at most `width`, where that leaves room for the words.

    The words of all lines begin in the same column, also after a line break of their own; `margin`
    is what later lines start with.
    """
    room = max(width - _length(start), _NARROWEST)
    wrapped = [
        part
        for line in words.splitlines()
        for part in textwrap.wrap(
            _printable(line), room, break_long_words=False, break_on_hyphens=False
        )
    ]
    first, *more = wrapped or [""]
    indent = margin + " " * (_length(start) - len(margin))
    return [start + first, *(indent + line for line in more)]


def _printable(words: str) -> str:
    """Without what would break a line or move the cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)


def _length(words: str) -> int:
    """Columns of a terminal that the text takes up."""
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in words)
    return len(words) + wide - sum(unicodedata.combining(c) > 0 for c in words)
