"""Graphs as indented text for terminals, with the residual stream as a line at the left.

The stream is drawn as `git log --graph` draws branches:

    ○     tokens            the stream starts
    ●     embedding         a call on it
    ┣━╮   self_attention    a sublayer branches off
    ┃ │     query
    ⊕━╯   residual          and merges back (⊖ where it is subtracted)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import NamedTuple

from rich.cells import cell_len

from plots.annotations import Note, SkipPath, counted, number_text, shape_text
from plots.graph import Edge, Graph, Node, Tensor
from plots.hierarchy import block_by_block, enclosing_namespaces, find_namespaces
from plots.layers import merge_sign
from plots.registry import graph_renderer
from plots.renderers import constant_text, group_text, repeated, wrapped
from plots.renderers.labels import class_of, details_of, frame_title

_MAX_NAME_WIDTH = 48  # a longer name shifts the rest of its own row only
_MIN_TEXT_WIDTH = 24  # kept for wrapped text, however long its start

_LIGHT = {"│", "╮", "┤", "╯"}
_DOWNWARDS = dict.fromkeys("┃○●⊕⊖┣┓┳", "┃") | dict.fromkeys("│╮┤", "│")  # continued below
_UPWARDS = set("┃●⊕⊖┣│┤╯")


@graph_renderer("text", (".txt",))
def to_text(graph: Graph, width: int = 120, shapes: bool = True) -> str:
    """Indented text for terminals, with the residual stream as a line at the left.

    One row per call: its name within its namespace, its class, its outputs, its overlay values, and
    after an arrow its arguments, with names relative to its namespace. Notes are below their call.

    Args:
        graph: The graph.
        width: Number of characters at which lines are wrapped. Names are not broken.
        shapes: Whether to show output shapes.

    Raises:
        ValueError: if `width` is not positive.
    """
    if width < 1:
        raise ValueError(f"width is {width!r}; it must be a number of characters, 1 or more")
    references = _References(graph)
    rows = list(_rows(graph, references))
    margins = _gutter(graph, rows)
    table = [
        [_indented(margin, row.depth) + row.name, *_cells(graph, row.node, shapes)]
        for margin, row in zip(margins, rows, strict=True)
    ]
    titles = ["", "", *[""] * shapes, *(overlay.title for overlay in graph.overlays)]
    first, *lines = _aligned([titles if graph.overlays else [], *table])
    result = [*_head(graph, width), "", *[first] * bool(graph.overlays)]
    for line, below, row in zip(lines, _continued(margins), rows, strict=True):
        arguments = _printable(", ".join(references.arguments(row.node))) if row.node else ""
        result += _broken(f"{line}  ← " if arguments else line, arguments, width, below)
        for note in _notes_at(graph, row.node):
            result += _broken(_indented(below, row.depth + 1) + "! ", note.full_text, width, below)
    outputs = dict.fromkeys(references.output(node_id, k) for node_id, k in graph.outputs)
    result += ["", *_broken("outputs: ", _printable(", ".join(outputs)), width)]
    return "".join(f"{line.rstrip()}\n" for line in result)


class _Row(NamedTuple):
    """A call, or the title of a namespace above its content, where `node` is None."""

    name: str
    depth: int
    node: Node | None


def _rows(graph: Graph, references: _References) -> Iterator[_Row]:
    """Yield the calls by namespace, each namespace under its title."""
    around: list[str] = []
    for node in block_by_block(graph, references.namespaces):
        opened = enclosing_namespaces(references.namespaces[node.id])
        for depth, namespace in enumerate(opened):
            if around[depth : depth + 1] != [namespace]:
                title = _printable(frame_title(namespace, graph))
                yield _Row(repeated(title, graph.repeats.get(namespace, 1)), depth, None)
        around = opened
        name = _printable(references.local_name(node))
        yield _Row(repeated(name, graph.times(node)), len(opened), node)


def _cells(graph: Graph, node: Node | None, shapes: bool) -> list[str]:
    """Return the columns between the name of a call and its arguments; none for a title."""
    if node is None:
        return []
    kind = group_text(node) or class_of(node)
    if details := details_of(node, graph, with_operands=False):
        kind += f" ({details})"
    cells = [kind, *[", ".join(map(_tensor_text, node.outputs))] * shapes]
    for overlay in graph.overlays:
        cells.append(overlay.text(node.id) if node.id in overlay.values else "")
    return [_printable(cell) for cell in cells]


def _tensor_text(tensor: Tensor) -> str:
    """Return a shape, as letters if they are known, and the dtype unless it is float32."""
    shape = f"({', '.join(tensor.letters)})" if tensor.letters else shape_text(tensor.shape)
    return shape if tensor.dtype == "float32" else f"{shape} {tensor.dtype}"


def _head(graph: Graph, width: int) -> list[str]:
    """Return the lines about the whole graph: size, skip paths, letters, losses, totals, notes."""
    facts = [counted(len(graph.calls), "call"), counted(len(graph.edges), "edge")]
    facts.append(f"{number_text(graph.parameters)} parameters")
    if frozen := graph.parameters - graph.trainable_parameters:
        facts.append(f"{number_text(frozen)} of them not trainable")
    if graph.skip_paths:
        placements = " and ".join(sorted({_PLACEMENTS[p.placement] for p in graph.skip_paths}))
        facts.append(f"{counted(len(graph.skip_paths), 'skip path')} ({placements})")
    entries = [(f"{_printable(graph.name)}: ", ", ".join(facts))]
    if graph.letters:
        sizes = [f"{a}" if n is None else f"{a} = {n}" for a, n in graph.letters.items()]
        entries.append(("letters: ", ", ".join(sizes)))
    for loss in dict.fromkeys(filter(None, graph.losses)):  # several outputs may have the same one
        switch = "" if loss.from_logits is None else f" (from_logits={loss.from_logits})"
        entries.append(("loss: ", loss.class_name + switch))
    for overlay in graph.overlays:
        if overlay.whole:
            whole = f"{overlay.whole_text} in total"
            entries.append((f"{_printable(overlay.title)}: ", _printable(whole)))
    entries += [("! ", note.full_text) for note in graph.notes if not note.about]
    return [line for start, words in entries for line in _broken(start, words, width)]


_PLACEMENTS = {
    "pre": "pre-norm",
    "post": "post-norm",
    "sandwich": "norms at both ends of the branch",
    "branch_end": "norm at the end of the branch",
    "none": "no norm",
}


def _notes_at(graph: Graph, node: Node | None) -> list[Note]:
    """Return the notes to print at a call: those whose first subject is it or an edge into it."""
    if node is None:
        return []
    places = [node.id, *(edge.id for edge in graph.incoming[node.id])]
    return [n for place in places for n in graph.notes_about.get(place, ()) if n.about[0] == place]


def _indented(margin: str, depth: int) -> str:
    return margin + " " * bool(margin) + "  " * depth


def _aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines with aligned columns."""
    widths = [max(map(cell_len, column)) for column in zip_longest(*table, fillvalue="")]
    widths[:1] = [min(width, _MAX_NAME_WIDTH) for width in widths[:1]]
    return [
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=False)
        )
        for row in table
    ]


