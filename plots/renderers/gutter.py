"""The residual stream as lines at the left of a text, as `git log --graph` draws branches.

○     tokens            the stream begins
●     embedding         a call on it
┣━╮   self_attention    a sublayer branches off
┃ │     query
⊕━╯   residual          and merges back
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from plots.annotations import SkipPath
from plots.graph import Graph

Row = tuple[int, str | None]
"""How many boxes lie around a row, and the id of its call; None for the title of a box, which
stands above what is in it."""

_LIGHT = {"│", "╮", "┤", "╯"}
_DOWNWARDS = dict.fromkeys("┃○●⊕┣┓┳", "┃") | dict.fromkeys("│╮┤", "│")  # what goes on below
_UPWARDS = set("┃●⊕┣│┤╯")


@dataclass(slots=True)
class _Lane:
    """A part of the stream that is drawn as one straight line.

    Attributes:
        calls: Ids on it, from above to below.
        start: Its first row.
        end: Its last row.
        fork: The call of another lane that it comes from, if there is one.
        branches: (first row, row of the merge) of what leaves it and comes back.
        around: Lanes with a branch that this one lies on.
        column: Where it is drawn; its branches are in the column to the right.
    """

    calls: list[str]
    start: int
    end: int
    fork: str | None
    branches: list[tuple[int, int]] = field(default_factory=list)
    around: list[_Lane] = field(default_factory=list)
    column: int = 0


def gutter(graph: Graph, rows: Sequence[Row]) -> list[str]:
    """The lines to draw in front of each row, all equally long; empty if there is no stream.

    Args:
        graph: A graph whose stream and skip paths are marked.
        rows: What each row is about, calls in an order in which they can be computed.
    """
    row_of = {node_id: number for number, (_, node_id) in enumerate(rows) if node_id is not None}
    lanes = _lanes(graph, row_of)
    lane_of = {node_id: lane for lane in lanes for node_id in lane.calls}
    for path in graph.skip_paths:
        _add_branch(path, lane_of, row_of, rows)
    taken: dict[tuple[int, int], list[_Lane]] = {}
    for lane in sorted(lanes, key=lambda lane: (lane.start, -lane.end)):
        _place(lane, taken)
    columns = 1 + max((column for _, column in taken), default=-1)
    cells = [[" "] * 2 * columns for _ in rows]
    merges = {path.target for path in graph.skip_paths}
    for lane in lanes:
        for row in range(lane.start, lane.end + 1):
            cells[row][2 * lane.column] = "┃"
        for node_id in lane.calls:
            begins = row_of[node_id] == lane.start and lane.fork is None
            mark = "⊕" if node_id in merges else "○" if begins else "●"
            cells[row_of[node_id]][2 * lane.column] = mark
    for lane in lanes:
        _draw_branches(lane, cells)
        if lane.fork is not None:
            _connect(cells[lane.start], lane_of[lane.fork].column, lane.column, "┣", "┓")
    return ["".join(row).removesuffix(" ") for row in cells]


def between(margins: Sequence[str]) -> list[str]:
    """What goes on from each row to the next one, for further lines of a row."""
    following = [*margins[1:], " " * max(map(len, margins), default=0)]
    return [
        "".join(
            _DOWNWARDS[above] if above in _DOWNWARDS and below in _UPWARDS else " "
            for above, below in zip(margin, after, strict=True)
        )
        for margin, after in zip(margins, following, strict=True)
    ]


def _lanes(graph: Graph, row_of: dict[str, int]) -> list[_Lane]:
    """The stream in straight parts; where it forks, the one that leads furthest goes straight on.

    Pairs with a call that has no row are left out.
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
    path: SkipPath, lane_of: dict[str, _Lane], row_of: dict[str, int], rows: Sequence[Row]
) -> None:
    """Let the lane of a skip path have the branch that comes back at the path's end."""
    lane = lane_of.get(path.target)
    bypassed = [row_of[node_id] for node_id in path.bypassed if node_id in row_of]
    if lane is None or not bypassed:
        return
    first = _title_above(min(bypassed), {row_of[node_id] for node_id in lane.calls}, rows)
    through = [row_of[node_id] for node_id in path.through if node_id in row_of]
    if through and through[0] < first and path.source in row_of:
        # It leaves before what lies on the path: beside a parallel sublayer, or else at its source.
        starts = [start for start, end in lane.branches if end == through[0]]
        first = min(starts, default=row_of[path.source])
    lane.branches.append((max(first, lane.start), row_of[path.target]))
    for inner in {id(i): i for i in map(lane_of.get, path.bypassed) if i is not None}.values():
        if inner is not lane:
            inner.around.append(lane)


def _title_above(row: int, on_lane: set[int], rows: Sequence[Row]) -> int:
    """The title of the outermost box around a row without a call on the lane, or else the row."""
    first, depth = row, rows[row][0]
    for above in range(row - 1, -1, -1):
        if above in on_lane:
            break
        if rows[above][0] < depth:  # a title: the box around what was looked at so far
            depth = rows[above][0]
            end = next((r for r in range(row, len(rows)) if rows[r][0] <= depth), len(rows))
            if not on_lane.isdisjoint(range(above, end)):
                break
            first = above
    return first


def _place(lane: _Lane, taken: dict[tuple[int, int], list[_Lane]]) -> None:
    """Give a lane the first column that is free, to the right of those that it lies on."""
    lane.column = 1 + max((outer.column for outer in lane.around), default=-1)
    while any(other not in lane.around for cell in _cells(lane) for other in taken.get(cell, ())):
        lane.column += 1
    for cell in _cells(lane):
        taken.setdefault(cell, []).append(lane)


def _cells(lane: _Lane) -> Iterator[tuple[int, int]]:
    """(row, column) that the lane and its branches take up."""
    for row in range(lane.start, lane.end + 1):
        yield row, lane.column
    for first, last in lane.branches:
        for row in range(first, last + 1):
            yield row, lane.column + 1


def _draw_branches(lane: _Lane, cells: list[list[str]]) -> None:
    right = 2 * (lane.column + 1)
    for first, last in lane.branches:
        for row in range(first + 1, last):
            if cells[row][right] == " ":
                cells[row][right] = "│"
    for first, _ in lane.branches:
        corner = "┤" if any(a < first < b for a, b in lane.branches) else "╮"
        _connect(cells[first], lane.column, lane.column + 1, "┣", corner)
    for _, last in lane.branches:
        corner = "┤" if any(a <= last < b for a, b in lane.branches) else "╯"
        _connect(cells[last], lane.column, lane.column + 1, "⊕", corner)


def _connect(row: list[str], left: int, right: int, knee: str, corner: str) -> None:
    """A horizontal line from one column to another in a row."""
    if row[2 * left] in " ┃":
        row[2 * left] = knee
    for place in range(2 * left + 1, 2 * right):
        if row[place] == " ":
            row[place] = "━"
    if corner == "┓":  # a line of the stream begins here, with what is on it already
        row[2 * right] = {"┃": "┓", "┣": "┳"}.get(row[2 * right], row[2 * right])
    elif row[2 * right] == " " or row[2 * right] in _LIGHT:
        row[2 * right] = corner
