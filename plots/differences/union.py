"""Two graphs in one: the newer one with what was removed, and notes on all that is different."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plots.annotations import DIFFERENCES, Note
from plots.differences.compare import compare_graphs
from plots.differences.difference import MODEL, Difference
from plots.differences.report import counts, sizes_text, way_text
from plots.differences.words import Words, weights_text
from plots.folding.contract import Contraction
from plots.graph import Edge, Graph, Node
from plots.ordering import circles, in_order
from plots.reading.sources import graph_of
from plots.registry import graph_plugin

if TYPE_CHECKING:
    import keras

_MOST_LINES = 4
"""How much a box says about its call; a text says all."""


@graph_plugin("diff")
def diff(
    graph: Graph,
    against: Graph | keras.Model | str | os.PathLike[str] | None = None,
    changes_only: bool = False,
) -> Graph:
    """Marks what is added, removed, moved or changed against an older graph.

    Args:
        graph: The newer graph. What plugins have found out about it stays.
        against: The older one: a graph, a Keras model, or the path of a file that holds what
            `Graph.to_json` gave. Of a model, models inside of it are opened, as `draw` does it.
        changes_only: Whether calls are left out that are as they were and not next to one that is
            different.

    Returns:
        The newer graph with the removed calls, and notes of the kinds `DIFFERENCES`. A removed call
        whose id is taken has " (removed)" after it. What it gave to a call that now comes before it
        is not drawn, and its note says so.

    Raises:
        OSError: if the file cannot be read.
        TypeError: if `against` is a model without a graph, or nothing that has one.
        ValueError: if `against` is missing or no graph, or if one of the two graphs is folded.
    """
    if against is None:
        raise ValueError(
            'diff needs to know against which graph: ("diff", {"against": graph, model or path})'
        )
    return marked(compare_graphs(graph_of(against), graph), changes_only)


def marked(difference: Difference, changes_only: bool = False) -> Graph:
    """The newer graph of a difference, marked as `diff` does it."""
    whole = _with_notes(difference, _Union(difference))
    return _around_notes(whole) if changes_only else whole


class _Union:
    """The calls and edges of both graphs, by their ids in the union.

    Attributes:
        ids: Id before -> id in the union, for all calls of the older graph.
        nodes: All calls, in an order in which they could be computed.
        removed_edges: Edges that the newer graph does not have.
        left_out: Those of them that would lead back to where they come from.
    """

    def __init__(self, difference: Difference) -> None:
        self.difference = difference
        after = difference.after
        self.ids = _ids_in_union(difference)
        nodes = {node.id: node for node in after.nodes}
        nodes |= {self.ids[i]: self._renamed(i) for i in difference.removed}
        place = {node_id: (number, -1) for node_id, number in after.index.items()}
        place |= {self.ids[i]: difference.removed_from[i] for i in difference.removed}
        wanted = sorted(nodes, key=place.__getitem__)
        edges = [(edge.source, edge.target) for edge in after.edges]
        lost = list(self._lost())
        circle = circles(wanted, [*edges, *((edge.source, edge.target) for edge in lost)])
        self.left_out: list[Edge] = []
        self.removed_edges: list[Edge] = []
        for edge in lost:
            back = edge.target in after.index and circle[edge.source] == circle[edge.target]
            (self.left_out if back else self.removed_edges).append(edge)
        edges += [(edge.source, edge.target) for edge in self.removed_edges]
        first = {node_id: number for number, node_id in enumerate(wanted)}
        self.nodes = [nodes[node_id] for node_id in in_order(first, edges)]

    def _renamed(self, node_id: str) -> Node:
        """A removed call under its id in the union, tied to the calls that shared its weights."""
        before, after = self.difference.before, self.difference.after
        node = before.node(node_id)
        for call in before.ties.get(node.layer, ()):
            if self.ids[call] in after.index:
                return replace(node, id=self.ids[node_id], layer=after.node(self.ids[call]).layer)
        return replace(node, id=self.ids[node_id], layer=self.ids[node.layer])

    def _lost(self) -> Iterator[Edge]:
        """Edges at removed calls, and those that rewired calls took from; each once."""
        removed = set(self.difference.removed)
        rewired = {wire.old for wire in self.difference.rewired if wire.before != MODEL}
        there = {edge.id for edge in self.difference.after.edges}
        for edge in self.difference.before.edges:
            if edge.source in removed or edge.target in removed or edge in rewired:
                new = replace(edge, source=self.ids[edge.source], target=self.ids[edge.target])
                if new.id not in there:
                    yield new


def _ids_in_union(difference: Difference) -> dict[str, str]:
    """Id before -> id in the union, for all calls of the older graph."""
    ids = dict(difference.pairs)
    taken = set(difference.after.index)
    for node_id in difference.removed:
        new_id = node_id
        while new_id in taken:
            new_id += " (removed)"
        taken.add(new_id)
        ids[node_id] = new_id
    return ids


def older_side(newer: Graph, difference: Difference) -> Graph:
    """The older graph to be shown beside `newer`, what `diff` has made of the newer one.

    Its calls have the ids that they have there, so that what belongs together can be found, and the
    notes on what became of them.
    """
    before, ids = difference.before, _ids_in_union(difference)
    nodes = [replace(node, id=ids[node.id], layer=ids[node.layer]) for node in before.nodes]
    edges = [replace(e, source=ids[e.source], target=ids[e.target]) for e in before.edges]
    older = Contraction(
        nodes=tuple(nodes),
        edges=tuple(edges),
        outputs=tuple((ids[node_id], output) for node_id, output in before.outputs),
        calls=ids,
        edge_ids={old.id: new.id for old, new in zip(before.edges, edges, strict=True)},
    ).of(before)
    places = {*ids.values(), *(edge.id for edge in edges)}
    notes = (
        replace(note, about=tuple(place for place in note.about if place in places))
        for note in newer.notes
        if note.kind in DIFFERENCES and not places.isdisjoint(note.about)
    )
    return replace(older, inputs=tuple(ids[i] for i in before.inputs), notes=(*older.notes, *notes))


def _with_notes(difference: Difference, union: _Union) -> Graph:
    after = difference.after
    position = {node.id: number for number, node in enumerate(union.nodes)}
    edges = sorted((*after.edges, *union.removed_edges), key=lambda edge: position[edge.target])
    removed = {union.ids[node_id] for node_id in difference.removed}
    return replace(
        after,
        nodes=tuple(union.nodes),
        edges=tuple(edges),
        inputs=tuple(n.id for n in union.nodes if n.id in after.inputs or _is_input(n, removed)),
        notes=(*after.notes, *_whole_notes(difference), *_notes(difference, union)),
    )


def _is_input(node: Node, removed: set[str]) -> bool:
    return node.kind == "input" and node.id in removed


def _whole_notes(difference: Difference) -> Iterator[Note]:
    """The summary; as every kind of note has its colour in pictures, it is their legend too."""
    before, after = difference.before.name, difference.after.name
    title = f"{before} → {after}\n" if before != after else ""
    if difference.is_empty:
        yield Note("difference", (), f"{title}no difference")
        return
    yield Note("difference", (), _with_arrows(f"{title}{sizes_text(difference)}"))
    for way, count in counts(difference).items():
        kind = way.rpartition(" ")[2]  # of "output rewired" the last
        yield Note(kind, (), way_text(way, count))


def _notes(difference: Difference, union: _Union) -> Iterator[Note]:
    words = Words(difference)
    after = difference.after
    for node_id in difference.added:
        edges = (edge.id for edge in (*after.incoming[node_id], *after.outgoing[node_id]))
        yield Note("added", (node_id, *edges), _with_weights("added", after.node(node_id)))
    drawn: dict[str, list[str]] = {}
    for edge in union.removed_edges:
        for end in (edge.source, edge.target):
            drawn.setdefault(end, []).append(edge.id)
    for node_id in difference.removed:
        new_id = union.ids[node_id]
        backwards = [edge.target for edge in union.left_out if edge.source == new_id]
        lines = [_with_weights("removed", difference.before.node(node_id))]
        if backwards:
            names = ", ".join(dict.fromkeys(words.inside(1, target) for target in backwards))
            lines.append(f"not drawn: its line to {names}, now above")
        yield Note("removed", (new_id, *drawn.get(new_id, ())), "\n".join(lines))
    for move in difference.moved:
        yield _note("moved", move.after, [f"moved: was {was}" for was in words.was(move)])
    for call in difference.changed:
        kind = "reshaped" if call.is_reshaped else "changed"
        yield _note(kind, call.after, words.changed(call))
    for wire in difference.rewired:
        if wire.after != MODEL:
            yield _note("rewired", wire.after, [words.rewired(wire)])
        if wire.after != MODEL and wire.new is not None:
            yield Note("added", (wire.new.id,), "taken now")
    for edge in union.removed_edges:
        if edge.source in after.index and edge.target in after.index:
            yield Note("removed", (edge.id,), "taken before")
    for tie in difference.ties:
        calls = (*tie.calls, *tie.others)
        calls = calls if tie.tied else tuple(union.ids[call] for call in calls)
        yield Note("changed", calls, words.tied(tie))


def _note(kind: str, node_id: str, lines: list[str]) -> Note:
    more = len(lines) - _MOST_LINES
    if more > 0:
        lines = [*lines[:_MOST_LINES], f"and {more} more"]
    return Note(kind, (node_id,), _with_arrows("\n".join(lines)))


def _with_weights(what: str, node: Node) -> str:
    return ": ".join(filter(None, [what, weights_text(node)]))


def _with_arrows(text: str) -> str:
    return text.replace(" -> ", " → ")


def _around_notes(graph: Graph) -> Graph:
    """The part of a graph that notes are about: those calls, and those next to them."""
    differences = [note for note in graph.notes if note.kind in DIFFERENCES]
    about = {place for note in differences for place in note.about}
    near = [edge for edge in graph.edges if {edge.source, edge.target, edge.id} & about]
    keep = (about & graph.index.keys()) | {end for e in near for end in (e.source, e.target)}
    edges = tuple(edge for edge in graph.edges if {edge.source, edge.target} <= keep)
    places = keep | {edge.id for edge in edges}

    def kept(ids: Iterable[str]) -> tuple[str, ...]:
        return tuple(i for i in ids if i in places)

    def within(values: Any) -> dict[str, Any]:
        return {place: value for place, value in values.items() if place in places}

    return replace(
        graph,
        nodes=tuple(node for node in graph.nodes if node.id in keep),
        edges=edges,
        inputs=kept(graph.inputs),
        outputs=tuple(output for output in graph.outputs if output[0] in keep),
        skip_paths=tuple(
            replace(path, bypassed=kept(path.bypassed))
            for path in graph.skip_paths
            if keep.issuperset(path.line) and kept(path.bypassed)
        ),
        stream=tuple(pair for pair in graph.stream if keep.issuperset(pair)),
        overlays=tuple(replace(o, values=within(o.values)) for o in graph.overlays),
        notes=tuple(
            replace(note, about=kept(note.about))
            for note in graph.notes
            if kept(note.about) or not note.about
        ),
        pictures=within(graph.pictures),
    )