def _broken(start: str, words: str, width: int, margin: str = "") -> list[str]:
    """Return `start` and `words`, wrapped at `width` if that leaves room for the words.

    The words of all lines start in the same column; later lines start with `margin`.
    """
    room = max(width - cell_len(start), _MIN_TEXT_WIDTH)
    lines = wrapped(words, room, break_long_words=False, break_on_hyphens=False)
    first, *more = map(_printable, lines or [""])
    indent = margin + " " * (cell_len(start) - len(margin))
    return [start + first, *(indent + line for line in more)]


def _printable(words: str) -> str:
    """Replace characters that would break a line or move the cursor."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words)


class _References:
    """Short names of calls relative to a namespace, resolved like names in nested scopes.

    In `decoder.block_0.feedforward`, its own norm is "norm", that of the attention next to it is
    "self_attention.norm", and the last one of the stack is "final_norm".
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.namespaces = find_namespaces(graph)
        ids = set(graph.index)
        self._shown = {  # a group has the name of its namespace, unless a call has that id
            node.id: node.name if node.kind == "group" and node.name not in ids else node.id
            for node in graph.nodes
        }
        self._names = set(self._shown.values())

    def local_name(self, node: Node) -> str:
        """Return the name of a call within its namespace."""
        namespace = self.namespaces[node.id]
        return self._shown[node.id].removeprefix(f"{namespace}." if namespace else "")

    def seen_from(self, namespace: str, node_id: str) -> str:
        """Return the shortest name that refers to a call from within `namespace`."""
        full = self._shown.get(node_id, node_id)
        parts = full.split(".")
        for start in range(len(parts) - 1, 0, -1):
            name = ".".join(parts[start:])
            if self._looked_up(namespace, name) == full:
                return name
        return full

    def output(self, node_id: str, output: int, namespace: str = "") -> str:
        """Return the name of an output of a call, with an index if the call has several."""
        name = self.seen_from(namespace, node_id)
        return name if len(self.graph.node(node_id).outputs) == 1 else f"{name}[{output}]"

    def arguments(self, node: Node) -> list[str]:
        """Return the arguments of a call: "norm", "mask=causal_mask", "x2=0.5"."""
        edges = self.graph.incoming[node.id]
        alone = len(edges) == 1 and not edges[0].implicit
        given = [self._argument(edge, named=not alone) for edge in edges]
        given += [f"{c.port}={constant_text(c)}" for c in node.constants if c.port != "training"]
        if node.layer != node.id and node.parameters:
            given.append(f"weights of {self.seen_from(self.namespaces[node.id], node.layer)}")
        return given

    def _argument(self, edge: Edge, named: bool) -> str:
        name = self.output(edge.source, edge.output, self.namespaces[edge.target])
        for overlay in self.graph.overlays:
            if edge.id in overlay.values:
                name += f" ({overlay.title} {overlay.text(edge.id)})"
        if edge.implicit:
            return f"{edge.port}={name} (implicit)"
        # The arguments of a group belong to many calls; those in a list have numbers, not names.
        is_group = self.graph.node(edge.target).kind == "group"
        numbered = edge.port.rpartition(".")[2].isdigit()
        is_named = named and not is_group and not numbered and edge.port != name.rpartition(".")[2]
        return f"{edge.port}={name}" if is_named else name

    def _looked_up(self, namespace: str, name: str) -> str | None:
        around = ["", *(f"{outer}." for outer in enclosing_namespaces(namespace))]
        return next((o + name for o in reversed(around) if o + name in self._names), None)


@dataclass(slots=True)
class _Lane:
    """A part of the stream that is drawn as one straight line.

    Attributes:
        calls: Ids on it, from top to bottom.
        start: Its first row.
        end: Its last row.
        fork: The call of another lane that it starts from, or None.
        branches: (first row, row of the merge) of the branches that leave it and merge back.
        around: Lanes with a branch that contains this lane.
        column: Its column; its branches are in the column to the right.
    """

    calls: list[str]
    start: int
    end: int
    fork: str | None
    branches: list[tuple[int, int]] = field(default_factory=list)
    around: list[_Lane] = field(default_factory=list)
    column: int = 0

    def cells(self) -> Iterator[tuple[int, int]]:
        """Yield the (row, column) pairs of the lane and its branches."""
        spans = [(self.start, self.end, self.column)]
        spans += [(first, last, self.column + 1) for first, last in self.branches]
        for first, last, column in spans:
            yield from ((row, column) for row in range(first, last + 1))


def _gutter(graph: Graph, rows: Sequence[_Row]) -> list[str]:
    """Return the part of the stream in front of each row, of equal lengths; empty without stream.

    The stream and the skip paths of the graph must be marked.
    """
    row_of = {row.node.id: number for number, row in enumerate(rows) if row.node is not None}
    lanes = _lanes(graph, row_of)
    lane_of = {node_id: lane for lane in lanes for node_id in lane.calls}
    for path in graph.skip_paths:
        _add_branch(path, lane_of, row_of, rows)
    taken: dict[tuple[int, int], list[_Lane]] = {}
    for lane in sorted(lanes, key=lambda lane: (lane.start, -lane.end)):
        _place(lane, taken)
    columns = 1 + max((column for _, column in taken), default=-1)
    cells = [[" "] * 2 * columns for _ in rows]
    merges = {
        path.target: "⊖" if merge_sign(graph.node(path.target)) == "−" else "⊕"
        for path in graph.skip_paths
    }
    for lane in lanes:
        for row in range(lane.start, lane.end + 1):
            cells[row][2 * lane.column] = "┃"
        for node_id in lane.calls:
            begins = row_of[node_id] == lane.start and lane.fork is None
            mark = merges.get(node_id, "○" if begins else "●")
            cells[row_of[node_id]][2 * lane.column] = mark
    for lane in lanes:
        _draw_branches(lane, cells)
        if lane.fork is not None:
            _connect(cells[lane.start], lane_of[lane.fork].column, lane.column, "┣", "┓")
    return ["".join(row).removesuffix(" ") for row in cells]


def _continued(margins: Sequence[str]) -> list[str]:
    """Return the margins of further lines of each row: what continues to the next row."""
    return [
        "".join(
            _DOWNWARDS[above] if above in _DOWNWARDS and below in _UPWARDS else " "
            for above, below in zip_longest(margin, after, fillvalue=" ")
        )
        for margin, after in zip(margins, [*margins[1:], ""], strict=True)
    ]


def _lanes(graph: Graph, row_of: dict[str, int]) -> list[_Lane]:
    """Return the stream in straight parts; at a fork the part that ends last goes straight on.

    Pairs with a call without row are skipped.
    """
    following: dict[str, list[str]] = {}
    before: dict[str, str] = {}
    for source, target in graph.stream:
        if row_of.get(source, len(row_of)) < row_of.get(target, -1):
            following.setdefault(source, []).append(target)
            before.setdefault(target, source)
    lanes: list[_Lane] = []
    in_lane: set[str] = set()
    for start in sorted({*following, *before}, key=row_of.__getitem__):
        if start in in_lane:
            continue
        calls = [start]
        while onwards := [i for i in following.get(calls[-1], ()) if i not in in_lane]:
            calls.append(max(onwards, key=row_of.__getitem__))
            in_lane.add(calls[-1])
        in_lane.add(start)
        fork = before.get(start)
        first = row_of[start] if fork is None else row_of[fork] + 1
        lanes.append(_Lane(calls, first, row_of[calls[-1]], fork))
    return lanes


def _add_branch(
    path: SkipPath, lane_of: dict[str, _Lane], row_of: dict[str, int], rows: Sequence[_Row]
) -> None:
    """Add the branch of a skip path to the lane that it merges into."""
    lane = lane_of.get(path.target)
    bypassed = [row_of[node_id] for node_id in path.bypassed if node_id in row_of]
    if lane is None or not bypassed:
        return
    first = _title_above(min(bypassed), {row_of[node_id] for node_id in lane.calls}, rows)
    through = [row_of[node_id] for node_id in path.through if node_id in row_of]
    if through and through[0] < first and path.source in row_of:
        # It leaves before the calls on the path: beside a parallel sublayer, or at its source.
        starts = [start for start, end in lane.branches if end == through[0]]
        first = min(starts, default=row_of[path.source])
    lane.branches.append((max(first, lane.start), row_of[path.target]))
    for inner in {id(i): i for i in map(lane_of.get, path.bypassed) if i is not None}.values():
        if inner is not lane:
            inner.around.append(lane)


def _title_above(row: int, on_lane: set[int], rows: Sequence[_Row]) -> int:
    """Return the title of the outermost namespace around a row that has no call on the lane."""
    first, depth = row, rows[row].depth
    for above in range(row - 1, -1, -1):
        if above in on_lane:
            break
        if rows[above].depth < depth:  # the title of the enclosing namespace
            depth = rows[above].depth
            end = next((r for r in range(row, len(rows)) if rows[r].depth <= depth), len(rows))
            if not on_lane.isdisjoint(range(above, end)):
                break
            first = above
    return first


def _place(lane: _Lane, taken: dict[tuple[int, int], list[_Lane]]) -> None:
    """Assign the first free column to a lane, to the right of the lanes around it."""
    around = set(map(id, lane.around))
    lane.column = 1 + max((outer.column for outer in lane.around), default=-1)
    while any(set(map(id, taken.get(cell, ()))) - around for cell in lane.cells()):
        lane.column += 1
    for cell in lane.cells():
        taken.setdefault(cell, []).append(lane)


def _draw_branches(lane: _Lane, cells: list[list[str]]) -> None:
    right = 2 * (lane.column + 1)
    for first, last in lane.branches:
        for row in cells[first + 1 : last]:
            row[right] = "│" if row[right] == " " else row[right]
    for first, _ in lane.branches:
        corner = "┤" if any(a < first < b for a, b in lane.branches) else "╮"
        _connect(cells[first], lane.column, lane.column + 1, "┣", corner)
    for _, last in lane.branches:
        corner = "┤" if any(a <= last < b for a, b in lane.branches) else "╯"
        _connect(cells[last], lane.column, lane.column + 1, "⊕", corner)


def _connect(row: list[str], left: int, right: int, knee: str, corner: str) -> None:
    """Draw a horizontal line from one column to another in a row."""
    if row[2 * left] in " ┃":
        row[2 * left] = knee
    for place in range(2 * left + 1, 2 * right):
        if row[place] == " ":
            row[place] = "━"
    if corner == "┓":  # a lane starts here, with what is already on it
        row[2 * right] = {"┃": "┓", "┣": "┳"}.get(row[2 * right], row[2 * right])
    elif row[2 * right] == " " or row[2 * right] in _LIGHT:
        row[2 * right] = corner
